//! `inferencectl reference`: the manual pages that are generated from the types, so that they cannot go stale.
//!
//! `docs/config.md`, `docs/plugin.schema.json` and `docs/metrics.md` are this module's output; a test compares.

use std::fmt::Write;

use clap::ValueEnum;
use inference_plugin::config::raw;
use inference_plugin::stats::{FAMILIES, Kind};
use serde_json::{Map, Value};

/// A generated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// The manual of the plugin JSON: docs/config.md.
    Config,
    /// Its JSON schema: docs/plugin.schema.json.
    Schema,
    /// The metrics: docs/metrics.md.
    Metrics,
}

impl Page {
    /// Every page with its place in the repository.
    pub const ALL: [(Page, &'static str); 3] = [
        (Page::Config, "docs/config.md"),
        (Page::Schema, "docs/plugin.schema.json"),
        (Page::Metrics, "docs/metrics.md"),
    ];

    /// The page's text.
    pub fn text(self) -> String {
        match self {
            Page::Config => config_manual(),
            Page::Schema => format!("{:#}\n", schema()),
            Page::Metrics => metrics_manual(),
        }
    }
}

fn schema() -> Value {
    Value::from(schemars::schema_for!(raw::Config))
}

fn config_manual() -> String {
    let schema = schema();
    let mut page = String::from(
        "# The plugin JSON\n\n\
         Written by `inferencectl reference config`; `docs/plugin.schema.json` is the same for editors.\n\n\
         Unknown keys are errors. Durations are strings as in the Gateway API, such as `\"200ms\"` or `\"1m30s\"`. \
         Sizes are integers, with the unit in the key. `inferencectl check FILE` reports every mistake at once, each with its path; \
         Envoy refuses to start with a document that has one, and logs the same list.\n",
    );
    section(&mut page, "Configuration", &schema);
    for (name, definition) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
        section(&mut page, name, definition);
    }
    page
}

fn section(page: &mut String, name: &str, definition: &Value) {
    // Writing to a String cannot fail.
    let _ = write!(page, "\n## {name}\n\n{}\n", description(definition));
    if let Some(properties) = definition.get("properties").and_then(Value::as_object) {
        table(page, properties);
    }
    let variants = definition.get("oneOf").or_else(|| definition.get("anyOf")).and_then(Value::as_array);
    for variant in variants.into_iter().flatten() {
        let label = match variant.get("const") {
            Some(value) => format!("`{value}`"),
            None => kind(variant),
        };
        let _ = write!(page, "\n- {label}: {}", description(variant));
    }
    if variants.is_some() {
        page.push('\n');
    }
}

fn table(page: &mut String, properties: &Map<String, Value>) {
    page.push_str("\n| Key | Type | Meaning |\n|---|---|---|\n");
    for (key, property) in properties {
        let _ = writeln!(page, "| `{key}` | {} | {} |", kind(property), description(property).replace('|', "\\|"));
    }
}

fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A type in a few words, with a link where it has a section of its own.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let alternatives = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array());
    if let Some(alternatives) = alternatives {
        let kinds: Vec<String> = alternatives.iter().map(kind).filter(|kind| kind != "null").collect();
        return kinds.join(" or ");
    }
    if let Some(items) = schema.get("items") {
        return format!("list of {}", kind(items));
    }
    match schema.get("type") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
            names.join(" or ")
        }
        _ => "any".to_owned(),
    }
}

fn metrics_manual() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Written by `inferencectl reference metrics`. Envoy exports Wasm metrics on `/stats/prometheus` without a prefix, and as \
         `wasmcustom.NAME` on `/stats`. The labels stand in the names as `;key=value`; the `stats_tags` of a bootstrap from \
         `inferencectl render` make them labels. Only configured names become label values, so the number of series is bounded by the configuration.\n\n\
         | Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(page, "| `{}` | {kind} | {} | {} |", family.name, labels.join(", "), family.help);
    }
    page
}
