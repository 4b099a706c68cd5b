//! A small HTTP client that notes when the first byte of an answer came.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From sending the request to the first byte of the body, or to its end when it is empty.
    pub first_byte: Duration,
    /// From sending the request to the end.
    pub total: Duration,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if text.starts_with('/') {
            return Ok(Address::Unix(PathBuf::from(text)));
        }
        text.parse()
            .map(Address::Tcp)
            .map_err(|_| format!("{text:?} is neither IP:PORT nor the /PATH of a Unix socket"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// One connection, for one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: impl Into<Address>) -> anyhow::Result<Connection> {
        let address = address.into();
        let failed = || format!("cannot connect to {address}");
        // A connection ends with its sender, and what goes wrong on it shows in the request.
        let sender = match &address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.with_context(failed)?;
                stream.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.with_context(failed)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                sender
            }
        };
        Ok(Connection { sender })
    }

    /// Sends a request and reads the answer to its end.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        // After an answer's last byte the connection takes a moment until it is free again.
        self.sender.ready().await?;
        let started = Instant::now();
        let response = self.sender.send_request(request).await?;
        let (parts, mut body) = response.into_parts();
        let mut first_byte = None;
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                first_byte.get_or_insert_with(|| started.elapsed());
                bytes.extend_from_slice(&data);
            }
        }
        let total = started.elapsed();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: Bytes::from(bytes),
            first_byte: first_byte.unwrap_or(total),
            total,
        })
    }
}

/// A POST of JSON.
pub fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::post(path).header("host", "inference").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::new(body.into()))?)
}

/// Sends one request on a connection of its own.
pub async fn send(address: impl Into<Address>, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    Connection::open(address).await?.send(request).await
}

/// A GET on a connection of its own.
pub async fn get(address: impl Into<Address>, path: &str) -> anyhow::Result<Answer> {
    let address = address.into();
    let host = match &address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let request = Request::get(path).header("host", host).body(Full::new(Bytes::new()))?;
    send(address, request).await
}
