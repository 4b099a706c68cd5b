//! Signatures, by the external program cosign.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Finds out before a push whether it could be signed.
pub(super) fn check(key: &Path) -> anyhow::Result<()> {
    ensure!(key.is_file(), "cannot read the cosign key {}", key.display());
    let path = std::env::var_os("PATH").unwrap_or_default();
    ensure!(
        std::env::split_paths(&path).any(|folder| folder.join("cosign").is_file()),
        "cosign is not on PATH: install it from https://github.com/sigstore/cosign, or leave out --cosign-key"
    );
    Ok(())
}

/// Signs what was pushed. Cosign asks for the key's password itself, or takes it from COSIGN_PASSWORD.
pub(super) fn run(key: &Path, reference: &str) -> anyhow::Result<()> {
    let status = Command::new("cosign")
        .args(["sign", "--key"])
        .arg(key)
        .args(["--yes", reference])
        .stdout(Stdio::null())
        .status()
        .context("cannot run cosign")?;
    ensure!(status.success(), "{reference} is pushed but not signed: cosign ended with {status}");
    Ok(())
}
