//! The chart on Envoy Gateway: its own translator takes every object, and Envoy with the result routes, picks and fails over as it
//! should, with Envoy Gateway's policies around the plugin as `docs/filter-order.md` says.

use anyhow::Context;
use chart_tests::{Setup, examples, of_kind};
use control_plane_tests::egctl::translate;
use control_plane_tests::site::{NAMESPACE, Site, setup};
use control_plane_tests::{Pods, cases};
use envoy_tests::chain::shipped;
use envoy_tests::tokens::SEARCH;
use envoy_tests::{DEEPSEEK, QWEN};
use inference_plugin::headers;
use serde_json::{Value, json};

const PROVIDER: &str = "envoy-gateway";
const ORIGIN: &str = "https://app.example";
const POSITIONS: [&str; 2] = ["first", "last"];

fn two_pools(position: &str) -> Setup {
    cases::example(PROVIDER, "two-pools.yaml", &[&format!("filterPosition={position:?}")])
}

/// A SecurityPolicy for the Gateway, or for HTTPRoutes.
fn policy(targets: &[(&str, &str)], spec: Value) -> Value {
    let targets: Vec<Value> = targets
        .iter()
        .map(|(kind, name)| json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name}))
        .collect();
    let mut policy = json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "SecurityPolicy",
        "metadata": {"name": "policy", "namespace": NAMESPACE}, "spec": spec});
    policy["spec"]["targetRefs"] = json!(targets);
    policy
}

const GATEWAY: (&str, &str) = ("Gateway", "llm-gateway");
const QWENS: (&str, &str) = ("HTTPRoute", "vllm-qwen3-32b");
const DEEPSEEKS: (&str, &str) = ("HTTPRoute", "vllm-deepseek-r1");
const FIRST_ROUTE: (&str, &str) = ("HTTPRoute", "llm-no-model");

/// Tokens of the example's issuer, whose claim says the team.
fn jwt() -> anyhow::Result<Value> {
    let filter = shipped("jwt-claims.yaml")?;
    let keys = &filter["typed_config"]["providers"]["issuer"]["local_jwks"]["inline_string"];
    Ok(json!({"providers": [{"name": "issuer", "issuer": "https://issuer.example", "audiences": ["llm-gateway"],
        "localJWKS": {"type": "Inline", "inline": keys}, "claimToHeaders": [{"claim": "team", "header": "x-team"}]}]}))
}

fn cors() -> Value {
    json!({"allowOrigins": [ORIGIN], "allowMethods": ["GET", "POST"], "allowHeaders": ["authorization", "content-type"]})
}

fn names(filters: &Value) -> Vec<&str> {
    filters.as_array().into_iter().flatten().filter_map(|filter| filter["name"].as_str()).collect()
}

#[test]
fn every_example_is_accepted_and_every_patch_applied() -> anyhow::Result<()> {
    let ways = [("inferencePool", "initContainer"), ("selector", "imageVolume"), ("envoyAdmin", "url")];
    for example in examples()? {
        for ((discovery, source), position) in ways.into_iter().zip(["", "first", "last"]) {
            let setup =
                Setup { discovery, source, ..setup(PROVIDER, &example, &[&format!("filterPosition={position:?}")]) };
            let objects = setup.objects()?;
            let authentication = policy(&[GATEWAY], json!({"jwt": jwt()?, "cors": cors()}));
            let translated = translate(&objects, &[authentication], &Pods::new())?;
            assert_eq!(translated.refused(), Vec::<String>::new(), "{setup:?}");
            for (judged, kind) in [
                ("gateways", "Gateway"),
                ("httpRoutes", "HTTPRoute"),
                ("envoyPatchPolicies", "EnvoyPatchPolicy"),
                ("clientTrafficPolicies", "ClientTrafficPolicy"),
                ("backendTrafficPolicies", "BackendTrafficPolicy"),
            ] {
                let (judged, rendered) = (translated.judged(judged), of_kind(&objects, kind).len());
                assert!(judged == rendered && judged > 0, "{judged} of {rendered} {kind} have a status: {setup:?}");
            }
            let managers = translated.xds.managers();
            assert_eq!(managers.len(), 1, "{setup:?}");
            check_manager(managers[0].1, position, &setup)?;
            let overriding = translated.xds.clusters.iter().filter(|cluster| {
                let policy = &cluster["loadBalancingPolicy"]["policies"][0]["typedExtensionConfig"];
                policy["name"] == "envoy.load_balancing_policies.override_host"
                    && policy["typedConfig"]["overrideHostSources"][0]["header"] == headers::DESTINATION
                    && cluster["circuitBreakers"]["thresholds"][0]["maxRequests"] == 100_000
            });
            // With one pool it has a second rule, whose cluster leads to the same pods.
            let services = of_kind(&objects, "Service").len();
            let wanted = if services == 1 { 2 } else { services };
            assert_eq!(overriding.count(), wanted, "{setup:?}");
        }
    }
    Ok(())
}

/// What the chart says of a listener's connection manager.
fn check_manager(manager: &Value, position: &str, setup: &Setup) -> anyhow::Result<()> {
    let filters = names(&manager["httpFilters"]);
    let wanted = if position == "last" { filters.len() - 2 } else { 0 };
    assert_eq!(filters.iter().position(|name| *name == "inference"), Some(wanted), "{filters:?} {setup:?}");
    assert_eq!(filters.last(), Some(&"envoy.filters.http.router"));
    assert!(filters.contains(&"envoy.filters.http.cors") && filters.contains(&"envoy.filters.http.jwt_authn"));
    assert_eq!(manager["streamIdleTimeout"], "600s");
    let mutations = &manager["earlyHeaderMutationExtensions"][0]["typedConfig"]["mutations"];
    let removed: Vec<&str> =
        mutations.as_array().context("no mutations")?.iter().filter_map(|one| one["remove"].as_str()).collect();
    for name in headers::TRUSTABLE.into_iter().chain([headers::DESTINATION, headers::MODEL, headers::BASE_MODEL]) {
        assert!(removed.contains(&name), "{name} {setup:?}");
    }
    Ok(())
}

#[test]
fn a_listener_with_tls_has_the_plugin_too() -> anyhow::Result<()> {
    let certified = rcgen::generate_simple_self_signed(vec!["gateway.example".to_owned()])?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "tls", "namespace": NAMESPACE},
        "stringData": {"tls.crt": certified.cert.pem(), "tls.key": certified.signing_key.serialize_pem()}});
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 80},
        {"name": "https", "protocol": "HTTPS", "port": 443, "tls": {"mode": "Terminate", "certificateRefs": [{"name": "tls"}]}}]);
    for position in POSITIONS {
        let values = [format!("gateway.listeners={listeners}"), format!("filterPosition={position:?}")];
        let setup = cases::example(PROVIDER, "qwen-quickstart.yaml", &values.each_ref().map(String::as_str));
        // The loader takes a Secret's data as they are in etcd.
        let translated = translate(&setup.objects()?, &[encoded(&secret)], &Pods::new())?;
        assert_eq!(translated.refused(), Vec::<String>::new());
        let managers = translated.xds.managers();
        assert_eq!(managers.len(), 2, "{position}");
        for (_, manager) in managers {
            let filters = names(&manager["httpFilters"]);
            let wanted = if position == "last" { filters.len() - 2 } else { 0 };
            assert_eq!(filters.iter().position(|name| *name == "inference"), Some(wanted), "{filters:?}");
            assert_eq!(manager["streamIdleTimeout"], "600s", "{position}");
        }
    }
    Ok(())
}

/// A Secret with its texts in Base64, as the API keeps them.
fn encoded(secret: &Value) -> Value {
    let mut secret = secret.clone();
    let texts = secret["stringData"].take();
    let data = texts.as_object().into_iter().flatten();
    secret["data"] =
        data.map(|(name, text)| (name.clone(), json!(base64(text.as_str().unwrap_or_default())))).collect();
    secret.as_object_mut().into_iter().for_each(|map| drop(map.remove("stringData")));
    secret
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_serves_every_model_of_its_pools() -> anyhow::Result<()> {
    cases::every_example_serves(PROVIDER).await
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_rules_and_splits_reach_their_targets() -> anyhow::Result<()> {
    cases::names_reach_their_targets(PROVIDER).await
}

#[tokio::test(flavor = "multi_thread")]
async fn load_and_failures_move_requests() -> anyhow::Result<()> {
    cases::load_and_failures_move_requests(PROVIDER).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_policy_holds_in_both_positions() -> anyhow::Result<()> {
    for position in POSITIONS {
        let site = Site::start(&two_pools(position), &[policy(&[GATEWAY], json!({"jwt": jwt()?}))]).await?;
        cases::only_tokens_get_in(&site, position, 401).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_tokens_are_checked_where_the_plugin_is_first() -> anyhow::Result<()> {
    for position in POSITIONS {
        let site = Site::start(&two_pools(position), &[policy(&[QWENS], json!({"jwt": jwt()?}))]).await?;
        // Last, authentication has seen the first route alone, which has no policy.
        let without = if position == "first" { 401 } else { 200 };
        assert_eq!(site.status(QWEN, None).await?, without, "{position}");
        assert_eq!(site.status(QWEN, Some(SEARCH)).await?, 200, "{position}");
        assert_eq!(site.status(DEEPSEEK, None).await?, 200, "{position}: the other pool has no policy");
    }
    Ok(())
}

/// A Secret with one API key, and what asks for it.
fn api_keys() -> (Value, Value) {
    let keys = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": NAMESPACE},
        "stringData": {"search": "a-key"}});
    let spec =
        json!({"apiKeyAuth": {"credentialRefs": [{"name": "keys"}], "extractFrom": [{"headers": ["x-api-key"]}]}});
    (encoded(&keys), spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_a_policy_turns_on_follow_the_first_route() -> anyhow::Result<()> {
    let (keys, spec) = api_keys();
    for (targets, position, without) in [
        (&[QWENS][..], "first", 200),
        (&[QWENS][..], "last", 200),
        // On for the first route it is on for all, also for the pool whose route has no policy.
        (&[QWENS, FIRST_ROUTE][..], "first", 401),
        (&[QWENS, FIRST_ROUTE][..], "last", 401),
        (&[QWENS, DEEPSEEKS, FIRST_ROUTE][..], "first", 401),
        (&[QWENS, DEEPSEEKS, FIRST_ROUTE][..], "last", 401),
        (&[GATEWAY][..], "first", 401),
        (&[GATEWAY][..], "last", 401),
    ] {
        let site = Site::start(&two_pools(position), &[keys.clone(), policy(targets, spec.clone())]).await?;
        for model in [QWEN, DEEPSEEK] {
            let what = format!("{model} {position} {targets:?}");
            assert_eq!(site.status(model, None).await?, without, "{what}");
            let answer = site.ask(model, &[("x-api-key", "a-key")]).await?;
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        }
    }
    Ok(())
}

/// With one pool every path is in the pool's HTTPRoute, so no path gets around its policy.
#[tokio::test(flavor = "multi_thread")]
async fn one_pools_policy_holds_on_every_path() -> anyhow::Result<()> {
    const POSTED: [&str; 9] = [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/completions/render",
        "/chat/completions/render",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/audio/transcriptions",
        "/v1/load_lora_adapter",
        "/another/application",
    ];
    const READ: [&str; 4] = ["/v1/models", "/health", "/metrics", "/version"];
    let (keys, spec) = api_keys();
    for position in POSITIONS {
        for target in [("HTTPRoute", "llm"), GATEWAY] {
            let position_value = format!("filterPosition={position:?}");
            let setup = cases::example(PROVIDER, "qwen-quickstart.yaml", &[&position_value]);
            let site = Site::start(&setup, &[keys.clone(), policy(&[target], spec.clone())]).await?;
            let pool = site.pools.keys().next().context("no pool")?.clone();
            let model = "Qwen/Qwen2.5-1.5B-Instruct";
            assert_eq!(site.ask(model, &[("x-api-key", "a-key")]).await?.status, 200, "{position} {target:?}");
            site.pools.values().flatten().for_each(|server| drop(server.received()));
            let body = json!({"model": model, "max_tokens": 1, "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]});
            for (method, path) in POSTED.map(|path| ("POST", path)).into_iter().chain(READ.map(|path| ("GET", path))) {
                let body = if method == "POST" { body.to_string() } else { String::new() };
                let json = ("content-type", "application/json");
                let what = format!("{method} {path} {position} {target:?}");
                assert_eq!(site.send(method, path, &[json], body.clone()).await?.status, 401, "{what}");
                let answer = site.send(method, path, &[json, ("x-api-key", "a-key")], body).await?;
                assert_ne!(answer.status, 401, "{what}: {}", answer.text());
            }
            // Closed paths are closed with a key, too.
            for path in ["/metrics", "/version"] {
                let answer = site.send("GET", path, &[("x-api-key", "a-key")], "").await?;
                assert_eq!(answer.status, 404, "{path} {position} {target:?}: {}", answer.text());
            }
            let received = site.pools[&pool].iter().flat_map(|server| server.received());
            let reached: Vec<String> = received.map(|request| request.path).collect();
            assert!(!reached.iter().any(|path| path.contains("lora") || path == "/another/application"), "{reached:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_answered_in_both_positions() -> anyhow::Result<()> {
    for position in POSITIONS {
        let site =
            Site::start(&two_pools(position), &[policy(&[GATEWAY], json!({"jwt": jwt()?, "cors": cors()}))]).await?;
        let preflight = [
            ("origin", ORIGIN),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        let answer = site.send("OPTIONS", "/v1/completions", &preflight, "").await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(ORIGIN)), "{position}");
        assert!(
            answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")),
            "{position}"
        );
        let other = [("origin", "https://other.example"), ("access-control-request-method", "POST")];
        let answer = site.send("OPTIONS", "/v1/completions", &other, "").await?;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{position}");
        let allowed = [("origin", ORIGIN), ("authorization", SEARCH)];
        let answer = site.ask(QWEN, &allowed).await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(ORIGIN)), "{position}");
        // The plugin's own refusal: where CORS has not seen the request it adds nothing.
        let answer = site.ask("nobody-serves-this", &allowed).await?;
        let wanted = (position == "last").then_some(ORIGIN);
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (404, wanted), "{position}");
        let answer = site.ask(QWEN, &[("origin", ORIGIN)]).await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some(ORIGIN)), "{position}");
    }
    Ok(())
}
