//! The HTTP server: an OpenAI-compatible API, a metrics page, and a handle for tests.

mod load;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::{self, Api, ApiError, Call};
use crate::driver::{Driver, Running, Update};
use crate::engine;
use crate::fault::{FakeMetrics, Fault, MetricsFault};
use crate::flags::Flags;
use crate::page::{self, Gauges};
use crate::reply::{self, Body, error_answer, json_answer, set, text};

/// How many requests the server remembers for [`Server::received`].
const MAX_RECEIVED: usize = 4096;
/// The largest body that is read, above anything that tests send.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, where there were any.
    pub trailers: Option<HeaderMap>,
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

struct Shared {
    flags: Flags,
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    driver: Arc<Driver>,
    switches: Mutex<Switches>,
    /// Ticks with every change of the fault; connections end with it.
    faults: watch::Sender<Fault>,
}

#[derive(Default)]
struct Switches {
    metrics: MetricsFault,
    fake: Option<FakeMetrics>,
    received: VecDeque<Received>,
    frozen_page: Option<String>,
    scraped: VecDeque<String>,
}

impl Server {
    /// Starts a server in the current runtime.
    pub async fn start(flags: Flags) -> anyhow::Result<Server> {
        let listener = TcpListener::bind((flags.host.as_str(), flags.port))
            .await
            .with_context(|| format!("cannot listen on {}:{}", flags.host, flags.port))?;
        let address = listener.local_addr()?;
        let metrics_listener = load::listen(&flags, address).await?;
        let metrics_address = metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let switches = Switches { fake: flags.fake_metrics, ..Switches::default() };
        let shared = Arc::new(Shared {
            driver: Driver::start(&flags),
            flags,
            address,
            metrics_address,
            switches: Mutex::new(switches),
            faults: watch::Sender::new(Fault::None),
        });
        let (stop, stopped) = watch::channel(false);
        if let Some(listener) = metrics_listener {
            tokio::spawn(load::accept(Arc::clone(&shared), listener, stopped.clone()));
        }
        tokio::spawn(accept(Arc::clone(&shared), listener, stopped));
        Ok(Server { shared, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Turns a fault on or off.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.set_fault(fault);
    }

    /// Turns a fault of the metrics page on or off.
    pub fn set_metrics_fault(&self, fault: MetricsFault) {
        self.shared.switches().metrics = fault;
    }

    /// Reports other gauges than the engine's.
    pub fn set_fake_metrics(&self, fake: Option<FakeMetrics>) {
        self.shared.switches().fake = fake;
    }

    /// Restarts the engine: counters, cache and requests are gone.
    pub fn restart(&self) {
        self.shared.driver.restart();
    }

    /// Where its metrics page is, if it has a port of its own.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.shared.metrics_address
    }

    /// Takes the paths of the scrapes since the last call.
    pub fn scraped(&self) -> Vec<String> {
        self.shared.switches().scraped.drain(..).collect()
    }

    /// Takes the inference requests that arrived since the last call.
    pub fn received(&self) -> Vec<Received> {
        self.shared.switches().received.drain(..).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody listens any more when the runtime is going down as well.
        let _ = self.stop.send(true);
    }
}

impl Shared {
    fn switches(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_fault(&self, fault: Fault) {
        let hangs = fault == Fault::Hang;
        let page = hangs.then(|| self.page());
        self.switches().frozen_page = page;
        self.driver.freeze(hangs);
        self.faults.send_replace(fault);
    }

    fn page(&self) -> String {
        let gauges = self.gauges();
        self.driver.look(|engine, started_at| page::render(&self.flags, engine, &gauges, started_at))
    }

    fn gauges(&self) -> Gauges {
        let fake = self.switches().fake;
        let drained = *self.faults.borrow() == Fault::Drain;
        match fake {
            Some(fake) => Gauges::fake(fake),
            None if drained => Gauges::zero(),
            None => self.driver.look(|engine, _| Gauges::of(engine)),
        }
    }
}

/// Accepts connections; with the fault "refuse" there is no listener, and every connection is cut.
async fn accept(shared: Arc<Shared>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let for_connections = stopped.clone();
    let mut listener = Some(listener);
    let mut faults = shared.faults.subscribe();
    loop {
        let refuses = *faults.borrow_and_update() == Fault::Refuse;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(shared.address).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => std::future::pending().await,
            }
        };
        let retry = async {
            // The port may still be busy for a moment after a fault.
            match listener.is_none() && !refuses {
                true => tokio::time::sleep(Duration::from_millis(20)).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = faults.changed() => {}
            () = retry => {}
            accepted = accepted => {
                if let Some((stream, _)) = accepted {
                    tokio::spawn(serve(Arc::clone(&shared), stream, for_connections.clone()));
                }
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: tokio::net::TcpStream, mut stopped: watch::Receiver<bool>) {
    let mut faults = shared.faults.subscribe();
    let _ = stream.set_nodelay(true);
    let handler = service_fn(|request| handle(Arc::clone(&shared), request));
    // HTTP/1.1, or HTTP/2 by prior knowledge: the client's first bytes tell.
    let protocol = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let connection = protocol.serve_connection(TokioIo::new(stream), handler);
    // A connection that breaks is the client's business.
    tokio::select! {
        _ = connection => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
        _ = faults.wait_for(|fault| *fault == Fault::Refuse) => {}
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/health") => Ok(text(StatusCode::OK, String::new())),
        (&Method::GET, "/v1/models") => {
            remember(&shared, request).await?;
            Ok(json_answer(StatusCode::OK, &api::models(&shared.flags)))
        }
        (&Method::GET, path) if shared.has_page_at(path) => {
            let path = request.uri().path_and_query().map_or(path, |asked| asked.as_str());
            load::metrics(&shared, path).await
        }
        (&Method::POST, "/admin/fault") => admin_fault(&shared, request).await,
        (&Method::POST, path) if Api::of(path).is_some() => {
            let api = Api::of(path).context("checked above")?;
            let format = request.headers().get("endpoint-load-metrics-format").cloned();
            let body = remember(&shared, request).await?;
            let mut response = infer(&shared, api, &body).await;
            if format.is_some_and(|format| format.as_bytes().eq_ignore_ascii_case(b"text")) {
                load::report(&shared, &mut response);
            }
            Ok(response)
        }
        (_, path) if Api::of(path).is_some() => {
            Ok(json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"})))
        }
        _ => {
            remember(&shared, request).await?;
            Ok(json_answer(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})))
        }
    }
}

/// Reads a request to its end and keeps it for the tests.
async fn remember(shared: &Shared, request: Request<Incoming>) -> anyhow::Result<Bytes> {
    let (parts, body) = request.into_parts();
    let collected = http_body_util::Limited::new(body, MAX_BODY_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the body cannot be read: {error}"))?;
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let received = Received {
        method: parts.method,
        path: parts.uri.to_string(),
        headers: parts.headers,
        body: body.clone(),
        trailers,
    };
    let mut switches = shared.switches();
    if switches.received.len() == MAX_RECEIVED {
        switches.received.pop_front();
    }
    switches.received.push_back(received);
    Ok(body)
}

async fn infer(shared: &Shared, api: Api, body: &Bytes) -> Response<Body> {
    let fault = shared.faults.borrow().clone();
    match fault {
        Fault::None | Fault::Refuse => {}
        Fault::Hang => {
            let mut faults = shared.faults.subscribe();
            // The sender lives as long as the server, so this ends with the fault.
            let _ = faults.wait_for(|fault| *fault != Fault::Hang).await;
        }
        Fault::Drain => {
            tokio::time::sleep(Duration::from_millis(2)).await;
            return error_answer(&ApiError::internal("cannot schedule new futures after shutdown"));
        }
        Fault::Busy => return error_answer(&ApiError::queue_full()),
        Fault::Error => return error_answer(&ApiError::internal("EngineCore encountered an issue.")),
        Fault::Status(status) => return error_answer(&ApiError::refused(status)),
        Fault::RoomFor(most) if shared.driver.look(|engine, _| engine.running() + engine.waiting()) >= most => {
            return error_answer(&ApiError::refused(429));
        }
        Fault::ErrorEvent | Fault::RoomFor(_) => {}
    }
    let call = match api::parse(api, body, &shared.flags) {
        Ok(call) => call,
        Err(error) => return error_answer(&error),
    };
    let request = engine::Request {
        id: 0,
        prompt_tokens: call.prompt_tokens,
        prompt_blocks: call.prompt_blocks.clone(),
        output_tokens: call.output_tokens,
        answer_blocks: Vec::new(),
        lora: call.lora.clone(),
    };
    if fault == Fault::ErrorEvent {
        let error = ApiError::internal("EngineCore encountered an issue.");
        let first_chunk = call.stream.then(|| call.chunk(0, 0));
        return reply::broken_answer(first_chunk, &error);
    }
    match shared.driver.submit(request) {
        Err(engine::QueueFull) => error_answer(&ApiError::queue_full()),
        Ok(running) if call.stream => stream(call, running),
        Ok(running) => plain(&call, running).await,
    }
}

async fn plain(call: &Call, mut running: Running) -> Response<Body> {
    let mut cached = 0;
    loop {
        match running.updates.recv().await {
            Some(Update::Token { cached_tokens }) => cached = cached_tokens,
            Some(Update::Finished) => return json_answer(StatusCode::OK, &call.answer(running.id, cached)),
            None => return error_answer(&ApiError::internal("EngineCore encountered an issue.")),
        }
    }
}

fn stream(call: Call, mut running: Running) -> Response<Body> {
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(16);
    tokio::spawn(async move {
        let mut index = 0;
        let mut cached = 0;
        loop {
            let text = match running.updates.recv().await {
                Some(Update::Token { cached_tokens }) => {
                    cached = cached_tokens;
                    let chunk = call.chunk(running.id, index);
                    index += 1;
                    chunk
                }
                Some(Update::Finished) => {
                    let _ = sender.send_data(call.stream_end(running.id, cached).into()).await;
                    return;
                }
                None => "data: {\"error\": {\"message\": \"EngineCore encountered an issue.\", \"code\": 500}}\n\ndata: [DONE]\n\n".to_owned(),
            };
            if sender.send_data(text.into()).await.is_err() || running.updates.is_closed() && running.updates.is_empty()
            {
                return;
            }
        }
    });
    let mut response = Response::new(body.boxed_unsync());
    set(&mut response, "content-type", "text/event-stream; charset=utf-8");
    response
}

/// `{"fault": "hang", "seconds": 5}`: the fault ends by itself, since a refusing server hears nothing.
async fn admin_fault(shared: &Arc<Shared>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let body = request.into_body().collect().await?.to_bytes();
    let parsed = serde_json::from_slice::<Value>(&body).ok().and_then(|body| {
        let fault: Fault = serde_json::from_value(body.get("fault")?.clone()).ok()?;
        Some((fault, body.get("seconds").and_then(Value::as_u64).unwrap_or(5)))
    });
    let Some((fault, seconds)) = parsed else {
        let usage =
            json!({"detail": "send {\"fault\": \"none|refuse|hang|drain|error|busy|error-event\", \"seconds\": 5}"});
        return Ok(json_answer(StatusCode::BAD_REQUEST, &usage));
    };
    let answer = json!({"fault": format!("{fault:?}").to_lowercase(), "seconds": seconds});
    let later = Arc::clone(shared);
    tokio::spawn(async move {
        // The answer leaves before the connection is cut.
        tokio::time::sleep(Duration::from_millis(20)).await;
        later.set_fault(fault);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        later.set_fault(Fault::None);
    });
    Ok(json_answer(StatusCode::OK, &answer))
}
