//! What a module is made of: a CycloneDX document of the crates that its own crate reaches in `Cargo.lock`.
//!
//! A lock file does not say which dependencies only tests have, so a few of those are listed; none is missing.

use std::collections::BTreeSet;

use anyhow::Context;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::image;

/// The document's media type, and the type of the artifact that carries it.
pub(super) const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// The lock file that this program was built with; the modules are built with the same.
const LOCK: &str = include_str!("../../../Cargo.lock");

#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Where it comes from; crates of this repository come from nowhere.
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Package {
    fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Whether a dependency, `name` or `name version` or `name version (source)`, means this package.
    fn is_meant_by(&self, dependency: &str) -> bool {
        let mut parts = dependency.split(' ');
        parts.next() == Some(&self.name) && parts.next().is_none_or(|version| version == self.version)
    }

    fn component(&self) -> Value {
        let mut component =
            json!({"type": "library", "bom-ref": self.id(), "name": self.name, "version": self.version});
        if let Some(fields) = component.as_object_mut() {
            // Crates of this repository are not published, and a package of the same name may be somebody else's.
            if self.source.is_some() {
                fields.insert("purl".to_owned(), json!(format!("pkg:cargo/{}", self.id())));
            }
            if let Some(checksum) = &self.checksum {
                fields.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": checksum}]));
            }
        }
        component
    }
}

/// The document for a module that is built from the crate `package`.
pub(super) fn document(
    package: &str,
    name: &str,
    module: &Bytes,
    created: Option<DateTime<Utc>>,
) -> anyhow::Result<Bytes> {
    let lock: Lock = toml::from_str(LOCK).context("the Cargo.lock of this build cannot be read")?;
    let packages = reached(&lock.package, package);
    let dependencies: Vec<Value> = packages.iter().map(|package| depends(&lock.package, package)).collect();
    let components: Vec<Value> = packages.iter().map(|package| package.component()).collect();
    let sha256 = image::sha256(module).replace("sha256:", "");
    let mut metadata = json!({"component": {
        "type": "application",
        "name": name,
        "version": env!("CARGO_PKG_VERSION"),
        "licenses": [{"license": {"id": env!("CARGO_PKG_LICENSE")}}],
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }});
    if let (Some(created), Some(fields)) = (created, metadata.as_object_mut()) {
        fields.insert("timestamp".to_owned(), json!(image::rfc3339(created)));
    }
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": dependencies,
    });
    Ok(Bytes::from(serde_json::to_vec(&document)?))
}

/// The crate of this name and all that it needs, in the lock file's order.
fn reached<'a>(packages: &'a [Package], root: &str) -> Vec<&'a Package> {
    let mut found: BTreeSet<usize> = BTreeSet::new();
    let mut wanted = vec![root];
    while let Some(dependency) = wanted.pop() {
        for (index, package) in packages.iter().enumerate() {
            if package.is_meant_by(dependency) && found.insert(index) {
                wanted.extend(package.dependencies.iter().map(String::as_str));
            }
        }
    }
    found.into_iter().filter_map(|index| packages.get(index)).collect()
}

fn depends(packages: &[Package], package: &Package) -> Value {
    let is_meant = |other: &&Package| package.dependencies.iter().any(|dependency| other.is_meant_by(dependency));
    let needs: Vec<String> = packages.iter().filter(is_meant).map(Package::id).collect();
    json!({"ref": package.id(), "dependsOn": needs})
}

#[cfg(test)]
mod tests {
    use super::{Lock, Package, reached};

    #[test]
    fn a_module_lists_what_its_crate_reaches() {
        let lock: Lock = toml::from_str(
            r#"
            version = 4
            package = [
                {name = "a", version = "1.0.0", source = "registry", checksum = "00", dependencies = ["b 2.0.0"]},
                {name = "b", version = "1.0.0"},
                {name = "b", version = "2.0.0", dependencies = ["a"]},
                {name = "c", version = "1.0.0", dependencies = ["a", "b 1.0.0 (registry)"]},
            ]"#,
        )
        .expect("a lock file");
        let names = |root| reached(&lock.package, root).into_iter().map(Package::id).collect::<Vec<_>>();
        assert_eq!(names("a"), ["a@1.0.0", "b@2.0.0"]);
        assert_eq!(names("c"), ["a@1.0.0", "b@1.0.0", "b@2.0.0", "c@1.0.0"]);
        assert_eq!(names("d"), Vec::<String>::new());
    }
}
