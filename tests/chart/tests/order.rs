//! Where the chart puts the plugin among a provider's filters, and whom its configurations believe.

use anyhow::Context;
use chart_tests::{Setup, chart, config, document, examples, istio, of_kind, patch};
use inference_plugin::headers;
use serde_json::{Value, json};

fn two_pools(provider: &'static str) -> Setup {
    Setup::new(&chart().join("examples/two-pools.yaml"), provider)
}

fn bootstrap(setup: &Setup) -> anyhow::Result<Value> {
    let objects = setup.objects()?;
    match setup.provider {
        "envoy-gateway" => patch::envoy_gateway(&objects),
        "istio" => istio::bootstrap(&objects),
        _ => document(config(&objects, "envoy.yaml").context("no envoy.yaml")?),
    }
}

fn manager(bootstrap: &Value) -> &Value {
    let listener = &bootstrap["static_resources"]["listeners"][0];
    let chain = if listener["filter_chains"].is_array() {
        &listener["filter_chains"][0]
    } else {
        &listener["default_filter_chain"]
    };
    &chain["filters"][0]["typed_config"]
}

#[test]
fn the_filter_stands_where_the_value_says() -> anyhow::Result<()> {
    let to_metadata = "inference-pick-to-metadata";
    for (provider, position, wanted) in [
        ("envoy-gateway", "", &["inference", "authentication", "envoy.filters.http.router"][..]),
        ("envoy-gateway", "first", &["inference", "authentication", "envoy.filters.http.router"]),
        ("envoy-gateway", "last", &["authentication", "inference", "envoy.filters.http.router"]),
        ("istio", "", &["authentication", "inference", to_metadata, "envoy.filters.http.router"]),
        ("istio", "last", &["authentication", "inference", to_metadata, "envoy.filters.http.router"]),
        ("istio", "first", &["inference", "authentication", to_metadata, "envoy.filters.http.router"]),
    ] {
        let setup = Setup { more: vec![format!("filterPosition={position:?}")], ..Setup::quickstart(provider) };
        let bootstrap = bootstrap(&setup)?;
        let filters = manager(&bootstrap)["http_filters"].as_array().context("no filters")?;
        let names: Vec<&str> = filters.iter().filter_map(|filter| filter["name"].as_str()).collect();
        assert_eq!(names, wanted, "{provider} {position:?}");
    }
    let setup = Setup { more: vec![r#"filterPosition="middle""#.to_owned()], ..Setup::quickstart("istio") };
    let output = setup.helm(&["template", "llm"])?;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("filterPosition"));
    Ok(())
}

/// The headers that Envoy removes before any filter.
fn removed(bootstrap: &Value) -> anyhow::Result<Vec<String>> {
    let extensions = manager(bootstrap)["early_header_mutation_extensions"].as_array().context("nothing is removed")?;
    let mutations = extensions.iter().flat_map(|extension| extension["typed_config"]["mutations"].as_array());
    Ok(mutations.flatten().filter_map(|mutation| Some(mutation["remove"].as_str()?.to_owned())).collect())
}

#[test]
fn clients_steer_nothing_unless_a_value_says_so() -> anyhow::Result<()> {
    const FAIRNESS: &str = r#"["x-gateway-inference-fairness-id"]"#;
    for provider in ["none", "envoy-gateway", "istio", "kgateway"] {
        let usual = Setup::quickstart(provider);
        let all = removed(&bootstrap(&usual)?)?;
        if provider == "envoy-gateway" {
            // It takes 16: all that may be believed, and what steers Envoy itself.
            let steering = [headers::DESTINATION, headers::MODEL, headers::BASE_MODEL];
            for name in headers::TRUSTABLE.into_iter().chain(steering) {
                assert!(all.iter().any(|removed| removed == name), "{name}");
            }
        } else {
            assert_eq!(all, headers::CONTROL, "{provider}");
        }
        let objects = usual.objects()?;
        let json: Value = serde_json::from_str(config(&objects, "plugin.json").context("no plugin.json")?)?;
        assert_eq!((&json["exposeEndpoint"], &json["trustedHeaders"]), (&json!(false), &Value::Null), "{provider}");
        // What filters set.
        let more = vec![format!("trustedHeaders={FAIRNESS}"), "exposeEndpoint=true".to_owned()];
        let trusting = Setup { more: more.clone(), ..usual.clone() };
        let objects = trusting.objects()?;
        let json: Value = serde_json::from_str(config(&objects, "plugin.json").context("no plugin.json")?)?;
        assert_eq!(
            (json["exposeEndpoint"].as_bool(), json["trustedHeaders"].to_string().as_str()),
            (Some(true), FAIRNESS)
        );
        assert_eq!(removed(&bootstrap(&trusting)?)?, all, "{provider}: only filters can set it");
        // What clients may send, too.
        let more = more.into_iter().chain([format!("clientHeaders={FAIRNESS}")]).collect();
        let names = removed(&bootstrap(&Setup { more, ..usual.clone() })?)?;
        assert_eq!(names.len(), all.len() - 1, "{provider}");
        assert!(!names.contains(&headers::FAIRNESS_ID.to_owned()), "{provider}");
        // Which would have no effect alone.
        let output = Setup { more: vec![format!("clientHeaders={FAIRNESS}")], ..usual }.helm(&["template", "llm"])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains("must be in trustedHeaders as well"), "{error}");
    }
    let schema = std::fs::read_to_string(chart().join("values.schema.json"))?;
    let schema: Value = serde_json::from_str(&schema)?;
    for value in ["trustedHeaders", "clientHeaders"] {
        assert_eq!(schema["properties"][value]["items"]["enum"], json!(headers::TRUSTABLE), "{value}");
    }
    Ok(())
}

/// Every request's first route must be one that policies can be attached to, and that has a cluster.
#[test]
fn every_request_has_a_first_route() -> anyhow::Result<()> {
    for provider in ["envoy-gateway", "istio"] {
        for example in examples()? {
            let objects = Setup::new(&example, provider).objects()?;
            let routes = of_kind(&objects, "HTTPRoute");
            let catch_all: Vec<&Value> = routes
                .iter()
                .flat_map(|route| route["spec"]["rules"].as_array().into_iter().flatten())
                .filter(|rule| {
                    let matches = rule["matches"].as_array().into_iter().flatten();
                    matches.into_iter().any(|found| found["headers"].is_null() && found["path"]["value"] == "/")
                })
                .collect();
            assert_eq!(catch_all.len(), 1, "{provider} {}", example.display());
            assert!(catch_all[0]["backendRefs"][0]["name"].is_string(), "{provider} {}", example.display());
        }
        // It leads to no path of a model server's, unless that is wanted.
        for (setup, route) in [(two_pools(provider), "llm-no-model"), (Setup::quickstart(provider), "llm")] {
            let objects = setup.objects()?;
            let route = of_kind(&objects, "HTTPRoute").into_iter().find(|object| object["metadata"]["name"] == route);
            let rule = route.context("no such route")?["spec"]["rules"].as_array().and_then(|rules| rules.last());
            let rewrite = &rule.context("no rules")?["filters"][0]["urlRewrite"]["path"];
            assert_eq!(rewrite, &json!({"type": "ReplaceFullPath", "replaceFullPath": "/no-pool-serves-this-path"}));
        }
    }
    Ok(())
}

/// Below a list of models some engines load and unload them.
#[test]
fn lists_of_models_are_only_read() -> anyhow::Result<()> {
    let methods = |matches: &[Value], path: &str| -> Vec<Value> {
        let of_path = matches.iter().filter(|matched| matched["path"]["value"] == path);
        of_path.map(|matched| matched["method"].clone()).collect()
    };
    let more = vec![r#"openPaths=["/v1/models","/models","/models/load","/health","/v1/responses"]"#.to_owned()];
    let objects = Setup { more, ..Setup::quickstart("istio") }.objects()?;
    let route = of_kind(&objects, "HTTPRoute").into_iter().next().context("no HTTPRoute")?;
    let matches = route["spec"]["rules"][0]["matches"].as_array().context("no matches")?;
    for (path, wanted) in [
        ("/v1/models", json!(["GET", "HEAD"])),
        ("/models", json!(["GET", "HEAD"])),
        ("/health", json!(["GET", "HEAD"])),
        // Null stands for all of them.
        ("/models/load", json!([null])),
        ("/v1/responses", json!([null])),
    ] {
        assert_eq!(json!(methods(matches, path)), wanted, "{path}");
    }
    let puts: Vec<&Value> = matches.iter().filter(|matched| matched["method"] == "PUT").collect();
    assert_eq!(puts.len(), 1, "three APIs take it");
    Ok(())
}

/// Envoy decides by a request's first route which filters it gets, so a policy of the pool's must be on that, whatever the path is.
#[test]
fn with_one_pool_all_paths_are_in_one_object() -> anyhow::Result<()> {
    for provider in ["envoy-gateway", "istio", "kgateway"] {
        for example in ["qwen-quickstart.yaml", "inferencemodel-split.yaml"] {
            for open in [None, Some("openPaths=[]"), Some(r#"openPaths=["/v1/models"]"#), Some(r#"openPaths=["/"]"#)] {
                let more = open.map(str::to_owned).into_iter().collect();
                let example = chart().join("examples").join(example);
                let objects = Setup { more, ..Setup::new(&example, provider) }.objects()?;
                let routes: Vec<&Value> =
                    of_kind(&objects, "HTTPRoute").iter().map(|route| &route["metadata"]["name"]).collect();
                assert_eq!(routes, [&json!("llm")], "{provider} {open:?}");
            }
        }
    }
    Ok(())
}
