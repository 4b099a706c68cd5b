//! How many requests were accepted and how many refused, each counting less with time, and whether that is more
//! than chance.

use std::time::Duration;

use crate::time::Timestamp;

/// A request counts for 1/e after this time: what an endpoint did ten seconds ago says little of what it does now.
const MEMORY: Duration = Duration::from_secs(10);
/// Less than the following is left of any tally's refusals by then.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(70);
/// What is left of a refusal when it is forgotten.
const NOTHING: f32 = 0.05;
/// The last requests count, about so many: an endpoint that has taken thousands and begins to refuse is found out after a
/// few.
const MOST: f32 = 24.0;
/// While less than this is known of the others, they are taken to accept the rest of it.
const PRIOR_ACCEPTED: f32 = MOST;
/// Standard deviations by which two shares must differ: two are passed by chance once in forty times.
const DEVIATIONS: f32 = 2.0;
/// What is left of what speaks against an endpoint after each trial that succeeds.
const LEFT_BY_PROOF: f32 = 0.25;
/// So many of them make it as good as new.
const ENOUGH_PROOFS: u8 = 3;

/// Requests of one kind at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) accepted: f32,
    pub(super) refused: f32,
    /// What the refusals cost together, in seconds.
    pub(super) seconds: f32,
    /// The time that the counts are of.
    pub(super) at: Timestamp,
    /// When a refusal, a trial or a proof last changed what follows.
    pub(super) changed_at: Timestamp,
    /// When the next request may try what was refused.
    pub(super) due_at: Timestamp,
    /// Zero after a refusal, one once a trial has begun since, and one more with each proof.
    pub(super) trials: u8,
}

impl Tally {
    /// The same at a later time.
    pub(super) fn at(mut self, now: Timestamp) -> Tally {
        let age = now.since(self.at).as_secs_f32() / MEMORY.as_secs_f32();
        if age > 0.0 {
            self.scale((-age).exp());
        }
        // A clock that went back leaves the counts as they are.
        self.at = now;
        self
    }

    fn scale(&mut self, by: f32) {
        self.accepted *= by;
        self.refused *= by;
        self.seconds *= by;
    }

    fn limit(&mut self) {
        let count = self.accepted + self.refused;
        if count > MOST {
            self.scale(MOST / count);
        }
    }

    /// Notes an accepted request. One that was sent since a trial has begun proves something; says whether it has.
    pub(super) fn accept(&mut self, sent_at: Timestamp, now: Timestamp) -> bool {
        *self = self.at(now);
        self.accepted += 1.0;
        self.limit();
        let is_proof = (1..=ENOUGH_PROOFS).contains(&self.trials) && sent_at >= self.changed_at;
        if is_proof {
            self.trials = self.trials.saturating_add(1);
            (self.changed_at, self.due_at) = (now, now);
        }
        is_proof
    }

    pub(super) fn refuse(&mut self, seconds: f32, wait: Duration, now: Timestamp) {
        *self = self.at(now);
        let left = self.left();
        self.refused *= left;
        self.seconds *= left;
        self.refused += 1.0;
        self.seconds += seconds;
        self.limit();
        (self.changed_at, self.due_at, self.trials) = (now, now.after(wait), 0);
    }

    pub(super) fn begin_trial(&mut self, wait: Duration, now: Timestamp) {
        (self.changed_at, self.due_at, self.trials) = (now, now.after(wait), self.trials.max(1));
    }

    /// Follows the change of one of the tallies that this is the sum of: all fade alike, so it stays their sum.
    pub(super) fn follow(&mut self, before: &Tally, after: &Tally) {
        *self = self.at(after.at);
        let before = before.at(after.at);
        self.accepted = (self.accepted + after.accepted - before.accepted).max(0.0);
        self.refused = (self.refused + after.refused - before.refused).max(0.0);
    }

    /// Takes over how another worker's trials stand, where that is newer.
    pub(super) fn take_later_trial(&mut self, other: &Tally) {
        if other.changed_at > self.changed_at {
            (self.changed_at, self.due_at, self.trials) = (other.changed_at, other.due_at, other.trials);
        }
    }

    /// What proofs leave of a refusal.
    fn left(&self) -> f32 {
        let proofs = self.trials.saturating_sub(1);
        if proofs < ENOUGH_PROOFS { LEFT_BY_PROOF.powi(i32::from(proofs)) } else { 0.0 }
    }

    /// What speaks against the endpoint: refusals, as far as trials have not shown that they are over.
    fn speaks_against(&self) -> f32 {
        self.refused * self.left()
    }

    /// Whether a refusal is remembered.
    pub(super) fn is_suspect(&self) -> bool {
        self.speaks_against() > NOTHING
    }

    /// Whether another worker should know it.
    pub(super) fn is_news(&self, now: Timestamp) -> bool {
        self.refused > NOTHING || (self.trials > 0 && now.since(self.changed_at) < MEMORY * 3)
    }

    /// Two workers' counts of the same, at the same time.
    pub(super) fn merge(mut self, other: Tally) -> Tally {
        self.take_later_trial(&other);
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.seconds += other.seconds;
        self
    }

    /// What a refusal has cost, as a mean, in seconds.
    pub(super) fn mean_seconds(&self) -> f32 {
        if self.refused > 0.0 { self.seconds / self.refused } else { 0.0 }
    }

    /// Requests a second.
    pub(super) fn rate(&self) -> f32 {
        (self.accepted + self.refused) / MEMORY.as_secs_f32()
    }

    /// By how much this share of refusals is surely larger than that of the others of `all`, which holds this one too:
    /// the difference of two proportions less two standard deviations of what it would be by chance.
    pub(super) fn excess(&self, all: &Tally) -> f32 {
        let refused = self.speaks_against();
        let count = self.accepted + refused;
        if count <= 0.0 {
            return 0.0;
        }
        let others_refused = (all.refused - self.refused).max(0.0);
        let others = ((all.accepted - self.accepted).max(0.0) + others_refused).max(PRIOR_ACCEPTED);
        let difference = refused / count - others_refused / others;
        let common = (refused + others_refused) / (count + others);
        let deviation = (common * (1.0 - common) * (1.0 / count + 1.0 / others)).max(0.0).sqrt();
        (difference - DEVIATIONS * deviation).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    fn tally(accepted: f32, refused: f32) -> Tally {
        Tally { accepted, refused, ..Tally::default() }
    }

    fn excess(own: (f32, f32), others: (f32, f32)) -> f32 {
        let all = tally(own.0 + others.0, own.1 + others.1);
        tally(own.0, own.1).excess(&all)
    }

    #[test]
    fn the_first_refusal_counts_and_more_count_more() {
        let first = excess((0.0, 1.0), (2.0, 0.0));
        assert!((0.4..0.8).contains(&first), "{first}");
        assert!(excess((0.0, 3.0), (6.0, 0.0)) > 0.5);
        assert!(excess((0.0, 50.0), (100.0, 0.0)) > 0.8);
    }

    #[test]
    fn what_all_refuse_alike_or_seldom_is_chance() {
        for (own, others) in [
            ((7.0, 3.0), (14.0, 6.0)),
            ((5.0, 6.0), (12.0, 10.0)),
            ((30.0, 1.0), (60.0, 0.0)),
            ((0.0, 20.0), (0.0, 40.0)),
            ((1.0, 1.0), (1.0, 2.0)),
        ] {
            let excess = excess(own, others);
            assert!(excess < 0.05, "{own:?} {others:?}: {excess}");
        }
        assert!(excess((20.0, 10.0), (60.0, 0.0)) > 0.1, "a third of its requests is not");
    }

    #[test]
    fn counts_fade_and_proofs_clear() {
        let start = Timestamp(1_000_000);
        let mut tally = Tally::default();
        for _ in 0..10 {
            tally.refuse(10.0, Duration::from_secs(5), start);
        }
        assert_eq!((tally.mean_seconds(), tally.due_at), (10.0, start.after(Duration::from_secs(5))));
        let later = tally.at(start.after(MEMORY));
        assert!((later.refused - 10.0 / std::f32::consts::E).abs() < 0.01 && later.mean_seconds() == 10.0);
        assert!(!tally.at(start.after(Duration::from_secs(60))).is_suspect());
        assert!(!tally.accept(start, start), "no trial: it is refused now and then");
        tally.begin_trial(Duration::from_secs(5), start);
        assert!(!tally.accept(start.before(Duration::from_secs(1)), start), "sent before the trial");
        assert_eq!(tally.speaks_against(), 10.0);
        for _ in 0..3 {
            assert!(tally.accept(start, start));
        }
        assert!(!tally.is_suspect() && tally.due_at == start);
        tally.refuse(10.0, Duration::from_secs(5), start);
        assert!(tally.speaks_against() < 1.2);
    }
}
