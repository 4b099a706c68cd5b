//! The chart on Istio: its own control plane applies every patch, and Envoy with the result routes, picks and fails over as it
//! should, with Istio's policies around the plugin as `docs/filter-order.md` says.

use anyhow::Context;
use chart_tests::{Setup, examples, of_kind};
use control_plane_tests::site::{NAMESPACE, Site, setup};
use control_plane_tests::{Pods, cases, istio};
use envoy_tests::chain::shipped;
use envoy_tests::tokens::SEARCH;
use envoy_tests::{DEEPSEEK, QWEN};
use inference_plugin::headers;
use serde_json::{Value, json};

const PROVIDER: &str = "istio";
const ORIGIN: &str = "https://app.example";
const POSITIONS: [&str; 2] = ["first", "last"];

fn two_pools(position: &str) -> Setup {
    cases::example(PROVIDER, "two-pools.yaml", &[&format!("filterPosition={position:?}")])
}

/// A policy for the Gateway.
fn policy(kind: &str, spec: Value) -> Value {
    let mut policy = json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "policy", "namespace": NAMESPACE}, "spec": spec});
    policy["spec"]["targetRefs"] =
        json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "llm-gateway"}]);
    policy
}

/// Tokens of the example's issuer, whose claim says the team.
fn tokens() -> anyhow::Result<Value> {
    let filter = shipped("jwt-claims.yaml")?;
    let keys = &filter["typed_config"]["providers"]["issuer"]["local_jwks"]["inline_string"];
    let rule = json!({"issuer": "https://issuer.example", "audiences": ["llm-gateway"], "jwks": keys,
        "outputClaimToHeaders": [{"header": "x-team", "claim": "team"}]});
    Ok(policy("RequestAuthentication", json!({"jwtRules": [rule]})))
}

/// No request without a token.
fn only_with_token() -> Value {
    policy(
        "AuthorizationPolicy",
        json!({"action": "DENY", "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}]}]}),
    )
}

#[test]
fn every_patch_is_applied() -> anyhow::Result<()> {
    let ways = [("inferencePool", "initContainer"), ("selector", "imageVolume"), ("envoyAdmin", "url")];
    for example in examples()? {
        for ((discovery, source), position) in ways.into_iter().zip(["", "first", "last"]) {
            let setup =
                Setup { discovery, source, ..setup(PROVIDER, &example, &[&format!("filterPosition={position:?}")]) };
            let objects = setup.objects()?;
            let xds = istio::translate(&objects, &[tokens()?, only_with_token()], &Pods::new())?;
            let managers = xds.managers();
            assert_eq!(managers.len(), 1, "{setup:?}");
            check_manager(managers[0].1, position, &setup)?;
            assert_eq!(xds.listeners[0]["perConnectionBufferLimitBytes"], 32 << 20, "{setup:?}");
            assert_eq!(xds.extensions.len(), 1, "{setup:?}");
            let named = |name: &str| xds.clusters.iter().any(|cluster| cluster["name"] == name);
            assert_eq!(named("kube-apiserver"), discovery != "envoyAdmin", "{setup:?}");
            assert_eq!(named("envoy-admin"), discovery == "envoyAdmin", "{setup:?}");
            check_pools(&xds.clusters, &xds.routes, of_kind(&objects, "Service").len(), &setup);
        }
    }
    Ok(())
}

/// What the chart says of the connection manager.
fn check_manager(manager: &Value, position: &str, setup: &Setup) -> anyhow::Result<()> {
    let filters = manager["httpFilters"].as_array().context("no filters")?;
    let names: Vec<&str> = filters.iter().filter_map(|filter| filter["name"].as_str()).collect();
    let at = |name: &str| names.iter().position(|found| *found == name).with_context(|| format!("{names:?} {setup:?}"));
    let plugin = at("inference")?;
    for name in ["envoy.filters.http.jwt_authn", "envoy.filters.http.rbac", "envoy.filters.http.cors"] {
        assert_eq!(plugin < at(name)?, position == "first", "{name} {names:?} {setup:?}");
    }
    assert!(
        plugin < at("inference-pick-to-metadata")? && names.last() == Some(&"envoy.filters.http.router"),
        "{names:?}"
    );
    assert_eq!(manager["streamIdleTimeout"], "600s");
    let mutations = &manager["earlyHeaderMutationExtensions"][0]["typedConfig"]["mutations"];
    let removed: Vec<&str> =
        mutations.as_array().context("no mutations")?.iter().filter_map(|one| one["remove"].as_str()).collect();
    assert_eq!(removed, headers::CONTROL, "{setup:?}");
    Ok(())
}

/// What the chart says of each pool's cluster and routes.
fn check_pools(clusters: &[Value], routes: &[Value], pools: usize, setup: &Setup) {
    let overriding = clusters.iter().filter(|cluster| {
        let policy = &cluster["loadBalancingPolicy"]["policies"][0]["typedExtensionConfig"];
        policy["name"] == "envoy.load_balancing_policies.override_host"
            && policy["typedConfig"]["overrideHostSources"][0]["header"] == headers::DESTINATION
            // The first of a priority counts.
            && cluster["circuitBreakers"]["thresholds"][0]["maxRequests"].as_u64() >= Some(100_000)
    });
    assert_eq!(overriding.count(), pools, "{setup:?}");
    let by_model = routes.iter().flat_map(|config| config["virtualHosts"].as_array().into_iter().flatten());
    let by_model: Vec<&Value> = by_model
        .flat_map(|host| host["routes"].as_array().into_iter().flatten())
        .filter(|route| route["match"]["headers"][0]["name"] == headers::BASE_MODEL)
        .collect();
    assert_eq!(by_model.len(), pools, "{setup:?}");
    for route in by_model {
        let retries = &route["route"]["retryPolicy"];
        assert_eq!((&retries["retriableStatusCodes"], &retries["numRetries"]), (&json!([503]), &json!(2)), "{setup:?}");
    }
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
async fn authentication_holds_in_both_positions() -> anyhow::Result<()> {
    for position in POSITIONS {
        let site = Site::start(&two_pools(position), &[tokens()?, only_with_token()]).await?;
        cases::only_tokens_get_in(&site, position, 403).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn authorization_by_model_is_for_the_first_position() -> anyhow::Result<()> {
    let when = json!({"key": format!("request.headers[{}]", headers::BASE_MODEL), "values": [QWEN]});
    let no_qwen = policy("AuthorizationPolicy", json!({"action": "DENY", "rules": [{"when": [when]}]}));
    for (position, qwen) in [("first", 403), ("last", 200)] {
        let site = Site::start(&two_pools(position), std::slice::from_ref(&no_qwen)).await?;
        assert_eq!(site.status(QWEN, None).await?, qwen, "{position}");
        assert_eq!(site.status(DEEPSEEK, None).await?, 200, "{position}");
    }
    Ok(())
}

/// CORS for the whole virtual host, as docs/filter-order.md has it.
fn cors() -> Value {
    let policy = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": ORIGIN}], "allow_methods": "GET,POST", "allow_headers": "authorization,content-type"});
    json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "cors", "namespace": NAMESPACE},
        "spec": {"workloadSelector": {"labels": {"gateway.networking.k8s.io/gateway-name": "llm-gateway"}},
            "configPatches": [{"applyTo": "VIRTUAL_HOST", "match": {"context": "GATEWAY"}, "patch": {"operation": "MERGE",
                "value": {"typed_per_filter_config": {"envoy.filters.http.cors": policy}}}}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_answered_in_both_positions() -> anyhow::Result<()> {
    let preflight = [
        ("origin", ORIGIN),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let but_preflights = json!({"action": "DENY", "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}],
        "to": [{"operation": {"notMethods": ["OPTIONS"]}}]}]});
    for position in POSITIONS {
        let policies = [tokens()?, policy("AuthorizationPolicy", but_preflights.clone()), cors()];
        let site = Site::start(&two_pools(position), &policies).await?;
        let answer = site.send("OPTIONS", "/v1/completions", &preflight, "").await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(ORIGIN)), "{position}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET,POST"), "{position}");
        let other = [("origin", "https://other.example"), ("access-control-request-method", "POST")];
        let answer = site.send("OPTIONS", "/v1/completions", &other, "").await?;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{position}");
        let allowed = [("origin", ORIGIN), ("authorization", SEARCH)];
        let answer = site.ask(QWEN, &allowed).await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(ORIGIN)), "{position}");
        // Where CORS has not seen a request it adds nothing to its refusal: authorization stands in front of it, the plugin where it is first.
        let answer = site.ask("nobody-serves-this", &allowed).await?;
        let wanted = (position == "last").then_some(ORIGIN);
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (404, wanted), "{position}");
        let answer = site.ask(QWEN, &[("origin", ORIGIN)]).await?;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{position}");
    }
    // Without the exception preflights, which have no token, are refused as well.
    let site = Site::start(&two_pools(""), &[tokens()?, only_with_token(), cors()]).await?;
    assert_eq!(site.send("OPTIONS", "/v1/completions", &preflight, "").await?.status, 403);
    Ok(())
}
