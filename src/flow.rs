//! Requests that wait in the gateway while their pool is saturated.
//!
//! Band, flow, order, as in the endpoint picker: a higher priority leaves first; within one, flows take turns; within a
//! flow, the first one that came or the earliest deadline. Each worker holds its own requests, since only it can resume
//! them; what all workers hold together is in [`table`], which the limits and the order between workers rest on.

mod queue;
pub mod table;

use std::time::Duration;

pub use queue::{Queue, Waiting};

/// How requests of a pool wait.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowControl {
    /// Who is next among flows.
    pub fairness: Fairness,
    /// What holds for a priority without an entry of its own.
    pub usual: Band,
    /// What differs, by priority.
    pub bands: Vec<(i32, Band)>,
}

/// How requests of one priority wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// How many may wait, over all workers.
    pub max_requests: u32,
    /// How many bytes their bodies may have, over all workers.
    pub max_bytes: u64,
    /// How long one waits at most.
    pub ttl: Duration,
    /// Who is next within a flow.
    pub ordering: Ordering,
    /// The saturation from which on they wait.
    pub ceiling: f32,
}

/// Who is next among the flows of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fairness {
    /// Each flow in its turn.
    RoundRobin,
    /// All flows are one.
    GlobalStrict,
}

/// Who is next within a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// First come, first served.
    Fcfs,
    /// Earliest deadline first.
    Edf,
}

impl FlowControl {
    /// How requests of this priority wait.
    pub fn band(&self, priority: i32) -> &Band {
        self.bands.iter().find(|(of, _)| *of == priority).map_or(&self.usual, |(_, band)| band)
    }
}

/// The endpoint picker's defaults, but for the turns that flows take.
impl Default for FlowControl {
    fn default() -> FlowControl {
        let usual = Band {
            max_requests: 5_000,
            max_bytes: 1_000_000_000,
            ttl: Duration::from_secs(60),
            ordering: Ordering::Fcfs,
            ceiling: 1.0,
        };
        FlowControl { fairness: Fairness::RoundRobin, usual, bands: Vec::new() }
    }
}
