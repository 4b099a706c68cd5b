//! Pages of real engines, and what can be odd about them.

use super::*;
use crate::testing::test;
use expect_test::{Expect, expect};

fn check(engine: EngineName, page: &str, expected: Expect) {
    expected.assert_eq(&format!("{:?}", Dialect::of(engine).read(&Page::text(page.as_bytes()))));
}

const VLLM_BUSY: &str = include_str!("../../tests/engines/vllm-0.32-busy-lora.prom");
const VLLM_IDLE: &str = include_str!("../../tests/engines/vllm-0.32-idle.prom");
const SGLANG: &str = include_str!("../../tests/engines/sglang-0.5.23-busy.prom");
const LLAMACPP: &str = include_str!("../../tests/engines/llama-server-busy.prom");

#[test]
fn reads_real_pages() {
    check(
        EngineName::Vllm,
        VLLM_BUSY,
        expect![[
            r#"Ok(Reading { waiting: Some(16), running: Some(4), kv_cache_usage: Some(0.14117648), capacity_tokens: Some(8192), adapters: Some(Adapters { max: 2, running: ["lora-c"], waiting: [] }), counters: Counters { prompt_tokens: Some(1079), cached_tokens: Some(0), generated_tokens: Some(5593), finished_requests: Some(12), started_at: Some(1795182528) } })"#
        ]],
    );
    check(
        EngineName::Vllm,
        VLLM_IDLE,
        expect![
            "Ok(Reading { waiting: Some(0), running: Some(0), kv_cache_usage: Some(0.0), capacity_tokens: Some(2097152), adapters: None, counters: Counters { prompt_tokens: Some(0), cached_tokens: Some(0), generated_tokens: Some(0), finished_requests: Some(0), started_at: Some(1795182156) } })"
        ],
    );
    check(
        EngineName::Sglang,
        SGLANG,
        expect![
            "Ok(Reading { waiting: Some(4), running: Some(4), kv_cache_usage: Some(0.11), capacity_tokens: Some(8192), adapters: None, counters: Counters { prompt_tokens: Some(2212), cached_tokens: Some(476), generated_tokens: Some(10431), finished_requests: Some(230), started_at: None } })"
        ],
    );
    check(
        EngineName::Llamacpp,
        LLAMACPP,
        expect![
            "Ok(Reading { waiting: Some(8), running: Some(4), kv_cache_usage: None, capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: Some(18114), cached_tokens: None, generated_tokens: Some(45623), finished_requests: None, started_at: None } })"
        ],
    );
}

#[test]
fn a_wrong_engine_is_said_to_be_wrong() {
    check(EngineName::Sglang, VLLM_BUSY, expect![["Err(NoKnownMetric)"]]);
    check(EngineName::Vllm, "<html>\n", expect![["Err(NoPage(Markup))"]]);
    check(EngineName::Vllm, VLLM_BUSY.trim_end(), expect![["Err(Truncated)"]]);
}

#[test]
fn old_vllm_names_are_read_too() {
    check(
        EngineName::Vllm,
        "vllm:num_requests_waiting{model_name=\"m\"} 3.0\nvllm:gpu_cache_usage_perc{model_name=\"m\"} 0.25\n",
        expect![
            "Ok(Reading { waiting: Some(3), running: None, kv_cache_usage: Some(0.25), capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
}

#[test]
fn data_parallel_ranks_add_up_and_parts_of_one_replica_do_not() {
    check(
        EngineName::Vllm,
        "vllm:num_requests_waiting{engine=\"0\"} 3\nvllm:num_requests_waiting{engine=\"1\"} 4\n\
         vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n",
        expect![
            "Ok(Reading { waiting: Some(7), running: None, kv_cache_usage: Some(0.3), capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
    check(
        EngineName::Sglang,
        "sglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"0\"} 3\nsglang:num_queue_reqs{tp_rank=\"1\",dp_rank=\"0\"} 3\n\
         sglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"1\"} 5\n",
        expect![
            "Ok(Reading { waiting: Some(8), running: None, kv_cache_usage: None, capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
}

#[test]
fn the_newest_lora_series_counts() {
    check(
        EngineName::Vllm,
        "vllm:num_requests_waiting 0\n\
         vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"c\"} 1.7e9\n\
         vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} 1.8e9\n",
        expect![
            "Ok(Reading { waiting: Some(0), running: None, kv_cache_usage: None, capacity_tokens: None, adapters: Some(Adapters { max: 2, running: [], waiting: [] }), counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
}

#[test]
fn values_that_make_no_sense_are_missing_and_not_zero() {
    check(
        EngineName::Vllm,
        "vllm:num_requests_waiting NaN\nvllm:num_requests_running -1\nvllm:kv_cache_usage_perc 1.02\n",
        expect![
            "Ok(Reading { waiting: None, running: None, kv_cache_usage: Some(1.0), capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
}

#[test]
fn the_three_tensorrt_llm_forms() {
    check(
        EngineName::TrtllmServe,
        "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\n\
         trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 100\n",
        expect![
            "Ok(Reading { waiting: Some(1), running: Some(2), kv_cache_usage: Some(0.5), capacity_tokens: Some(3200), adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
    check(
        EngineName::TritonTensorrtLlm,
        "nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\",version=\"1\"} 4\n\
         nv_trt_llm_request_metrics{model=\"m\",request_type=\"scheduled\",version=\"1\"} 5\n\
         nv_trt_llm_request_metrics{model=\"m\",request_type=\"max\",version=\"1\"} 512\n\
         nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"m\"} 0.75\n\
         nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\",model=\"m\"} 64\n\
         nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\",model=\"m\"} 10\n",
        expect![
            "Ok(Reading { waiting: Some(4), running: Some(5), kv_cache_usage: Some(0.75), capacity_tokens: Some(640), adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
    check(
        EngineName::Triton,
        "nv_inference_pending_request_count{model=\"a\"} 1\nnv_inference_pending_request_count{model=\"b\"} 2\n\
         nv_inference_exec_count{model=\"a\"} 12345\n",
        expect![
            "Ok(Reading { waiting: Some(3), running: None, kv_cache_usage: None, capacity_tokens: None, adapters: None, counters: Counters { prompt_tokens: None, cached_tokens: None, generated_tokens: None, finished_requests: None, started_at: None } })"
        ],
    );
}

#[test]
fn a_custom_mapping_selects_by_name_and_label() {
    let selector = |text: &str| Some(Selector::parse(text).unwrap());
    let dialect = Dialect::custom(selector("queue{state=wait}"), selector("queue{state=\"run\"}"), None);
    let page = "queue{state=\"wait\"} 7\nqueue{state=\"run\"} 8\n";
    let reading = dialect.read(&Page::text(page.as_bytes())).unwrap();
    assert_eq!((reading.waiting, reading.running, reading.kv_cache_usage), (Some(7), Some(8), None));
}

/// Waiting, running, usage, capacity and the four counters.
fn figures(engine: EngineName, page: &str) -> String {
    let reading = match Dialect::of(engine).read(&Page::text(page.as_bytes())) {
        Ok(reading) => reading,
        Err(why) => return why.to_string(),
    };
    let Counters { prompt_tokens, cached_tokens, generated_tokens, finished_requests, started_at } = reading.counters;
    let numbers = [prompt_tokens, cached_tokens, generated_tokens, finished_requests, started_at];
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        reading.waiting,
        reading.running,
        reading.kv_cache_usage,
        reading.capacity_tokens,
        numbers.map(|n| n.unwrap_or(0))
    )
    .replace("Some", "")
}

#[test]
fn series_that_differ_in_the_process_alone_are_one_gauge() {
    let by_pid = |name: &str, values: &[(u32, f64)]| -> String {
        values
            .iter()
            .map(|(pid, value)| format!("{name}{{engine=\"0\",model_name=\"m\",pid=\"{pid}\"}} {value:?}\n"))
            .collect()
    };
    let usage = by_pid("vllm:kv_cache_usage_perc", &[(270, 0.0), (272, 0.93), (274, 0.0), (276, 0.0), (278, 0.0)]);
    let page = format!(
        "vllm:num_requests_running{{engine=\"0\",model_name=\"m\"}} 4.0\nvllm:num_requests_waiting{{engine=\"0\",model_name=\"m\"}} 0.0\n{usage}"
    );
    assert_eq!(figures(EngineName::Vllm, &page), "(0) (4) (0.93) None [0, 0, 0, 0, 0]");
    // All of the gauges, in a file of each process that ever was; the order of labels is free.
    let page = format!(
        "{}{}{}vllm:kv_cache_usage_perc{{pid=\"9\",model_name=\"m\",engine=\"0\"}} NaN\n",
        by_pid("vllm:num_requests_waiting", &[(1, 3.0), (2, 3.0), (3, 0.0)]),
        by_pid("vllm:num_requests_running", &[(1, 0.0), (2, 8.0)]),
        by_pid("vllm:kv_cache_usage_perc", &[(1, 0.5), (2, 0.0)])
    );
    assert_eq!(figures(EngineName::Vllm, &page), "(3) (8) (0.5) None [0, 0, 0, 0, 0]");
    // Ranks and models are engines of their own, each with its processes.
    let ranks: String = [(0, 1, 0.2), (0, 2, 0.0), (1, 1, 0.0), (1, 2, 0.4)]
        .iter()
        .map(|(rank, pid, value)| {
            format!(
                "vllm:kv_cache_usage_perc{{engine=\"{rank}\",pid=\"{pid}\"}} {value}\nvllm:num_requests_waiting{{pid=\"{pid}\",engine=\"{rank}\"}} {}\n",
                value * 10.0
            )
        })
        .collect();
    assert_eq!(figures(EngineName::Vllm, &ranks), "(6) None (0.3) None [0, 0, 0, 0, 0]");
    let sglang = "sglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"0\",pid=\"1\"} 3\nsglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"0\",pid=\"2\"} 0\n\
                  sglang:num_queue_reqs{tp_rank=\"0\",dp_rank=\"1\",pid=\"3\"} 5\nsglang:num_queue_reqs{tp_rank=\"1\",dp_rank=\"1\",pid=\"4\"} 5\n\
                  sglang:token_usage{dp_rank=\"0\",pid=\"1\"} 0.8\nsglang:token_usage{dp_rank=\"0\",pid=\"2\"} 0\n\
                  sglang:max_total_num_tokens{dp_rank=\"0\",pid=\"1\"} 1000\nsglang:max_total_num_tokens{dp_rank=\"0\",pid=\"2\"} 1000\n";
    assert_eq!(figures(EngineName::Sglang, sglang), "(8) None (0.8) (1000) [0, 0, 0, 0, 0]");
}

#[test]
fn counters_of_processes_add_up_and_their_start_is_the_first() {
    let page = "vllm:num_requests_waiting 0\n\
                vllm:prompt_tokens_total{pid=\"1\"} 10\nvllm:prompt_tokens_total{pid=\"2\"} 30\n\
                vllm:request_success_total{finished_reason=\"stop\"} 3\nvllm:request_success_total{finished_reason=\"length\"} 4\n\
                process_start_time_seconds{pid=\"1\"} 1000\nprocess_start_time_seconds{pid=\"2\"} 1700\n\
                vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"100\",pid=\"1\"} 1\n\
                vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"None\",pid=\"3\"} 1\n\
                vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"100\",pid=\"2\"} 1\n\
                vllm:cache_config_info{block_size=\"16\",engine=\"1\",num_gpu_blocks=\"100\",pid=\"1\"} 1\n";
    assert_eq!(figures(EngineName::Vllm, page), "(0) None None (3200) [40, 0, 0, 7, 1000]");
}

#[test]
fn a_page_that_is_there_twice_counts_once() {
    for (engine, page) in
        [(EngineName::Vllm, VLLM_BUSY), (EngineName::Sglang, SGLANG), (EngineName::Llamacpp, LLAMACPP)]
    {
        let twice = format!("{page}{page}");
        assert_eq!(figures(engine, &twice), figures(engine, page));
        for other in
            [page.replace('\n', "\r\n"), format!("\u{feff}{page}"), format!("{page}# EOF\n"), format!("{page}# EOF")]
        {
            assert_eq!(figures(engine, &other), figures(engine, page));
        }
    }
}

#[test]
fn names_with_underscores_are_read_where_there_are_no_others() {
    let underscored =
        |page: &str| page.replace("vllm:", "vllm_").replace("sglang:", "sglang_").replace("llamacpp:", "llamacpp_");
    for (engine, page) in
        [(EngineName::Vllm, VLLM_BUSY), (EngineName::Sglang, SGLANG), (EngineName::Llamacpp, LLAMACPP)]
    {
        assert_eq!(figures(engine, &underscored(page)), figures(engine, page));
        // A router that shows both has the same figure twice.
        assert_eq!(figures(engine, &format!("{}{page}", underscored(page))), figures(engine, page));
        let reading = Dialect::of(engine).read(&Page::text(underscored(page).as_bytes())).unwrap();
        assert_eq!(reading, Dialect::of(engine).read(&Page::text(page.as_bytes())).unwrap());
    }
}

#[test]
fn openmetrics_with_all_that_it_has() {
    let page = "# HELP vllm:num_requests_waiting Number of requests waiting.\n# TYPE vllm:num_requests_waiting gauge\n\
                # UNIT vllm:kv_cache_usage_perc ratio\nvllm:num_requests_waiting{engine=\"0\"} 3.0 1795182528.5\n\
                vllm:kv_cache_usage_perc{engine=\"0\"} 5e-1\n# TYPE vllm:prompt_tokens counter\n\
                vllm:prompt_tokens_total{engine=\"0\"} 17.0 # {trace_id=\"a}b\"} 0.67 1795182528\nvllm:prompt_tokens_created{engine=\"0\"} 1.7e9\n\
                vllm:e2e{engine=\"0\"} {count:1,sum:1.0,schema:8,zero_threshold:1e-4,zero_count:0,positive_spans:[1:2],positive_buckets:[3,0]}\n# EOF";
    assert_eq!(figures(EngineName::Vllm, page), "(3) None (0.5) None [17, 0, 0, 0, 0]");
    let native = "vllm:num_requests_running {count:1,sum:1.0}\nvllm:num_requests_waiting 2\n";
    assert_eq!(figures(EngineName::Vllm, native), "(2) None None None [0, 0, 0, 0, 0]");
}

#[test]
fn a_page_of_one_family_in_a_hundred_thousand_series_is_no_quadratic_work() {
    let mut page = String::new();
    for index in 0..100_000 {
        page.push_str(&format!("vllm:num_requests_waiting{{pid=\"{index}\",engine=\"{}\"}} 1\n", index / 2));
    }
    assert_eq!(figures(EngineName::Vllm, &page), "(50000) None None None [0, 0, 0, 0, 0]");
}
