//! What a server says about its load: the metrics page, with what can be wrong with it, and the report in an answer.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Response, StatusCode};

use super::{Body, Shared, set, text};
use crate::fault::MetricsFault;

pub(super) async fn metrics(shared: &Shared) -> anyhow::Result<Response<Body>> {
    let fault = shared.switches().metrics.clone();
    let frozen = shared.switches().frozen_page.clone();
    let page = frozen.unwrap_or_else(|| shared.page());
    match fault {
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

/// Adds the in-band report that vLLM gives on request, with plain answers alone.
pub(super) fn report(shared: &Shared, response: &mut Response<Body>) {
    let is_plain = response.headers().get("content-type").is_some_and(|kind| kind == "application/json");
    if response.status() == StatusCode::OK && is_plain {
        let report = shared.gauges().in_band();
        set(response, "endpoint-load-metrics", &report);
    }
}
