//! A rate limit service, as Envoy's global `ratelimit` filter asks it: each value of a descriptor has so many requests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

const OK: u8 = 1;
const OVER_LIMIT: u8 = 2;

/// A running service; it ends with the test.
#[derive(Debug)]
pub struct Limits {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Limits {
    /// Starts one that grants so many requests to each value of a descriptor's only entry.
    pub async fn start(requests: u32) -> anyhow::Result<Limits> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let limits = Limits { address: listener.local_addr()?, asked: Arc::default() };
        let asked = Arc::clone(&limits.asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let asked = Arc::clone(&asked);
                let service = service_fn(move |request: Request<Incoming>| {
                    let asked = Arc::clone(&asked);
                    async move {
                        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        // A gRPC message has a byte and four of its length in front.
                        let value = value(body.get(5..).unwrap_or_default()).unwrap_or_default();
                        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                        let count = asked.entry(value).or_default();
                        *count += 1;
                        Ok::<_, Infallible>(answer(if *count > requests { OVER_LIMIT } else { OK }))
                    }
                });
                tokio::spawn(async move {
                    // A connection that breaks shows in the test's request.
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(limits)
    }

    /// The values that it was asked about, and how often.
    pub fn asked(&self) -> BTreeMap<String, u32> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A `RateLimitResponse` with its `overall_code`.
fn answer(code: u8) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 0x08, code]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// The value of the first entry of the first descriptor: `RateLimitRequest.descriptors[0].entries[0].value`.
fn value(message: &[u8]) -> Option<String> {
    let entry = field(field(message, 2)?, 1)?;
    String::from_utf8(field(entry, 2)?.to_vec()).ok()
}

/// The first field of protobuf's kind 2 with this number; all others here are of kind 0.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while message.has_remaining() {
        let tag = varint(&mut message)?;
        let content = varint(&mut message)?;
        if tag & 7 == 2 {
            let (content, rest) = message.split_at_checked(usize::try_from(content).ok()?)?;
            if tag >> 3 == number {
                return Some(content);
            }
            message = rest;
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
