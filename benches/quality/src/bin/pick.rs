//! How long a pick takes in native code: everything between a scanned body and the list of endpoints.
//!
//! The same for the shipped module is measured by `tests/wasm/examples/pick.rs`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use inference_plugin::config::{self, PoolId};
use inference_plugin::gateway::{Gateway, PickRequest, Read};
use inference_plugin::load::{EndpointLoad, Health, Snapshot};
use inference_plugin::prompt::Prompt;
use inference_plugin::scan::{self, Wanted};
use inference_plugin::shape::Shape;
use inference_plugin::time::Timestamp;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const ROUNDS: usize = 2_000;

fn main() -> Result<()> {
    println!("{:>9}  {:>9}  {:>12}  {:>12}", "body", "endpoints", "blocks us", "pick us");
    for (bytes, endpoints) in [(2_048, 100), (16_384, 1), (16_384, 100), (16_384, 1_000), (225_280, 100)] {
        let [blocks, pick] = measure(bytes, endpoints)?;
        let microseconds = |time: Duration| time.as_nanos() as f64 / 1000.0;
        println!("{bytes:>7} B  {endpoints:>9}  {:>12.1}  {:>12.1}", microseconds(blocks), microseconds(pick));
    }
    Ok(())
}

/// The median times to make a prompt's blocks, and to pick with them.
fn measure(bytes: usize, endpoints: usize) -> Result<[Duration; 2]> {
    let addresses: Vec<String> =
        (0..endpoints).map(|index| format!("10.0.{}.{}:8000", index / 250, index % 250 + 1)).collect();
    let document = serde_json::json!({"pools": [{"name": "p", "baseModel": "m", "endpoints": {"static": addresses}}]});
    let config = config::parse(document.to_string().as_bytes()).map_err(|errors| anyhow!("{errors}"))?;
    let mut gateway = Gateway::new(config, 1);
    let load = |(index, address): (usize, &String)| EndpointLoad {
        address: address.clone(),
        health: Health::Up,
        scraped_at: NOW,
        waiting: Some(index as u32 % 7),
        running: Some(3),
        kv_cache_usage: Some(0.5),
        ..EndpointLoad::default()
    };
    let snapshot =
        Snapshot { generation: 1, published_at: NOW, endpoints: addresses.iter().enumerate().map(load).collect() };
    gateway.handle_read(Read::Load(PoolId(0)), Some((&snapshot.encode(), 1)), NOW);
    let message = r#"{"role":"user","content":"How long does a \"token\" wait, on average, for the next one?\n"},"#;
    let messages = message.repeat(bytes / message.len());
    let body = format!(r#"{{"messages":[{}],"model":"m"}}"#, messages.trim_end_matches(','));
    let shape = Shape::of(b"POST", b"/v1/chat/completions").context("a chat is an API")?;
    let found = scan::scan(body.as_bytes(), shape, None, Wanted::Named(&[])).map_err(|error| anyhow!("{error}"))?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let started = Instant::now();
        let prompt = Prompt::new("m", body.as_bytes(), &found.prompt);
        let made = Instant::now();
        let request = PickRequest::of(&prompt);
        let now = Timestamp(NOW.0 + round as u64 / 100);
        std::hint::black_box(gateway.pick(PoolId(0), request, now));
        let [blocks, pick] = &mut times;
        blocks.push(made - started);
        pick.push(made.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(ROUNDS / 2).copied().context("no round")
    };
    let [blocks, pick] = times;
    Ok([median(blocks)?, median(pick)?])
}
