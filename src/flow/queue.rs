//! One worker's waiting requests of one pool.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Fairness, FlowControl, Ordering};
use crate::time::Timestamp;

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number, which no other request of the worker has.
    pub id: u64,
    /// Its priority.
    pub priority: i32,
    /// A hash of its flow's name.
    pub flow: u64,
    /// The bytes of its body.
    pub bytes: u64,
    /// When it came.
    pub since: Timestamp,
    /// When it is wanted.
    pub deadline: Timestamp,
    /// When it has waited long enough.
    pub expires: Timestamp,
}

/// The waiting requests.
#[derive(Debug, Default)]
pub struct Queue {
    bands: BTreeMap<Reverse<i32>, Flows>,
    waiting: BTreeMap<u64, Waiting>,
    expiries: BTreeSet<(Timestamp, u64)>,
}

/// The flows of one priority.
#[derive(Debug, Default)]
struct Flows {
    flows: BTreeMap<u64, BTreeSet<(Timestamp, u64)>>,
    /// Whose turn it is.
    turns: VecDeque<u64>,
    requests: u32,
    bytes: u64,
}

impl Queue {
    /// Lets a request wait.
    pub fn push(&mut self, control: &FlowControl, waiting: Waiting) {
        let (flow, order) = place(control, &waiting);
        let flows = self.bands.entry(Reverse(waiting.priority)).or_default();
        let members = flows.flows.entry(flow).or_default();
        if members.is_empty() {
            flows.turns.push_back(flow);
        }
        members.insert((order, waiting.id));
        flows.requests += 1;
        flows.bytes += waiting.bytes;
        self.expiries.insert((waiting.expires, waiting.id));
        self.waiting.insert(waiting.id, waiting);
    }

    /// The highest priority that waits.
    pub fn first_priority(&self) -> Option<i32> {
        self.bands.keys().next().map(|Reverse(priority)| *priority)
    }

    /// Takes the next request of the highest priority out.
    pub fn pop(&mut self, control: &FlowControl) -> Option<Waiting> {
        let (_, flows) = self.bands.iter_mut().next()?;
        let flow = *flows.turns.front()?;
        let (_, id) = *flows.flows.get(&flow)?.first()?;
        // The flow goes to the end of the row, unless that was its last one.
        flows.turns.rotate_left(1);
        self.remove(control, id)
    }

    /// Puts back what [`Queue::pop`] has given: it is the next one again.
    pub fn put_back(&mut self, control: &FlowControl, waiting: Waiting) {
        self.push(control, waiting);
        let (flow, _) = place(control, &waiting);
        let turns = self.bands.get_mut(&Reverse(waiting.priority)).map(|flows| &mut flows.turns);
        if let Some(turns) = turns
            && let Some(at) = turns.iter().rposition(|other| *other == flow)
            && let Some(flow) = turns.remove(at)
        {
            turns.push_front(flow);
        }
    }

    /// Takes a request out, whatever its turn.
    pub fn remove(&mut self, control: &FlowControl, id: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&id)?;
        self.expiries.remove(&(waiting.expires, id));
        let (flow, order) = place(control, &waiting);
        let band = Reverse(waiting.priority);
        if let Some(flows) = self.bands.get_mut(&band) {
            flows.requests -= 1;
            flows.bytes -= waiting.bytes;
            if let Some(members) = flows.flows.get_mut(&flow) {
                members.remove(&(order, id));
                if members.is_empty() {
                    flows.flows.remove(&flow);
                    flows.turns.retain(|other| *other != flow);
                }
            }
            if flows.requests == 0 {
                self.bands.remove(&band);
            }
        }
        Some(waiting)
    }

    /// Takes a request out that has waited long enough.
    pub fn pop_expired(&mut self, control: &FlowControl, now: Timestamp) -> Option<Waiting> {
        let (_, id) = self.expiries.first().copied().filter(|(expires, _)| *expires <= now)?;
        self.remove(control, id)
    }

    /// Takes the request out that came last to a priority.
    pub fn pop_newest(&mut self, control: &FlowControl, priority: i32) -> Option<Waiting> {
        let newest = self.waiting.values().rev().find(|waiting| waiting.priority == priority)?.id;
        self.remove(control, newest)
    }

    /// The priorities that wait, each with its requests and their bytes.
    pub fn counts(&self) -> impl Iterator<Item = (i32, u32, u64)> + '_ {
        self.bands.iter().map(|(Reverse(priority), flows)| (*priority, flows.requests, flows.bytes))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The flow that a request waits in, and what it is ordered by there.
fn place(control: &FlowControl, waiting: &Waiting) -> (u64, Timestamp) {
    let flow = match control.fairness {
        Fairness::RoundRobin => waiting.flow,
        Fairness::GlobalStrict => 0,
    };
    let order = match control.band(waiting.priority).ordering {
        // Numbers grow with time, and stand behind this.
        Ordering::Fcfs => Timestamp::default(),
        Ordering::Edf => waiting.deadline,
    };
    (flow, order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn waiting(id: u64, priority: i32, flow: u64) -> Waiting {
        let (since, deadline) = (Timestamp(id), Timestamp(1_000 - id));
        Waiting { id, priority, flow, bytes: 10, since, deadline, expires: Timestamp(500 + id) }
    }

    fn drain(control: &FlowControl, requests: &[Waiting]) -> Vec<u64> {
        let mut queue = Queue::default();
        for request in requests {
            queue.push(control, *request);
        }
        std::iter::from_fn(|| queue.pop(control)).map(|waiting| waiting.id).collect()
    }

    #[test]
    fn higher_priorities_leave_first_and_flows_take_turns() {
        let control = FlowControl::default();
        let requests = [
            waiting(1, 0, 7),
            waiting(2, 0, 7),
            waiting(3, 0, 7),
            waiting(4, 0, 8),
            waiting(5, 9, 7),
            waiting(6, -1, 9),
            waiting(7, 0, 8),
            waiting(8, 0, 6),
        ];
        assert_eq!(drain(&control, &requests), [5, 1, 4, 8, 2, 7, 3, 6]);
        let strict = FlowControl { fairness: Fairness::GlobalStrict, ..control };
        assert_eq!(drain(&strict, &requests), [5, 1, 2, 3, 4, 7, 8, 6]);
    }

    #[test]
    fn what_is_put_back_is_next_again() {
        let control = FlowControl::default();
        let mut queue = Queue::default();
        for (id, flow) in [(1, 7), (2, 7), (3, 8), (4, 9), (5, 9)] {
            queue.push(&control, waiting(id, 0, flow));
        }
        let mut order = Vec::new();
        while let Some(first) = queue.pop(&control) {
            queue.put_back(&control, first);
            queue.put_back(&control, first);
            assert_eq!(queue.pop(&control), Some(first));
            order.push(first.id);
        }
        assert_eq!(order, [1, 3, 4, 2, 5]);
    }

    #[test]
    fn deadlines_order_where_they_shall() {
        let mut control = FlowControl::default();
        let edf = Band { ordering: Ordering::Edf, ..control.usual };
        control.bands.push((0, edf));
        let requests = [waiting(1, 0, 7), waiting(2, 0, 7), waiting(3, 5, 7), waiting(4, 5, 7)];
        assert_eq!(drain(&control, &requests), [3, 4, 2, 1]);
    }

    #[test]
    fn what_leaves_early_is_forgotten() {
        let control = FlowControl::default();
        let mut queue = Queue::default();
        for id in 1..=4 {
            queue.push(&control, waiting(id, 0, id % 2));
        }
        assert_eq!(queue.remove(&control, 3).map(|gone| gone.id), Some(3));
        assert_eq!(queue.remove(&control, 3), None);
        assert_eq!(queue.pop_expired(&control, Timestamp(500)), None);
        assert_eq!(queue.pop_expired(&control, Timestamp(501)).map(|gone| gone.id), Some(1));
        assert_eq!(queue.counts().collect::<Vec<_>>(), [(0, 2, 20)]);
        assert_eq!(queue.pop_newest(&control, 0).map(|gone| gone.id), Some(4));
        assert_eq!(queue.pop(&control).map(|gone| gone.id), Some(2));
        assert!(queue.is_empty() && queue.bands.is_empty() && queue.expiries.is_empty());
    }

    use super::super::Band;
}
