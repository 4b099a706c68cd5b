//! What the chart renders to: for every provider and example, objects of their schemas, configurations that Envoy
//! takes, and no more rights than are needed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use chart_tests::{
    DISCOVERIES, NAMESPACE, PROVIDERS, SOURCES, Setup, chart, config, document, envoy, examples, istio, of_kind, patch,
    root, walk,
};
use inference_plugin::config::Discovery;
use inferencectl::client::Address;
use inferencectl::render::{Bootstrap, Hosts};
use jsonschema::Validator;
use serde_json::{Value, json};

/// Every example on every provider, and the quickstart in every way.
fn setups() -> anyhow::Result<Vec<Setup>> {
    let mut setups = Vec::new();
    for provider in PROVIDERS {
        for example in examples()? {
            setups.push(Setup::new(&example, provider));
        }
        for discovery in DISCOVERIES {
            for source in SOURCES {
                setups.push(Setup { discovery, source, ..Setup::quickstart(provider) });
            }
        }
    }
    for provider in PROVIDERS {
        for discovery in DISCOVERIES {
            let more = vec![RESOURCES.to_owned()];
            setups.push(Setup { discovery, more, ..Setup::quickstart(provider) });
        }
    }
    for provider in PROVIDERS {
        setups.push(h2c(provider));
    }
    for source in ["initContainer", "imageVolume"] {
        let more = EVERYTHING.map(str::to_owned).to_vec();
        setups.push(Setup { source, more, ..Setup::quickstart("none") });
    }
    Ok(setups)
}

fn h2c(provider: &'static str) -> Setup {
    Setup { more: vec![H2C.to_owned()], ..Setup::quickstart(provider) }
}

/// Models come from resources, too.
const RESOURCES: &str = "modelResources=true";

/// The servers speak HTTP/2 without TLS.
const H2C: &str = r#"inferencePool.appProtocol="kubernetes.io/h2c""#;

/// What is off or empty by default.
const EVERYTHING: [&str; 17] = [
    r#"imagePullSecrets=[{"name":"pull"}]"#,
    r#"serviceAccount.annotations={"a":"b"}"#,
    r#"plugin.initContainer.registrySecret="registry""#,
    r#"plugin.initContainer.plainHttp=true"#,
    r#"plugin.image.digests.inference="sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#,
    r#"envoy.image.digest="sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#,
    r#"envoy.autoscaling.enabled=true"#,
    r#"envoy.podDisruptionBudget={"enabled":true,"maxUnavailable":"25%"}"#,
    r#"envoy.service={"type":"LoadBalancer","annotations":{"a":"b"}}"#,
    r#"envoy.podLabels={"team":"serving"}"#,
    r#"envoy.nodeSelector={"kubernetes.io/arch":"amd64"}"#,
    r#"envoy.tolerations=[{"operator":"Exists"}]"#,
    r#"envoy.affinity={"podAntiAffinity":{}}"#,
    r#"envoy.topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway"}]"#,
    r#"inferencePool.endpointPickerRef={"name":"epp","port":{"number":9002},"failureMode":"FailOpen"}"#,
    r#"inferencePool.name="another""#,
    r#"inferencePool.targetPorts=[{"number":8000},{"number":8001}]"#,
];

fn asks_kubernetes(setup: &Setup) -> bool {
    setup.discovery != "envoyAdmin" || setup.more.iter().any(|more| more == RESOURCES)
}

#[test]
fn lint_finds_nothing() -> anyhow::Result<()> {
    for provider in PROVIDERS {
        for example in examples()? {
            let output = Setup::new(&example, provider).helm(&["lint", "--strict"])?;
            let log = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{provider} {}: {log}", example.display());
        }
    }
    Ok(())
}

#[test]
fn every_object_has_its_kinds_schema() -> anyhow::Result<()> {
    let mut schemas: BTreeMap<String, Validator> = BTreeMap::new();
    for setup in setups()? {
        let objects = setup.objects()?;
        let mut names = Vec::new();
        for object in &objects {
            let (api, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
            let name = format!("{}.{}", api.context("no apiVersion")?.replace('/', "_"), kind.context("no kind")?);
            if !schemas.contains_key(&name) {
                let path = root().join(format!("tests/chart/schemas/{name}.json"));
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                schemas.insert(name.clone(), jsonschema::validator_for(&serde_json::from_str(&text)?)?);
            }
            let errors: Vec<String> =
                schemas[&name].iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert!(errors.is_empty(), "{setup:?}: {name}: {errors:#?}\n{object:#}");
            let id = (name, object["metadata"]["namespace"].clone(), object["metadata"]["name"].clone());
            assert!(!names.contains(&id), "{setup:?}: {id:?} is there twice");
            names.push(id);
        }
    }
    // Nothing lies there unused: a kind that is no longer rendered needs no schema.
    let mut unused = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/chart/schemas"))? {
        let name = entry?.path().file_stem().context("no name")?.to_string_lossy().into_owned();
        if !schemas.contains_key(&name) {
            unused.push(name);
        }
    }
    assert!(unused.is_empty(), "{unused:?}");
    Ok(())
}

#[test]
fn the_plugin_takes_its_json() -> anyhow::Result<()> {
    for setup in setups()? {
        let objects = setup.objects()?;
        let shown = config(&objects, "plugin.json").context("no plugin.json")?;
        let parsed = inference_plugin::config::parse(shown.as_bytes());
        let parsed = parsed.map_err(|errors| anyhow::anyhow!("{setup:?}: {errors}\n{shown}"))?;
        let mut copies = 0;
        for bootstrap in bootstraps(&setup, &objects)? {
            walk(&bootstrap, &mut |map| {
                // The module's configuration stands beside its root id, the VM's does not.
                if let (Some(_), Some(text)) = (map.get("root_id"), map.get("configuration")) {
                    assert_eq!(text["value"], shown, "{setup:?}");
                    copies += 1;
                }
            });
            // Requests are routed, and metrics are read, by clusters that are there.
            for pool in &parsed.pools {
                let clusters = bootstrap["static_resources"]["clusters"].as_array().context("no clusters")?;
                let is_there = |name: &str| clusters.iter().any(|cluster| cluster["name"] == name);
                assert!(is_there(&pool.cluster), "{setup:?}: {}", pool.cluster);
                // A pod's annotation may say that its metrics are on another port.
                assert_eq!(is_there(&pool.metrics_cluster), setup.discovery != "envoyAdmin", "{setup:?}");
            }
        }
        assert_eq!(copies, if setup.provider == "istio" { 1 } else { 2 }, "{setup:?}");
    }
    Ok(())
}

#[test]
fn envoy_takes_every_configuration() -> anyhow::Result<()> {
    // Several setups differ in their pods alone.
    let mut seen = BTreeSet::new();
    for setup in setups()? {
        let objects = setup.objects()?;
        let files: Vec<(&str, &str)> = ["sds-token.yaml", "sds-ca.yaml"]
            .into_iter()
            .filter_map(|name| Some((name, config(&objects, name)?)))
            .collect();
        assert_eq!(files.len(), if asks_kubernetes(&setup) { 2 } else { 0 }, "{setup:?}");
        let plugin_json = config(&objects, "plugin.json").context("no plugin.json")?;
        for bootstrap in bootstraps(&setup, &objects)? {
            for cluster in asked_clusters(plugin_json)? {
                let is_there = has_cluster(&bootstrap, &cluster);
                assert!(is_there, "{setup:?}: discovery asks by {cluster}, which is not there");
            }
            if seen.insert(bootstrap.to_string()) {
                envoy::validate(&bootstrap, &files).with_context(|| format!("{setup:?}"))?;
            }
        }
    }
    assert!(seen.len() > PROVIDERS.len() * DISCOVERIES.len(), "only {} configurations", seen.len());
    Ok(())
}

#[test]
fn envoy_refuses_what_is_wrong() -> anyhow::Result<()> {
    // Else the test above could pass for no reason: a field that Envoy doesn't know, and a document that the plugin refuses.
    let objects = Setup::quickstart("none").objects()?;
    let sound = config(&objects, "envoy.yaml").context("no envoy.yaml")?;
    for (right, wrong, reason) in [
        ("override_host_sources", "override_host_source", "override_host_source"),
        ("\"baseModel\"", "\"baseModels\"", "baseModels"),
    ] {
        let bootstrap = document(&sound.replace(right, wrong))?;
        let refusal = envoy::validate(&bootstrap, &[]).err().with_context(|| format!("{wrong} is taken"))?;
        assert!(refusal.to_string().contains(reason), "{refusal}");
    }
    Ok(())
}

/// The clusters by which discovery asks.
fn asked_clusters(plugin_json: &str) -> anyhow::Result<BTreeSet<String>> {
    let checked =
        inference_plugin::config::parse(plugin_json.as_bytes()).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let mut clusters: BTreeSet<String> = checked.resources.iter().map(|resources| resources.cluster.clone()).collect();
    for discovery in checked.pools.iter().filter_map(|pool| pool.discovery.as_ref()) {
        let (Discovery::EnvoyAdmin { cluster, .. } | Discovery::Kubernetes { cluster, .. }) = discovery;
        clusters.insert(cluster.clone());
    }
    Ok(clusters)
}

fn has_cluster(bootstrap: &Value, name: &str) -> bool {
    let clusters = bootstrap["static_resources"]["clusters"].as_array();
    clusters.is_some_and(|clusters| clusters.iter().any(|cluster| cluster["name"] == name))
}

/// The bootstraps of the Envoys that have a setup's objects.
fn bootstraps(setup: &Setup, objects: &[Value]) -> anyhow::Result<Vec<Value>> {
    Ok(vec![match setup.provider {
        "envoy-gateway" => patch::envoy_gateway(objects)?,
        "istio" => istio::bootstrap(objects)?,
        _ => document(config(objects, "envoy.yaml").context("no envoy.yaml")?)?,
    }])
}

#[test]
fn the_bootstrap_is_what_inferencectl_renders() -> anyhow::Result<()> {
    for example in examples()?.iter().map(|example| Setup::new(example, "none")).chain([h2c("none")]) {
        for discovery in DISCOVERIES {
            let setup = Setup { discovery, ..example.clone() };
            let objects = setup.objects()?;
            let plugin_json = config(&objects, "plugin.json").context("no plugin.json")?;
            let checked = inference_plugin::config::parse(plugin_json.as_bytes())
                .map_err(|errors| anyhow::anyhow!("{setup:?}: {errors}"))?;
            let (listen, admin) = ("0.0.0.0:8080".parse()?, Address::Tcp("127.0.0.1:9901".parse()?));
            let mut rendered = Bootstrap::new(plugin_json, &checked, listen, admin, "/plugin".as_ref());
            if setup.more.iter().any(|value| value == H2C) {
                rendered.h2c = checked.pools.iter().map(|pool| pool.name.clone()).collect();
            }
            rendered.hosts = Hosts::Dns { ports: vec![8000] };
            let mut wanted = document(&rendered.yaml())?;
            let mut found = document(config(&objects, "envoy.yaml").context("no envoy.yaml")?)?;

            // The chart's alone: the listener for probes, and the cluster that it leads to.
            let listeners = found["static_resources"]["listeners"].as_array_mut().context("no listeners")?;
            assert_eq!(listeners.pop().context("no listener")?["name"], "probes");
            for bootstrap in [&mut found, &mut wanted] {
                let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().context("no clusters")?;
                clusters.retain(|cluster| cluster["name"] != "envoy-admin");
                clusters.sort_by_key(|cluster| cluster["name"].to_string());
                // inferencectl cannot know an InferencePool's ports, nor the name of a Service.
                if discovery != "selector" {
                    for cluster in clusters.iter_mut().filter(|cluster| cluster["cluster_type"].is_object()) {
                        cluster["load_assignment"] = Value::Null;
                    }
                }
            }
            assert!(found == wanted, "{setup:?}\nthe chart: {found:#}\ninferencectl: {wanted:#}");
        }
    }
    Ok(())
}

#[test]
fn no_container_may_do_more_than_run() -> anyhow::Result<()> {
    for setup in setups()? {
        let mut containers = 0;
        for object in &setup.objects()? {
            let spec = match object["kind"].as_str().unwrap_or_default() {
                "Deployment" => &object["spec"]["template"]["spec"],
                "Pod" => &object["spec"],
                "EnvoyProxy" => &object["spec"]["provider"]["kubernetes"]["envoyDeployment"],
                _ => continue,
            };
            if object["kind"] != "EnvoyProxy" {
                assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{setup:?}");
                assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{setup:?}");
                assert!(spec["securityContext"]["runAsUser"].as_u64() > Some(0), "{setup:?}");
                assert_eq!(spec["automountServiceAccountToken"], false, "{setup:?}");
            }
            for key in ["initContainers", "containers"] {
                for container in spec[key].as_array().into_iter().flatten() {
                    let security = &container["securityContext"];
                    assert_eq!(security["allowPrivilegeEscalation"], false, "{setup:?}: {container:#}");
                    assert_eq!(security["readOnlyRootFilesystem"], true, "{setup:?}: {container:#}");
                    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{setup:?}: {container:#}");
                    assert!(security.get("privileged").is_none(), "{setup:?}: {container:#}");
                    assert_ne!(security["runAsUser"], 0, "{setup:?}: {container:#}");
                    if object["kind"] == "EnvoyProxy" {
                        assert_eq!(security["runAsNonRoot"], true, "{setup:?}: {container:#}");
                    }
                    assert!(container["resources"]["limits"]["memory"].is_string(), "{setup:?}: {container:#}");
                    containers += 1;
                }
            }
        }
        assert!(containers > 0, "{setup:?}");
    }
    Ok(())
}

#[test]
fn the_token_reads_pods_and_pools_and_nothing_else() -> anyhow::Result<()> {
    for setup in setups()? {
        let objects = setup.objects()?;
        let wide = ["ClusterRole", "ClusterRoleBinding"].map(|kind| of_kind(&objects, kind).len());
        assert_eq!(wide, [0, 0], "{setup:?}");
        let roles = of_kind(&objects, "Role");
        let bindings = of_kind(&objects, "RoleBinding");
        if !asks_kubernetes(&setup) {
            assert!(roles.is_empty() && bindings.is_empty(), "{setup:?}");
            continue;
        }
        let mut wanted = Vec::new();
        if setup.discovery != "envoyAdmin" {
            wanted.push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}));
        }
        if setup.discovery == "inferencePool" {
            let pools: Vec<&Value> =
                of_kind(&objects, "InferencePool").iter().map(|pool| &pool["metadata"]["name"]).collect();
            wanted.push(json!({"apiGroups": ["inference.networking.k8s.io", "inference.networking.x-k8s.io"],
                "resources": ["inferencepools"], "resourceNames": pools, "verbs": ["get"]}));
        }
        if setup.more.iter().any(|more| more == RESOURCES) {
            wanted.push(json!({"apiGroups": ["inference.networking.x-k8s.io"],
                "resources": ["inferencemodels", "inferencemodelrewrites", "inferenceobjectives"], "verbs": ["list"]}));
            wanted.push(json!({"apiGroups": ["llm-d.ai"],
                "resources": ["inferencemodelrewrites", "inferenceobjectives"], "verbs": ["list"]}));
        }
        let [role] = roles.as_slice() else { panic!("{setup:?}: {} roles", roles.len()) };
        assert_eq!(role["rules"], json!(wanted), "{setup:?}");
        assert_eq!(role["metadata"]["namespace"], NAMESPACE);
        let [binding] = bindings.as_slice() else { panic!("{setup:?}: {} bindings", bindings.len()) };
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"], "{setup:?}");
        assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(1), "{setup:?}");
    }
    Ok(())
}

#[test]
fn envoy_gateways_account_has_the_name_that_it_makes_up() -> anyhow::Result<()> {
    // The example of Envoy Gateway's own documentation.
    let more = vec![r#"gateway.name="eg""#.to_owned()];
    let objects = Setup { more, namespace: "default", ..Setup::quickstart("envoy-gateway") }.objects()?;
    let binding = of_kind(&objects, "RoleBinding").pop().context("no RoleBinding")?;
    let account =
        json!({"kind": "ServiceAccount", "name": "envoy-default-eg-e41e7b31", "namespace": "envoy-gateway-system"});
    assert_eq!(binding["subjects"], json!([account]));
    Ok(())
}

#[test]
fn envoy_gateways_listeners_are_patched_where_they_are() -> anyhow::Result<()> {
    let listeners = r#"gateway.listeners=[{"name":"web","protocol":"HTTP","port":80},{"name":"tls","protocol":"HTTPS","port":443}]"#;
    for (scheme, wanted) in
        [("false", ["serving/llm-gateway/web", "serving/llm-gateway/tls"]), ("true", ["tcp-80", "tcp-443"])]
    {
        let more = vec![listeners.to_owned(), format!("envoyGateway.xdsNameSchemeV2={scheme}")];
        let objects = Setup { more, ..Setup::quickstart("envoy-gateway") }.objects()?;
        let policy = of_kind(&objects, "EnvoyPatchPolicy").pop().context("no EnvoyPatchPolicy")?;
        for patch in policy["spec"]["jsonPatches"].as_array().context("no patches")? {
            // Envoy Gateway gives a listener without TLS its default filter chain alone.
            let path = patch["operation"]["path"].as_str().context("no path")?;
            let chain = if patch["name"] == wanted[0] { "/default_filter_chain/" } else { "/filter_chains/0/" };
            assert!(wanted.iter().any(|name| patch["name"] == **name) && path.starts_with(chain), "{patch:#}");
        }
    }
    Ok(())
}

#[test]
fn a_gateway_and_a_pool_that_are_there_are_left_alone() -> anyhow::Result<()> {
    for provider in PROVIDERS {
        let more = vec!["gateway.create=false".to_owned(), "inferencePool.create=false".to_owned()];
        let objects = Setup { more, ..Setup::quickstart(provider) }.objects()?;
        let made = ["Gateway", "InferencePool"].map(|kind| of_kind(&objects, kind).len());
        assert_eq!(made, [0, 0], "{provider}");
        // It is read all the same.
        assert_eq!(of_kind(&objects, "Role")[0]["rules"][1]["resourceNames"], json!(["llm"]), "{provider}");
    }
    Ok(())
}

#[test]
fn only_one_port_of_envoys_admin_interface_is_reachable() -> anyhow::Result<()> {
    let objects = Setup::quickstart("none").objects()?;
    let bootstrap = document(config(&objects, "envoy.yaml").context("no envoy.yaml")?)?;
    assert_eq!(bootstrap["admin"]["address"]["socket_address"]["address"], "127.0.0.1");
    let mut paths = Vec::new();
    walk(&bootstrap, &mut |map| {
        if map.get("route").is_some_and(|route| route["cluster"] == "envoy-admin") {
            paths.push(map["match"]["path"].clone());
            assert_eq!(map["match"]["headers"], json!([{"name": ":method", "string_match": {"exact": "GET"}}]));
        }
    });
    assert_eq!(paths, ["/ready", "/stats/prometheus"]);
    for service in of_kind(&objects, "Service") {
        for port in service["spec"]["ports"].as_array().context("no ports")? {
            assert!(port["targetPort"] != 9901 && port["targetPort"] != 9902 && port["targetPort"] != "probes");
        }
    }
    Ok(())
}

#[test]
fn each_example_says_how_to_install_it() -> anyhow::Result<()> {
    let found = examples()?;
    assert_eq!(found.len(), 3);
    for example in found {
        let text = std::fs::read_to_string(&example)?;
        let path = example.strip_prefix(chart())?.display().to_string();
        assert!(text.contains(&format!("-f charts/inference-plugin/{path}")), "{path}");
    }
    Ok(())
}
