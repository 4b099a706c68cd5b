//! The tree keeps its own rules.

use std::fs;
use std::path::{Path, PathBuf};

/// Above its tests, a file is one idea.
const MAX_LINES: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "dist" && name != "corpus" {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_file_says_what_it_is() {
    let sources = files(".", "rs");
    assert!(sources.len() > 50, "the sources were not found");
    for path in sources {
        let text = text(&path);
        let first = text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
        assert!(first.starts_with("//!"), "{} does not open with //!", path.display());
    }
}

#[test]
fn a_file_is_one_idea() {
    for path in files(".", "rs") {
        let lines = text(&path).lines().take_while(|line| *line != "#[cfg(test)]").count();
        let is_test = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        let is_simulator = path.components().any(|part| part.as_os_str() == "simulator");
        assert!(lines <= MAX_LINES || (is_test && !is_simulator), "{}: {lines} lines above its tests", path.display());
    }
}

#[test]
fn no_test_is_ignored_and_none_wants_a_panic() {
    for path in files(".", "rs") {
        for banned in [concat!("#[ign", "ore"), concat!("#[should", "_panic")] {
            assert!(!text(&path).contains(banned), "{} contains {banned}", path.display());
        }
    }
}

#[test]
fn hostcalls_are_named_in_one_crate() {
    for path in files("src", "rs") {
        assert!(!text(&path).contains("proxy_wasm"), "{}: the core knows no host", path.display());
    }
    for folder in ["filters/inference", "filters/metrics-poller"] {
        for path in files(folder, "rs") {
            let text = text(&path);
            let shipped = text.split("#[cfg(feature = \"fault-injection\")]\nmod fault").next().unwrap_or_default();
            assert!(!shipped.contains("hostcalls"), "{} names hostcalls", path.display());
        }
    }
}

#[test]
fn the_simulator_shares_no_code_with_the_product() {
    let manifest = text(&root().join("tests/simulator/Cargo.toml"));
    assert!(!manifest.contains("inference"), "the simulator depends on the product");
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut checked = 0;
    for path in files(".", "md") {
        for word in text(&path).split('`').skip(1).step_by(2) {
            let is_path = ["src/", "filters/", "cli/", "tests/", "envoy/", "docs/", "./build.sh", "toolchain.sh"]
                .iter()
                .any(|start| word.starts_with(start));
            let place = word.split([' ', ':', '*']).next().unwrap_or_default();
            if is_path && !place.contains('<') {
                checked += 1;
                assert!(root().join(place).exists(), "{} names {word}, which is not there", path.display());
            }
        }
    }
    assert!(checked > 20, "only {checked} paths were found");
}
