//! What ships as an example is valid and up to date.

use std::process::Command;

use anyhow::Context;
use envoy_tests::root;
use inferencectl::check;
use inferencectl::client::Address;
use inferencectl::envoy;
use inferencectl::render::Bootstrap;

#[test]
fn every_shipped_yaml_passes_envoys_validation() -> anyhow::Result<()> {
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("envoy"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let output = Command::new(envoy::binary()?.canonicalize()?)
            .current_dir(root())
            .args(["--mode", "validate", "--config-path"])
            .arg(&path)
            .output()?;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {log}", path.display());
        assert_eq!(log.lines().find(|line| line.contains("Deprecated field")), None, "{}", path.display());
        checked += 1;
    }
    assert!(checked > 0, "there is no example");
    Ok(())
}

#[test]
fn every_example_of_plugin_json_renders_to_what_envoy_takes() -> anyhow::Result<()> {
    let folder = inferencectl::demo::scratch("examples")?;
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("envoy/examples"))? {
        let path = entry?.path();
        let json = std::fs::read_to_string(&path)?;
        let config = check::load(json.as_bytes()).with_context(|| path.display().to_string())?;
        let free = "127.0.0.1:0".parse()?;
        let bootstrap = Bootstrap::new(&json, &config, free, free, &root().join("dist"));
        let yaml = folder.path().join("envoy.yaml");
        std::fs::write(&yaml, bootstrap.yaml())?;
        let output =
            Command::new(envoy::binary()?).args(["--mode", "validate", "--config-path"]).arg(&yaml).output()?;
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert!(checked >= 3, "{checked} examples");
    Ok(())
}

#[test]
fn the_example_is_what_render_writes() -> anyhow::Result<()> {
    let json = std::fs::read_to_string(root().join("envoy/plugin.json"))?;
    let config = check::load(json.as_bytes())?;
    let bootstrap = Bootstrap::new(
        &json,
        &config,
        "127.0.0.1:8080".parse()?,
        Address::Tcp("127.0.0.1:9901".parse()?),
        "dist".as_ref(),
    );
    let shipped = std::fs::read_to_string(root().join("envoy/envoy.yaml"))?;
    assert!(bootstrap.yaml() == shipped, "envoy/envoy.yaml is stale: run ./build.sh docs");
    Ok(())
}
