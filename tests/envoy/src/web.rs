//! A small HTTP server of a test's: answers each request by a function, and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// A running server; it ends with the test.
#[derive(Debug)]
pub struct Web {
    /// Where it listens.
    pub address: SocketAddr,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Starts one that answers with these statuses.
    pub async fn start(status: fn(&HeaderMap) -> u16) -> anyhow::Result<Web> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let web = Web { address: listener.local_addr()?, paths: Arc::default() };
        let paths = Arc::clone(&web.paths);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let paths = Arc::clone(&paths);
                let service = service_fn(move |request: Request<Incoming>| {
                    if let Ok(mut paths) = paths.lock() {
                        paths.push(request.uri().path().to_owned());
                    }
                    let mut answer = Response::new(Full::new(Bytes::from_static(b"the other application")));
                    *answer.status_mut() = status(request.headers()).try_into().unwrap_or_default();
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(async move {
                    // A connection that breaks shows in the test's request.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(web)
    }

    /// The paths that it was asked for, in their order.
    pub fn asked(&self) -> Vec<String> {
        self.paths.lock().map(|paths| paths.clone()).unwrap_or_default()
    }
}
