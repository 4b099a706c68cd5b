//! Envoy's own validation of a bootstrap, with files of this machine in the place of those in a pod.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use inferencectl::demo::scratch;
use serde_json::Value;

use crate::root;

/// Where a pod has the token.
const TOKENS: [&str; 2] = ["/var/run/secrets/kubernetes.io/serviceaccount", "/var/run/secrets/inference-plugin"];
/// Where a pod has the files that lead to it.
const SDS: [&str; 2] = ["/etc/envoy", "/etc/inference-plugin"];

/// Fails with Envoy's log where Envoy would not start with this bootstrap, or warns of a field.
///
/// `sds` are the files by which Envoy reads the token and the authority, where there are any.
pub fn validate(bootstrap: &Value, sds: &[(&str, &str)]) -> anyhow::Result<()> {
    let folder = scratch("chart")?;
    let path = folder.path();
    let authority = rcgen::generate_simple_self_signed(vec!["kubernetes.default.svc".to_owned()])?.cert.pem();
    std::fs::write(path.join("ca.crt"), authority)?;
    std::fs::write(path.join("token"), "a-token")?;
    for (name, text) in sds {
        let text = localize(text, path)?;
        // A Secret of SDS is read when Envoy runs, so that it can be read is seen here.
        let secret = crate::document(&text)?;
        ensure!(secret["resources"][0]["name"].is_string(), "{name} names no secret");
        std::fs::write(path.join(name), text)?;
    }
    let text = localize(&bootstrap.to_string(), path)?;
    let file = path.join("envoy.json");
    std::fs::write(&file, &text)?;
    let output = Command::new(inferencectl::envoy::binary()?.canonicalize()?)
        .args(["--mode", "validate", "--disable-hot-restart", "--config-path"])
        .arg(&file)
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{log}\n{text}");
    let old: Vec<&str> = log.lines().filter(|line| line.contains("Deprecated field")).collect();
    ensure!(old.is_empty(), "{old:#?}");
    Ok(())
}

/// A configuration's text with files of this machine in the place of those in a pod; certificates are in `folder`.
pub fn localize(text: &str, folder: &Path) -> anyhow::Result<String> {
    let dist = root().join("dist").canonicalize().context("there are no modules: run ./build.sh")?;
    let at = |path: &Path| path.to_string_lossy().into_owned();
    let mut text = text.to_owned();
    for module in ["inference", "metrics-poller"] {
        let file = at(&dist.join(format!("{module}.wasm")));
        ensure!(Path::new(&file).exists(), "{file} is missing: run ./build.sh");
        text = text.replace(&format!("\"/plugin/{module}/plugin.wasm\""), &format!("{file:?}"));
        text = text.replace(&format!("\"/plugin/{module}.wasm\""), &format!("{file:?}"));
    }
    text = text.replace("/etc/ssl/certs/ca-certificates.crt", &at(&folder.join("ca.crt")));
    for place in TOKENS.into_iter().chain(SDS) {
        text = text.replace(place, &at(folder));
    }
    Ok(text)
}
