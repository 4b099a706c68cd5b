//! Where the filter stands among Envoy's own: what applies in front of it and behind it, as docs/filter-order.md says.

use envoy_tests::chain::{Chain, PLACES, Place, Running, shipped};
use envoy_tests::limits::Limits;
use envoy_tests::tokens::{NOBODYS, RESEARCH, SEARCH};
use envoy_tests::web::Web;
use envoy_tests::{DEEPSEEK, QWEN};
use serde_json::{Value, json};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions.filters.http";
const ROUTE_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

async fn status(running: &Running, model: &str, token: Option<&str>) -> anyhow::Result<u16> {
    let headers: Vec<(&str, &str)> = token.map(|token| ("authorization", token)).into_iter().collect();
    Ok(running.ask(model, &headers).await?.status)
}

/// How many requests the model servers have had, besides scrapes.
fn served(running: &Running) -> usize {
    running.servers.iter().flat_map(|server| server.received()).filter(|request| request.path != "/metrics").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_for_all_holds_in_both_places_with_one_pool_and_several() -> anyhow::Result<()> {
    for (pools, place) in [(1, Place::Front), (2, Place::Front), (1, Place::Behind), (2, Place::Behind)] {
        let mut chain = Chain::new(pools, |_| {}).await?;
        chain.insert(place, shipped("jwt-claims.yaml")?)?;
        let running = chain.start().await?;
        assert_eq!(status(&running, QWEN, None).await?, 401, "{pools} {place:?}");
        assert_eq!(status(&running, QWEN, Some("Bearer x.y.z")).await?, 401, "{pools} {place:?}");
        assert_eq!(running.send("GET", "/v1/models", &[], "").await?.status, 401, "{pools} {place:?}");
        assert_eq!(served(&running), 0, "{pools} {place:?}");
        assert_eq!(status(&running, QWEN, Some(SEARCH)).await?, 200, "{pools} {place:?}");
        // Behind the plugin, a client without a token learns which models there are, and its body was read.
        let probe = if place == Place::Front { 401 } else { 404 };
        assert_eq!(status(&running, "gpt-nobody", None).await?, probe, "{pools} {place:?}");
    }
    Ok(())
}

/// Authentication by the route of a model, as a requirement of its own.
fn jwt_per_route() -> anyhow::Result<(Value, Value)> {
    let mut filter = shipped("jwt-claims.yaml")?;
    let config = filter["typed_config"].as_object_mut().unwrap();
    config.remove("rules");
    config.insert("requirement_map".to_owned(), json!({"token": {"provider_name": "issuer"}}));
    let setting = json!({"@type": format!("{EXTENSIONS}.jwt_authn.v3.PerRouteConfig"), "requirement_name": "token"});
    Ok((filter, setting))
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_models_route_apply_behind_the_plugin_alone() -> anyhow::Result<()> {
    for place in PLACES {
        let (filter, setting) = jwt_per_route()?;
        let mut chain = Chain::new(2, |_| {}).await?;
        chain.insert(place, filter)?;
        chain.set_on_route("qwen", "envoy.filters.http.jwt_authn", &setting)?;
        let running = chain.start().await?;
        let without = if place == Place::Front { 200 } else { 401 };
        assert_eq!(status(&running, QWEN, None).await?, without, "{place:?}");
        assert_eq!(status(&running, QWEN, Some(SEARCH)).await?, 200, "{place:?}");
        assert_eq!(status(&running, DEEPSEEK, None).await?, 200, "the other model's route has no such setting");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_virtual_host_apply_in_both_places() -> anyhow::Result<()> {
    for (pools, place) in [(1, Place::Front), (2, Place::Front), (2, Place::Behind)] {
        let (filter, setting) = jwt_per_route()?;
        let mut chain = Chain::new(pools, |_| {}).await?;
        chain.insert(place, filter)?;
        chain.host()["typed_per_filter_config"]["envoy.filters.http.jwt_authn"] = setting;
        let running = chain.start().await?;
        assert_eq!(status(&running, QWEN, None).await?, 401, "{pools} {place:?}");
        assert_eq!(status(&running, QWEN, Some(SEARCH)).await?, 200, "{pools} {place:?}");
    }
    Ok(())
}

/// Envoy decides by the first route which of the filters that are off by default a request has, wherever they stand.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_routes_turn_on_must_be_on_for_the_last_route() -> anyhow::Result<()> {
    let deny = json!({"name": "deny", "disabled": true, "typed_config": {"@type": format!("{EXTENSIONS}.rbac.v3.RBAC"),
        "rules": {"action": "DENY", "policies": {"all": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}}});
    let on = json!({"@type": ROUTE_CONFIG, "config": {}, "disabled": false});
    for place in PLACES {
        let mut chain = Chain::new(2, |_| {}).await?;
        chain.insert(place, deny.clone())?;
        chain.set_on_route("qwen", "deny", &on)?;
        let running = chain.start().await?;
        assert_eq!(status(&running, QWEN, None).await?, 200, "{place:?}: it is not there for the request");
        let mut chain = Chain::new(2, |_| {}).await?;
        chain.insert(place, deny.clone())?;
        let routes = chain.host()["routes"].as_array_mut().unwrap();
        routes.last_mut().unwrap()["typed_per_filter_config"]["deny"] = on.clone();
        let running = chain.start().await?;
        assert_eq!(status(&running, QWEN, None).await?, 403, "{place:?}: it is there");
        assert_eq!(served(&running), 0);
    }
    Ok(())
}

fn limit(requests: u32) -> Value {
    let all = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "none"});
    json!({"@type": format!("{EXTENSIONS}.local_ratelimit.v3.LocalRateLimit"), "stat_prefix": "limit",
        "token_bucket": {"max_tokens": requests, "tokens_per_fill": requests, "fill_interval": "3600s"},
        "filter_enabled": all, "filter_enforced": all})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_rate_limit_stands_behind_the_plugin() -> anyhow::Result<()> {
    for place in PLACES {
        let mut chain = Chain::new(2, |_| {}).await?;
        chain.insert(place, shipped("rate-limit-by-model.yaml")?)?;
        chain.set_on_route("qwen", "envoy.filters.http.local_ratelimit", &limit(2))?;
        let running = chain.start().await?;
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(status(&running, QWEN, None).await?);
        }
        let over = if place == Place::Front { 200 } else { 429 };
        assert_eq!(statuses, [200, 200, over, over], "{place:?}");
        assert_eq!(status(&running, DEEPSEEK, None).await?, 200, "the other model has no limit");
    }
    // A limit of the virtual host holds in front, before anything is read.
    let mut chain = Chain::new(2, |_| {}).await?;
    chain.insert(Place::Front, shipped("rate-limit-by-model.yaml")?)?;
    chain.host()["typed_per_filter_config"]["envoy.filters.http.local_ratelimit"] = limit(1);
    let running = chain.start().await?;
    assert_eq!(status(&running, QWEN, None).await?, 200);
    assert_eq!(status(&running, "gpt-nobody", None).await?, 429);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_limit_by_model_stands_behind_the_plugin() -> anyhow::Result<()> {
    for place in PLACES {
        let limits = Limits::start(2).await?;
        let mut chain = Chain::new(2, |document| {
            document["models"] = json!([{"modelName": "alias", "pool": "qwen", "targetModels": [{"name": QWEN}]}]);
        })
        .await?;
        chain.add_cluster("limits", limits.address)?;
        let clusters = chain.bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
        clusters.last_mut().unwrap()["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
        chain.insert(place, shipped("global-rate-limit-by-model.yaml")?)?;
        let running = chain.start().await?;
        let mut statuses = Vec::new();
        // A header of a client's names no model: neither does it use up another one's limit, nor get round its own.
        for header in [&[][..], &[("x-gateway-model-name", "free")][..]] {
            for model in [QWEN, "alias", DEEPSEEK] {
                statuses.push(running.ask(model, header).await?.status);
            }
        }
        if place == Place::Front {
            assert_eq!(statuses, [200; 6]);
            assert_eq!(limits.asked(), [].into(), "there is no model yet");
        } else {
            assert_eq!(statuses, [200, 200, 200, 429, 429, 200]);
            assert_eq!(limits.asked(), [(QWEN.to_owned(), 4), (DEEPSEEK.to_owned(), 2)].into());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_asks_the_models_that_it_may() -> anyhow::Result<()> {
    let mut chain = Chain::new(2, |_| {}).await?;
    chain.insert(Place::Behind, shipped("rbac-by-model.yaml")?)?;
    chain.insert(Place::Front, shipped("jwt-claims.yaml")?)?;
    let running = chain.start().await?;
    for (model, token, wanted) in [
        (QWEN, None, 401),
        (QWEN, Some(SEARCH), 200),
        (QWEN, Some(RESEARCH), 200),
        (DEEPSEEK, Some(SEARCH), 403),
        (DEEPSEEK, Some(NOBODYS), 403),
        (DEEPSEEK, Some(RESEARCH), 200),
    ] {
        assert_eq!(status(&running, model, token).await?, wanted, "{model} {token:?}");
    }
    // The model's name in a header decides nothing: it is the body's that counts.
    let spoofed = [("authorization", SEARCH), ("x-gateway-base-model-name", QWEN)];
    assert_eq!(running.ask(DEEPSEEK, &spoofed).await?.status, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_server_is_asked_once_in_either_place() -> anyhow::Result<()> {
    for place in PLACES {
        let server = Web::start(|headers| if headers.contains_key("authorization") { 200 } else { 403 }).await?;
        let mut chain = Chain::new(2, |_| {}).await?;
        chain.add_cluster("authorizer", server.address)?;
        let filter = json!({"name": "envoy.filters.http.ext_authz", "typed_config": {
            "@type": format!("{EXTENSIONS}.ext_authz.v3.ExtAuthz"),
            "http_service": {"server_uri": {"uri": "http://authorizer", "cluster": "authorizer", "timeout": "30s"},
                "path_prefix": "/check"}}});
        chain.insert(place, filter)?;
        let running = chain.start().await?;
        assert_eq!(status(&running, QWEN, None).await?, 403, "{place:?}");
        assert_eq!(served(&running), 0);
        assert_eq!(status(&running, QWEN, Some(SEARCH)).await?, 200, "{place:?}");
        assert_eq!(server.asked(), ["/check/v1/completions"; 2], "{place:?}");
        let probe = if place == Place::Front { 403 } else { 404 };
        assert_eq!(status(&running, "gpt-nobody", None).await?, probe, "{place:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_their_headers_with_one_pool_and_several() -> anyhow::Result<()> {
    const ORIGIN: (&str, &str) = ("origin", "https://chat.example");
    for pools in [1, 2] {
        let mut chain = Chain::new(pools, |_| {}).await?;
        // Preflights have no token: CORS goes first.
        chain.insert(
            Place::Front,
            json!({"name": "envoy.filters.http.cors",
            "typed_config": {"@type": format!("{EXTENSIONS}.cors.v3.Cors")}}),
        )?;
        chain.insert(Place::Front, shipped("jwt-claims.yaml")?)?;
        chain.host()["typed_per_filter_config"]["envoy.filters.http.cors"] = json!({
            "@type": format!("{EXTENSIONS}.cors.v3.CorsPolicy"), "allow_methods": "POST",
            "allow_headers": "authorization,content-type", "allow_origin_string_match": [{"exact": "https://chat.example"}]});
        let running = chain.start().await?;
        let preflight = [ORIGIN, ("access-control-request-method", "POST")];
        let answer = running.send("OPTIONS", "/v1/chat/completions", &preflight, "").await?;
        assert_eq!((answer.status, answer.header("access-control-allow-methods")), (200, Some("POST")), "{pools}");
        let token = ("authorization", SEARCH);
        for (what, answer, wanted) in [
            ("an answer", running.ask(QWEN, &[ORIGIN, token]).await?, 200),
            ("a refusal of the plugin's", running.ask("gpt-nobody", &[ORIGIN, token]).await?, 404),
            ("a refusal of authentication", running.ask(QWEN, &[ORIGIN]).await?, 401),
            ("no model", running.send("GET", "/nothing-here", &[ORIGIN, token], "").await?, 404),
        ] {
            assert_eq!(answer.status, wanted, "{pools} {what}: {}", answer.text());
            let allowed = answer.header("access-control-allow-origin");
            assert_eq!(allowed, Some("https://chat.example"), "{pools} {what}");
        }
        let answer = running.ask(QWEN, &[("origin", "https://evil.example"), token]).await?;
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_no_pool_is_answered_as_the_api_would() -> anyhow::Result<()> {
    let running = Chain::new(2, |_| {}).await?.start().await?;
    let answer = running.send("GET", "/v1/nothing", &[], "").await?;
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/json")));
    let error = &answer.json()?["error"];
    assert_eq!((&error["code"], &error["message"]), (&json!("not_found"), &json!("no pool serves this path")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_virtual_host_is_left_alone_where_the_filter_is_off() -> anyhow::Result<()> {
    for is_off in [false, true] {
        let other = Web::start(|_| 200).await?;
        let mut chain = Chain::new(2, |_| {}).await?;
        chain.add_cluster("other", other.address)?;
        let mut host = json!({"name": "other", "domains": ["other.example"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "other"}}]});
        if is_off {
            host["typed_per_filter_config"] = json!({"inference": {"@type": ROUTE_CONFIG, "disabled": true}});
        }
        chain.manager()["route_config"]["virtual_hosts"].as_array_mut().unwrap().push(host);
        let running = chain.start().await?;
        for path in ["/api/v1/completions", "/v1/messages", "/generate"] {
            let answer = running.send("POST", path, &[("host", "other.example")], r#"{"model": "gpt-nobody"}"#).await?;
            let wanted = if is_off || path == "/generate" { 200 } else { 404 };
            assert_eq!(answer.status, wanted, "{is_off} {path}: {}", answer.text());
        }
        assert_eq!(running.ask(QWEN, &[]).await?.status, 200, "the gateway's own host is served");
    }
    Ok(())
}
