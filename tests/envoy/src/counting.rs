//! An engine that takes a fixed time for each request and notes how many it has at a time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// How many requests engines have had, all of them together and each; one for all engines of a test.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    now: Vec<usize>,
    peaks: Vec<usize>,
    peak: usize,
    /// When the number of all changed, and to what.
    changes: Vec<(Instant, usize)>,
}

impl Counts {
    /// The most requests that all engines had at a time.
    pub fn peak(&self) -> usize {
        self.lock().peak
    }

    /// The most that each had.
    pub fn peaks(&self) -> Vec<usize> {
        self.lock().peaks.clone()
    }

    /// How many they have.
    pub fn now(&self) -> usize {
        self.lock().now.iter().sum()
    }

    /// How many they had on average, from the time on when they had `full` of them to the last time.
    pub fn mean_while_busy(&self, full: usize) -> f64 {
        let counted = self.lock();
        let is_full = |change: &&(Instant, usize)| change.1 >= full;
        let (first, last) = (counted.changes.iter().find(is_full), counted.changes.iter().rev().find(is_full));
        let (Some((from, _)), Some((to, _))) = (first, last) else { return 0.0 };
        let spans = counted.changes.windows(2).filter(|pair| pair[0].0 >= *from && pair[1].0 <= *to);
        let sum: f64 = spans.map(|pair| (pair[1].0 - pair[0].0).as_secs_f64() * pair[0].1 as f64).sum();
        sum / (*to - *from).as_secs_f64().max(f64::EPSILON)
    }

    /// Forgets what was.
    pub fn reset(&self) {
        let mut counted = self.lock();
        counted.peaks = counted.now.clone();
        counted.peak = counted.now.iter().sum();
        counted.changes.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn change(&mut self, engine: usize, comes: bool) {
        if comes {
            self.now[engine] += 1
        } else {
            self.now[engine] -= 1
        }
        let all = self.now.iter().sum();
        self.peaks[engine] = self.peaks[engine].max(self.now[engine]);
        self.peak = self.peak.max(all);
        self.changes.push((Instant::now(), all));
    }
}

/// Counts a request until it is dropped, however it ends.
struct Counting<'c>(&'c Counts, usize);

impl<'c> Counting<'c> {
    fn start(counts: &'c Counts, engine: usize) -> Counting<'c> {
        counts.lock().change(engine, true);
        Counting(counts, engine)
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.lock().change(self.1, false);
    }
}

/// Starts an engine that takes so long for each request; gives its address. It ends with the test.
pub async fn engine(counts: &Counts, time: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let number = {
        let mut counted = counts.lock();
        counted.now.push(0);
        counted.peaks.push(0);
        counted.now.len() - 1
    };
    let counts = counts.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counts = counts.clone();
            let service = service_fn(move |request| {
                let counts = counts.clone();
                async move { Ok::<_, Infallible>(answer(&counts, number, time, request).await) }
            });
            tokio::spawn(async move {
                // A connection that breaks shows in the test's request.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

async fn answer(counts: &Counts, engine: usize, time: Duration, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() == Method::GET {
        let running = counts.lock().now[engine];
        let page =
            format!("vllm:num_requests_waiting 0\nvllm:num_requests_running {running}\nvllm:kv_cache_usage_perc 0.1\n");
        return Response::new(Full::new(Bytes::from(page)));
    }
    let _counting = Counting::start(counts, engine);
    // What cannot be read shows in the test's request.
    let _ = request.into_body().collect().await;
    tokio::time::sleep(time).await;
    let mut answer = Response::new(Full::new(Bytes::from_static(b"{\"choices\":[]}")));
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    answer
}
