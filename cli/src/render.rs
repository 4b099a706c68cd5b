//! `inferencectl render`: a complete Envoy bootstrap for a plugin JSON document.
//!
//! The bootstrap is text with comments, since people read and copy it. `envoy/envoy.yaml` is this command's
//! output for `envoy/plugin.json`, and a test keeps it so.

mod command;
mod routes;
mod upstream;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use inference_plugin::config::Config;
use inference_plugin::headers;
use inference_plugin::stats::FAMILIES;

use crate::client::Address;

pub use command::{RenderArgs, run};

/// Envoy's buffer limit for a request: above `maxBodyBytes`, so that the plugin's 413 comes first.
const BUFFER_HEADROOM: usize = 16 << 20;

/// The paths that a single pool's clients may use besides the inference APIs: lists of models, stored answers and conversations,
/// and health. An engine's other paths (metrics, caches, weights, profiles, adapters) are its operator's.
pub const OPEN_PATHS: [&str; 7] =
    ["/v1/models", "/models", "/v1beta/models", "/v1/responses", "/v1/conversations", "/health", "/ping"];

/// Those of them that are only read: below `/models` some engines load and unload models. Others of `open_paths` take all methods.
pub const READ_PATHS: [&str; 5] = ["/v1/models", "/models", "/v1beta/models", "/health", "/ping"];

/// The response header by which an Envoy without the plugin says who served.
pub const SERVED_BY: &str = "x-served-by";

/// A bootstrap to be rendered.
#[derive(Clone, Debug)]
pub struct Bootstrap<'c> {
    /// The plugin JSON document.
    pub plugin_json: &'c str,
    /// The same, checked.
    pub config: &'c Config,
    /// Where Envoy listens; port 0 takes a free one.
    pub listen: std::net::SocketAddr,
    /// Where the admin interface listens.
    pub admin: Address,
    /// Who works on requests.
    pub filter: Filter,
    /// The inference filter.
    pub inference_wasm: PathBuf,
    /// The metrics poller; `None` leaves polling to the inference filter.
    pub poller_wasm: Option<PathBuf>,
    /// Where access logs go.
    pub access_log: PathBuf,
    /// Where the hosts of discovered pools come from.
    pub hosts: Hosts,
    /// The pools whose servers speak HTTP/2 without TLS.
    pub h2c: Vec<String>,
    /// How to reach the Kubernetes API.
    pub kube: KubeApi,
    /// The headers that say how a request is to be treated and that clients may send; all others are removed from their
    /// requests. Whether the plugin believes one is said by `trustedHeaders`.
    pub client_headers: Vec<String>,
    /// The paths that lead to a single pool although their requests name no model, with everything below each; `/` is all.
    /// Those of `READ_PATHS` take `GET` and `HEAD`, and the others all methods.
    pub open_paths: Vec<String>,
}

/// Where Envoy has the hosts of a discovered pool from: it sends requests to hosts of the cluster alone.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// By a name, with these ports where the plugin JSON says none.
    Dns {
        /// The ports.
        ports: Vec<u16>,
    },
    /// From files in this folder.
    Files(PathBuf),
}

/// How to reach the Kubernetes API.
#[derive(Clone, Debug)]
pub struct KubeApi {
    /// Host and port.
    pub address: (String, u16),
    /// The folder with `sds-token.yaml` and `sds-ca.yaml`.
    pub sds_folder: PathBuf,
    /// The folder in which the token is replaced when it is rotated.
    pub token_folder: PathBuf,
}

/// The name in the API server's certificate.
pub const KUBE_API: &str = "kubernetes.default.svc";

/// Who works on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The plugin.
    Plugin,
    /// Envoy's own buffer filter, and its round robin: what the plugin is compared with.
    NativeBuffer,
}

impl<'c> Bootstrap<'c> {
    /// The usual bootstrap: both filters, access logs on standard output.
    pub fn new(
        plugin_json: &'c str,
        config: &'c Config,
        listen: std::net::SocketAddr,
        admin: impl Into<Address>,
        wasm_dir: &Path,
    ) -> Bootstrap<'c> {
        Bootstrap {
            plugin_json,
            config,
            listen,
            admin: admin.into(),
            filter: Filter::Plugin,
            inference_wasm: wasm_dir.join("inference.wasm"),
            poller_wasm: Some(wasm_dir.join("metrics-poller.wasm")),
            access_log: PathBuf::from("/dev/stdout"),
            hosts: Hosts::Dns { ports: vec![8000] },
            h2c: Vec::new(),
            client_headers: Vec::new(),
            open_paths: OPEN_PATHS.map(str::to_owned).to_vec(),
            kube: KubeApi {
                address: (KUBE_API.to_owned(), 443),
                sds_folder: PathBuf::from("/etc/envoy"),
                token_folder: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
            },
        }
    }

    /// The bootstrap's text.
    pub fn yaml(&self) -> String {
        let mut yaml = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut yaml);
        yaml
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# An Envoy bootstrap with the Inference Plugin, written by `inferencectl render`.")?;
        if self.config.resources.is_some() || self.config.pools.iter().any(|pool| pool.discovery.is_some()) {
            writeln!(out, "# Files by which Envoy is configured while it runs are for a node with a name.")?;
            writeln!(out, "node: {{id: inference-plugin, cluster: inference-plugin}}")?;
        }
        self.write_admin(out)?;
        if self.filter == Filter::Plugin {
            self.write_stats_tags(out)?;
            if let Some(wasm) = &self.poller_wasm {
                self.write_singleton(out, wasm)?;
            }
        }
        writeln!(out, "static_resources:")?;
        self.write_listener(out)?;
        writeln!(out, "  clusters:")?;
        for pool in &self.config.pools {
            self.write_cluster(out, pool)?;
        }
        if self.filter == Filter::Plugin {
            self.write_discovery_clusters(out)?;
            self.write_metrics_clusters(out)?;
        }
        Ok(())
    }

    fn write_admin(&self, out: &mut String) -> std::fmt::Result {
        let limits = match &self.admin {
            Address::Tcp(_) => "",
            // 0600: it can stop Envoy.
            Address::Unix(_) => ", mode: 384",
        };
        writeln!(out, "admin:\n  address:\n    {}", address(&self.admin, limits))
    }

    fn write_stats_tags(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "# Wasm metrics carry their labels in their names, as ;key=value. These expressions take them out again.
stats_config:
  stats_tags:"
        )?;
        let mut labels: Vec<&str> = FAMILIES.iter().flat_map(|family| family.labels).copied().collect();
        labels.sort_unstable();
        labels.dedup();
        for label in labels {
            writeln!(out, r#"  - {{tag_name: {label}, regex: "^wasmcustom\\.inference_.*?(;{label}=([^;]*))"}}"#)?;
        }
        Ok(())
    }

    fn write_singleton(&self, out: &mut String, wasm: &Path) -> std::fmt::Result {
        writeln!(
            out,
            "# The metrics poller: one VM on the main thread, which reads every endpoint's metrics. Envoy never reloads
# it; should it trap, an inference VM polls instead.
bootstrap_extensions:
- name: envoy.bootstrap.wasm
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.wasm.v3.WasmService
    singleton: true
    config:"
        )?;
        self.write_plugin(out, "      ", "metrics-poller", wasm)
    }

    /// A Wasm plugin's configuration. The singleton and the filter differ in name and code alone: the same
    /// vm_id is what lets them share data, and each gets the whole plugin JSON.
    fn write_plugin(&self, out: &mut String, indent: &str, name: &str, wasm: &Path) -> std::fmt::Result {
        writeln!(out, "{indent}name: {name}")?;
        writeln!(out, "{indent}root_id: {name}")?;
        if name == "inference" {
            writeln!(out, "{indent}# After a trap the VM is loaded anew. The default would answer 503 for ever.")?;
            writeln!(out, "{indent}failure_policy: FAIL_RELOAD")?;
            writeln!(out, "{indent}# Without this the filter never sees a body.")?;
            writeln!(out, "{indent}allow_on_headers_stop_iteration: true")?;
        }
        writeln!(out, "{indent}vm_config:")?;
        writeln!(out, "{indent}  # The two share data under this name.")?;
        writeln!(out, "{indent}  vm_id: inference-plugin")?;
        writeln!(out, "{indent}  runtime: envoy.wasm.runtime.v8")?;
        writeln!(out, "{indent}  code: {{local: {{filename: {}}}}}", quoted(&wasm.to_string_lossy()))?;
        writeln!(out, "{indent}configuration:")?;
        writeln!(out, "{indent}  \"@type\": type.googleapis.com/google.protobuf.StringValue")?;
        // The indentation is said, since the document's first line may be indented as well.
        writeln!(out, "{indent}  value: |2")?;
        for line in self.plugin_json.trim_end().lines() {
            writeln!(out, "{}", format!("{indent}    {line}").trim_end())?;
        }
        Ok(())
    }

    fn write_listener(&self, out: &mut String) -> std::fmt::Result {
        let limit = self.config.max_body_bytes + BUFFER_HEADROOM;
        write!(
            out,
            "  listeners:
  - name: inference
    address:
      {}
    # How much of a request Envoy holds while the filter waits for its end. A million tokens of text are some
    # 4 MB, and images come by value: at least 16 MiB, and more than the plugin's maxBodyBytes, which refuses first.
    per_connection_buffer_limit_bytes: {limit}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: inference
          # Answers may take minutes, and may pause between two tokens.
          stream_idle_timeout: 600s
          # For an HTTP/2 request it is the window that limits what Envoy holds, and not the listener's buffer.
          http2_protocol_options: {{initial_stream_window_size: {limit}, initial_connection_window_size: {limit}}}
          # A path is read once and by everybody alike: without dots, doubled slashes and encoded ones. The plugin refuses what
          # could still be read in two ways.
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD
          # What Envoy answers itself when a model server fails, in the shape of the API's other errors.
          local_reply_config:
            mappers:
            # That of the last route.
            - filter:
                and_filter:
                  filters:
                  - response_flag_filter: {{flags: [NC]}}
                  - status_code_filter: {{comparison: {{op: EQ, value: {{default_value: 404, runtime_key: inference.no_pool}}}}}}
              headers_to_add:
              - header: {{key: content-type, value: application/json}}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    message: no pool serves this path
                    type: invalid_request_error
                    param: null
                    code: not_found
            - filter: {{response_flag_filter: {{flags: [UH, UF, UC, UT, UR, UO, URX, LR, NC, UPE]}}}}
              headers_to_add:
              - header: {{key: content-type, value: application/json}}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
              body_format_override:
                json_format:
                  error:
                    # Envoy's own text may name the server's address.
                    message: \"the model server failed: %RESPONSE_FLAGS_LONG%\"
                    type: server_error
                    param: null
                    code: upstream_failure
",
            address(&self.listen.into(), ""),
        )?;
        self.write_access_log(out)?;
        if self.filter == Filter::Plugin {
            self.write_header_stripping(out)?;
        }
        writeln!(out, "          http_filters:")?;
        match self.filter {
            Filter::Plugin => {
                writeln!(
                    out,
                    "          # In front of the plugin: CORS, authentication, what sets trustedHeaders. Such filters see the last route, and
          # the settings of the virtual host. Behind it: what differs from model to model. docs/filter-order.md says more.
          - name: inference
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:"
                )?;
                self.write_plugin(out, "                ", "inference", &self.inference_wasm)?;
            }
            Filter::NativeBuffer => writeln!(
                out,
                "          - name: envoy.filters.http.buffer
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
              max_request_bytes: {limit}"
            )?,
        }
        writeln!(
            out,
            "          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        )?;
        self.write_routes(out)
    }

    fn write_access_log(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            "          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}
              log_format:
                json_format:
                  time: \"%START_TIME%\"
                  method: \"%REQ(:METHOD)%\"
                  path: \"%REQ(:PATH)%\"
                  status: \"%RESPONSE_CODE%\"
                  flags: \"%RESPONSE_FLAGS%\"
                  pool: \"%UPSTREAM_CLUSTER%\"
                  model: \"%REQ(X-GATEWAY-MODEL-NAME)%\"
                  picked: \"%REQ(X-GATEWAY-DESTINATION-ENDPOINT)%\"
                  endpoint: \"%UPSTREAM_HOST%\"
                  tier: \"%FILTER_STATE(wasm.inference_tier:PLAIN)%\"
                  refused: \"%RESP(X-LLM-D-REQUEST-DROPPED-REASON)%\"
                  unknown_model: \"%FILTER_STATE(wasm.inference_unknown_model:PLAIN)%\"
                  attempts: \"%UPSTREAM_REQUEST_ATTEMPT_COUNT%\"
                  first_byte_ms: \"%RESPONSE_DURATION%\"
                  duration_ms: \"%DURATION%\"
",
            quoted(&self.access_log.to_string_lossy())
        )
    }

    fn write_header_stripping(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "          # What steers is not the client's to say. This comes before all filters, so what the plugin finds of these a
          # filter has set, and trustedHeaders says which it believes. It holds even while the plugin is being loaded anew.
          early_header_mutation_extensions:
          - name: envoy.http.early_header_mutation.header_mutation
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
              mutations:"
        )?;
        for name in headers::CONTROL.iter().filter(|name| !self.client_headers.iter().any(|sent| sent == *name)) {
            writeln!(out, "              - {{remove: {name}}}")?;
        }
        Ok(())
    }
}

/// What follows `address:` where somebody listens, and what more there is to say of it.
fn address(address: &Address, more: &str) -> String {
    match address {
        Address::Tcp(address) => {
            format!(
                "socket_address: {{address: {}, port_value: {}{more}}}",
                quoted(&address.ip().to_string()),
                address.port()
            )
        }
        Address::Unix(path) => format!("pipe: {{path: {}{more}}}", quoted(&path.to_string_lossy())),
    }
}

/// A JSON string is a YAML string, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
