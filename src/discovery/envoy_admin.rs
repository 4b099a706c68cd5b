//! The hosts of a cluster, as Envoy's admin interface lists them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use super::backoff::{Backoff, is_due};
use super::{Answer, Failure, Found, Outcome, Question};
use crate::config::EndpointAddress;
use crate::rng::SplitMix64;
use crate::time::Timestamp;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for the hosts of one cluster, again and again.
#[derive(Debug)]
pub(super) struct EnvoyAdmin {
    path: String,
    cluster: String,
    interval: Duration,
    next_at: Timestamp,
    backoff: Backoff,
    rng: SplitMix64,
}

impl EnvoyAdmin {
    pub(super) fn new(cluster: &str, interval: Duration, owner: u64) -> EnvoyAdmin {
        // The filter is a regular expression, and names have dots.
        let exact: String = cluster
            .chars()
            .map(|char| if char.is_ascii_alphanumeric() { char.to_string() } else { format!("\\{char}") })
            .collect();
        let filter: String = form_urlencoded::byte_serialize(format!("^{exact}$").as_bytes()).collect();
        let path = format!("/clusters?format=json&filter={filter}");
        EnvoyAdmin {
            path,
            cluster: cluster.to_owned(),
            interval,
            next_at: Timestamp::default(),
            backoff: Backoff::default(),
            rng: SplitMix64::new(owner),
        }
    }

    pub(super) fn restart(&mut self) {
        self.next_at = Timestamp::default();
        self.backoff = Backoff::default();
    }

    pub(super) fn poll_question(&mut self, open: &[u64], now: Timestamp) -> Option<Question> {
        if !open.is_empty() || !is_due(self.next_at, now, self.interval * 2) || !self.backoff.is_over(now) {
            return None;
        }
        self.next_at = now.after(self.interval);
        Some(Question { kind: 0, path: self.path.clone(), accept: "application/json", timeout: TIMEOUT })
    }

    pub(super) fn handle_answer(&mut self, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
        let found = answer.body().and_then(|body| self.hosts(body));
        match &found {
            Ok(_) => self.backoff.handle_success(),
            // When Envoy has just started, its admin interface is there a moment later, and not an interval later.
            Err(_) => {
                self.backoff.handle_failure(answer.retry_after(), &mut self.rng, now);
                self.next_at = now;
            }
        }
        found.map(Outcome::Found)
    }

    fn hosts(&self, body: &[u8]) -> Result<Vec<Found>, Failure> {
        let page: Page = serde_json::from_slice(body).map_err(|error| Failure::unreadable(&error))?;
        let Some(cluster) = page.cluster_statuses.into_iter().find(|status| status.name == self.cluster) else {
            // A cluster that Envoy doesn't have yet is no reason to forget what it had.
            return Err(Failure::Unreadable(format!("Envoy has no cluster {:?}", self.cluster)));
        };
        let sound = cluster.host_statuses.into_iter().filter(|host| host.health_status.is_sound());
        Ok(sound.filter_map(|host| host.address.socket_address.endpoint()).collect())
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    cluster_statuses: Vec<ClusterStatus>,
}

#[derive(Deserialize)]
struct ClusterStatus {
    #[serde(default)]
    name: String,
    #[serde(default)]
    host_statuses: Vec<HostStatus>,
}

#[derive(Deserialize)]
struct HostStatus {
    #[serde(default)]
    address: Address,
    #[serde(default)]
    health_status: HealthStatus,
}

#[derive(Default, Deserialize)]
struct Address {
    #[serde(default)]
    socket_address: SocketAddress,
}

#[derive(Default, Deserialize)]
struct SocketAddress {
    #[serde(default)]
    address: String,
    #[serde(default)]
    port_value: u16,
}

impl SocketAddress {
    /// A host on a pipe has none.
    fn endpoint(&self) -> Option<Found> {
        let address: IpAddr = self.address.parse().ok()?;
        (self.port_value != 0).then(|| Found::at(EndpointAddress::new(SocketAddr::new(address, self.port_value))))
    }
}

#[derive(Default, Deserialize)]
struct HealthStatus {
    #[serde(default)]
    failed_active_health_check: bool,
    #[serde(default)]
    pending_dynamic_removal: bool,
    #[serde(default)]
    eds_health_status: String,
}

impl HealthStatus {
    fn is_sound(&self) -> bool {
        let is_out = matches!(self.eds_health_status.as_str(), "UNHEALTHY" | "DRAINING" | "TIMEOUT");
        !is_out && !self.failed_active_health_check && !self.pending_dynamic_removal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn admin() -> EnvoyAdmin {
        EnvoyAdmin::new("outbound|8000||vllm.ns", Duration::from_secs(2), 1)
    }

    #[test]
    fn it_asks_for_one_cluster_and_not_before_its_time() {
        let mut admin = admin();
        let question = admin.poll_question(&[], Timestamp(5_000)).unwrap();
        assert_eq!(question.path, "/clusters?format=json&filter=%5Eoutbound%5C%7C8000%5C%7C%5C%7Cvllm%5C.ns%24");
        assert_eq!(admin.poll_question(&[], Timestamp(6_999)), None);
        assert_eq!(admin.poll_question(&[0], Timestamp(7_000)), None, "one at a time");
        assert!(admin.poll_question(&[], Timestamp(7_000)).is_some());
    }

    #[test]
    fn a_failure_is_tried_again_soon() {
        let mut admin = admin();
        assert!(admin.poll_question(&[], Timestamp(5_000)).is_some());
        assert!(admin.handle_answer(Answer::Broken, Timestamp(5_000)).is_err());
        assert_eq!(admin.poll_question(&[], Timestamp(5_050)), None);
        assert!(admin.poll_question(&[], Timestamp(5_150)).is_some());
    }

    #[test]
    fn hosts_that_are_sound_are_taken() {
        let host = |address: &str, port: u16, health: &str| {
            format!(
                r#"{{"address": {{"socket_address": {{"address": "{address}", "port_value": {port}}}}}, "weight": 1, "health_status": {{{health}}}}}"#
            )
        };
        let hosts = [
            host("10.0.0.1", 8000, r#""eds_health_status": "HEALTHY""#),
            host("10.0.0.2", 8000, r#""eds_health_status": "DRAINING""#),
            host("10.0.0.3", 8000, r#""eds_health_status": "HEALTHY", "failed_active_health_check": true"#),
            host("2001:db8::1", 8000, ""),
            r#"{"address": {"pipe": {"path": "/run/x"}}}"#.to_owned(),
        ];
        let body = format!(
            r#"{{"cluster_statuses": [{{"name": "other"}}, {{"name": "outbound|8000||vllm.ns", "added_via_api": true, "host_statuses": [{}]}}]}}"#,
            hosts.join(",")
        );
        let answer = Answer::Answered { status: 200, retry_after: b"", body: body.as_bytes() };
        let Ok(Outcome::Found(found)) = admin().handle_answer(answer, Timestamp(0)) else { panic!("nothing is found") };
        let found: Vec<&str> = found.iter().map(|found| found.address.as_str()).collect();
        assert_eq!(found, ["10.0.0.1:8000", "[2001:db8::1]:8000"]);
    }

    #[test]
    fn what_is_no_answer_changes_nothing() {
        let answered = |status, body: &'static [u8]| Answer::Answered { status, retry_after: b"", body };
        for (answer, seen) in [
            (Answer::Broken, "it cannot be reached; what was last known holds"),
            (answered(503, b""), "it cannot be reached; what was last known holds"),
            (answered(500, b""), "the answer is 500; what was last known holds"),
            (answered(200, b"{}"), "the answer cannot be read: Envoy has no cluster \"outbound|8000||vllm.ns\""),
            (answered(200, b"<html>"), "the answer cannot be read: expected value at line 1 column 1"),
        ] {
            assert_eq!(admin().handle_answer(answer, Timestamp(0)).unwrap_err().to_string(), seen);
        }
    }
}
