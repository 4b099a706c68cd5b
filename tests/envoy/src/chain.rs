//! The rendered bootstrap with Envoy's own filters around the plugin, and per-route settings.

use std::net::SocketAddr;

use anyhow::Context;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inferencectl::check;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use inferencectl::envoy::Envoy;
use inferencectl::render::Bootstrap;
use serde_json::{Value, json};
use simulator::flags::Flags;
use simulator::server::Server;

use crate::{DEEPSEEK, QWEN, root};

/// Where a filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In front of the plugin.
    Front,
    /// Between the plugin and the router.
    Behind,
}

/// Both orders.
pub const PLACES: [Place; 2] = [Place::Front, Place::Behind];

/// A rendered bootstrap as a value, to be changed.
pub struct Chain {
    /// The bootstrap.
    pub bootstrap: Value,
    servers: Vec<Server>,
    folder: Scratch,
}

/// An Envoy that runs one.
pub struct Running {
    /// Envoy.
    pub envoy: Envoy,
    /// The model servers, one for each pool.
    pub servers: Vec<Server>,
    folder: Scratch,
}

impl Chain {
    /// The rendered bootstrap of one pool, or of two, each of one server, after a change of the plugin JSON.
    pub async fn new(pools: usize, change: impl FnOnce(&mut Value)) -> anyhow::Result<Chain> {
        let mut servers = Vec::new();
        let mut entries = Vec::new();
        for (name, model) in [("qwen", QWEN), ("deepseek", DEEPSEEK)].into_iter().take(pools) {
            let server = Server::start(Flags::for_model(model)).await?;
            entries.push(
                json!({"name": name, "baseModel": model, "endpoints": {"static": [server.address().to_string()]}}),
            );
            servers.push(server);
        }
        let mut document = json!({"pools": entries});
        change(&mut document);
        let plugin_json = document.to_string();
        let config = check::load(plugin_json.as_bytes())?;
        let folder = scratch("chain")?;
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bootstrap = Bootstrap::new(&plugin_json, &config, free, free, &root().join("dist"));
        bootstrap.access_log = folder.path().join("access.log");
        let bootstrap = serde_yaml_ng::from_str(&bootstrap.yaml())?;
        Ok(Chain { bootstrap, servers, folder })
    }

    /// The connection manager.
    pub fn manager(&mut self) -> &mut Value {
        &mut self.bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    }

    /// The virtual host.
    pub fn host(&mut self) -> &mut Value {
        &mut self.manager()["route_config"]["virtual_hosts"][0]
    }

    /// Puts a filter in, next to the plugin.
    pub fn insert(&mut self, place: Place, filter: Value) -> anyhow::Result<()> {
        let filters = self.manager()["http_filters"].as_array_mut().context("no filters")?;
        let plugin = filters.iter().position(|filter| filter["name"] == "inference").context("no plugin")?;
        filters.insert(if place == Place::Front { plugin } else { plugin + 1 }, filter);
        Ok(())
    }

    /// Sets what a filter does on a pool's own route.
    pub fn set_on_route(&mut self, cluster: &str, filter: &str, setting: &Value) -> anyhow::Result<()> {
        for route in self.host()["routes"].as_array_mut().context("no routes")? {
            if route["route"]["cluster"] == cluster
                && route["match"]["headers"][0]["name"] == "x-gateway-base-model-name"
            {
                route["typed_per_filter_config"][filter] = setting.clone();
                return Ok(());
            }
        }
        anyhow::bail!("no route leads to {cluster}")
    }

    /// Adds a cluster with one host.
    pub fn add_cluster(&mut self, name: &str, host: SocketAddr) -> anyhow::Result<()> {
        let address = json!({"socket_address": {"address": host.ip(), "port_value": host.port()}});
        let cluster = json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}});
        self.bootstrap["static_resources"]["clusters"].as_array_mut().context("no clusters")?.push(cluster);
        Ok(())
    }

    /// Starts Envoy with it.
    pub async fn start(self) -> anyhow::Result<Running> {
        let envoy = Envoy::start(&self.bootstrap.to_string(), self.folder.path(), 1).await?;
        Ok(Running { envoy, servers: self.servers, folder: self.folder })
    }
}

impl Running {
    /// Sends a request.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = hyper::Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "gateway");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client::send(self.envoy.listen(), request.body(http_body_util::Full::new(body.into()))?).await
    }

    /// Sends a request with trailers over HTTP/2; gives the status.
    pub async fn send_with_trailers(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
        trailers: &[(&str, &str)],
    ) -> anyhow::Result<u16> {
        let mut request = hyper::Request::builder().method(method).uri(format!("http://gateway{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut map = hyper::HeaderMap::new();
        for (name, value) in trailers {
            map.insert(hyper::header::HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
        }
        let body = http_body_util::Full::new(bytes::Bytes::from(body)).with_trailers(async { Some(Ok(map)) });
        let socket = TokioIo::new(tokio::net::TcpStream::connect(self.envoy.listen()).await?);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await?;
        tokio::spawn(connection);
        let answer = sender.send_request(request.body(Box::pin(body))?).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await?;
        Ok(status)
    }

    /// Asks a model for one token.
    pub async fn ask(&self, model: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let body = json!({"model": model, "max_tokens": 1, "prompt": "hi"}).to_string();
        self.send("POST", "/v1/completions", headers, body).await
    }

    /// The access log.
    pub fn access_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join("access.log")).unwrap_or_default()).into_owned()
    }
}

/// A filter that ships as an example.
pub fn shipped(name: &str) -> anyhow::Result<Value> {
    Ok(serde_yaml_ng::from_str(&std::fs::read_to_string(root().join("envoy/filters").join(name))?)?)
}
