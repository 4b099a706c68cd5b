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
            "metricsPath": "/stats", "metricsPort": 8002, "metricsCluster": "side", "endpoints": {"static": ["10.0.0.1:8000",
                {"address": "[2001:db8::1]:8000", "metricsPort": 9002, "labels": {"zone": "a", "llm-d.ai/context-length-range": "0-4096"}}]}, "failureMode": "FailClose",
            "scheduling": {"scorers": [{"type": "queue-scorer", "weight": 2}, {"type": "kv-cache-utilization-scorer"}, {"type": "context-length-aware"},
                              {"type": "prefix-cache-scorer", "parameters": {"matchLengthWeight": 0.5, "matchLengthScaleTokens": 4096}},
                              {"type": "active-request-scorer", "parameters": {"idleThreshold": 2, "maxBusyScore": 0.5}},
                              {"type": "token-load-scorer", "parameters": {"queueThresholdTokens": 1000000}},
                              {"type": "load-aware-scorer", "parameters": {"threshold": 64}}],
                           "filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"zone": "a"}}},
                              {"type": "utilization-filter", "parameters": {"maxActive": 9, "maxRunning": 8, "maxWaiting": 7, "maxKvCacheUsage": 0.9, "fallbackOnEmpty": false}}],
                           "picker": {"type": "weighted-random-picker", "maxNumOfEndpoints": 1}},
            "outlierDetection": {"consecutiveErrors": 5, "baseEjectionTime": "1s", "maxEjectionTime": "1m", "maxEjectionPercent": 20}}],
          "models": [{"modelName": "y", "pool": "team/a", "targetModels": [{"name": "x", "weight": 9}, {"name": "m", "weight": 1}]}],
          "poller": {"interval": "50ms", "timeout": "500ms", "staleAfter": "600ms", "inBand": true}, "maxBodyBytes": 1048576, "maxPrefixEntries": 65536}"#,
        expect!["ok: 1 pools"],
    );
    check(
        r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"static": ["10.0.0.1:8000"]}, "scheduling": {"profile": "epp"}}]}"#,
        expect!["ok: 1 pools"],
    );
}

#[test]
fn mistakes_in_scheduling_and_outlier_detection() {
    check(
        r#"{"pools": [
            {"name": "a", "baseModel": "m", "endpoints": {"static": [{"address": "10.0.0.1:1", "labels": {"llm-d.ai/context-length-range": "9-3"}}, {"labels": {}}, {"adress": "x"}, 7]}},
            {"name": "b", "baseModel": "n", "endpoints": {"static": ["10.0.0.1:1", {"address": "10.0.0.2:1", "labels": {"zone": "b", "llm-d.ai/context-length-range": "9-3"}}]},
             "scheduling": {"profile": "epp", "scorers": [
                {"type": "queue-scorer", "parameters": {"threshold": 5}},
                {"type": "load-aware-scorer", "parameters": {"threshold": 0}},
                {"type": "prefix-cache-scorer", "parameters": {"matchLengthWeight": 1.5, "color": 1}},
                {"type": "context-length-aware"}],
              "filters": [{"type": "best"}, {}, {"type": "utilization-filter"}, {"type": "label-selector-filter", "parameters": {"maxActive": 1}},
                {"type": "label-selector-filter", "parameters": {"matchLabels": {"zone": "a"}}},
                {"type": "utilization-filter", "parameters": {"maxKvCacheUsage": -1}}]},
             "outlierDetection": {"consecutiveErrors": 101, "baseEjectionTime": "1m", "maxEjectionTime": "1s", "maxEjectionPercent": 51}},
            {"name": "d", "baseModel": "p", "engine": "triton", "endpoints": {"static": ["10.0.0.1:1"]},
             "scheduling": {"scorers": [{"type": "queue-scorer"}, {"type": "kv-cache-utilization-scorer"}, {"type": "lora-affinity-scorer"}]}},
            {"name": "c", "baseModel": "o", "endpoints": {"static": ["10.0.0.1:1"]}, "scheduling": {"profile": "best", "scorers": []}}],
           "maxPrefixEntries": 1000}"#,
        expect![[r#"
            pools[0].endpoints.static[2].adress: unknown field `adress`, expected one of `address`, `labels`, `metricsPort`
            pools[0].endpoints.static[3]: invalid type: integer `7`, expected an address or an object with an address and labels
            pools[1].scheduling.scorers[2].parameters.color: unknown field `color`, expected one of `threshold`, `matchLengthWeight`, `matchLengthScaleTokens`, `idleThreshold`, `maxBusyScore`, `queueThresholdTokens`
            pools[3].scheduling.profile: unknown variant `best`, expected `default` or `epp`
            pools[0].endpoints.static[1].address: is required
            pools[0].endpoints.static[2].address: is required
            pools[1].scheduling.profile: has scorers of its own: leave it or scorers out
            pools[1].scheduling.scorers[0].parameters.threshold: queue-scorer has no such parameter
            pools[1].scheduling.scorers[1].parameters.threshold: 0 is not between 1 and 4294967295
            pools[1].scheduling.scorers[2].parameters.matchLengthWeight: 1.5 is not between 0 and 1
            pools[1].scheduling.scorers[3].type: the label's value "9-3" is not a range: write MIN-MAX in tokens
            pools[1].scheduling.filters[0].type: there is no filter "best"; known are label-selector-filter, utilization-filter
            pools[1].scheduling.filters[1].type: is required
            pools[1].scheduling.filters[2].parameters: sets no limit
            pools[1].scheduling.filters[3].parameters.maxActive: label-selector-filter has no such parameter
            pools[1].scheduling.filters[3].parameters.matchLabels: names no label
            pools[1].scheduling.filters[4].parameters.matchLabels: no endpoint has these labels
            pools[1].scheduling.filters[5].parameters.maxKvCacheUsage: -1 is not between 0 and 1
            pools[1].outlierDetection.maxEjectionTime: 1s is less than baseEjectionTime, 60s
            pools[1].outlierDetection.consecutiveErrors: 101 is not between 0 and 100
            pools[1].outlierDetection.maxEjectionPercent: 51 is not between 0 and 50
            pools[2].scheduling.scorers[1].type: kv-cache-utilization-scorer needs the KV-cache use, which this pool's engine doesn't give
            pools[3].scheduling.scorers: names no scorer: leave it out for the default
            maxPrefixEntries: 1000 is not between 1024 and 8388608
        "#]],
    );
}

#[test]
fn every_mistake_is_reported_at_once_with_its_path() {
    check(
        r#"{
            "pools": [
                {"name": "a", "baseModel": "m", "adapters": ["x", 5, "m"], "endpoints": {"static": ["10.0.0.1", "host:1", "10.0.0.1:0", "10.0.0.2:1", "10.0.0.2:1", null]}},
                {"name": "a", "baseModel": "m", "engine": "vlm", "endpoints": {"static": []}, "failureMode": "Maybe", "color": 1},
                {"baseModel": "", "engine": {"queue": "x"}, "endpoints": {}, "metricsPath": "metrics", "metricsPort": 65536, "metricsCluster": ""},
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
            pools[1].color: unknown field `color`, expected one of `name`, `cluster`, `baseModel`, `adapters`, `engine`, `metricsPath`, `metricsPort`, `metricsCluster`, `endpoints`, `failureMode`, `scheduling`, `saturation`, `flowControl`, `outlierDetection`, `retryRefused`
            pools[1].engine: unknown variant `vlm`, expected one of `vllm`, `sglang`, `trtllm-serve`, `triton-tensorrt-llm`, `triton`, `llamacpp`
            pools[1].failureMode: unknown variant `Maybe`, expected `FailOpen` or `FailClose`
            pools[2].engine.queue: unknown field `queue`, expected one of `waiting`, `running`, `kvCacheUsage`
            pools[0].adapters[2]: "m" is already served, by pools[0].baseModel
            pools[0].endpoints.static[5]: must not be null
            pools[0].endpoints.static[0]: "10.0.0.1" has no port
            pools[0].endpoints.static[1]: "host:1" is not an address: write ip:port or [ipv6]:port; host names are not resolved
            pools[0].endpoints.static[2]: "10.0.0.1:0" has port 0
            pools[0].endpoints.static[4]: "10.0.0.2:1" is listed twice
            pools[1].name: "a" is the name of another pool as well
            pools[1].baseModel: "m" is already served, by pools[0].baseModel
            pools[1].endpoints.static: 0 endpoints, but 1 to 1024 are needed
            pools[2].name: is required
            pools[2].baseModel: "" must be 1 to 256 bytes without control or invisible characters
            pools[2].engine: names no metric: give at least one of waiting, running and kvCacheUsage
            pools[2].metricsPath: "metrics" must start with / and hold no spaces
            pools[2].metricsPort: 65536 is not a port
            pools[2].endpoints: needs exactly one of static, envoyAdmin and kubernetes
            pools[2].metricsCluster: must not be empty
            pools[3].name: "b c" must be 1 to 63 letters, digits, '-', '_', '.' or '/'
            pools[3].engine.waiting: "1x{" is not a metric: write name or name{label=value}
            pools[3].scheduling.scorers[0].type: there is no scorer "best"; known are expected-ttft-scorer, queue-scorer, running-requests-size-scorer, kv-cache-utilization-scorer, prefix-cache-scorer, lora-affinity-scorer, active-request-scorer, token-load-scorer, no-hit-lru-scorer, session-affinity-scorer, load-aware-scorer, context-length-aware
            pools[3].scheduling.scorers[1].weight: 5000 is not between 0 and 1000
            pools[3].scheduling.scorers[1].type: is required
            pools[3].scheduling.picker.maxNumOfEndpoints: 4 is not between 1 and 3
            pools[3].scheduling.picker.type: there is no picker "luck"; known are max-score-picker, random-picker, weighted-random-picker, rendezvous-picker
            models[1].pool: there is no pool "zz"
            models[2].modelName: is required
            poller.interval: "200" is not a duration: write up to four of a number of at most five digits and h, m, s or ms, such as "200ms" or "1m30s"
            poller.timeout: "1h" is not between 50ms and 60s
            maxBodyBytes: 0 is not between 1 and 268435456
        "#]],
    );
}

#[test]
fn models_are_checked_against_their_pool() {
    check(
        r#"{"pools": [{"name": "a", "baseModel": "m", "adapters": ["x"], "endpoints": {"static": ["10.0.0.1:1"]}},
                      {"name": "b", "baseModel": "n", "endpoints": {"static": ["10.0.0.2:1"]}}],
            "models": [{"modelName": "x", "pool": "a"}, {"modelName": "y", "pool": "zz"},
                       {"modelName": "z", "pool": "a", "targetModels": [{"name": "n"}, {"name": "x", "weight": 1}]},
                       {"modelName": "w", "pool": "a", "targetModels": []},
                       {"modelName": "v", "pool": "b"}, {"modelName": "v", "pool": "b"}]}"#,
        expect![[r#"
            models[1].pool: there is no pool "zz"
            models[2].targetModels: some targets have a weight and some have none: give all of them one, or none
            models[3].targetModels: is empty: name at least one model
            models[5].modelName: "v" is defined twice
        "#]],
    );
}

#[test]
fn labels_are_known_of_pods_and_of_what_is_written_down() {
    let selectors =
        vec![r#"{"type": "label-selector-filter", "parameters": {"matchLabels": {"a": "b"}}}"#; 33].join(",");
    let pool = |name: &str, endpoints: &str, scheduling: &str| {
        format!(r#"{{"name": "{name}", "baseModel": "{name}", "endpoints": {endpoints}, "scheduling": {scheduling}}}"#)
    };
    let by_labels = r#"{"filters": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"a": "b"}}}],
        "scorers": [{"type": "context-length-aware"}]}"#;
    let pods = r#"{"kubernetes": {"namespace": "ns", "inferencePool": "p"}}"#;
    let pools = [
        pool("hosts", r#"{"envoyAdmin": {}}"#, by_labels),
        pool("pods", pods, by_labels),
        pool("many", pods, &format!(r#"{{"filters": [{selectors}]}}"#)),
    ];
    check(
        &format!(r#"{{"pools": [{}]}}"#, pools.join(",")),
        expect![[r#"
        pools[0].scheduling.filters: label-selector-filter needs labels, which Envoy does not tell: write the endpoints down, or discover pods
        pools[0].scheduling.scorers: context-length-aware needs labels, which Envoy does not tell: write the endpoints down, or discover pods
        pools[2].scheduling.filters[32].parameters: at most 32 label-selector-filters are allowed
    "#]],
    );
}

/// Two pools, and more.
fn with(more: &str) -> String {
    format!(
        r#"{{"pools": [{{"name": "a", "baseModel": "m", "adapters": ["x"], "endpoints": {{"static": ["10.0.0.1:1"]}}}},
            {{"name": "b", "baseModel": "n", "endpoints": {{"static": ["10.0.0.2:1"]}}}}], {more}}}"#
    )
}

#[test]
fn rewrites_objectives_and_sessions() {
    check(
        &with(
            r#""models": [{"modelName": "m", "pool": "a", "criticality": "Critical", "sticky": true, "restoreModelName": true,
                           "targetModels": [{"name": "m", "weight": 1}, {"name": "x", "weight": 1}]},
                          {"modelName": "z", "pool": "b", "priority": -2147483648}],
               "modelRewrites": [{"pool": "a", "rules": [
                   {"matches": [{"model": {"type": "Exact", "value": "gpt"}}], "targets": [{"modelRewrite": "x", "weight": 2}, {"modelRewrite": "m"}]},
                   {"targets": [{"modelRewrite": "m"}], "sticky": false, "restoreModelName": true}]}],
               "objectives": [{"name": "batch", "pool": "a", "priority": -1}, {"name": "batch", "pool": "b"}],
               "sessionKeys": [{"cookie": "sid"}, {"header": "X-Session-Id"}, {"bodyField": "user"}]"#,
        ),
        expect!["ok: 2 pools"],
    );
    check(
        &with(
            r#""models": [{"modelName": "n", "pool": "a"}, {"modelName": "y", "pool": "a", "criticality": "Standard", "priority": 1},
                          {"modelName": "w", "pool": "a", "priority": 2147483648}, {"modelName": "gpt", "pool": "b"}],
               "modelRewrites": [{"rules": []}, {"pool": "a", "rules": []}, {"pool": "a", "rules": [
                   {"matches": [{"model": {"value": "n"}}], "targets": [{"modelRewrite": "n"}]},
                   {"matches": [{"model": {"value": "gpt"}}], "targets": [{"modelRewrite": "x", "weight": 0}, {"weight": 3}]},
                   {"matches": [{"model": {"value": "gpt"}}], "targets": [{"modelRewrite": "x"}]},
                   {"matches": [{}], "targets": []}]}],
               "objectives": [{"pool": "a"}, {"name": "o", "pool": "a"}, {"name": "o", "pool": "a"}],
               "sessionKeys": [{}, {"header": "a b"}, {"header": "a", "cookie": "b"}]"#,
        ),
        expect![[r#"
            models[0].modelName: "n" is a model of pool "b"
            models[1].criticality: says the same as priority: give one of the two
            models[2].priority: 2147483648 is not between -2147483648 and 2147483647
            modelRewrites[0].pool: is required
            modelRewrites[1].rules: at least one rule is needed
            modelRewrites[2].rules[0].matches[0].model.value: "n" is a model of pool "b"
            modelRewrites[2].rules[0].targets[0].modelRewrite: "n" is neither the base model nor an adapter of the pool
            modelRewrites[2].rules[1].matches[0].model.value: "gpt" leads to pool "b" already: a name leads to one pool
            modelRewrites[2].rules[1].targets[0].weight: 0 is not between 1 and 1000000
            modelRewrites[2].rules[1].targets[1].modelRewrite: is required
            modelRewrites[2].rules[2].matches[0].model.value: "gpt" leads to pool "b" already: a name leads to one pool
            modelRewrites[2].rules[3].matches[0].model.value: is required
            objectives[0].name: is required
            objectives[2].name: "o" is defined twice for the pool
            sessionKeys[0]: names exactly one of header, cookie and bodyField
        "#]],
    );
}

#[test]
fn headers_that_are_trusted() {
    check(
        &with(
            r#""exposeEndpoint": false, "sessionKeys": [{"header": "x-user"}],
               "trustedHeaders": ["X-Gateway-Inference-Fairness-ID", "x-llm-d-inference-ttl", "x-slo-ttft-ms", "x-user"]"#,
        ),
        expect!["ok: 2 pools"],
    );
    check(
        &with(
            r#""exposeEndpoint": "no", "trustedHeaders": ["x-gateway-model-name", "x-llm-d-inference-ttl", "X-LLM-D-Inference-TTL", "x-team", 7, null]"#,
        ),
        expect![[r#"
            exposeEndpoint: invalid type: string "no", expected a boolean
            trustedHeaders[4]: invalid type: integer `7`, expected a string
            trustedHeaders[5]: must not be null
            trustedHeaders[0]: "x-gateway-model-name" is the plugin's own to set, and is never believed
            trustedHeaders[2]: "X-LLM-D-Inference-TTL" is listed twice
            trustedHeaders[3]: "x-team" is not a header that the plugin reads; those that may be trusted are x-gateway-inference-fairness-id, x-llm-d-inference-fairness-id, x-gateway-inference-objective, x-llm-d-inference-objective, x-llm-d-inference-ttl, x-llm-d-slo-ttft-ms, x-slo-ttft-ms, x-llm-d-slo-tpot-ms, x-slo-tpot-ms, x-gateway-destination-endpoint-subset, x-llm-d-destination-endpoint-subset; a session's header belongs in sessionKeys
        "#]],
    );
    check(
        &with(r#""models": [{"modelName": "a\u2028b", "pool": "a"}, {"modelName": "\u202ecba", "pool": "a"}]"#),
        expect![[r#"
            models[0].modelName: "a\u{2028}b" must be 1 to 256 bytes without control or invisible characters
            models[1].modelName: "\u{202e}cba" must be 1 to 256 bytes without control or invisible characters
        "#]],
    );
}

#[test]
fn saturation_and_flow_control() {
    let pool = |flow: &str| {
        format!(
            r#"{{"pools": [{{"name": "a", "baseModel": "m", "endpoints": {{"static": ["10.0.0.1:1"]}}, {flow}}}]}}"#
        )
    };
    check(&pool(r#""flowControl": {}"#), expect!["ok: 1 pools"]);
    check(
        &pool(
            r#""saturation": {"queueDepth": 1, "kvCacheUsage": 1.0, "maxConcurrency": 64},
               "flowControl": {"maxRequests": 100, "maxBytes": 1000000, "ttl": "30s", "fairness": "global-strict", "ordering": "edf",
                   "bands": [{"priority": -1, "maxRequests": 10, "maxBytes": 1000, "ttl": "1s", "ordering": "fcfs", "saturationCeiling": 0.5}]}"#,
        ),
        expect!["ok: 1 pools"],
    );
    check(
        &pool(
            r#""saturation": {"queueDepth": 0, "kvCacheUsage": 0, "maxConcurrency": 0},
               "flowControl": {"maxRequests": 0, "maxBytes": 0, "ttl": "1ms", "fairness": "fair", "ordering": "lifo",
                   "bands": [{}, {"priority": 1, "saturationCeiling": 11}, {"priority": 1}, {"priority": 99999999999}]}"#,
        ),
        expect![[r#"
            pools[0].flowControl.fairness: unknown variant `fair`, expected `round-robin` or `global-strict`
            pools[0].flowControl.ordering: unknown variant `lifo`, expected `fcfs` or `edf`
            pools[0].saturation.queueDepth: 0 is not between 1 and 100000
            pools[0].saturation.kvCacheUsage: 0 is not above 0 and at most 1
            pools[0].saturation.maxConcurrency: 0 is not between 1 and 100000
            pools[0].flowControl.maxRequests: 0 is not between 1 and 1000000
            pools[0].flowControl.maxBytes: 0 is not between 1 and 1099511627776
            pools[0].flowControl.ttl: "1ms" is not between 10ms and 3600s
            pools[0].flowControl.bands[0].priority: is required
            pools[0].flowControl.bands[1].saturationCeiling: 11 is not above 0 and at most 10
            pools[0].flowControl.bands[2].priority: 1 has a band already
            pools[0].flowControl.bands[3].priority: 99999999999 is not between -2147483648 and 2147483647
        "#]],
    );
}

#[test]
fn rules_are_compiled_and_what_they_set_is_checked() {
    check(
        &with(
            r#""rules": [{"when": "request.headers['x-team'] == 'search' && body.model == 'auto'", "model": "x"},
                         {"pool": {"cel": "body.tier"}, "priority": 3, "headers": {"X-Tier": "gold", "x-user": {"cel": "body.user"}}}]"#,
        ),
        expect!["ok: 2 pools"],
    );
    check(
        &with(
            r#""rules": [{"when": "body.model ==", "model": "x"}, {"when": "true"}, {"model": "nobody"}, {"pool": "c"},
                         {"model": {"cel": "bodi.x"}}, {"model": {}}, {"priority": 1.5},
                         {"headers": {"content-length": "1", "x y": "a", "x-a": "a\nb", "X-Gateway-Destination-Endpoint": "10.0.0.9:1"}}]"#,
        ),
        expect![[r#"
            rules[6].priority: invalid type: floating point `1.5`, expected i64
            rules[0].when: 1:14: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}
            rules[1]: sets nothing: give a model, a pool, a priority or headers
            rules[2].model: no pool serves "nobody", and no model has that name
            rules[3].pool: there is no pool "c"
            rules[4].model.cel: 1:1: "bodi" is not known: there are request, body and now
            rules[5].model.cel: is required
            rules[6]: sets nothing: give a model, a pool, a priority or headers
            rules[7].headers.X-Gateway-Destination-Endpoint: is not a rule's to set
            rules[7].headers.content-length: is not a rule's to set
            rules[7].headers.x y: "x y" is not a name of a header
            rules[7].headers.x-a: '\n' cannot stand in a header's value
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
