//! The command's arguments, and what is wrong with them.

use std::path::PathBuf;

use clap::Args;

use super::{Bootstrap, Hosts, OPEN_PATHS};
use crate::check;
use crate::client::Address;

/// What to render.
#[derive(Clone, Debug, Args)]
pub struct RenderArgs {
    /// The plugin JSON document; - for standard input.
    pub file: PathBuf,
    /// Where Envoy listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: std::net::SocketAddr,
    /// Where Envoy's admin interface listens: IP:PORT, or the /PATH of a Unix socket.
    #[arg(long, default_value = "127.0.0.1:9901")]
    pub admin: Address,
    /// The folder with inference.wasm and metrics-poller.wasm, as Envoy sees it.
    #[arg(long, default_value = "dist")]
    pub wasm_dir: PathBuf,
    /// The ports of discovered pools' servers, where the plugin JSON doesn't say them: 1 to 8, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "8000", value_parser = clap::value_parser!(u16).range(1..))]
    pub target_port: Vec<u16>,
    /// A pool whose servers speak HTTP/2 without TLS; may be repeated.
    #[arg(long, value_name = "POOL")]
    pub h2c: Vec<String>,
    /// A header of `trustedHeaders` that clients may send; may be repeated. Without this all of them are removed from clients' requests,
    /// and only filters in front of the plugin can set them.
    #[arg(long, value_name = "NAME")]
    pub client_header: Vec<String>,
    /// A path that leads to a single pool although its requests name no model, with everything below it; may be repeated, and takes the
    /// place of the default list. Lists of models and health (`/v1/models`, `/models`, `/v1beta/models`, `/health`, `/ping`) are open for
    /// GET and HEAD, any other path for all methods. The inference APIs are open in any case. `/` opens everything, an engine's metrics
    /// and administrative paths included.
    #[arg(long, value_name = "PATH", default_values_t = OPEN_PATHS.map(str::to_owned))]
    pub open_path: Vec<String>,
    /// Take the hosts of discovered pools from the files CLUSTER.yaml in this folder (EDS), and not by DNS.
    #[arg(long)]
    pub eds_dir: Option<PathBuf>,
    /// The folder with sds-token.yaml and sds-ca.yaml, by which Envoy reads the service account's token and authority.
    #[arg(long, default_value = "/etc/envoy")]
    pub sds_dir: PathBuf,
}

/// Prints a bootstrap.
pub fn run(args: &RenderArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.target_port.len() <= 8, "--target-port: an InferencePool has at most 8 ports");
    let text = check::read(&args.file)?;
    let config = check::load(&text)?;
    let plugin_json = String::from_utf8(text)?;
    let mut bootstrap = Bootstrap::new(&plugin_json, &config, args.listen, args.admin.clone(), &args.wasm_dir);
    bootstrap.hosts = match &args.eds_dir {
        Some(folder) => Hosts::Files(folder.clone()),
        None => Hosts::Dns { ports: args.target_port.clone() },
    };
    bootstrap.kube.sds_folder.clone_from(&args.sds_dir);
    for pool in &args.h2c {
        anyhow::ensure!(config.pools.iter().any(|known| known.name == *pool), "--h2c: there is no pool {pool:?}");
    }
    bootstrap.h2c.clone_from(&args.h2c);
    for name in &args.client_header {
        let name = name.to_ascii_lowercase();
        anyhow::ensure!(
            config.trusted_headers.iter().any(|trusted| *trusted == name),
            "--client-header: {name:?} is not in trustedHeaders, so the plugin would not believe it"
        );
        bootstrap.client_headers.push(name);
    }
    for path in &args.open_path {
        let is_path =
            path == "/" || (path.starts_with('/') && !path.ends_with('/') && !path.contains(['?', '#', '%', ';', ' ']));
        anyhow::ensure!(
            is_path,
            "--open-path: {path:?} must be a path that begins with a slash and ends in none, without a query or codes; or / for everything"
        );
    }
    bootstrap.open_paths.clone_from(&args.open_path);
    if args.eds_dir.is_none() {
        for pool in config.pools.iter().filter(|pool| pool.discovery.is_some()) {
            let is_host = |char: char| char.is_ascii_alphanumeric() || ['-', '.', '_', ':'].contains(&char);
            anyhow::ensure!(
                pool.cluster.chars().all(is_host),
                "pool {:?}: the hosts of its cluster {:?} are looked up by that name, which is none of a host; set the pool's \
                 cluster to one, or take hosts from files (--eds-dir)",
                pool.name,
                pool.cluster
            );
        }
    }
    print!("{}", bootstrap.yaml());
    Ok(())
}
