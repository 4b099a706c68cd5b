//! Generated pages are what the types say today.

use std::path::Path;
use std::process::{Command, Output};

use inferencectl::reference::Page;

#[test]
fn every_generated_page_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (page, path) in Page::ALL {
        let shipped = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(page.text() == shipped, "{path} is stale: run ./build.sh docs");
    }
}

#[test]
fn check_and_render_say_what_is_wrong_and_exit_with_it() -> anyhow::Result<()> {
    let run = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_inferencectl")).args(arguments).output();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let good = root.join("envoy/plugin.json");
    let output = run(&["check", &good.to_string_lossy()])?;
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("ok: 2 pools, 5 endpoints, 5 model names\n"));
    let folder = inferencectl::demo::scratch("check")?;
    let bad = folder.path().join("bad.json");
    std::fs::write(
        &bad,
        r#"{"pools": [{"name": "a", "baseModel": "m", "endpoints": {"static": ["10.0.0.1"]}}], "x": 1}"#,
    )?;
    for command in ["check", "render"] {
        let output = run(&[command, &bad.to_string_lossy()])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty(), "{command}: {error}");
        assert!(error.contains("2 mistakes") && error.contains("\"10.0.0.1\" has no port"), "{command}: {error}");
    }
    let output = run(&["check", "no-such-file.json"])?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read no-such-file.json"));
    Ok(())
}

#[test]
fn render_takes_any_document_and_address() -> anyhow::Result<()> {
    let folder = inferencectl::demo::scratch("render")?;
    let file = folder.path().join("plugin.json");
    // An indented first line, names with every kind of quote, and IPv6.
    let name = r#"a \"quoted\" 'model': {x} # %y%"#;
    std::fs::write(
        &file,
        format!(
            "    {{\"pools\": [\n  {{\"name\": \"team/a\", \"baseModel\": \"{name}\", \"endpoints\": {{\"static\": [\"[::1]:8000\"]}}}}]}}"
        ),
    )?;
    render(&file, folder.path(), &["--listen", "[::1]:8080", "--admin", "[::1]:9901"])?;
    Ok(())
}

#[test]
fn render_takes_a_unix_socket_and_several_ports() -> anyhow::Result<()> {
    let folder = inferencectl::demo::scratch("render")?;
    let file = folder.path().join("plugin.json");
    std::fs::write(&file, r#"{"pools": [{"name": "hosts", "baseModel": "n", "endpoints": {"envoyAdmin": {}}}]}"#)?;
    let socket = folder.path().join("admin.sock");
    let yaml = render(&file, folder.path(), &["--admin", &socket.to_string_lossy(), "--target-port", "8000,8001"])?;
    let pipe = format!("pipe: {{path: \"{}\"", socket.display());
    assert_eq!(yaml.matches(&pipe).count(), 2, "the interface and its cluster:\n{yaml}");
    for port in [8000, 8001] {
        assert!(yaml.contains(&format!("{{address: \"hosts\", port_value: {port}}}")), "{port}:\n{yaml}");
    }
    let unknown = folder.path().join("unknown.json");
    std::fs::write(&unknown, r#"{"pools": [{"name": "team/a", "baseModel": "n", "endpoints": {"envoyAdmin": {}}}]}"#)?;
    let output = inferencectl(&unknown, &[])?;
    assert!(String::from_utf8_lossy(&output.stderr).contains("is none of a host"), "{output:?}");
    for (arguments, why) in [
        (["--admin", "localhost:9901"], "neither IP:PORT nor the /PATH of a Unix socket"),
        (["--h2c", "nobody"], "there is no pool \"nobody\""),
        (["--target-port", "0"], "0 is not in 1..=65535"),
        (["--target-port", "1,2,3,4,5,6,7,8,9"], "an InferencePool has at most 8 ports"),
    ] {
        let output = inferencectl(&file, &arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(why), "{error}");
    }
    Ok(())
}

fn inferencectl(file: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_inferencectl")).arg("render").arg(file).args(arguments).output()
}

/// Renders a document and lets Envoy validate what comes of it.
fn render(file: &Path, folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
    let output = inferencectl(file, &[arguments, &["--wasm-dir", &dist.to_string_lossy()]].concat())?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bootstrap = folder.join("envoy.yaml");
    std::fs::write(&bootstrap, &output.stdout)?;
    let validation = Command::new(inferencectl::envoy::binary()?)
        .args(["--mode", "validate", "--config-path"])
        .arg(&bootstrap)
        .output()?;
    anyhow::ensure!(validation.status.success(), "{}", String::from_utf8_lossy(&validation.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
