//! Refusals of one pool, seen by one worker or several.

use super::*;
use crate::testing::test;

const START: Timestamp = Timestamp(1_000_000);
const POOL: u64 = 99;
const DEMAND: Demand = Demand { asked: Some(7), tokens: 100, credentials: 0 };

fn at(milliseconds: u64) -> Timestamp {
    Timestamp(START.0 + milliseconds)
}

fn standing(endpoint: u64, in_flight: u32) -> Standing {
    Standing { pool: POOL, endpoint, in_flight }
}

fn refused(about: About) -> Refused {
    Refused { demand: DEMAND, about, seconds: SECONDS_IF_FAILED }
}

impl Acceptance {
    fn accept(&mut self, endpoint: u64, now: Timestamp) {
        self.handle_accepted(standing(endpoint, 0), DEMAND, now, now);
    }

    fn refuse(&mut self, endpoint: u64, about: About, now: Timestamp) {
        self.handle_refused(standing(endpoint, 0), &refused(about), now);
    }

    fn probability(&self, endpoint: u64, in_flight: u32, demand: Demand, now: Timestamp) -> f32 {
        self.expect(standing(endpoint, in_flight), demand, now).probability
    }

    /// What a round of one request to each of three endpoints shows, of which the first refuses.
    fn round(&mut self, about: About, now: Timestamp) {
        self.refuse(1, about, now);
        self.accept(2, now);
        self.accept(3, now);
    }
}

#[test]
fn one_refusal_costs_more_than_any_queue_and_a_few_close_the_door() {
    let mut acceptance = Acceptance::default();
    acceptance.refuse(1, About::Endpoint, START);
    assert!(acceptance.expect(standing(1, 0), DEMAND, START).seconds > 1.0);
    for round in 0..3 {
        acceptance.round(About::Endpoint, at(round));
    }
    assert!(acceptance.probability(1, 0, DEMAND, at(3)) > LIKELY);
    assert_eq!(acceptance.expect(standing(2, 0), DEMAND, at(3)), Expected::default());
}

#[test]
fn what_all_refuse_alike_changes_nothing() {
    for about in About::ALL.map(|(about, _)| about) {
        let mut acceptance = Acceptance::default();
        for round in 0..20 {
            for endpoint in 1..=3 {
                acceptance.refuse(endpoint, about, at(round * 100));
            }
        }
        for endpoint in 1..=3 {
            assert_eq!(acceptance.probability(endpoint, 0, DEMAND, at(2_000)), 0.0, "{about:?}");
        }
    }
}

#[test]
fn a_refusal_counts_for_what_it_is_about() {
    let other_model = Demand { asked: Some(8), ..DEMAND };
    let shorter = Demand { tokens: 20, ..DEMAND };
    for (about, for_other_model, for_shorter) in [
        (About::Endpoint, true, true),
        (About::Room, true, true),
        (About::Asked, false, true),
        (About::Size, true, false),
    ] {
        let mut acceptance = Acceptance::default();
        (0..5).for_each(|round| acceptance.round(about, at(round)));
        let is_likely = |demand| acceptance.probability(1, 0, demand, at(5)) > 0.3;
        assert!(is_likely(DEMAND), "{about:?}");
        assert_eq!((is_likely(other_model), is_likely(shorter)), (for_other_model, for_shorter), "{about:?}");
    }
}

#[test]
fn a_busy_endpoint_gets_what_it_takes() {
    let mut acceptance = Acceptance::default();
    (0..5).for_each(|round| acceptance.accept(2, at(round)));
    acceptance.handle_refused(standing(1, 4), &refused(About::Room), at(5));
    assert_eq!(acceptance.room(1, at(6)), Some(4));
    assert_eq!(acceptance.probability(1, 3, DEMAND, at(6)), 0.0);
    assert!(acceptance.probability(1, 4, DEMAND, at(6)) > LIKELY);
    acceptance.handle_accepted(standing(1, 3), DEMAND, at(6), at(7));
    assert!(acceptance.probability(1, 4, DEMAND, at(8)) > LIKELY, "what fits says nothing of what doesn't");
    acceptance.handle_accepted(standing(1, 6), DEMAND, at(6), at(9));
    assert_eq!(acceptance.probability(1, 9, DEMAND, at(10)), 0.0, "it has more room than it had");
    assert_eq!(acceptance.room(1, at(10)), Some(10), "a half more than what it took");
    assert_eq!(acceptance.room(1, at(61_000)), None);
}

#[test]
fn a_short_context_is_found_out_and_what_fits_goes_there() {
    let mut acceptance = Acceptance::default();
    let of_tokens = |tokens| Demand { tokens, ..DEMAND };
    for round in 0..200 {
        let (now, tokens) = (at(round * 10), 100 + round as u32 * 13);
        for endpoint in 1..=3 {
            if endpoint == 1 && tokens > 1500 {
                let refused = Refused { demand: of_tokens(tokens), ..refused(About::Size) };
                acceptance.handle_refused(standing(1, 0), &refused, now);
            } else {
                acceptance.handle_accepted(standing(endpoint, 0), of_tokens(tokens), now, now);
            }
        }
    }
    let probability = |tokens| acceptance.probability(1, 0, of_tokens(tokens), at(2_000));
    assert_eq!((probability(1500), probability(1513) > LIKELY, probability(100_000) > LIKELY), (0.0, true, true));
}

#[test]
fn a_client_with_a_bad_key_moves_its_own_traffic_alone() {
    let mut acceptance = Acceptance::default();
    let (good, bad) = (Demand { credentials: 500, ..DEMAND }, Demand { credentials: 600, ..DEMAND });
    let refuse = |acceptance: &mut Acceptance, endpoint, demand, now| {
        let refused = Refused { demand, ..refused(About::Credentials) };
        acceptance.handle_refused(standing(endpoint, 0), &refused, now);
    };
    for round in 0..100 {
        let now = at(round * 50);
        acceptance.handle_accepted(standing(2, 0), good, now, now);
        acceptance.handle_accepted(standing(3, 0), good, now, now);
        refuse(&mut acceptance, 1, bad, now);
        assert_eq!(acceptance.probability(1, 0, good, now), 0.0, "round {round}");
    }
    assert!(acceptance.probability(1, 0, bad, at(5_000)) > LIKELY, "whoever has it may try elsewhere");
    // One that the others accept is good, and to refuse it is the endpoint's fault.
    for round in 0..5 {
        refuse(&mut acceptance, 1, good, at(5_000 + round));
    }
    assert!(acceptance.probability(1, 0, Demand { credentials: 700, ..DEMAND }, at(5_010)) > LIKELY);
}

#[test]
fn a_key_that_has_expired_is_not_good_for_long() {
    let mut acceptance = Acceptance::default();
    let expired = Demand { credentials: 500, ..DEMAND };
    acceptance.handle_accepted(standing(1, 0), expired, START, START);
    for round in 0..60 {
        let refused = Refused { demand: expired, ..refused(About::Credentials) };
        acceptance.handle_refused(standing(1 + round % 3, 0), &refused, at(round * 20));
    }
    for endpoint in 1..=3 {
        let other = Demand { credentials: 700, ..DEMAND };
        assert!(acceptance.probability(endpoint, 0, other, at(1_200)) < 0.7, "{endpoint}");
        assert_eq!(acceptance.probability(endpoint, 0, other, at(8_000)), 0.0, "{endpoint}");
    }
}

#[test]
fn many_adapters_hide_none_that_is_missing() {
    let mut acceptance = Acceptance::default();
    let mut got = 0;
    for round in 0..2_000u64 {
        let (now, asked) = (at(round * 10), Demand { asked: Some(round * 7 % 300 * 2), ..DEMAND });
        if acceptance.probability(1, 0, asked, now) <= LIKELY {
            acceptance.handle_sent(standing(1, 0), asked, now);
            acceptance.handle_refused(standing(1, 0), &Refused { demand: asked, ..refused(About::Asked) }, now);
            got += 1;
        } else {
            acceptance.handle_accepted(standing(2, 0), asked, now, now);
        }
    }
    // Each of the 300 is tried once, and one of them again each second; a refusal is forgotten in half a minute.
    assert!(got <= 300 + 25, "{got}");
    assert!(acceptance.endpoints[&2].tallies.len() <= MAX_TALLIES);
}

#[test]
fn trials_are_few_and_the_door_opens_with_each_that_succeeds() {
    let mut acceptance = Acceptance::default();
    (0..200).for_each(|round| acceptance.round(About::Endpoint, at(round)));
    let mut now = at(200);
    let (mut trials, mut requests) = (0, 0);
    // Twenty requests a second, each to whom nothing is known against, else to the others.
    while now < at(20_200) {
        if acceptance.probability(1, 0, DEMAND, now) == 0.0 {
            assert_eq!(acceptance.handle_sent(standing(1, 0), DEMAND, now), Some(About::Endpoint));
            acceptance.refuse(1, About::Endpoint, now);
            (trials, requests) = (trials + 1, requests + 1);
        } else {
            requests += 2;
            acceptance.accept(2, now);
            acceptance.accept(3, now);
        }
        now = now.after(Duration::from_millis(100));
    }
    assert!((3..=requests / 19).contains(&trials), "{trials} of {requests}");
    // From now on it is sound.
    let sound_at = now;
    let mut got = 0;
    while got < 3 {
        if acceptance.probability(1, 0, DEMAND, now) == 0.0 {
            acceptance.handle_sent(standing(1, 0), DEMAND, now);
            acceptance.accept(1, now);
            got += 1;
        }
        now = now.after(Duration::from_millis(100));
    }
    assert!(now.since(sound_at) < Duration::from_secs(8), "{:?}", now.since(sound_at));
    assert_eq!(acceptance.handle_sent(standing(1, 0), DEMAND, now), None, "nothing is tried any more");
}

#[test]
fn an_endpoint_that_refuses_a_third_is_not_let_in_by_each_success() {
    let mut acceptance = Acceptance::default();
    for request in 0..60 {
        if request % 3 == 0 {
            acceptance.refuse(1, About::Endpoint, at(request));
        } else {
            acceptance.accept(1, at(request));
        }
        acceptance.accept(2, at(request));
    }
    let expected = acceptance.expect(standing(1, 0), DEMAND, at(60));
    assert!((0.1..LIKELY).contains(&expected.probability), "{expected:?}");
}

#[test]
fn workers_learn_from_each_other_and_judge_alike() {
    let mut workers = [Acceptance::default(), Acceptance::default(), Acceptance::default()];
    let mut version = 0;
    let mut exchange = |workers: &mut [Acceptance; 3], now: Timestamp| {
        for slot in 0..3 {
            let Some(blob) = workers[slot].poll_publication(now) else { continue };
            version += 1;
            for (other, worker) in workers.iter_mut().enumerate().filter(|(other, _)| *other != slot) {
                assert_ne!(other, slot);
                worker.handle_slot(slot as u32, Some((&blob, version)));
            }
        }
    };
    workers[0].round(About::Endpoint, START);
    workers[0].refuse(1, About::Endpoint, START);
    workers[0].refuse(1, About::Endpoint, START);
    exchange(&mut workers, at(20));
    for worker in &workers {
        assert!(worker.probability(1, 0, DEMAND, at(21)) > 0.4);
    }
    // The third hears of a trial that the second has begun, and of how it went.
    let due = at(7_000);
    assert_eq!(workers[1].handle_sent(standing(1, 0), DEMAND, due), Some(About::Endpoint));
    exchange(&mut workers, due);
    assert!(workers[2].probability(1, 0, DEMAND, due) > 0.1, "one trial at a time");
    for step in 1..=3 {
        let now = due.after(Duration::from_millis(step * 100));
        workers[1].handle_sent(standing(1, 0), DEMAND, now);
        workers[1].handle_accepted(standing(1, 0), DEMAND, now, now);
        exchange(&mut workers, now);
    }
    for worker in &workers {
        assert_eq!(worker.probability(1, 0, DEMAND, at(7_400)), 0.0);
    }
    // What all refuse is the pool's matter, whoever has seen it.
    let now = at(60_000);
    for (worker, endpoint) in workers.iter_mut().zip(1..) {
        (0..15).for_each(|_| worker.refuse(endpoint, About::Endpoint, now));
    }
    exchange(&mut workers, now);
    for worker in &workers {
        for endpoint in 1..=3 {
            assert_eq!(worker.probability(endpoint, 0, DEMAND, now), 0.0);
        }
    }
}

#[test]
fn what_is_forgotten_is_taken_back_and_damage_is_no_news() {
    let mut acceptance = Acceptance::default();
    acceptance.round(About::Endpoint, START);
    let blob = acceptance.poll_publication(START).unwrap();
    assert_eq!(acceptance.poll_publication(at(5)), None);
    let mut other = Acceptance::default();
    other.handle_slot(1, Some((&blob, 1)));
    assert!(other.is_suspect(1, at(60_000)));
    for end in 0..blob.len() {
        other.handle_slot(1, Some((&blob[..end], 2 + end as u32)));
        assert!(!other.is_suspect(1, at(60_000)), "cut at {end}");
    }
    let blob = acceptance.poll_publication(at(60_000)).unwrap();
    other.handle_slot(1, Some((&blob, 9_999)));
    assert!(!other.is_suspect(1, at(60_000)));
    assert_eq!(acceptance.poll_publication(at(70_000)), None, "nothing is said any more");
}

#[test]
fn invented_models_fill_no_memory() {
    let mut acceptance = Acceptance::default();
    for asked in 0..10_000 {
        let refused =
            Refused { demand: Demand { asked: Some(asked), tokens: 1, credentials: 0 }, ..refused(About::Asked) };
        acceptance.handle_refused(standing(1, 0), &refused, START);
        acceptance.handle_accepted(standing(1, 0), refused.demand, START, START);
    }
    assert!(acceptance.endpoints[&1].tallies.len() <= MAX_TALLIES);
    acceptance.handle_refused(standing(2, 0), &refused(About::Endpoint), at(301_000));
    assert!(!acceptance.endpoints.contains_key(&1));
}
