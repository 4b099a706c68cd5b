//! What an engine says about its load in an answer's header, as vLLM does when it is asked to.
//!
//! The format is that of Open Request Cost Aggregation: the request carries `endpoint-load-metrics-format: TEXT`,
//! the answer `endpoint-load-metrics: TEXT named_metrics.num_requests_waiting=11.0, named_metrics.…=…`. vLLM 0.32
//! gives two figures, and only with answers that are not streamed.

use crate::inflight::Report;
use crate::time::Timestamp;

/// Reads the header's value; `None` when it holds nothing that is known.
pub fn parse(value: &[u8], now: Timestamp) -> Option<Report> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let fields = text.strip_prefix("TEXT")?;
    let mut report = Report { at: now, waiting: None, kv_cache_usage: None };
    for field in fields.split(',') {
        let Some((name, value)) = field.split_once('=') else { continue };
        let Ok(value) = value.trim().parse::<f64>() else { continue };
        match name.trim() {
            "named_metrics.num_requests_waiting" if (0.0..=f64::from(u32::MAX)).contains(&value) => {
                report.waiting = Some(value as u32);
            }
            "named_metrics.kv_cache_usage_perc" if value >= 0.0 => {
                report.kv_cache_usage = Some(value.min(1.0) as f32);
            }
            _ => {}
        }
    }
    (report.waiting.is_some() || report.kv_cache_usage.is_some()).then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn reads_what_vllm_sends() {
        let value =
            b"TEXT named_metrics.num_requests_waiting=11.0, named_metrics.kv_cache_usage_perc=0.0117647058823529";
        let report = parse(value, Timestamp(7)).unwrap();
        assert_eq!((report.at, report.waiting), (Timestamp(7), Some(11)));
        assert!(report.kv_cache_usage.is_some_and(|usage| (usage - 0.011_764_7).abs() < 1e-6));
    }

    #[test]
    fn what_makes_no_sense_is_no_report() {
        for value in [
            "",
            "TEXT",
            "JSON {\"named_metrics\": {}}",
            "TEXT a=b",
            "TEXT named_metrics.num_requests_waiting=-1",
            "TEXT named_metrics.kv_cache_usage_perc=NaN",
            "TEXT named_metrics.num_requests_waiting=1e99",
        ] {
            assert_eq!(parse(value.as_bytes(), Timestamp(7)), None, "{value}");
        }
        assert_eq!(parse(b"\xff", Timestamp(7)), None);
        let partly = parse(b"TEXT cpu_utilization=0.5,named_metrics.num_requests_waiting=2", Timestamp(7)).unwrap();
        assert_eq!((partly.waiting, partly.kv_cache_usage), (Some(2), None));
    }
}
