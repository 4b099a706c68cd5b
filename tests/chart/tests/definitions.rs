//! What a cluster takes: the chart's custom resources against the definitions that projects have published, each with its version in
//! its file's name, as an API server checks them with strict validation.
//!
//! The folder `crds` has the structural schemas. Rules in the Common Expression Language are checked for InferencePools alone, and are
//! written here by hand: a rule that a later definition has and this test does not know fails it.

use std::collections::BTreeMap;

use anyhow::Context;
use chart_tests::{PROVIDERS, Setup, examples, of_kind, root};
use jsonschema::Validator;
use serde_json::{Value, json};

/// Definitions of one release.
struct Definition {
    /// The release, such as `gaie-v1.4.0`.
    release: String,
    /// The kind, as `apiVersion kind`.
    id: String,
    validator: Validator,
    schema: Value,
}

fn definitions() -> anyhow::Result<Vec<Definition>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/chart/crds"))? {
        let path = entry?.path();
        let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
        let definition: Value = serde_json::from_str(&std::fs::read_to_string(&path)?).with_context(|| name.clone())?;
        let kind = definition["kind"].as_str().context("no kind")?;
        let (release, _) = name.split_once(&format!(".{kind}.")).with_context(|| name.clone())?;
        for version in definition["versions"].as_array().context("no versions")? {
            let mut schema = close(&version["schema"]);
            for (key, value) in
                [("apiVersion", json!({})), ("kind", json!({})), ("metadata", json!({"type": "object"}))]
            {
                schema["properties"][key] = value;
            }
            let group = definition["group"].as_str().context("no group")?;
            let id = format!("{group}/{} {kind}", version["name"].as_str().context("no version")?);
            let validator = jsonschema::validator_for(&schema)?;
            found.push(Definition { release: release.to_owned(), id, validator, schema: version["schema"].clone() });
        }
    }
    anyhow::ensure!(found.len() >= 15, "only {} definitions", found.len());
    Ok(found)
}

/// A structural schema as a JSON schema that takes no field that is not there.
fn close(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    if fields.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        return json!({"type": ["integer", "string"]});
    }
    let mut closed = serde_json::Map::new();
    for (key, value) in fields {
        let value = match key.as_str() {
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                properties.map(|(name, schema)| (name.clone(), close(schema))).collect()
            }
            "additionalProperties" | "items" => close(value),
            // Kubernetes' own formats, such as int32, mean nothing to others.
            "format" => continue,
            _ => value.clone(),
        };
        closed.insert(key.clone(), value);
    }
    if closed.contains_key("properties") && fields.get("x-kubernetes-preserve-unknown-fields").is_none() {
        closed.entry("additionalProperties").or_insert(json!(false));
    }
    if let (Some(true), Some(kind)) = (fields.get("nullable").and_then(Value::as_bool), fields.get("type")) {
        closed.insert("type".to_owned(), json!([kind, "null"]));
    }
    Value::Object(closed)
}

/// What a definition has against an object.
fn refusals(definition: &Definition, object: &Value) -> Vec<String> {
    let errors = definition.validator.iter_errors(object);
    let mut refusals: Vec<String> = errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
    if definition.id.ends_with(" InferencePool") {
        refusals.extend(pool_rules(&definition.schema, object));
    }
    refusals
}

/// The rules of an InferencePool's definition that an object breaks.
fn pool_rules(schema: &Value, object: &Value) -> Vec<String> {
    let mut rules = Vec::new();
    chart_tests::walk(schema, &mut |map| {
        let found = map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
        rules.extend(found.filter_map(|rule| rule["rule"].as_str().map(str::to_owned)));
    });
    let holds = |rule: &str| match rule {
        "self.kind != 'Service' || has(self.port)" => {
            let picker = &object["spec"]["endpointPickerRef"];
            let kind = picker["kind"].as_str().unwrap_or("Service");
            picker.is_null() || kind != "Service" || !picker["port"].is_null()
        }
        "self.all(p1, self.exists_one(p2, p1.number==p2.number))" => {
            let ports: Vec<&Value> = object["spec"]["targetPorts"].as_array().into_iter().flatten().collect();
            ports.iter().all(|port| ports.iter().filter(|other| other == &port).count() == 1)
        }
        _ => panic!("write this rule here: {rule}"),
    };
    rules.into_iter().filter(|rule| !holds(rule)).collect()
}

/// A release of the Inference Extension, and values that suit it.
const RELEASES: [(&str, &str); 10] = [
    ("gaie-v1.0.0", r#"inferencePool.gieVersion="1.0.0""#),
    ("gaie-v1.0.0", r#"inferencePool.apiVersion="inference.networking.x-k8s.io/v1alpha2""#),
    ("gaie-v1.1.0", r#"inferencePool.gieVersion="""#),
    ("gaie-v1.1.0", r#"inferencePool.gieVersion="v1.1""#),
    ("gaie-v1.4.0", r#"inferencePool.gieVersion="""#),
    ("gaie-v1.4.0", r#"inferencePool.gieVersion="1.4.0""#),
    ("gaie-v1.5.0", r#"inferencePool.gieVersion="1.5.0""#),
    ("gaie-v1.5.0", r#"inferencePool.gieVersion="""#),
    ("gaie-v1.6.0", r#"inferencePool.gieVersion="""#),
    ("gaie-v1.6.0", r#"inferencePool.gieVersion="1.6.0""#),
];

#[test]
fn every_definition_takes_what_is_rendered_for_it() -> anyhow::Result<()> {
    let definitions = definitions()?;
    let mut checked: BTreeMap<(String, String), usize> = BTreeMap::new();
    for provider in PROVIDERS {
        for example in examples()? {
            for (release, value) in RELEASES {
                let mut setup = Setup::new(&example, provider);
                let is_single = release == "gaie-v1.0.0";
                if is_single && provider != "istio" && example.ends_with("two-pools.yaml") {
                    setup.more.push(r#"pools[1].targetPorts=[{"number":8000}]"#.to_owned());
                }
                setup.more.push(value.to_owned());
                let objects = setup.objects()?;
                assert!(!of_kind(&objects, "InferencePool").is_empty(), "{setup:?}");
                for object in &objects {
                    let (api, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
                    let id = format!("{} {}", api.unwrap_or_default(), kind.unwrap_or_default());
                    let is_for = |definition: &&Definition| {
                        definition.id == id
                            && (!definition.release.starts_with("gaie-") || definition.release == release)
                    };
                    for definition in definitions.iter().filter(is_for) {
                        let refusals = refusals(definition, object);
                        let name = &definition.release;
                        assert!(refusals.is_empty(), "{setup:?}: {name} {id}: {refusals:#?}\n{object:#}");
                        *checked.entry((name.clone(), id.clone())).or_default() += 1;
                    }
                }
            }
        }
    }
    let releases: Vec<&str> = checked.keys().map(|(release, _)| release.as_str()).collect();
    for wanted in [
        "gaie-v1.0.0",
        "gaie-v1.1.0",
        "gaie-v1.4.0",
        "gaie-v1.5.0",
        "gaie-v1.6.0",
        "gw-v1.5.1-standard",
        "eg-v1.9.0",
        "istio-1.30.3",
    ] {
        assert!(releases.contains(&wanted), "nothing was checked by {wanted}: {checked:?}");
    }
    Ok(())
}

#[test]
fn definitions_refuse_what_is_wrong() -> anyhow::Result<()> {
    let definitions = definitions()?;
    let objects = Setup::quickstart("none").objects()?;
    let pool = of_kind(&objects, "InferencePool").pop().context("no InferencePool")?;
    let refused_by = |change: &dyn Fn(&mut Value)| {
        let mut object = pool.clone();
        change(&mut object);
        let id = format!("{} InferencePool", object["apiVersion"].as_str().unwrap_or_default());
        let of_pools = definitions.iter().filter(move |definition| definition.id == id);
        let mut releases: Vec<String> = of_pools
            .filter(|definition| !refusals(definition, &object).is_empty())
            .map(|definition| definition.release.trim_start_matches("gaie-v").to_owned())
            .collect();
        releases.sort();
        releases.join(" ")
    };
    let all = "1.0.0 1.1.0 1.4.0 1.5.0 1.6.0";
    assert_eq!(refused_by(&|_| {}), "");
    assert_eq!(refused_by(&|pool| pool["spec"]["endpointPickerRef"] = Value::Null), all, "null is no reference");
    assert_eq!(
        refused_by(&|pool| drop(pool["spec"].as_object_mut().unwrap().remove("endpointPickerRef"))),
        "1.0.0 1.1.0 1.4.0 1.5.0"
    );
    assert_eq!(refused_by(&|pool| pool["spec"]["appProtocol"] = json!("kubernetes.io/h2c")), "1.0.0 1.1.0");
    assert_eq!(refused_by(&|pool| pool["spec"]["targetPorts"] = json!([{"number": 1}, {"number": 2}])), "1.0.0");
    assert_eq!(refused_by(&|pool| pool["spec"]["targetPorts"] = json!([{"number": 1}, {"number": 1}])), all);
    assert_eq!(
        refused_by(&|pool| pool["spec"]["endpointPickerRef"] = json!({"name": "epp"})),
        all,
        "a Service has a port"
    );
    assert_eq!(refused_by(&|pool| pool["spec"]["unknown"] = json!(1)), all);
    Ok(())
}

#[test]
fn a_pool_says_truly_who_picks() -> anyhow::Result<()> {
    for provider in PROVIDERS {
        let objects = Setup::quickstart(provider).objects()?;
        let picker =
            &of_kind(&objects, "InferencePool").pop().context("no InferencePool")?["spec"]["endpointPickerRef"];
        assert_eq!(picker["failureMode"], "FailOpen", "{provider}");
        let (kind, name) = (picker["kind"].as_str().unwrap_or("Service"), picker["name"].as_str().context("no name")?);
        let port = &picker["port"]["number"];
        let rendered = of_kind(&objects, kind).into_iter().find(|object| object["metadata"]["name"] == name);
        match provider {
            // Istio makes the Service itself, with the ports of the Gateway's listeners.
            "istio" => assert_eq!((kind, name, port), ("Service", "llm-gateway-istio", &json!(80))),
            "envoy-gateway" => {
                assert_eq!(rendered.context("no such Gateway")?["spec"]["listeners"][0]["port"], *port);
            }
            _ => assert_eq!(rendered.context("no such Service")?["spec"]["ports"][0]["port"], *port, "{provider}"),
        }
        // With a picker of the user's it is that one, and without need it is none.
        let written = json!({"name": "epp", "port": {"number": 9002}});
        let own = format!("inferencePool.endpointPickerRef={written}");
        for (more, wanted) in
            [(vec![own], written), (vec![r#"inferencePool.gieVersion="1.6.0""#.to_owned()], Value::Null)]
        {
            let objects = Setup { more, ..Setup::quickstart(provider) }.objects()?;
            assert_eq!(of_kind(&objects, "InferencePool")[0]["spec"]["endpointPickerRef"], wanted, "{provider}");
        }
    }
    Ok(())
}

#[test]
fn a_cluster_that_has_the_older_kind_alone_gets_it() -> anyhow::Result<()> {
    let setup = Setup::quickstart("none");
    let api_version = |versions: &[&str]| -> anyhow::Result<Value> {
        let mut command = vec!["template", "llm"];
        for version in versions {
            command.extend(["--api-versions", version]);
        }
        let output = setup.helm(&command)?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let objects = chart_tests::documents(&String::from_utf8(output.stdout)?)?;
        Ok(of_kind(&objects, "InferencePool").pop().context("no InferencePool")?["apiVersion"].clone())
    };
    let (old, new) =
        ("inference.networking.x-k8s.io/v1alpha2/InferencePool", "inference.networking.k8s.io/v1/InferencePool");
    assert_eq!(api_version(&[])?, "inference.networking.k8s.io/v1");
    assert_eq!(api_version(&[old, new])?, "inference.networking.k8s.io/v1");
    assert_eq!(api_version(&[old])?, "inference.networking.x-k8s.io/v1alpha2");
    Ok(())
}
