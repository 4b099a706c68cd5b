//! Virtual time: a heap of events, earliest first, and in the order of their making within an instant.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use simulator::engine::Time;

use crate::policy::{Outcome, Scraped};

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A request of a conversation reaches its gateway.
    Turn { request: u64 },
    /// An attempt reaches its endpoint.
    Deliver { request: u64, attempt: u32 },
    /// An engine's step ends.
    Step { endpoint: usize },
    /// An attempt's first token reaches the gateway.
    FirstToken { request: u64, attempt: u32 },
    /// An attempt's end reaches the gateway.
    End { request: u64, attempt: u32, outcome: Outcome },
    /// A client's patience is over.
    GiveUp { request: u64 },
    /// The endpoint hears that a client is gone.
    Abort { request: u64, endpoint: usize },
    /// A scrape is answered.
    Scrape { gateway: usize, endpoint: usize, interval: Duration },
    /// The answer reaches the gateway.
    Page { gateway: usize, endpoint: usize, page: Option<Box<Scraped>> },
    /// A fault begins or is over.
    Fault { fault: usize, begins: bool },
}

/// The heap and the present.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now: Time,
    made: u64,
    events: BinaryHeap<Reverse<Entry>>,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Clock {
    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.made += 1;
        self.events.push(Reverse(Entry { at: at.max(self.now), number: self.made, event }));
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Moves to the next event.
    pub(super) fn next(&mut self) -> Option<Event> {
        let Reverse(entry) = self.events.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}
