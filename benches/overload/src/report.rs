//! The tables.

use std::time::Duration;

use crate::stage::{CLASSES, capacity};
use crate::{Outcome, Phase};

pub(crate) fn print(phases: &[Phase], load: f64) {
    println!("The pool can do {:.0} requests a second; overload is {:.0} % of that.", capacity(), load * 100.0);
    println!();
    println!("| phase | class | requests | answered | refused | first token p50 | p99 |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for phase in phases {
        for (index, class) in CLASSES.iter().enumerate() {
            let of_class: Vec<&Outcome> = phase.outcomes.iter().filter(|outcome| outcome.class == index).collect();
            if of_class.is_empty() {
                continue;
            }
            let mut times: Vec<Duration> =
                of_class.iter().filter(|outcome| outcome.status == 200).map(|outcome| outcome.first_token).collect();
            times.sort_unstable();
            let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)));
            let millis = |share| at(share).map_or("-".to_owned(), |time| format!("{} ms", time.as_millis()));
            println!(
                "| {} | {} | {} | {} | {} | {} | {} |",
                phase.name,
                class.model,
                of_class.len(),
                times.len(),
                of_class.len() - times.len(),
                millis(0.5),
                millis(0.99)
            );
        }
    }
    println!();
    for phase in phases {
        let mut reasons: Vec<(String, usize)> = Vec::new();
        for outcome in phase.outcomes.iter().filter(|outcome| outcome.status != 200) {
            let reason = format!("{} {}", outcome.status, outcome.reason.as_deref().unwrap_or("-"));
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((reason, 1)),
            }
        }
        println!(
            "{}: {:.0} s, at most {} waited at a time, {} lost; refusals: {reasons:?}",
            phase.name, phase.seconds, phase.most_waiting, phase.lost
        );
    }
}
