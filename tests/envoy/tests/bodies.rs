//! Bodies of every length and framing arrive byte for byte.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use envoy_tests::{Example, QWEN, Setup};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// How a request's body is framed.
#[derive(Clone, Copy, Debug)]
enum Framing {
    ContentLength,
    Chunked,
    /// HTTP/2: Envoy drops the trailers of HTTP/1 requests before any filter sees them.
    WithTrailers,
}

/// A completion whose body has this length, or is as short as it can be.
fn body_of(length: usize) -> Vec<u8> {
    let head = format!("{{\"model\":\"{QWEN}\",\"max_tokens\":1,\"prompt\":\"");
    let tail = "\"}";
    let mut body = head.into_bytes();
    let fill = length.saturating_sub(body.len() + tail.len());
    // Every byte value that may stand in a JSON string, so that a swapped or lost chunk shows.
    body.extend((0..fill).map(|index| b' ' + (index * 7 % 91) as u8).map(|byte| match byte {
        b'"' | b'\\' => b'_',
        other => other,
    }));
    body.extend_from_slice(tail.as_bytes());
    body
}

/// Sends a request in so many pieces and gives the status.
async fn send(example: &Example, body: &[u8], framing: Framing, pieces: usize) -> anyhow::Result<u16> {
    send_to(example, "/v1/completions", body, framing, pieces).await
}

async fn send_to(example: &Example, path: &str, body: &[u8], framing: Framing, pieces: usize) -> anyhow::Result<u16> {
    let size = body.len().div_ceil(pieces).max(1);
    let mut frames: Vec<Frame<Bytes>> =
        body.chunks(size).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect();
    let mut request = Request::post(format!("http://gateway{path}"));
    match framing {
        Framing::ContentLength => request = request.header("content-length", body.len()),
        Framing::Chunked => {}
        Framing::WithTrailers => {
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("x-checksum", "1".parse()?);
            frames.push(Frame::trailers(trailers));
        }
    }
    let stream = Frames(frames.into());
    let socket = TokioIo::new(TcpStream::connect(example.envoy.listen()).await?);
    let answer = match framing {
        Framing::WithTrailers => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), socket).await?;
            tokio::spawn(connection);
            sender.send_request(request.body(stream)?).await?
        }
        _ => {
            let (mut sender, connection) = http1::handshake(socket).await?;
            tokio::spawn(connection);
            sender.send_request(request.header("host", "gateway").body(stream)?).await?
        }
    };
    let status = answer.status().as_u16();
    answer.into_body().collect().await?;
    Ok(status)
}

/// A body of given frames.
struct Frames(VecDeque<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_length_and_framing_arrive_byte_for_byte() -> anyhow::Result<()> {
    let example = Example::start(Setup::default()).await?;
    let mut checked = 0;
    for length in [0, 1_000, 16_383, 16_384, 16_385, 70_000, 500_000, 8 << 20] {
        for framing in [Framing::ContentLength, Framing::Chunked, Framing::WithTrailers] {
            for writes in [1, 3, 17] {
                let body = body_of(length);
                let status = send(&example, &body, framing, writes).await?;
                // The engine refuses prompts over its context, after it has read them.
                let fits = length < 520_000;
                assert_eq!(status, if fits { 200 } else { 400 }, "{length} {framing:?} {writes}");
                let mut received: Vec<_> = example.qwen.iter().flat_map(|server| server.received()).collect();
                let request = received.pop().ok_or_else(|| anyhow::anyhow!("{length} {framing:?}: nothing arrived"))?;
                assert!(received.is_empty(), "{length} {framing:?}: it arrived more than once");
                assert!(request.body == body, "{length} {framing:?} {writes}: the body differs");
                assert!(
                    request.headers.contains_key("x-gateway-destination-endpoint"),
                    "{length} {framing:?}: no pick"
                );
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 72);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_by_the_plugin() -> anyhow::Result<()> {
    let setup = Setup { change: |document| document["maxBodyBytes"] = 100_000.into(), ..Setup::default() };
    let example = Example::start(setup).await?;
    for framing in [Framing::ContentLength, Framing::Chunked, Framing::WithTrailers] {
        assert_eq!(send(&example, &body_of(100_001), framing, 1).await?, 413, "{framing:?}");
        assert_eq!(send(&example, &body_of(100_000), framing, 1).await?, 200, "{framing:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_inference_request_passes_through_untouched_and_is_picked_for() -> anyhow::Result<()> {
    let setup = Setup {
        change: |document| {
            let only = document["pools"][0].take();
            document["pools"] = serde_json::json!([only]);
        },
        ..Setup::default()
    };
    let example = Example::start(setup).await?;
    // Nothing that a JSON reader would take, and longer than any buffer on the way that is not asked for.
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index * 31 % 251) as u8).collect();
    for framing in [Framing::ContentLength, Framing::Chunked, Framing::WithTrailers] {
        // The simulator knows no such path; it answers 404 after it has read the body.
        assert_eq!(send_to(&example, "/v1/conversations/c/items?x=1", &body, framing, 5).await?, 404, "{framing:?}");
        let mut received: Vec<_> = example.qwen.iter().flat_map(|server| server.received()).collect();
        let request = received.pop().ok_or_else(|| anyhow::anyhow!("{framing:?}: nothing arrived"))?;
        assert!(request.body == body && request.path == "/v1/conversations/c/items?x=1", "{framing:?}");
        assert!(request.headers.contains_key("x-gateway-destination-endpoint"), "{framing:?}: no pick");
        assert!(!request.headers.contains_key("x-gateway-model-name"), "{framing:?}: there is no model");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_the_plugins_over_http_2_as_well() -> anyhow::Result<()> {
    let setup = Setup { change: |document| document["maxBodyBytes"] = (32 << 20).into(), ..Setup::default() };
    let example = Example::start(setup).await?;
    // Above the 16 MiB that are Envoy's own window for an HTTP/2 stream.
    let body = body_of(24 << 20);
    for framing in [Framing::ContentLength, Framing::WithTrailers] {
        assert_eq!(send(&example, &body, framing, 3).await?, 400, "{framing:?}: the engine's word on its context");
        let received: Vec<_> = example.qwen.iter().flat_map(|server| server.received()).collect();
        assert!(received.len() == 1 && received[0].body == body, "{framing:?}: it did not arrive as it was");
    }
    Ok(())
}
