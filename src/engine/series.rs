//! The series of one metric as one number.
//!
//! Series that differ in `pid` alone are one: `prometheus_client` writes a gauge once for each process that has ever set it, those that
//! are dead included, and which of them is about now isn't said. Of such a gauge the largest value counts. A process that knows nothing of the
//! engine says zero, and a mean with it would make a full cache look empty, a sum would count each queue once for every process. Counters are another matter:
//! each process counts work of its own, and so their sum is the engine's. Whatever else tells series apart, such as a data-parallel
//! rank or a model, makes them engines of their own.

use super::Selector;
use crate::exposition::Sample;

/// The label by which `prometheus_client` tells processes apart.
pub(super) const PROCESS: &str = "pid";

/// What the series of a metric come to.
pub(super) struct Values {
    pub(super) sum: f64,
    series: u32,
}

impl Values {
    /// Over the series; there is at least one.
    pub(super) fn mean(&self) -> f64 {
        self.sum / f64::from(self.series)
    }
}

/// The first of several names of a gauge that is on the page, over its series.
pub(super) fn gauge(selectors: &[Selector], samples: &[Sample<'_>]) -> Option<Values> {
    selectors.iter().find_map(|selector| folded(selector, samples, PROCESS, f64::max))
}

/// The same of a counter. A series that is there twice counts once.
pub(super) fn counter(selectors: &[Selector], samples: &[Sample<'_>]) -> Option<Values> {
    selectors.iter().find_map(|selector| folded(selector, samples, "", f64::max))
}

/// The same of a time of start: the server is as old as the oldest of its processes, of which one may be replaced.
pub(super) fn start(selector: &Selector, samples: &[Sample<'_>]) -> Option<Values> {
    folded(selector, samples, PROCESS, f64::min)
}

/// The samples of a family, one for each set of labels but the process.
pub(super) fn distinct<'s, 'p>(
    selectors: &[Selector],
    samples: &'s [Sample<'p>],
) -> impl Iterator<Item = &'s Sample<'p>> {
    let of = |selector: &Selector| {
        let mut keyed: Vec<(u64, &Sample<'p>)> = samples
            .iter()
            .filter(|sample| selector.matches(sample))
            .map(|sample| (sample.labels.hash_without(PROCESS), sample))
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        keyed.dedup_by_key(|(key, _)| *key);
        (!keyed.is_empty()).then_some(keyed)
    };
    selectors.iter().find_map(of).into_iter().flatten().map(|(_, sample)| sample)
}

/// The sum over a selector's series; `None` when there are none. Those with the same labels, but for one, are joined first.
fn folded(selector: &Selector, samples: &[Sample<'_>], left_out: &str, join: fn(f64, f64) -> f64) -> Option<Values> {
    let mut keyed: Vec<(u64, f64)> = samples
        .iter()
        .filter(|sample| selector.matches(sample))
        .map(|sample| (sample.labels.hash_without(left_out), sample.value))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    let mut values = Values { sum: 0.0, series: 0 };
    for alike in keyed.chunk_by(|(a, _), (b, _)| a == b) {
        values.sum += alike.iter().map(|(_, value)| *value).reduce(join)?;
        values.series += 1;
    }
    (values.series > 0).then_some(values)
}
