//! The report of a live run, in Markdown.

use std::fmt::Write;

use super::{Live, Pair, WORKERS};
use crate::statistics::Summary;

/// What a report says about its making.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The day, as YYYY-MM-DD.
    pub date: String,
    /// The processor.
    pub cpu: String,
    /// How long everything took, in seconds.
    pub seconds: f64,
}

/// The whole report.
pub fn markdown(live: &Live, origin: &Origin, pairs: &[Pair]) -> String {
    let mut text = head(live, origin);
    text.push_str(
        "| policy | time | TTFT mean ms | p50 | p90 | p99 | end to end ms | hit rate % | requests | errors |\n",
    );
    text.push_str("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for pair in pairs {
        row(&mut text, pair.policy, "live", &pair.live);
        row(&mut text, pair.policy, "virtual", &pair.virtual_time);
    }
    text.push_str("\nLive against virtual:\n\n");
    for Pair { policy, live, virtual_time } in pairs {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "- {policy}: TTFT mean {}, p50 {}; end to end {}",
            percent(live.first_token_mean, virtual_time.first_token_mean),
            percent(live.first_token_p50, virtual_time.first_token_p50),
            percent(live.end_to_end_mean, virtual_time.end_to_end_mean),
        );
    }
    if let [first, others @ ..] = pairs {
        for other in others {
            let _ = writeln!(
                text,
                "\nThe TTFT mean of {} against that of {}: {} live, {} in virtual time.",
                first.policy,
                other.policy,
                percent(first.live.first_token_mean, other.live.first_token_mean),
                percent(first.virtual_time.first_token_mean, other.virtual_time.first_token_mean),
            );
        }
    }
    text
}

fn head(live: &Live, origin: &Origin) -> String {
    let Origin { date, cpu, seconds } = origin;
    let Live { workload, clients, seed, .. } = live;
    format!(
        "# Live and virtual time\n\n\
         Written by `cargo run --release -p quality --bin live` on {date}, {cpu}; {seconds:.0} s of wall time, seed {seed}.\n\n\
         The workload `{}` in a closed loop of {clients} clients: {} conversations to warm up and {} measured ones, the same in\n\
         every row. Live rows are a real Envoy with {WORKERS} workers before {} HTTP simulators, with the shipped modules or with\n\
         Envoy's own round robin. Virtual rows are the benchmark's world with as many workers, and with engines that do not\n\
         keep the blocks of answers, since the simulator behind HTTP does not know them.\n\n\
         What differs: live requests go through a real network stack and a real Envoy, which take time, where the world has\n\
         half a millisecond for each hop and nothing for the gateway; the HTTP simulator's timers go in whole milliseconds;\n\
         simulators and clients share the machine's cores with Envoy; and a live prompt is some tokens longer, since the HTTP\n\
         simulator counts the roles of messages as text. Where one request goes decides what the next one finds, so two runs\n\
         part ways however little they differ.\n\n",
        workload.name,
        workload.warm_up,
        workload.measured,
        workload.endpoints.len(),
    )
}

fn row(text: &mut String, policy: &str, time: &str, summary: &Summary) {
    let _ = writeln!(
        text,
        "| {policy} | {time} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} |",
        summary.first_token_mean,
        summary.first_token_p50,
        summary.first_token_p90,
        summary.first_token_p99,
        summary.end_to_end_mean,
        summary.hit_rate * 100.0,
        summary.requests,
        summary.errors,
    );
}

/// By how much a value is above a reference.
fn percent(value: f64, reference: f64) -> String {
    if reference > 0.0 { format!("{:+.1} %", (value / reference - 1.0) * 100.0) } else { "unknown".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::statistics::summarize;
    use crate::world::{Measured, Sample};

    fn summary(millis: u64) -> Summary {
        let sample = Sample {
            first_token: Duration::from_millis(millis),
            end_to_end: Duration::from_millis(millis * 10),
            failed: false,
        };
        summarize(&[Measured { samples: vec![sample], ..Measured::default() }])
    }

    #[test]
    fn live_is_compared_with_virtual_and_one_policy_with_the_other() {
        let live = Live { workload: crate::workloads::all().remove(0), clients: 25, seed: 1, wasm_dir: "dist".into() };
        let origin = Origin { date: "2026-11-21".to_owned(), cpu: "a machine".to_owned(), seconds: 1.0 };
        let pairs = [
            Pair { policy: "ours", live: summary(110), virtual_time: summary(100) },
            Pair { policy: "round-robin", live: summary(220), virtual_time: summary(250) },
        ];
        let text = markdown(&live, &origin, &pairs);
        assert!(text.contains("| ours | live | 110 | 110 | 110 | 110 | 1100 | 0.0 | 1 | 0 |"), "{text}");
        assert!(text.contains("- ours: TTFT mean +10.0 %, p50 +10.0 %; end to end +10.0 %"), "{text}");
        assert!(text.contains("that of round-robin: -50.0 % live, -60.0 % in virtual time."), "{text}");
    }
}
