//! The plugin JSON: what is taken, and in which words the rest is refused.

use expect_test::{Expect, expect};
use inference_plugin::config;

fn check(json: &str, expected: Expect) {
    match config::parse(json.as_bytes()) {
        Ok(config) => expected.assert_eq(&format!("ok: {} pools", config.pools.len())),
        Err(errors) => expected.assert_eq(&format!("{errors}\n")),
    }
}

#[test]
fn the_smallest_document() {
    check(
        r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:8000"]}}]}"#,
        expect!["ok: 1 pools"],
    );
}

#[test]
fn the_example_and_everything_that_can_be_set() {
    check(include_str!("../../envoy/plugin.json"), expect!["ok: 2 pools"]);
    check(
        r#"{"pools": [{
            "name": "team/a", "cluster": "c", "baseModel": "m", "adapters": ["x"], "engine": {"waiting": "q{state=wait}", "running": "r", "kvCacheUsage": "kv"},
            "metricsPath": "/stats", "endpoints": {"static": ["10.0.0.1:8000", "[2001:db8::1]:8000"]}, "failureMode": "FailClose",
            "scheduling": {"scorers": [{"type": "queue-scorer", "weight": 2}, {"type": "lora-affinity-scorer"}],
                           "picker": {"type": "max-score-picker", "maxNumOfEndpoints": 1}}}],
          "models": [{"modelName": "y", "pool": "team/a", "targetModels": [{"name": "x", "weight": 9}, {"name": "m", "weight": 1}]}],
          "poller": {"interval": "50ms", "timeout": "500ms", "staleAfter": "600ms"}, "maxBodyBytes": 1048576}"#,
        expect!["ok: 1 pools"],
    );
}

#[test]
fn every_mistake_is_reported_at_once_with_its_path() {
    check(
        r#"{
            "pools": [
                {"name": "a", "baseModel": "m", "adapters": ["x", 5, "m"], "endpoints": {"static": ["10.0.0.1", "host:1", "10.0.0.1:0", "10.0.0.2:1", "10.0.0.2:1", null]}},
                {"name": "a", "baseModel": "m", "engine": "vlm", "endpoints": {"static": []}, "failureMode": "Maybe", "color": 1},
                {"baseModel": "", "engine": {"queue": "x"}, "endpoints": {}, "metricsPath": "metrics"},
                {"name": "b c", "baseModel": "n", "engine": {"waiting": "1x{"}, "endpoints": {"static": ["10.0.0.3:1"]},
                 "scheduling": {"scorers": [{"type": "best"}, {"weight": 5000}], "picker": {"type": "luck", "maxNumOfEndpoints": 4}}}
            ],
            "models": [
                {"modelName": "x", "pool": "a"}, {"modelName": "y", "pool": "zz"}, {"pool": "a"}
            ],
            "poller": {"interval": "200", "timeout": "1h", "staleAfter": 5},
            "maxBodyBytes": 0
        }"#,
        expect![[r#"
            poller.staleAfter: invalid type: integer `5`, expected a string
            pools[0].adapters[1]: invalid type: integer `5`, expected a string
            pools[1].color: unknown field `color`, expected one of `name`, `cluster`, `baseModel`, `adapters`, `engine`, `metricsPath`, `endpoints`, `failureMode`, `scheduling`
            pools[1].engine: unknown variant `vlm`, expected one of `vllm`, `sglang`, `trtllm-serve`, `triton-tensorrt-llm`, `triton`, `llamacpp`
            pools[1].failureMode: unknown variant `Maybe`, expected `FailOpen` or `FailClose`
            pools[2].engine.queue: unknown field `queue`, expected one of `waiting`, `running`, `kvCacheUsage`
            pools[0].adapters[2]: "m" is already served, by pools[0].baseModel
            pools[0].endpoints.static[5]: must not be null
            pools[0].endpoints.static[0]: "10.0.0.1" has no port
            pools[0].endpoints.static[1]: "host:1" is no address: write ip:port or [ipv6]:port; host names are not resolved
            pools[0].endpoints.static[2]: "10.0.0.1:0" has port 0
            pools[0].endpoints.static[4]: "10.0.0.2:1" is listed twice
            pools[1].name: "a" is the name of another pool as well
            pools[1].baseModel: "m" is already served, by pools[0].baseModel
            pools[1].endpoints.static: 0 endpoints, but 1 to 1024 are needed
            pools[2].name: is required
            pools[2].baseModel: "" must be 1 to 256 bytes without control characters
            pools[2].engine: names no metric: give at least one of waiting, running and kvCacheUsage
            pools[2].metricsPath: "metrics" must start with / and hold no spaces
            pools[2].endpoints.static: 0 endpoints, but 1 to 1024 are needed
            pools[3].name: "b c" must be 1 to 63 letters, digits, '-', '_', '.' or '/'
            pools[3].engine.waiting: "1x{" is not a metric: write name or name{label=value}
            pools[3].scheduling.scorers[1].weight: 5000 is not between 0 and 1000
            pools[3].scheduling.scorers[1].type: is required
            pools[3].scheduling.picker.maxNumOfEndpoints: 4 is not between 1 and 3
            pools[3].scheduling.scorers[0].type: there is no scorer "best"; known are queue-scorer, running-requests-size-scorer, kv-cache-utilization-scorer, active-request-scorer, lora-affinity-scorer
            pools[3].scheduling.picker.type: there is no picker "luck"; known are max-score-picker
            models[0].modelName: "x" is a model of pool "a" already
            models[1].pool: there is no pool "zz"
            models[2].modelName: is required
            poller.interval: "200" is not a duration: write up to four of a number of at most five digits and h, m, s or ms, such as "200ms" or "1m30s"
            poller.timeout: "1h" is not between 50ms and 60s
            maxBodyBytes: 0 is not between 1 and 268435456
        "#]],
    );
}

#[test]
fn aliases_are_checked_against_their_pool() {
    check(
        r#"{"pools": [{"name": "a", "baseModel": "m", "adapters": ["x"], "endpoints": {"static": ["10.0.0.1:1"]}},
                      {"name": "b", "baseModel": "n", "endpoints": {"static": ["10.0.0.2:1"]}}],
            "models": [{"modelName": "x", "pool": "a"}, {"modelName": "y", "pool": "zz"},
                       {"modelName": "z", "pool": "a", "targetModels": [{"name": "n"}, {"name": "x", "weight": 1}]},
                       {"modelName": "w", "pool": "a", "targetModels": []},
                       {"modelName": "v", "pool": "b"}, {"modelName": "v", "pool": "b"}]}"#,
        expect![[r#"
            models[0].modelName: "x" is a model of pool "a" already
            models[1].pool: there is no pool "zz"
            models[2].targetModels: some targets have a weight and some have none: give all of them one, or none
            models[3].targetModels: is empty: leave it out for the pool's base model
            models[5].modelName: "v" is defined twice
        "#]],
    );
}

#[test]
fn what_is_no_document_at_all() {
    check(
        "",
        expect![[r#"
        not JSON: EOF while parsing a value at line 1 column 0
    "#]],
    );
    check(
        "[]",
        expect![[r#"
            the document must be a JSON object
        "#]],
    );
    check(
        "{}",
        expect![[r#"
        pools: at least one pool is needed
    "#]],
    );
    check(
        "{\"pools\": null}",
        expect![[r#"
        pools: at least one pool is needed
    "#]],
    );
    check(
        "{\"pools\": [null]}",
        expect![[r#"
        pools[0]: must not be null
        pools: at least one pool is needed
    "#]],
    );
    check(
        "{\"pools\": 3}",
        expect![[r#"
        pools: invalid type: integer `3`, expected a sequence
    "#]],
    );
}

#[test]
fn white_space_and_order_are_no_other_configuration() {
    let fingerprint = |json: &str| config::parse(json.as_bytes()).expect("it is right").fingerprint;
    let one = r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:8000"]}}]}"#;
    let same = r#" {"pools":[{"endpoints":{"static":["10.0.0.1:8000"]},"baseModel":"m","name":"a"}]}"#;
    assert_eq!(fingerprint(one), fingerprint(same));
    assert_ne!(fingerprint(one), fingerprint(&one.replace("8000", "8001")));
}

#[test]
fn the_manual_knows_every_scorer() {
    let unknown = r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:1"]}, "scheduling": {"scorers": [{"type": "?"}]}}]}"#;
    let error = config::parse(unknown.as_bytes()).expect_err("there is no such scorer").to_string();
    let (_, known) = error.split_once("known are ").expect("the error lists them");
    let manual = include_str!("../../docs/config.md");
    for name in known.trim().split(", ") {
        assert!(manual.contains(&format!("`{name}`")), "docs/config.md does not mention {name}");
    }
}
