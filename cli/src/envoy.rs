//! A real Envoy as a child process: started on free ports, awaited, stopped by its pid.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::client::{self, Address, Answer};

/// Compiling two Wasm modules takes a second or two, and these machines pause for as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Envoy. Dropping it stops it.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    folder: PathBuf,
    listen: SocketAddr,
    admin: Address,
}

/// The Envoy to run: `ENVOY_BIN`, or the one that `./build.sh` put into `.tools`.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        return Ok(PathBuf::from(path));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in [Path::new("."), &root] {
        let candidate = folder.join(".tools/envoy/envoy");
        if candidate.exists() {
            return Ok(candidate);
        }
    }
    bail!("no Envoy: set ENVOY_BIN, or run ./build.sh setup")
}

impl Envoy {
    /// Starts Envoy with a bootstrap and waits until it serves. `folder` gets its files.
    pub async fn start(bootstrap: &str, folder: &Path, concurrency: u32) -> anyhow::Result<Envoy> {
        std::fs::create_dir_all(folder)?;
        let config = folder.join("envoy.yaml");
        let admin_file = folder.join("admin.address");
        write(&config, bootstrap)?;
        let _ = std::fs::remove_file(&admin_file);
        let log = std::fs::File::create(folder.join("envoy.log"))?;
        let child = Command::new(binary()?)
            .args(["--concurrency", &concurrency.to_string(), "--disable-hot-restart", "--log-level", "warn"])
            .args(["--component-log-level", "wasm:info", "--config-path"])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start Envoy")?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Envoy { child, folder: folder.to_owned(), listen: unknown, admin: unknown.into() };
        envoy.wait_until_ready(&admin_file).await?;
        Ok(envoy)
    }

    async fn wait_until_ready(&mut self, admin_file: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("Envoy ended with {status}:\n{}", self.log());
            }
            if let Some(admin) = read(admin_file).ok().and_then(|text| text.trim().parse().ok()) {
                self.admin = admin;
                let ready = self.ask_admin("/ready").await;
                if ready.is_ok_and(|answer| answer.status == 200) {
                    self.listen = self.listener().await?;
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                bail!("Envoy is not ready after {PATIENCE:?}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn listener(&self) -> anyhow::Result<SocketAddr> {
        let text = self.ask_admin("/listeners?format=text").await?.text();
        // One line for each listener: name::address
        let address = text.lines().find_map(|line| line.strip_prefix("inference::"));
        address.and_then(|address| address.parse().ok()).with_context(|| format!("no listener in {text:?}"))
    }

    /// Where it serves.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where its admin interface is.
    pub fn admin(&self) -> &Address {
        &self.admin
    }

    /// What the admin interface answers.
    pub async fn ask_admin(&self, path: &str) -> anyhow::Result<Answer> {
        client::get(self.admin.clone(), path).await
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        read(&self.folder.join("envoy.log")).unwrap_or_default()
    }

    /// The access log, where the bootstrap names `access.log` in this Envoy's folder.
    pub fn access_log(&self) -> String {
        read(&self.folder.join("access.log")).unwrap_or_default()
    }

    /// The value of a counter or gauge, by its name in the admin's statistics; `None` while it isn't there.
    pub async fn stat(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let text = self.ask_admin("/stats").await?.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.and_then(|value| value.trim().parse().ok()))
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
