//! Reads model servers' metrics pages as the poller does, by the poller itself: at the same places, in the same forms.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use inference_plugin::config::Config;
use inference_plugin::headers;
use inference_plugin::page::MAX_PAGE_BYTES;
use inference_plugin::poller::{self, News, Poller, Scrape};
use inference_plugin::time::Timestamp;

use crate::client::{self, Connection};

/// Further apart than the time for which trouble must last until the poller says it.
const BETWEEN_LOOKS: Duration = Duration::from_secs(60);

/// An endpoint whose metrics are not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The pool.
    pub pool: String,
    /// The endpoint.
    pub address: String,
    /// What was found at each place where the page may be.
    pub why: String,
}

/// Looks for the metrics page of every endpoint that the configuration lists, and says which are not read.
pub async fn unread(config: &Config) -> Vec<Unread> {
    let mut poller = Poller::new(config);
    let mut now = Timestamp(1);
    // Trouble that is there at the second look, a minute later by the poller's clock, has lasted.
    for _ in 0..2 {
        poller.handle_tick(now);
        while let Some(scrape) = poller.poll_scrape(now) {
            ask(&mut poller, &scrape, now).await;
        }
        now = now.after(BETWEEN_LOOKS);
    }
    let notices = std::iter::from_fn(|| poller.poll_notice());
    let failed = notices.filter(|notice| matches!(notice.what, News::Failed(_)));
    failed.map(|notice| Unread { pool: notice.pool, address: notice.address, why: notice.what.to_string() }).collect()
}

/// Sends a scrape, and says what Envoy would say of it.
async fn ask(poller: &mut Poller, scrape: &Scrape, now: Timestamp) {
    let by_envoy = |status| poller::Answer { status, body: Some(b""), ..poller::Answer::default() };
    match tokio::time::timeout(scrape.timeout, send(scrape)).await {
        Err(_) => poller.handle_response(scrape.id, &by_envoy(504), now),
        Ok(Err(Failed::Connect)) => poller.handle_response(scrape.id, &by_envoy(503), now),
        Ok(Err(Failed::Broken)) => poller.handle_broken(scrape.id, now),
        Ok(Ok(answer)) => {
            let header = |name: &str| answer.headers.get(name).map(|value| value.as_bytes());
            let answer = poller::Answer {
                status: answer.status,
                served: None,
                location: header("location"),
                encoding: header("content-encoding"),
                is_whole: header("content-length").or(header("transfer-encoding")).is_some(),
                body: Some(&answer.body[..]).filter(|body| body.len() <= MAX_PAGE_BYTES),
            };
            poller.handle_response(scrape.id, &answer, now);
        }
    }
}

enum Failed {
    Connect,
    Broken,
}

async fn send(scrape: &Scrape) -> Result<client::Answer, Failed> {
    let address: std::net::SocketAddr = scrape.address.parse().map_err(|_| Failed::Connect)?;
    let mut request = Request::get(&scrape.path).header("host", &scrape.address);
    for (name, value) in headers::SCRAPE {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::new())).map_err(|_| Failed::Broken)?;
    let mut connection = Connection::open(address).await.map_err(|_| Failed::Connect)?;
    connection.send(request).await.map_err(|_| Failed::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use simulator::fault::{MetricsAnswer, MetricsFault};
    use simulator::flags::Flags;
    use simulator::server::Server;

    #[tokio::test]
    async fn pages_are_found_where_the_poller_finds_them() -> anyhow::Result<()> {
        let mut servers = Vec::new();
        let answers: [fn(&str, &str) -> MetricsAnswer; 3] = [
            |path, page| match path {
                "/metrics" => MetricsAnswer { status: 307, ..MetricsAnswer::page("") }.header("location", "/metrics/"),
                _ => MetricsAnswer::page(page.trim_end().to_owned()),
            },
            |path, page| match path {
                "/prometheus/metrics" => MetricsAnswer::page(page.to_owned()),
                _ => MetricsAnswer::page("[]"),
            },
            |_, _| MetricsAnswer::page("<html>"),
        ];
        for answers in answers {
            let server = Server::start(Flags::for_model("m")).await?;
            server.set_metrics_fault(MetricsFault::Other(answers));
            servers.push(server);
        }
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let mut addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
        addresses.push(closed.to_string());
        let document =
            serde_json::json!({"pools": [{"name": "p", "baseModel": "m", "endpoints": {"static": addresses}}]});
        let unread = unread(&crate::check::load(document.to_string().as_bytes())?).await;
        let said: Vec<(&str, &str)> = unread.iter().map(|one| (one.address.as_str(), one.why.as_str())).collect();
        assert_eq!(
            said,
            [
                (
                    addresses[2].as_str(),
                    "metrics are not read: page=/metrics the page is HTML or XML, and not Prometheus text; \
                     page=/prometheus/metrics the page is HTML or XML, and not Prometheus text"
                ),
                (addresses[3].as_str(), "metrics are not read: page=/metrics it refuses connections or answers 503"),
            ]
        );
        Ok(())
    }
}
