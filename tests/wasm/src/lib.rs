//! A scripted proxy-wasm host: runs the shipped .wasm files and plays Envoy's part, call by call.
//!
//! It keeps Envoy's rules where breaking them matters: header maps are only there in their callbacks,
//! asking for one that isn't there fails with the status on which the SDK traps, and a compare-and-swap of
//! a missing key succeeds. (The crate `proxy-wasm-host` does the like; it needs a newer compiler than ours.)

mod abi;
mod host;
pub mod scene;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use wasmtime::error::Context;
use wasmtime::{Config, Engine, Instance, Linker, Memory, Module, Store, Val};

use host::{Host, Maps};
pub use host::{HttpCall, LocalResponse, Refused};

/// A header's name and value.
pub type Header = (String, Vec<u8>);

/// What all VMs of a process share: data and the clock.
#[derive(Clone, Default)]
pub struct Process {
    state: Rc<RefCell<ProcessState>>,
}

#[derive(Default)]
struct ProcessState {
    data: BTreeMap<String, (Vec<u8>, u32)>,
    next_version: u32,
    nanoseconds: u64,
}

/// What a callback answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on.
    Continue,
    /// Wait.
    Pause,
}

/// One VM with one root context.
pub struct Vm {
    store: Store<Host>,
    instance: Instance,
    next_context: u32,
}

const ROOT: u32 = 1;

/// The folder with the .wasm files: `WASM_DIR`, or the project's dist.
pub fn wasm_dir() -> PathBuf {
    match std::env::var_os("WASM_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../dist"),
    }
}

/// The bytes of a shipped module.
pub fn module_bytes(name: &str) -> wasmtime::Result<Vec<u8>> {
    let path = wasm_dir().join(name);
    std::fs::read(&path).with_context(|| format!("{} is missing: run ./build.sh", path.display()))
}

/// Whether a VM's instructions are counted, and its hostcalls can be refused. Counting takes as long as executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metering {
    /// [`Vm::instructions`] says how many there were.
    Counted,
    /// Nothing is counted or refused, for measuring time.
    Off,
}

/// A module, compiled once for all tests of a program.
fn compiled(name: &str, metering: Metering) -> wasmtime::Result<Module> {
    static MODULES: Mutex<BTreeMap<(String, Metering), Module>> = Mutex::new(BTreeMap::new());
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (name.to_owned(), metering);
    if let Some(module) = modules.get(&key) {
        return Ok(module.clone());
    }
    let mut config = Config::new();
    config.consume_fuel(metering == Metering::Counted);
    let module = Module::new(&Engine::new(&config)?, module_bytes(name)?)?;
    modules.insert(key, module.clone());
    Ok(module)
}

impl Process {
    /// A process at an ordinary time of day.
    pub fn new() -> Process {
        let process = Process::default();
        process.state.borrow_mut().nanoseconds = 1_700_000_000_000_000_000;
        process
    }

    /// Lets time pass.
    pub fn pass(&self, milliseconds: u64) {
        self.state.borrow_mut().nanoseconds += milliseconds * 1_000_000;
    }

    /// What is stored under a key.
    pub fn data(&self, key: &str) -> Option<Vec<u8>> {
        self.state.borrow().data.get(key).map(|(value, _)| value.clone())
    }

    /// The keys of shared data.
    pub fn keys(&self) -> Vec<String> {
        self.state.borrow().data.keys().cloned().collect()
    }
}

impl Vm {
    /// Loads a module and configures it; the error holds what it logged when it refuses.
    pub fn load(process: &Process, module: &str, config: &str) -> wasmtime::Result<Vm> {
        Vm::load_with(process, module, config, Metering::Counted)
    }

    /// The same, with its instructions counted or not.
    pub fn load_with(process: &Process, module: &str, config: &str, metering: Metering) -> wasmtime::Result<Vm> {
        let module = compiled(module, metering)?;
        let engine = module.engine();
        let mut linker = Linker::new(engine);
        abi::define(&mut linker)?;
        let mut store = Store::new(engine, Host::new(process.clone(), config.as_bytes().to_vec()));
        if metering == Metering::Counted {
            store.set_fuel(u64::MAX)?;
            abi::make_refusable(&mut linker, &mut store, &module)?;
        }
        linker.define_unknown_imports_as_traps(&module)?;
        let instance = linker.instantiate(&mut store, &module)?;
        let memory = instance.get_memory(&mut store, "memory").context("no memory")?;
        let allocate = instance.get_typed_func(&mut store, "proxy_on_memory_allocate")?;
        store.data_mut().attach(memory, allocate);
        let mut vm = Vm { store, instance, next_context: ROOT + 1 };
        vm.call("_initialize", &[])?;
        vm.call("proxy_on_context_create", &[ROOT, 0])?;
        vm.call("proxy_on_vm_start", &[ROOT, 0])?;
        let size = u32::try_from(config.len())?;
        if vm.call("proxy_on_configure", &[ROOT, size])? != Some(1) {
            return Err(wasmtime::format_err!("{}", vm.logs().join("\n")));
        }
        Ok(vm)
    }

    /// Ticks the root context.
    pub fn tick(&mut self) -> wasmtime::Result<()> {
        self.call("proxy_on_tick", &[ROOT]).map(drop)
    }

    /// The period that the root context asked for, in milliseconds.
    pub fn tick_period(&self) -> u32 {
        self.store.data().tick_period
    }

    /// Takes the callouts that were made since the last look.
    pub fn take_calls(&mut self) -> Vec<HttpCall> {
        std::mem::take(&mut self.store.data_mut().calls)
    }

    /// Answers a callout.
    pub fn answer_call(&mut self, token: u32, status: u16, body: &[u8]) -> wasmtime::Result<()> {
        let headers = vec![(":status".to_owned(), status.to_string().into_bytes())];
        self.store.data_mut().maps.call_response = Some(headers);
        self.store.data_mut().call_body = body.to_vec();
        let result = self.call("proxy_on_http_call_response", &[ROOT, token, 1, u32::try_from(body.len())?, 0]);
        self.store.data_mut().maps.call_response = None;
        self.store.data_mut().call_body.clear();
        result.map(drop)
    }

    /// Fails a callout as Envoy does: no headers, and asking for one is an error.
    pub fn fail_call(&mut self, token: u32) -> wasmtime::Result<()> {
        self.call("proxy_on_http_call_response", &[ROOT, token, 0, 0, 0]).map(drop)
    }

    /// Lets every callout fail at once, as with a cluster that doesn't exist.
    pub fn refuse_calls(&mut self, refuse: bool) {
        self.store.data_mut().refuse_calls = refuse;
    }

    /// Lets hostcalls fail from now on, with this of the ABI's statuses; `None` ends it.
    pub fn refuse_hostcalls(&mut self, refused: Option<(Refused, i32)>) {
        let host = self.store.data_mut();
        (host.refused, host.made) = (refused, 0);
    }

    /// How many hostcalls were made since [`Vm::refuse_hostcalls`].
    pub fn hostcalls_made(&self) -> u32 {
        self.store.data().made
    }

    /// Opens a stream.
    pub fn stream(&mut self) -> wasmtime::Result<u32> {
        let id = self.next_context;
        self.next_context += 1;
        self.call("proxy_on_context_create", &[id, ROOT])?;
        let host = self.store.data_mut();
        host.maps = Maps::default();
        host.request_body.clear();
        host.local_response = None;
        host.properties.clear();
        Ok(id)
    }

    /// Sends a request's headers.
    pub fn request_headers(&mut self, id: u32, headers: Vec<Header>, end: bool) -> wasmtime::Result<Action> {
        let count = u32::try_from(headers.len())?;
        self.store.data_mut().maps.request = Some(headers);
        let action = self.action("proxy_on_request_headers", &[id, count, u32::from(end)])?;
        if action == Action::Continue {
            self.store.data_mut().close_request_headers();
        }
        Ok(action)
    }

    /// Adds to the buffered body.
    pub fn request_body(&mut self, id: u32, more: &[u8], end: bool) -> wasmtime::Result<Action> {
        self.store.data_mut().request_body.extend_from_slice(more);
        let size = u32::try_from(self.store.data().request_body.len())?;
        let action = self.action("proxy_on_request_body", &[id, size, u32::from(end)])?;
        if action == Action::Continue {
            self.store.data_mut().close_request_headers();
        }
        Ok(action)
    }

    /// Sends a request's trailers; gives those that go on. Envoy lends them out for the length of the callback.
    pub fn request_trailers(&mut self, id: u32, trailers: Vec<Header>) -> wasmtime::Result<(Action, Vec<Header>)> {
        let count = u32::try_from(trailers.len())?;
        self.store.data_mut().maps.request_trailers = Some(trailers);
        let action = self.action("proxy_on_request_trailers", &[id, count])?;
        Ok((action, self.store.data_mut().maps.request_trailers.take().unwrap_or_default()))
    }

    /// Sends a response's trailers; gives those that go on.
    pub fn response_trailers(&mut self, id: u32, trailers: Vec<Header>) -> wasmtime::Result<(Action, Vec<Header>)> {
        let count = u32::try_from(trailers.len())?;
        self.store.data_mut().maps.response_trailers = Some(trailers);
        let action = self.action("proxy_on_response_trailers", &[id, count])?;
        Ok((action, self.store.data_mut().maps.response_trailers.take().unwrap_or_default()))
    }

    /// Sends a response's headers, from this upstream address.
    pub fn response_headers(
        &mut self,
        id: u32,
        headers: Vec<Header>,
        upstream: &str,
        end: bool,
    ) -> wasmtime::Result<Action> {
        let count = u32::try_from(headers.len())?;
        let host = self.store.data_mut();
        host.maps.response = Some(headers);
        host.properties.insert("upstream\0address".to_owned(), upstream.as_bytes().to_vec());
        self.action("proxy_on_response_headers", &[id, count, u32::from(end)])
    }

    /// Sends a piece of a response's body.
    pub fn response_body(&mut self, id: u32, size: u32, end: bool) -> wasmtime::Result<Action> {
        self.action("proxy_on_response_body", &[id, size, u32::from(end)])
    }

    /// Ends a stream, however far it got.
    pub fn end(&mut self, id: u32) -> wasmtime::Result<()> {
        self.store.data_mut().maps = Maps::default();
        for callback in ["proxy_on_log", "proxy_on_done", "proxy_on_delete"] {
            self.call(callback, &[id])?;
        }
        Ok(())
    }

    /// The request's headers as the filter left them.
    pub fn request(&self) -> &[Header] {
        self.store.data().request()
    }

    /// The values of a request header as the filter left them.
    pub fn request_header(&self, name: &str) -> Vec<String> {
        let values = self.request().iter().filter(|(key, _)| key == name);
        values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The response's headers as the filter left them.
    pub fn response(&self) -> Vec<Header> {
        self.store.data().maps.response.clone().unwrap_or_default()
    }

    /// The request's body as the filter left it.
    pub fn body(&self) -> &[u8] {
        &self.store.data().request_body
    }

    /// The answer that the filter gave itself.
    pub fn local_response(&self) -> Option<&LocalResponse> {
        self.store.data().local_response.as_ref()
    }

    /// Sets a property, its path joined by dots.
    pub fn set_property(&mut self, path: &str, value: &str) {
        self.store.data_mut().properties.insert(path.replace('.', "\0"), value.as_bytes().to_vec());
    }

    /// A property, its path joined by dots.
    pub fn property(&self, path: &str) -> Option<String> {
        let value = self.store.data().properties.get(&path.replace('.', "\0"))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// A metric's value; for a histogram, its last observation.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.store.data().metric(name)
    }

    /// Everything that was logged.
    pub fn logs(&self) -> Vec<String> {
        self.store.data().logs.clone()
    }

    /// How many instructions the module has executed: the same for the same input, on any machine.
    pub fn instructions(&self) -> u64 {
        u64::MAX - self.store.get_fuel().unwrap_or(u64::MAX)
    }

    /// How large the module's memory has grown, in bytes.
    pub fn memory_bytes(&mut self) -> usize {
        let memory: Option<Memory> = self.instance.get_memory(&mut self.store, "memory");
        memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    fn action(&mut self, name: &str, arguments: &[u32]) -> wasmtime::Result<Action> {
        match self.call(name, arguments)? {
            Some(0) => Ok(Action::Continue),
            Some(1) => Ok(Action::Pause),
            other => Err(wasmtime::format_err!("{name} answered {other:?}")),
        }
    }

    fn call(&mut self, name: &str, arguments: &[u32]) -> wasmtime::Result<Option<i32>> {
        let function = self.instance.get_func(&mut self.store, name).with_context(|| format!("no export {name}"))?;
        let arguments: Vec<Val> = arguments.iter().map(|argument| Val::I32(argument.cast_signed())).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        function
            .call(&mut self.store, &arguments, &mut results)
            .map_err(|trap| wasmtime::format_err!("{name} trapped: {trap:?}\n{}", self.logs().join("\n")))?;
        Ok(results.first().and_then(Val::i32))
    }
}
