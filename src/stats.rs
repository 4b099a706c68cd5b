//! The plugin's metrics: one table of names, units and help texts, and the events of a VM as plain data.
//!
//! Envoy has no labels for Wasm metrics; they stand in the name as `;key=value` and are taken out by the
//! bootstrap's `stats_tags`. A metric is never deleted, so only configured names become labels: clients
//! choose model names, and a thousand invented ones must not become a thousand series.

mod families;

use std::time::Duration;

use crate::acceptance::About;
use crate::config::{Config, PoolId};
use crate::refusal::Reason;
use crate::scheduling::Tier;

use families::*;
pub use families::{FAMILIES, Family, Kind};

/// The results of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrapeResult {
    /// A page with the engine's metrics.
    Ok,
    /// Refused, or 503.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Anything else.
    Unreadable,
}

impl ScrapeResult {
    const ALL: [(ScrapeResult, &'static str); 4] = [
        (ScrapeResult::Ok, "ok"),
        (ScrapeResult::Unreachable, "unreachable"),
        (ScrapeResult::Timeout, "timeout"),
        (ScrapeResult::Unreadable, "unreadable"),
    ];
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionReason {
    /// Errors in a row.
    Errors,
    /// Requests that are never answered.
    Stalled,
}

impl EjectionReason {
    const ALL: [(EjectionReason, &'static str); 2] =
        [(EjectionReason::Errors, "errors"), (EjectionReason::Stalled, "stalled")];
}

/// What became of a request that has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// It went.
    Dispatched,
    /// Too many waited.
    Capacity,
    /// Its time to live was over.
    Expired,
    /// Its client left.
    Left,
}

impl WaitOutcome {
    const ALL: [(WaitOutcome, &'static str); 4] = [
        (WaitOutcome::Dispatched, "dispatched"),
        (WaitOutcome::Capacity, "capacity"),
        (WaitOutcome::Expired, "expired"),
        (WaitOutcome::Left, "left"),
    ];
}

/// A metric's position in [`Catalog::metrics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub usize);

/// A metric to be defined at the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The full name with labels.
    pub name: String,
    /// The kind.
    pub kind: Kind,
}

/// One change of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which one.
    pub metric: MetricId,
    /// What is added to a counter, recorded in a histogram, or set on a gauge.
    pub value: u64,
}

/// Every metric that a configuration can lead to, and the events since the last look.
#[derive(Debug)]
pub struct Stats {
    metrics: Vec<Metric>,
    picks: usize,
    /// The first one of each pool, and how many there are: discovered endpoints have none.
    endpoint_picks: Vec<(usize, usize)>,
    override_missed: usize,
    time_to_first_token: usize,
    ejections: usize,
    endpoint_refusals: usize,
    refusals: usize,
    passed_through: usize,
    saturation: usize,
    waiting: usize,
    waited: usize,
    wait_time: usize,
    rule_matches: usize,
    rule_errors: usize,
    decision_microseconds: usize,
    events: Vec<Event>,
}

/// The metrics of the VM that polls.
#[derive(Debug)]
pub struct PollerStats {
    metrics: Vec<Metric>,
    scrapes: usize,
    endpoints: usize,
    polling: usize,
    events: Vec<Event>,
}

/// Builds the list of metrics, family by family.
#[derive(Default)]
struct Builder {
    metrics: Vec<Metric>,
}

impl Builder {
    /// Adds a family's metrics, one for each list of label values; gives the first one's position.
    fn add<const N: usize>(&mut self, family: &Family, values: impl IntoIterator<Item = [String; N]>) -> usize {
        let first = self.metrics.len();
        for values in values {
            let mut name = family.name.to_owned();
            for (label, value) in family.labels.iter().zip(values) {
                // Envoy's tag expressions end a value at the next semicolon.
                name.push_str(&format!(";{label}={}", value.replace(';', "_")));
            }
            self.metrics.push(Metric { name, kind: family.kind });
        }
        first
    }
}

impl Stats {
    /// The inference filter's metrics.
    pub fn new(config: &Config) -> Stats {
        let mut builder = Builder::default();
        let pools = || config.pools.iter();
        let picks = builder
            .add(&PICKS, pools().flat_map(|pool| Tier::ALL.map(|tier| [pool.name.clone(), tier.name().to_owned()])));
        let endpoint_picks = pools()
            .map(|pool| {
                let endpoints = pool.endpoints.iter().map(|at| [pool.name.clone(), at.to_string()]);
                (builder.add(&ENDPOINT_PICKS, endpoints), pool.endpoints.len())
            })
            .collect();
        let override_missed = builder.add(&OVERRIDE_MISSED, pools().map(|pool| [pool.name.clone()]));
        let time_to_first_token = builder.add(&TIME_TO_FIRST_TOKEN, pools().map(|pool| [pool.name.clone()]));
        let ejections = builder.add(
            &EJECTIONS,
            pools().flat_map(|pool| EjectionReason::ALL.map(|(_, reason)| [pool.name.clone(), reason.to_owned()])),
        );
        let endpoint_refusals = builder.add(
            &ENDPOINT_REFUSALS,
            pools().flat_map(|pool| About::ALL.map(|(_, about)| [pool.name.clone(), about.to_owned()])),
        );
        let refusals = builder.add(&REFUSALS, Reason::ALL.map(|reason| [reason.name().to_owned()]));
        let passed_through = builder.add(&PASSED_THROUGH, [[]]);
        let saturation = builder.add(&SATURATION, pools().map(|pool| [pool.name.clone()]));
        let waiting = builder.add(&WAITING, pools().map(|pool| [pool.name.clone()]));
        let waited = builder.add(
            &WAITED,
            pools().flat_map(|pool| WaitOutcome::ALL.map(|(_, outcome)| [pool.name.clone(), outcome.to_owned()])),
        );
        let wait_time = builder.add(&WAIT_TIME, pools().map(|pool| [pool.name.clone()]));
        let rules = || config.rules.iter().enumerate().map(|(rule, _)| [rule.to_string()]);
        let rule_matches = builder.add(&RULE_MATCHES, rules());
        let rule_errors = builder.add(&RULE_ERRORS, rules());
        let decision_microseconds = builder.add(&DECISION_MICROSECONDS, [[]]);
        Stats {
            metrics: builder.metrics,
            picks,
            endpoint_picks,
            override_missed,
            time_to_first_token,
            ejections,
            endpoint_refusals,
            refusals,
            passed_through,
            saturation,
            waiting,
            waited,
            wait_time,
            rule_matches,
            rule_errors,
            decision_microseconds,
            events: Vec::new(),
        }
    }

    /// What the host has to define.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Takes what happened since the last call.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    pub(crate) fn picked(&mut self, pool: PoolId, tier: Tier, first: Option<usize>) {
        self.count(self.picks + pool.0 * Tier::ALL.len() + tier as usize);
        let picks = self.endpoint_picks.get(pool.0).copied();
        if let (Some(endpoint), Some((base, _))) = (first, picks.filter(|(_, count)| first < Some(*count))) {
            self.count(base + endpoint);
        }
    }

    pub(crate) fn override_missed(&mut self, pool: PoolId) {
        self.count(self.override_missed + pool.0);
    }

    pub(crate) fn first_token(&mut self, pool: PoolId, time: Duration) {
        let metric = MetricId(self.time_to_first_token + pool.0);
        self.events.push(Event { metric, value: crate::time::millis(time) });
    }

    pub(crate) fn ejected(&mut self, pool: PoolId, reason: EjectionReason) {
        self.count(self.ejections + pool.0 * EjectionReason::ALL.len() + reason as usize);
    }

    pub(crate) fn endpoint_refused(&mut self, pool: PoolId, about: About) {
        self.count(self.endpoint_refusals + pool.0 * About::ALL.len() + about as usize);
    }

    pub(crate) fn refused(&mut self, reason: Reason) {
        self.count(self.refusals + reason as usize);
    }

    pub(crate) fn passed_through(&mut self) {
        self.count(self.passed_through);
    }

    pub(crate) fn saturation(&mut self, pool: PoolId, saturation: f32) {
        let value = (saturation.clamp(0.0, 1e6) * 100.0).round() as u64;
        self.events.push(Event { metric: MetricId(self.saturation + pool.0), value });
    }

    pub(crate) fn waiting(&mut self, pool: PoolId, requests: u64) {
        self.events.push(Event { metric: MetricId(self.waiting + pool.0), value: requests });
    }

    pub(crate) fn waited(&mut self, pool: PoolId, outcome: WaitOutcome, time: Duration) {
        self.count(self.waited + pool.0 * WaitOutcome::ALL.len() + outcome as usize);
        if outcome == WaitOutcome::Dispatched {
            let metric = MetricId(self.wait_time + pool.0);
            self.events.push(Event { metric, value: crate::time::millis(time) });
        }
    }

    pub(crate) fn rule_matched(&mut self, rule: usize) {
        self.count(self.rule_matches + rule);
    }

    pub(crate) fn rule_failed(&mut self, rule: usize) {
        self.count(self.rule_errors + rule);
    }

    /// Notes how long a decision took.
    pub fn decided_in(&mut self, microseconds: u64) {
        self.events.push(Event { metric: MetricId(self.decision_microseconds), value: microseconds });
    }

    fn count(&mut self, metric: usize) {
        self.events.push(Event { metric: MetricId(metric), value: 1 });
    }
}

impl PollerStats {
    /// The metrics of polling.
    pub fn new(config: &Config) -> PollerStats {
        let mut builder = Builder::default();
        let pools = || config.pools.iter();
        let scrapes = builder.add(
            &SCRAPES,
            pools().flat_map(|pool| ScrapeResult::ALL.map(|(_, result)| [pool.name.clone(), result.to_owned()])),
        );
        let endpoints = builder.add(
            &ENDPOINTS,
            pools().flat_map(|pool| {
                ["up", "unreachable", "silent", "unknown"].map(|health| [pool.name.clone(), health.to_owned()])
            }),
        );
        let polling = builder.add(&POLLING, ["singleton", "backup"].map(|rank| [rank.to_owned()]));
        PollerStats { metrics: builder.metrics, scrapes, endpoints, polling, events: Vec::new() }
    }

    /// What the host has to define.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Takes what happened since the last call.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    pub(crate) fn scraped(&mut self, pool: PoolId, result: ScrapeResult) {
        self.push(self.scrapes + pool.0 * ScrapeResult::ALL.len() + result as usize, 1);
    }

    /// Counts of endpoints that are up, unreachable, silent and unknown.
    pub(crate) fn endpoints(&mut self, pool: PoolId, counts: [u64; 4]) {
        for (offset, count) in counts.into_iter().enumerate() {
            self.push(self.endpoints + pool.0 * counts.len() + offset, count);
        }
    }

    /// Notes that this VM has become the one that polls.
    pub fn lease_acquired(&mut self, rank: crate::lease::Rank) {
        let offset = match rank {
            crate::lease::Rank::Singleton => 0,
            crate::lease::Rank::Backup => 1,
        };
        self.push(self.polling + offset, 1);
    }

    fn push(&mut self, metric: usize, value: u64) {
        self.events.push(Event { metric: MetricId(metric), value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn every_event_has_the_metric_that_it_means() {
        let json = r#"{"pools": [
            {"name": "a", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:1", "10.0.0.2:1"]}},
            {"name": "b", "baseModel": "n", "endpoints": {"static": ["10.0.0.3:1"]}}]}"#;
        let config = crate::config::parse(json.as_bytes()).unwrap();
        let mut stats = Stats::new(&config);
        stats.picked(PoolId(1), Tier::InFlight, Some(0));
        stats.picked(PoolId(0), Tier::None, None);
        stats.override_missed(PoolId(1));
        stats.first_token(PoolId(1), Duration::from_millis(80));
        stats.ejected(PoolId(0), EjectionReason::Stalled);
        stats.refused(Reason::NoEndpoints);
        stats.passed_through();
        stats.decided_in(12);
        let events: Vec<Event> = stats.drain().collect();
        let names: Vec<&str> = events.iter().map(|event| stats.metrics()[event.metric.0].name.as_str()).collect();
        assert_eq!(
            names,
            [
                "inference_picks_total;pool=b;tier=in-flight",
                "inference_endpoint_picks_total;pool=b;endpoint=10.0.0.3:1",
                "inference_picks_total;pool=a;tier=none",
                "inference_override_missed_total;pool=b",
                "inference_time_to_first_token_milliseconds;pool=b",
                "inference_ejections_total;pool=a;reason=stalled",
                "inference_refusals_total;reason=rejected-no-endpoints",
                "inference_passed_through_total",
                "inference_decision_microseconds",
            ]
        );
        let mut stats = PollerStats::new(&config);
        stats.scraped(PoolId(1), ScrapeResult::Timeout);
        stats.endpoints(PoolId(1), [1, 0, 0, 0]);
        stats.lease_acquired(crate::lease::Rank::Backup);
        let events: Vec<Event> = stats.drain().collect();
        let names: Vec<&str> = events.iter().map(|event| stats.metrics()[event.metric.0].name.as_str()).collect();
        assert_eq!(
            names,
            [
                "inference_scrapes_total;pool=b;result=timeout",
                "inference_endpoints;pool=b;health=up",
                "inference_endpoints;pool=b;health=unreachable",
                "inference_endpoints;pool=b;health=silent",
                "inference_endpoints;pool=b;health=unknown",
                "inference_lease_acquired_total;rank=backup",
            ]
        );
    }
}
