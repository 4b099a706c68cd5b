//! `inferencectl latency`: what the plugin adds to a request, beside the same Envoy with its own buffer filter.
//!
//! Both Envoys run at once and take turns request by request, so that whatever else the machine does falls
//! on both. The model server answers at once; one connection, one request at a time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::client::{self, Connection};
use crate::envoy::Envoy;
use crate::render::{Bootstrap, Filter};
use crate::{check, demo};

/// The first requests warm up connections, caches and the JIT compiler, and do not count.
const WARM_UP: usize = 500;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// The lengths of the request bodies, in bytes.
    #[arg(long, num_args = 1.., default_values_t = [2_048, 32_768, 225_280, 1_048_576])]
    pub bytes: Vec<usize>,
    /// Requests through each Envoy, for each length.
    #[arg(long, default_value_t = 3000)]
    pub requests: usize,
    /// The folder with the two .wasm files.
    #[arg(long, default_value = "dist")]
    pub wasm_dir: PathBuf,
}

/// The percentiles of one length.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// The body's length.
    pub bytes: usize,
    /// Median and 99th percentile with Envoy's buffer filter.
    pub native: (Duration, Duration),
    /// The same with the plugin.
    pub plugin: (Duration, Duration),
}

impl Latency {
    /// By how much the median rises, in microseconds.
    pub fn added_microseconds(&self) -> f64 {
        (self.plugin.0.as_secs_f64() - self.native.0.as_secs_f64()) * 1e6
    }
}

/// Measures and prints.
pub fn run(args: &LatencyArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{:>9}  {:>22}  {:>22}  {:>9}", "body", "buffer filter p50/p99", "plugin p50/p99", "added p50");
    for latency in runtime.block_on(measure(&args.bytes, args.requests, &args.wasm_dir))? {
        let pair = |(p50, p99): (Duration, Duration)| format!("{} / {} us", p50.as_micros(), p99.as_micros());
        println!(
            "{:>7} B  {:>22}  {:>22}  {:>6.0} us",
            latency.bytes,
            pair(latency.native),
            pair(latency.plugin),
            latency.added_microseconds()
        );
    }
    Ok(())
}

/// Measures each length.
pub async fn measure(lengths: &[usize], requests: usize, wasm_dir: &Path) -> anyhow::Result<Vec<Latency>> {
    let server = instant_server().await?;
    let longest = lengths.iter().max().copied().unwrap_or(0);
    let json = format!(
        r#"{{"maxBodyBytes": {}, "pools": [{{"name": "latency", "baseModel": "m", "endpoints": {{"static": ["{server}"]}}}}]}}"#,
        longest + (1 << 20)
    );
    let config = check::load(json.as_bytes())?;
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let folder = demo::scratch("latency")?;
    let mut bootstrap = Bootstrap::new(&json, &config, free, free, wasm_dir);
    bootstrap.access_log = PathBuf::from("/dev/null");
    let plugin = Envoy::start(&bootstrap.yaml(), &folder.path().join("plugin"), 1).await?;
    bootstrap.filter = Filter::NativeBuffer;
    let native = Envoy::start(&bootstrap.yaml(), &folder.path().join("native"), 1).await?;
    let mut results = Vec::new();
    for &bytes in lengths {
        let body = Bytes::from(chat_of(bytes));
        let mut ways = [Connection::open(native.listen()).await?, Connection::open(plugin.listen()).await?];
        let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
        for round in 0..WARM_UP + requests {
            for (connection, times) in ways.iter_mut().zip(&mut times) {
                // The route that the plugin would choose is named to the Envoy that doesn't have it.
                let base_model = [("x-gateway-base-model-name", "m")];
                let answer = connection.send(client::post("/v1/chat/completions", &base_model, body.clone())?).await?;
                ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
                if round >= WARM_UP {
                    times.push(answer.total);
                }
            }
        }
        let [native, plugin] = times.map(|mut times| {
            times.sort_unstable();
            (percentile(&times, 50), percentile(&times, 99))
        });
        results.push(Latency { bytes, native, plugin });
    }
    Ok(results)
}

/// The nearest-rank percentile of sorted times.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

/// A chat completion whose body has about this length: many messages, the model last.
fn chat_of(bytes: usize) -> String {
    let message = r#"{"role":"user","content":"How long does a \"token\" wait, on average, for the next one?\n"},"#;
    let mut messages = message.repeat(bytes.saturating_sub(80) / message.len());
    messages.push_str(r#"{"role":"user","content":"x"}"#);
    format!(r#"{{"messages":[{messages}],"stream":false,"max_tokens":1,"model":"m"}}"#)
}

/// A model server that answers at once, and has an idle engine's metrics.
async fn instant_server() -> anyhow::Result<SocketAddr> {
    const METRICS: &str = "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n";
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let answer = |request: Request<hyper::body::Incoming>| async move {
        let body = if request.uri().path() == "/metrics" { METRICS } else { r#"{"object":"chat.completion"}"# };
        // What cannot be read is the client's loss.
        let _ = request.into_body().collect().await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    Ok(address)
}
