//! Where the modules go: a registry, a repository and a tag.

use anyhow::{Context, bail, ensure};
use oci_client::Reference;

/// A checked `registry/repository:tag`.
#[derive(Clone, Debug)]
pub(super) struct Target {
    repository: String,
    tag: String,
}

impl Target {
    /// Reads what a user wrote.
    pub(super) fn parse(text: &str, default_tag: &str) -> anyhow::Result<Target> {
        let wrong = |why: &str| format!("{text:?} is not registry/repository[:tag]: {why}");
        ensure!(!text.contains("://"), wrong("leave out the scheme; --plain-http chooses HTTP"));
        ensure!(!text.contains('@'), wrong("a digest comes out of a push and cannot be chosen"));
        let Some((registry, path)) = text.split_once('/') else {
            bail!(wrong("the registry or the repository is missing"));
        };
        // Docker takes a first part without a dot or a port for a user of its own hub; nobody shall push there by mistake.
        ensure!(
            registry.contains(['.', ':']) || registry == "localhost",
            wrong("the registry is missing, such as ghcr.io or localhost:5000")
        );
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag),
            None => (path, default_tag),
        };
        let target = Target { repository: format!("{registry}/{repository}"), tag: tag.to_owned() };
        target.module("inference", "-image").with_context(|| format!("{text:?} is not registry/repository[:tag]"))?;
        Ok(target)
    }

    /// Where a module goes.
    pub(super) fn module(&self, name: &str, tag_suffix: &str) -> anyhow::Result<Reference> {
        let text = format!("{}/{name}:{}{tag_suffix}", self.repository, self.tag);
        text.parse().with_context(|| format!("{text:?} is not a reference that a registry takes"))
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn references_are_checked() {
        let told = |text: &str| match Target::parse(text, "0.1.0").and_then(|target| target.module("inference", "")) {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("{error:#}"),
        };
        assert_eq!(told("ghcr.io/team/plugin"), "ghcr.io/team/plugin/inference:0.1.0");
        assert_eq!(told("localhost:5000/plugin:v1"), "localhost:5000/plugin/inference:v1");
        for (wrong, why) in [
            ("plugin", "the registry or the repository is missing"),
            ("team/plugin", "the registry is missing"),
            ("https://ghcr.io/team/plugin", "leave out the scheme"),
            ("ghcr.io/team/plugin@sha256:00", "a digest comes out of a push"),
            ("ghcr.io/Team/plugin", "is not registry/repository[:tag]"),
            ("ghcr.io/team/plugin:", "is not registry/repository[:tag]"),
            ("ghcr.io/", "is not registry/repository[:tag]"),
        ] {
            assert!(told(wrong).contains(why), "{wrong}: {}", told(wrong));
        }
    }
}
