//! Modules to push, the command that does it, and what it says.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use inferencectl::demo::{Scratch, scratch};
use serde_json::Value;

/// Two modules, and an empty configuration of docker's.
pub(crate) struct Modules {
    pub(crate) folder: Scratch,
}

impl Modules {
    pub(crate) fn new() -> Modules {
        Modules::of(1_000)
    }

    /// Bytes that begin as a module, and look like noise to gzip.
    pub(crate) fn of(bytes: usize) -> Modules {
        let folder = scratch("modules").expect("a folder");
        for (name, seed) in [("inference.wasm", 1_u32), ("poller.wasm", 2)] {
            let mut module = b"\0asm\x01\0\0\0".to_vec();
            let mut state = seed;
            while module.len() < bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                module.push((state >> 24) as u8);
            }
            std::fs::write(folder.path().join(name), module).expect("a file");
        }
        Modules { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a file")
    }

    pub(crate) fn docker_config(&self, config: &Value) {
        std::fs::write(self.path("config.json"), config.to_string()).expect("a file");
    }

    /// A program that the command finds before all others.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }

    pub(crate) fn command(&self, reference: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inferencectl"));
        command.arg("push").arg(reference).arg("--inference").arg(self.path("inference.wasm"));
        command.arg("--poller").arg(self.path("poller.wasm")).args(more);
        command.env("DOCKER_CONFIG", self.folder.path()).env_remove("SOURCE_DATE_EPOCH").stdin(Stdio::null());
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        command
    }

    pub(crate) fn push(&self, reference: &str, more: &[&str]) -> Told {
        told(&mut self.command(reference, &[&["--plain-http"], more].concat()))
    }
}

/// What a command printed.
pub(crate) struct Told {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    pub(crate) fn good(self) -> Told {
        assert!(self.ok, "{}\n{}", self.out, self.err);
        self
    }

    pub(crate) fn bad(self, why: &str) -> Told {
        assert!(!self.ok && self.err.contains(why), "no {why:?} in:\n{}\n{}", self.out, self.err);
        self
    }

    pub(crate) fn digests(&self) -> Vec<String> {
        self.out.lines().filter_map(|line| line.strip_prefix("  digest: ")).map(str::to_owned).collect()
    }
}

pub(crate) fn told(command: &mut Command) -> Told {
    let output = command.output().expect("inferencectl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}
