//! What a server says about its load: the metrics page, with what can be wrong with it, and the report in an answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;

use serde_json::json;

use super::{Api, Body, MAX_RECEIVED, Shared, json_answer, set, text};
use crate::fault::{MetricsAnswer, MetricsFault};
use crate::flags::Flags;

impl Shared {
    /// Whether a path of the port that serves is the metrics page's business.
    pub(super) fn has_page_at(&self, path: &str) -> bool {
        let is_other = matches!(self.switches().metrics, MetricsFault::Other(_));
        match path {
            "/metrics" | "/metrics/" | "/prometheus/metrics" => self.metrics_address.is_none(),
            _ => is_other && self.metrics_address.is_none() && Api::of(path).is_none(),
        }
    }

    fn note_scrape(&self, path: &str) {
        let mut switches = self.switches();
        if switches.scraped.len() == MAX_RECEIVED {
            switches.scraped.pop_front();
        }
        switches.scraped.push_back(path.to_owned());
    }
}

/// The listener of the page's own port, if it has one.
pub(super) async fn listen(flags: &Flags, serving: SocketAddr) -> anyhow::Result<Option<TcpListener>> {
    let Some(port) = flags.metrics_port else { return Ok(None) };
    let listener = TcpListener::bind((serving.ip(), port)).await;
    Ok(Some(listener.with_context(|| format!("cannot listen on {}:{port}", serving.ip()))?))
}

/// Accepts connections on the page's own port, where nothing else is.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let shared = Arc::clone(&shared);
        let handler = service_fn(move |request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            async move { metrics(&shared, request.uri().path()).await }
        });
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let protocol = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is the client's business.
            tokio::select! {
                _ = protocol.serve_connection(TokioIo::new(stream), handler) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
    }
}

/// Answers a scrape of this path and query.
pub(super) async fn metrics(shared: &Shared, path: &str) -> anyhow::Result<Response<Body>> {
    shared.note_scrape(path);
    let fault = shared.switches().metrics.clone();
    let frozen = shared.switches().frozen_page.clone();
    let page = frozen.unwrap_or_else(|| shared.page());
    match fault {
        MetricsFault::Other(answer) => return other(answer(path, &page)),
        _ if !matches!(path, "/metrics" | "/metrics/") => {
            return Ok(json_answer(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"})));
        }
        MetricsFault::None => {}
        MetricsFault::Slow(delay) => tokio::time::sleep(delay).await,
        MetricsFault::Instead(status, body) => {
            let mut response = Response::new(Full::new(body).boxed_unsync());
            *response.status_mut() = StatusCode::from_u16(status)?;
            return Ok(response);
        }
        MetricsFault::Half => {
            // A length that is not kept: hyper closes the connection after what there is.
            let half = page.len() / 2;
            let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(1);
            let text = Bytes::from(page).slice(..half);
            tokio::spawn(async move {
                let _ = sender.send_data(text).await;
                // Time for what there is to leave before the connection breaks.
                tokio::time::sleep(Duration::from_millis(20)).await;
            });
            let mut response = Response::new(body.boxed_unsync());
            set(&mut response, "content-length", &(half * 2).to_string());
            return Ok(response);
        }
    }
    let mut response = text(StatusCode::OK, page);
    set(&mut response, "content-type", "text/plain; version=1.0.0; charset=utf-8");
    Ok(response)
}

fn other(answer: MetricsAnswer) -> anyhow::Result<Response<Body>> {
    let body = if answer.in_chunks {
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(2);
        tokio::spawn(async move {
            let middle = answer.body.len() / 2;
            let _ = sender.send_data(answer.body.slice(..middle)).await;
            let _ = sender.send_data(answer.body.slice(middle..)).await;
        });
        body.boxed_unsync()
    } else {
        Full::new(answer.body).boxed_unsync()
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status)?;
    for (name, value) in &answer.headers {
        set(&mut response, name, value);
    }
    Ok(response)
}

/// Adds the in-band report that vLLM gives on request, with plain answers alone.
pub(super) fn report(shared: &Shared, response: &mut Response<Body>) {
    let is_plain = response.headers().get("content-type").is_some_and(|kind| kind == "application/json");
    if response.status() == StatusCode::OK && is_plain {
        let report = shared.gauges().in_band();
        set(response, "endpoint-load-metrics", &report);
    }
}
