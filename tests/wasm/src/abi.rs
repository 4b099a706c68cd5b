//! The hostcalls of proxy-wasm's ABI 0.2.1 that the plugin makes, with Envoy's statuses.
//!
//! <https://github.com/proxy-wasm/spec/tree/main/abi-versions/v0.2.1>

use wasmtime::error::Context;
use wasmtime::{AsContextMut, Caller, Func, Linker, Module, Store, Val};

use crate::Header;
use crate::host::{Host, HttpCall, LocalResponse};

const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const BAD_ARGUMENT: i32 = 2;
const CAS_MISMATCH: i32 = 8;
const INTERNAL_FAILURE: i32 = 10;

const REQUEST_HEADERS: u32 = 0;
const REQUEST_TRAILERS: u32 = 1;
const RESPONSE_HEADERS: u32 = 2;
const RESPONSE_TRAILERS: u32 = 3;
const CALL_RESPONSE_HEADERS: u32 = 6;

const REQUEST_BODY: u32 = 0;
const CALL_RESPONSE_BODY: u32 = 4;
const PLUGIN_CONFIGURATION: u32 = 7;

type Ctx<'c> = Caller<'c, Host>;
type Result<T> = wasmtime::Result<T>;

pub(crate) fn define(linker: &mut Linker<Host>) -> Result<()> {
    define_wasi(linker)?;
    define_basics(linker)?;
    define_maps(linker)?;
    define_buffers(linker)?;
    define_shared_data(linker)?;
    define_metrics(linker)?;
    Ok(())
}

/// Makes every hostcall that a module imports refusable: those that [`Host::refusal`] chooses fail with its status and do nothing.
pub(crate) fn make_refusable(linker: &mut Linker<Host>, store: &mut Store<Host>, module: &Module) -> Result<()> {
    linker.allow_shadowing(true);
    for import in module.imports().filter(|import| import.module() == "env") {
        let name = import.name().to_owned();
        let granted = linker.get(&mut *store, "env", &name).ok().and_then(|call| call.into_func());
        // What isn't defined is defined as a trap elsewhere.
        let Some(granted) = granted else { continue };
        let (call, signature) = (name.clone(), granted.ty(&*store));
        let refusable = Func::new(&mut *store, signature, move |mut ctx, arguments, results| {
            if let Some(status) = ctx.data_mut().refusal(&call) {
                results.fill(Val::I32(status));
                return Ok(());
            }
            granted.call(&mut ctx, arguments, results)
        });
        linker.define(&mut *store, "env", &name, refusable)?;
    }
    Ok(())
}

fn define_wasi(linker: &mut Linker<Host>) -> Result<()> {
    let wasi = "wasi_snapshot_preview1";
    linker.func_wrap(wasi, "environ_sizes_get", |mut ctx: Ctx<'_>, count: u32, size: u32| -> Result<i32> {
        write_u32(&mut ctx, count, 0)?;
        write_u32(&mut ctx, size, 0)?;
        Ok(OK)
    })?;
    linker.func_wrap(wasi, "environ_get", |_: u32, _: u32| OK)?;
    // Seeds of hash maps; a test that depends on them is wrong.
    linker.func_wrap(wasi, "random_get", |mut ctx: Ctx<'_>, at: u32, size: u32| -> Result<i32> {
        write(&mut ctx, at, &vec![7; usize::try_from(size).unwrap_or(0)])?;
        Ok(OK)
    })?;
    Ok(())
}

fn define_basics(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap("env", "proxy_log", |mut ctx: Ctx<'_>, _level: u32, at: u32, size: u32| -> Result<i32> {
        let text = read_text(&mut ctx, at, size)?;
        ctx.data_mut().logs.push(text);
        Ok(OK)
    })?;
    linker.func_wrap("env", "proxy_get_current_time_nanoseconds", |mut ctx: Ctx<'_>, at: u32| -> Result<i32> {
        let now = ctx.data().process.state.borrow().nanoseconds;
        write(&mut ctx, at, &now.to_le_bytes())?;
        Ok(OK)
    })?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |mut ctx: Ctx<'_>, period: u32| {
        ctx.data_mut().tick_period = period;
        OK
    })?;
    linker.func_wrap("env", "proxy_set_effective_context", |mut ctx: Ctx<'_>, context: u32| {
        ctx.data_mut().effective_context = context;
        OK
    })?;
    linker.func_wrap("env", "proxy_continue_stream", |mut ctx: Ctx<'_>, _stream: u32| {
        let resumed = ctx.data().effective_context;
        ctx.data_mut().resumed.push(resumed);
        OK
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut ctx: Ctx<'_>, at: u32, size: u32, out: u32, out_size: u32| -> Result<i32> {
            let path = read_text(&mut ctx, at, size)?;
            match ctx.data().properties.get(&path).cloned() {
                Some(value) => give(&mut ctx, &value, out, out_size),
                None => Ok(NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut ctx: Ctx<'_>, at: u32, size: u32, value: u32, value_size: u32| -> Result<i32> {
            let path = read_text(&mut ctx, at, size)?;
            let value = read(&mut ctx, value, value_size)?;
            ctx.data_mut().properties.insert(path, value);
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |mut ctx: Ctx<'_>,
         status: u32,
         _: u32,
         _: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         _: i32|
         -> Result<i32> {
            let body = read_text(&mut ctx, body, body_size)?;
            let headers = read(&mut ctx, headers, headers_size)?;
            let headers = parse_map(&headers).context("headers of a local response")?;
            ctx.data_mut().local_response = Some(LocalResponse { status, headers, body });
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_http_call",
        |mut ctx: Ctx<'_>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         timeout: u32,
         token: u32|
         -> Result<i32> {
            if ctx.data().refuse_calls {
                return Ok(BAD_ARGUMENT);
            }
            let cluster = read_text(&mut ctx, cluster, cluster_size)?;
            let headers = read(&mut ctx, headers, headers_size)?;
            let headers = parse_map(&headers).context("headers of a callout")?;
            let id = ctx.data_mut().next_token();
            ctx.data_mut().calls.push(HttpCall { token: id, cluster, headers, timeout });
            write_u32(&mut ctx, token, id)?;
            Ok(OK)
        },
    )?;
    Ok(())
}

fn define_maps(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |mut ctx: Ctx<'_>, map: u32, out: u32, out_size: u32| -> Result<i32> {
            let Some(headers) = map_of(&mut ctx, map) else { return Ok(BAD_ARGUMENT) };
            let bytes = serialize_map(headers)?;
            give(&mut ctx, &bytes, out, out_size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |mut ctx: Ctx<'_>, map: u32, key: u32, key_size: u32, out: u32, out_size: u32| -> Result<i32> {
            let key = read_text(&mut ctx, key, key_size)?;
            let Some(headers) = map_of(&mut ctx, map) else { return Ok(BAD_ARGUMENT) };
            match headers.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone()) {
                Some(value) => give(&mut ctx, &value, out, out_size),
                None => Ok(NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_replace_header_map_value",
        |mut ctx: Ctx<'_>, map: u32, key: u32, key_size: u32, value: u32, value_size: u32| -> Result<i32> {
            let key = read_text(&mut ctx, key, key_size)?;
            let value = read(&mut ctx, value, value_size)?;
            let Some(headers) = map_of(&mut ctx, map) else { return Ok(BAD_ARGUMENT) };
            headers.retain(|(name, _)| *name != key);
            headers.push((key, value));
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        |mut ctx: Ctx<'_>, map: u32, key: u32, key_size: u32| -> Result<i32> {
            let key = read_text(&mut ctx, key, key_size)?;
            let Some(headers) = map_of(&mut ctx, map) else { return Ok(BAD_ARGUMENT) };
            headers.retain(|(name, _)| *name != key);
            Ok(OK)
        },
    )?;
    Ok(())
}

fn define_buffers(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut ctx: Ctx<'_>, buffer: u32, start: u32, length: u32, out: u32, out_size: u32| -> Result<i32> {
            let host = ctx.data();
            let bytes = match buffer {
                REQUEST_BODY => &host.request_body,
                CALL_RESPONSE_BODY => &host.call_body,
                PLUGIN_CONFIGURATION => &host.config,
                _ => return Ok(NOT_FOUND),
            };
            let start = (start as usize).min(bytes.len());
            let end = start.saturating_add(length as usize).min(bytes.len());
            let slice = bytes.get(start..end).unwrap_or_default().to_vec();
            give(&mut ctx, &slice, out, out_size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_buffer_bytes",
        |mut ctx: Ctx<'_>, buffer: u32, start: u32, length: u32, data: u32, size: u32| -> Result<i32> {
            let data = read(&mut ctx, data, size)?;
            let body = &mut ctx.data_mut().request_body;
            // Envoy replaces the whole or nothing.
            if buffer != REQUEST_BODY || start != 0 || (length as usize) < body.len() {
                return Ok(BAD_ARGUMENT);
            }
            *body = data;
            Ok(OK)
        },
    )?;
    Ok(())
}

fn define_shared_data(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut ctx: Ctx<'_>, key: u32, key_size: u32, out: u32, out_size: u32, cas: u32| -> Result<i32> {
            let key = read_text(&mut ctx, key, key_size)?;
            let stored = ctx.data().process.state.borrow().data.get(&key).cloned();
            let Some((value, version)) = stored else { return Ok(NOT_FOUND) };
            write_u32(&mut ctx, cas, version)?;
            give(&mut ctx, &value, out, out_size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut ctx: Ctx<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32| -> Result<i32> {
            let key = read_text(&mut ctx, key, key_size)?;
            let value = read(&mut ctx, value, value_size)?;
            let mut state = ctx.data().process.state.borrow_mut();
            // A missing key is set whatever the version.
            if cas != 0 && state.data.get(&key).is_some_and(|(_, version)| *version != cas) {
                return Ok(CAS_MISMATCH);
            }
            state.next_version += 1;
            let version = state.next_version;
            state.data.insert(key, (value, version));
            Ok(OK)
        },
    )?;
    Ok(())
}

fn define_metrics(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut ctx: Ctx<'_>, _kind: u32, name: u32, size: u32, out: u32| -> Result<i32> {
            let name = read_text(&mut ctx, name, size)?;
            let id = ctx.data_mut().define_metric(name);
            write_u32(&mut ctx, out, id)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap("env", "proxy_increment_metric", |mut ctx: Ctx<'_>, id: u32, by: i64| {
        let Some(value) = ctx.data_mut().metric_mut(id) else { return NOT_FOUND };
        *value = value.saturating_add_signed(by);
        OK
    })?;
    linker.func_wrap("env", "proxy_record_metric", |mut ctx: Ctx<'_>, id: u32, new: u64| {
        let Some(value) = ctx.data_mut().metric_mut(id) else { return NOT_FOUND };
        *value = new;
        OK
    })?;
    Ok(())
}

fn map_of<'h>(ctx: &'h mut Ctx<'_>, map: u32) -> Option<&'h mut Vec<Header>> {
    let maps = &mut ctx.data_mut().maps;
    match map {
        REQUEST_HEADERS => maps.request.as_mut(),
        REQUEST_TRAILERS => maps.request_trailers.as_mut(),
        RESPONSE_HEADERS => maps.response.as_mut(),
        RESPONSE_TRAILERS => maps.response_trailers.as_mut(),
        CALL_RESPONSE_HEADERS => maps.call_response.as_mut(),
        _ => None,
    }
}

fn read(ctx: &mut Ctx<'_>, at: u32, size: u32) -> Result<Vec<u8>> {
    let memory = ctx.data().memory.context("no memory yet")?;
    let bytes = memory.data(&ctx).get(at as usize..at as usize + size as usize);
    Ok(bytes.context("a pointer out of bounds")?.to_vec())
}

fn read_text(ctx: &mut Ctx<'_>, at: u32, size: u32) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(ctx, at, size)?).into_owned())
}

fn write(ctx: &mut Ctx<'_>, at: u32, bytes: &[u8]) -> Result<()> {
    let memory = ctx.data().memory.context("no memory yet")?;
    memory.write(ctx.as_context_mut(), at as usize, bytes)?;
    Ok(())
}

fn write_u32(ctx: &mut Ctx<'_>, at: u32, value: u32) -> Result<()> {
    write(ctx, at, &value.to_le_bytes())
}

/// Hands bytes to the guest in memory that the guest allocates.
fn give(ctx: &mut Ctx<'_>, bytes: &[u8], out: u32, out_size: u32) -> Result<i32> {
    if bytes.is_empty() {
        write_u32(ctx, out, 0)?;
        write_u32(ctx, out_size, 0)?;
        return Ok(OK);
    }
    let Some(allocate) = ctx.data().allocate.clone() else { return Ok(INTERNAL_FAILURE) };
    let size = u32::try_from(bytes.len())?;
    let at = allocate.call(ctx.as_context_mut(), size)?;
    write(ctx, at, bytes)?;
    write_u32(ctx, out, at)?;
    write_u32(ctx, out_size, size)?;
    Ok(OK)
}

/// A count, the lengths of all names and values, then the names and values, each with a zero byte.
fn serialize_map(headers: &[Header]) -> Result<Vec<u8>> {
    let mut bytes = u32::try_from(headers.len())?.to_le_bytes().to_vec();
    for (name, value) in headers {
        bytes.extend_from_slice(&u32::try_from(name.len())?.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(value.len())?.to_le_bytes());
    }
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(value);
        bytes.push(0);
    }
    Ok(bytes)
}

fn parse_map(bytes: &[u8]) -> Option<Vec<Header>> {
    let word = |index: usize| -> Option<usize> {
        let bytes = bytes.get(index * 4..index * 4 + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let count = word(0)?;
    let mut at = 4 + count * 8;
    let mut headers = Vec::new();
    for index in 0..count {
        let (name_length, value_length) = (word(1 + index * 2)?, word(2 + index * 2)?);
        let name = bytes.get(at..at + name_length)?;
        at += name_length + 1;
        let value = bytes.get(at..at + value_length)?;
        at += value_length + 1;
        headers.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    Some(headers)
}
