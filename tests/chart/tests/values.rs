//! Values: bad ones are refused with a reason, and every key is documented.

use std::path::Path;

use anyhow::Context;
use chart_tests::{DISCOVERIES, PROVIDERS, Setup, chart, document, of_kind};
use inferencectl::demo::scratch;
use serde_json::{Value, json};

/// Renders the quickstart with one more value, and gives what Helm says against it.
fn refusal(value: &str) -> anyhow::Result<String> {
    let setup = Setup { more: vec![value.to_owned()], ..Setup::quickstart("none") };
    let output = setup.helm(&["template", "llm"])?;
    assert!(!output.status.success(), "{value} is taken");
    Ok(String::from_utf8(output.stderr)?)
}

#[test]
fn constraints_on_how_pods_spread_are_about_these_pods() -> anyhow::Result<()> {
    let constraints = r#"envoy.topologySpreadConstraints=[{"topologyKey":"zone"},{"topologyKey":"zone","labelSelector":null},
        {"topologyKey":"zone","labelSelector":{}},{"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"other"}}}]"#;
    let objects = Setup { more: vec![constraints.to_owned()], ..Setup::quickstart("none") }.objects()?;
    let deployment = of_kind(&objects, "Deployment").pop().context("no Deployment")?;
    let rendered = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"].as_array().context("none")?;
    let selectors: Vec<&Value> = rendered.iter().map(|constraint| &constraint["labelSelector"]).collect();
    let own = &deployment["spec"]["selector"];
    assert!(own["matchLabels"].is_object());
    assert_eq!(selectors, [own, own, &json!({}), &json!({"matchLabels": {"app": "other"}})]);
    Ok(())
}

#[test]
fn the_schema_refuses_what_cannot_be() -> anyhow::Result<()> {
    for (value, place) in [
        (r#"provider.name="nginx""#, "provider"),
        (r#"provider.name="gke""#, "provider"),
        (r#"discovery="dns""#, "discovery"),
        (r#"inferencePool.targetPorts=[{"number":0}]"#, "targetPorts"),
        (r#"inferencePool.targetPorts=[{"number":65536}]"#, "targetPorts"),
        (r#"inferencePool.targetPorts=[{"number":8000},{"number":8000}]"#, "targetPorts"),
        (r#"inferencePool.targetPorts=[]"#, "targetPorts"),
        (r#"inferencePool.targetPortNumber=8000"#, "targetPortNumber"),
        (r#"inferencePool.modelServerType="tgi""#, "modelServerType"),
        (r#"inferencePool.modelServers.matchLabels={"app":"not a label"}"#, "matchLabels"),
        (r#"inferencePool.failureMode="Fail""#, "failureMode"),
        (r#"inferencePool.retryRefused="false""#, "retryRefused"),
        (r#"inferencePool.endpointPickerRef={"name":"epp","port":{"number":0}}"#, "endpointPickerRef"),
        (r#"inferencePool.endpointPickerRef={"name":"epp"}"#, "endpointPickerRef"),
        (r#"inferencePool.endpointPickerRef={"name":"epp","kind":"Service"}"#, "endpointPickerRef"),
        (r#"inferencePool.endpointPickerRef={"name":"epp","port":{}}"#, "endpointPickerRef"),
        (r#"inferencePool.apiVersion="inference.networking.k8s.io/v1alpha2""#, "apiVersion"),
        (r#"pools=[{"baseModel":"m","modelServers":{"matchLabels":{"app":"m"}}}]"#, "name"),
        (r#"pluginConfig={"pools":[]}"#, "pluginConfig"),
        (r#"maxBodyBytes=0"#, "maxBodyBytes"),
        (r#"envoy.service.port=0"#, "port"),
        (r#"envoy.service.type="ExternalName""#, "type"),
        (r#"envoy.replicas=-1"#, "replicas"),
        (r#"envoy.concurrency=0"#, "concurrency"),
        (r#"envoy.image.digest="sha256:abc""#, "digest"),
        (r#"gateway.listeners=[{"name":"tcp","protocol":"TCP","port":80}]"#, "listeners"),
        (r#"gateway.listeners=[]"#, "listeners"),
        (r#"plugin.source="configMap""#, "source"),
        (r#"plugin.url.inference.sha256="abc""#, "sha256"),
        (r#"plugin.url.inference.uri="oci://registry.example/inference""#, "uri"),
        (r#"plugins={}"#, "plugins"),
        (r#"test.url="gateway""#, "url"),
    ] {
        let log = refusal(value)?;
        assert!(log.contains("values don't meet the specifications of the schema"), "{value}: {log}");
        assert!(log.contains(place), "{value}: {log}");
    }
    Ok(())
}

#[test]
fn what_only_templates_can_see_is_refused_as_well() -> anyhow::Result<()> {
    for (value, reason) in [
        (r#"inferencePool.baseModel="""#, "baseModel must name the model"),
        (r#"inferencePool.modelServers=null"#, "matchLabels must name labels"),
        (r#"plugin.image.repository="""#, "plugin.image.repository must say"),
        (r#"inferencePool.name="llm-envoy""#, "is the name of Envoy's own Service"),
        (
            r#"pools=[{"name":"a","baseModel":"m","modelServers":{"matchLabels":{"app":"m"}}}]"#,
            "both pools and inferencePool name a pool",
        ),
        (
            r#"inferencePool.name="POOL""#,
            "inferencePool.name: a pool's name is that of its Service: begin with a letter",
        ),
        (r#"inferencePool.name="7b""#, "instead of \"7b\""),
        (r#"inferencePool.gieVersion="latest""#, "is no release of the Inference Extension"),
        (r#"plugin.image.repository="r""#, "\"r\" is no repository: write REGISTRY/PATH"),
        (r#"plugin.image.repository="oci://registry.example/plugin""#, "is no repository"),
        (r#"plugin.image.repository="registry.example/plugin:v1""#, "is no repository"),
        (r#"plugin.image.repository="registry.example:5000/plugin/""#, "is no repository"),
    ] {
        let log = refusal(value)?;
        assert!(log.contains(reason), "{value}: {log}");
    }
    let pool = |name: &str| {
        format!(r#"{{"name":"{name}","baseModel":"{name}","modelServers":{{"matchLabels":{{"app":"m"}}}}}}"#)
    };
    for (pools, reason) in [
        (format!("pools=[{},{}]", pool("a"), pool("a")), "the name is there twice"),
        (format!("pools=[{}]", pool("Not_A_Name")), "pools: a pool's name is that of its Service"),
        (format!("pools=[{}]", pool(&"a".repeat(64))), "pools: a pool's name is that of its Service"),
    ] {
        let two_pools = chart().join("examples/two-pools.yaml");
        let setup = Setup { more: vec![pools], ..Setup::new(&two_pools, "none") };
        let log = String::from_utf8(setup.helm(&["template", "llm"])?.stderr)?;
        assert!(log.contains(reason), "{log}");
    }
    for single in
        [r#"inferencePool.gieVersion="1.0.0""#, r#"inferencePool.apiVersion="inference.networking.x-k8s.io/v1alpha2""#]
    {
        let ports = r#"inferencePool.targetPorts=[{"number":8000},{"number":8001}]"#;
        let setup = Setup { more: vec![ports.to_owned(), single.to_owned()], ..Setup::quickstart("none") };
        let log = String::from_utf8(setup.helm(&["template", "llm"])?.stderr)?;
        assert!(log.contains("has 2 target ports") && log.contains("takes 1"), "{log}");
    }
    for release in ["qwen2.5-7b", "7b", "123"] {
        let log = String::from_utf8(Setup::quickstart("none").helm(&["template", release])?.stderr)?;
        assert!(log.contains("makes no Service"), "{release}: {log}");
    }
    let ports = r#"inferencePool.targetPorts=[{"number":8000},{"number":8001}]"#.to_owned();
    let setup = Setup { more: vec![ports], ..Setup::quickstart("istio") };
    let log = String::from_utf8(setup.helm(&["template", "llm"])?.stderr)?;
    assert!(log.contains("one target port"), "{log}");
    let url = r#"plugin.url.inference.uri="""#.to_owned();
    let setup = Setup { more: vec![url], source: "url", ..Setup::quickstart("none") };
    let log = String::from_utf8(setup.helm(&["template", "llm"])?.stderr)?;
    assert!(log.contains("uri and sha256 are needed"), "{log}");
    Ok(())
}

#[test]
fn values_reach_the_plugin_json() -> anyhow::Result<()> {
    let mut setup = Setup::quickstart("none");
    setup.more = vec![
        r#"inferencePool.saturation={"queueDepth":7}"#.to_owned(),
        r#"inferencePool.flowControl={}"#.to_owned(),
        r#"inferencePool.scheduling={"profile":"epp"}"#.to_owned(),
        r#"inferencePool.outlierDetection={"consecutiveErrors":5}"#.to_owned(),
        r#"inferencePool.failureMode="FailClose""#.to_owned(),
        r#"inferencePool.metricsPath="/prometheus""#.to_owned(),
        r#"inferencePool.metricsPort=8002"#.to_owned(),
        r#"inferencePool.engine={"waiting":"my:waiting"}"#.to_owned(),
        r#"poller={"interval":"500ms"}"#.to_owned(),
        r#"rules=[{"when":"body.model == 'a' && request.method < 'Z'","model":"food-review"}]"#.to_owned(),
        r#"objectives=[{"name":"nightly","priority":-10}]"#.to_owned(),
        r#"sessionKeys=[{"bodyField":"user"}]"#.to_owned(),
        r#"maxBodyBytes=33554432"#.to_owned(),
        r#"maxPrefixEntries=65536"#.to_owned(),
        r#"pluginConfig={"poller":{"timeout":"2s"}}"#.to_owned(),
    ];
    let objects = setup.objects()?;
    let text = chart_tests::config(&objects, "plugin.json").context("no plugin.json")?;
    inference_plugin::config::parse(text.as_bytes()).map_err(|errors| anyhow::anyhow!("{errors}\n{text}"))?;
    let json: Value = serde_json::from_str(text)?;
    let pool = &json["pools"][0];
    assert_eq!(pool["saturation"]["queueDepth"], 7);
    assert_eq!(pool["flowControl"], serde_json::json!({}));
    assert_eq!(pool["scheduling"]["profile"], "epp");
    assert_eq!(pool["outlierDetection"]["consecutiveErrors"], 5);
    assert_eq!(pool["failureMode"], "FailClose");
    assert_eq!((&pool["metricsPath"], &pool["metricsPort"]), (&Value::from("/prometheus"), &Value::from(8002)));
    assert_eq!(pool["engine"]["waiting"], "my:waiting");
    assert_eq!(json["poller"], serde_json::json!({"interval": "500ms", "timeout": "2s"}));
    assert_eq!(json["rules"][0]["when"], "body.model == 'a' && request.method < 'Z'");
    assert_eq!(json["objectives"][0]["pool"], "llm");
    assert_eq!(json["sessionKeys"][0]["bodyField"], "user");
    assert_eq!(json["maxPrefixEntries"], 65536);
    let bootstrap = document(chart_tests::config(&objects, "envoy.yaml").context("no envoy.yaml")?)?;
    let limit = &bootstrap["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"];
    assert_eq!(*limit, (32 << 20) + (16 << 20), "the buffer is larger than maxBodyBytes");
    Ok(())
}

/// `false` says something, other than empty values.
#[test]
fn a_pool_says_whether_refused_requests_go_on() -> anyhow::Result<()> {
    let rendered = |setup: Setup| -> anyhow::Result<Value> {
        let objects = setup.objects()?;
        let text = chart_tests::config(&objects, "plugin.json").context("no plugin.json")?;
        inference_plugin::config::parse(text.as_bytes()).map_err(|errors| anyhow::anyhow!("{errors}\n{text}"))?;
        Ok(serde_json::from_str(text)?)
    };
    for (value, wanted) in [("false", json!(false)), ("true", json!(true)), ("null", Value::Null)] {
        let one = vec![format!("inferencePool.retryRefused={value}")];
        let json = rendered(Setup { more: one, ..Setup::quickstart("none") })?;
        assert_eq!(json["pools"][0]["retryRefused"], wanted, "{value}");
        let second = vec![format!("pools[1].retryRefused={value}")];
        let json = rendered(Setup { more: second, ..Setup::new(&chart().join("examples/two-pools.yaml"), "none") })?;
        assert_eq!((&json["pools"][0]["retryRefused"], &json["pools"][1]["retryRefused"]), (&Value::Null, &wanted));
    }
    Ok(())
}

#[test]
fn values_without_effect_are_refused() -> anyhow::Result<()> {
    let log = |setup: &Setup| -> anyhow::Result<String> {
        let output = setup.helm(&["template", "llm"])?;
        Ok(if output.status.success() { String::new() } else { String::from_utf8(output.stderr)? })
    };
    for provider in PROVIDERS {
        for position in ["", "first", "last"] {
            let more = vec![format!("filterPosition={position:?}")];
            let log = log(&Setup { more, ..Setup::quickstart(provider) })?;
            let is_refused = ["none", "kgateway"].contains(&provider) && !position.is_empty();
            assert_eq!(log.contains("Leave filterPosition out"), is_refused, "{provider} {position}: {log}");
            assert_eq!(log.is_empty(), !is_refused, "{provider} {position}: {log}");
        }
        // What values.yaml has by default is taken, too, with several pools.
        let default = &document(&std::fs::read_to_string(chart().join("values.yaml"))?)?["openPaths"];
        for (paths, takes_several) in
            [(default.clone(), true), (json!([]), true), (json!(["/"]), false), (json!(["/v1/models"]), false)]
        {
            let value = format!("openPaths={paths}");
            let one = Setup { more: vec![value.clone()], ..Setup::quickstart(provider) };
            assert_eq!(log(&one)?, "", "{provider} {paths}");
            let mut several = Setup::new(&chart().join("examples/two-pools.yaml"), provider);
            several.more.push(value);
            let log = log(&several)?;
            assert_eq!(log.contains("Leave openPaths out"), !takes_several, "{provider} {paths}: {log}");
            assert_eq!(log.is_empty(), takes_several, "{provider} {paths}: {log}");
        }
    }
    Ok(())
}

#[test]
fn every_value_has_a_comment_and_a_schema() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(chart().join("values.yaml"))?;
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json"))?)?;
    let values = document(&text)?;
    let validator = jsonschema::validator_for(&schema)?;
    let errors: Vec<String> = validator.iter_errors(&values).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    check_keys("", &values, &schema);
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let [before, line] = pair else { continue };
        let is_key = !line.trim_start().starts_with(['#', '-']) && line.contains(':');
        // A listener's or a port's own keys are explained by the comment before their dash.
        let is_item =
            line.starts_with("    ") && (before.trim_start().starts_with("- ") || before.contains("protocol:"));
        if is_key && !is_item {
            assert!(before.trim_start().starts_with('#'), "{line:?} has no comment");
        }
    }
    Ok(())
}

/// Each key of the schema is in values.yaml.
fn check_keys(path: &str, values: &Value, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (key, schema) in properties {
        if path.is_empty() && key == "global" {
            continue;
        }
        let value = values.get(key);
        assert!(value.is_some(), "{path}.{key} is in the schema and not in values.yaml");
        let value = value.unwrap_or(&Value::Null);
        // What is empty by default is somebody else's object.
        if value.as_object().is_some_and(|map| !map.is_empty()) {
            check_keys(&format!("{path}.{key}"), value, schema);
        }
    }
}

#[test]
fn the_notes_say_what_to_do_next() -> anyhow::Result<()> {
    // Helm shows notes to whoever has a cluster. Here a copy of the chart has them as an object's data.
    let folder = scratch("notes")?;
    copy(&chart(), folder.path())?;
    let shown = "kind: Notes\ntext: |\n  {{- include (print .Template.BasePath \"/NOTES.txt\") . | nindent 2 }}\n";
    std::fs::write(folder.path().join("templates/notes.yaml"), shown)?;
    for provider in PROVIDERS {
        for discovery in DISCOVERIES {
            let setup = Setup { chart: folder.path().to_owned(), discovery, ..Setup::quickstart(provider) };
            let objects = setup.objects()?;
            let notes = of_kind(&objects, "Notes").pop().context("no notes")?["text"].to_string();
            assert!(notes.contains("helm test llm"), "{provider}: {notes}");
            assert_eq!(notes.contains("Missing there"), provider != "none", "{provider}: {notes}");
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
