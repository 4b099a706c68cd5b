//! What runs come to: percentiles over the pooled requests of all seeds, means over the seeds of everything else.

use std::time::Duration;

use crate::world::Measured;

/// The figures of a policy at a workload and load.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Time to the first token, in milliseconds.
    pub first_token_mean: f64,
    /// Its median.
    pub first_token_p50: f64,
    /// Its 90th percentile.
    pub first_token_p90: f64,
    /// Its 99th percentile.
    pub first_token_p99: f64,
    /// Time to the last token, in milliseconds.
    pub end_to_end_mean: f64,
    /// Tokens that all endpoints generated in a second.
    pub tokens_per_second: f64,
    /// The share of prompt tokens that the engines found in their prefix caches.
    pub hit_rate: f64,
    /// The coefficient of variation of the endpoints' work; see [`spread`].
    pub load_spread: f64,
    /// Failed requests, per seed.
    pub errors: f64,
    /// Measured requests, per seed.
    pub requests: f64,
    /// Every time to the first token, sorted, in milliseconds.
    pub first_tokens: Vec<f64>,
}

/// Sums up runs that differ by their seeds only.
pub fn summarize(runs: &[Measured]) -> Summary {
    let samples = || runs.iter().flat_map(|run| &run.samples);
    let mut first_tokens: Vec<f64> = samples().map(|sample| millis(sample.first_token)).collect();
    first_tokens.sort_by(f64::total_cmp);
    let seeds = runs.len().max(1) as f64;
    let over_seeds = |figure: fn(&Measured) -> f64| runs.iter().map(figure).sum::<f64>() / seeds;
    Summary {
        first_token_mean: over_seeds(|run| mean(run.samples.iter().map(|sample| millis(sample.first_token)))),
        first_token_p50: percentile(&first_tokens, 0.5),
        first_token_p90: percentile(&first_tokens, 0.9),
        first_token_p99: percentile(&first_tokens, 0.99),
        end_to_end_mean: over_seeds(|run| mean(run.samples.iter().map(|sample| millis(sample.end_to_end)))),
        tokens_per_second: over_seeds(|run| {
            let tokens: u64 = run.work.iter().map(|(totals, _)| totals.generation_tokens).sum();
            tokens as f64 / run.span.as_secs_f64().max(1e-9)
        }),
        hit_rate: over_seeds(|run| {
            let queries: u64 = run.work.iter().map(|(totals, _)| totals.prefix_cache_queries).sum();
            let hits: u64 = run.work.iter().map(|(totals, _)| totals.prefix_cache_hits).sum();
            hits as f64 / queries.max(1) as f64
        }),
        load_spread: over_seeds(spread),
        errors: over_seeds(|run| run.samples.iter().filter(|sample| sample.failed).count() as f64),
        requests: over_seeds(|run| run.samples.len() as f64),
        first_tokens,
    }
}

/// The coefficient of variation of the endpoints' work: tokens that had to be computed, in prompts and answers, times what
/// a token of a prompt takes there, so that fast and slow endpoints are alike when they are busy alike.
pub fn spread(run: &Measured) -> f64 {
    let work: Vec<f64> = run
        .work
        .iter()
        .map(|(totals, per_token)| {
            let computed = totals.prompt_tokens - totals.prefix_cache_hits + totals.generation_tokens;
            computed as f64 * per_token.as_secs_f64()
        })
        .collect();
    let mean_work = mean(work.iter().copied());
    let variance = mean(work.iter().map(|work| (work - mean_work).powi(2)));
    if mean_work > 0.0 { variance.sqrt() / mean_work } else { 0.0 }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, total) = values.fold((0.0, 0.0), |(count, total), value| (count + 1.0, total + value));
    if count > 0.0 { total / count } else { 0.0 }
}

/// The smallest value that at least this share of the values does not exceed.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use simulator::engine::Totals;

    use super::*;
    use crate::world::Sample;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (100.0, 198.0));
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn samples_are_pooled_and_rates_are_means() {
        let run = |millis: u64, hits| Measured {
            samples: vec![Sample {
                first_token: Duration::from_millis(millis),
                end_to_end: Duration::from_millis(millis * 2),
                failed: millis > 10,
            }],
            span: Duration::from_secs(2),
            work: [100, 300]
                .map(|tokens| {
                    let totals = Totals {
                        prompt_tokens: 100,
                        generation_tokens: tokens,
                        prefix_cache_queries: 100,
                        prefix_cache_hits: hits,
                        ..Totals::default()
                    };
                    (totals, Duration::from_millis(1))
                })
                .to_vec(),
            ..Measured::default()
        };
        let summary = summarize(&[run(10, 50), run(30, 100)]);
        assert_eq!((summary.first_token_mean, summary.first_token_p50, summary.first_token_p99), (20.0, 10.0, 30.0));
        assert_eq!((summary.tokens_per_second, summary.hit_rate, summary.errors), (200.0, 0.75, 0.5));
        // 150 and 350: 100 / 250; 100 and 300: 100 / 200.
        assert!((summary.load_spread - 0.45).abs() < 1e-9);
    }
}
