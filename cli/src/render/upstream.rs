//! The half of a bootstrap that faces the model servers: a cluster for each pool, and for what discovery asks.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;

use inference_plugin::config::{Discovery, Pods, Pool};

use inference_plugin::headers;

use super::{Bootstrap, Filter, Hosts, KUBE_API, address, quoted};

impl Bootstrap<'_> {
    pub(super) fn write_cluster(&self, out: &mut String, pool: &Pool) -> std::fmt::Result {
        let name = quoted(&pool.cluster);
        writeln!(out, "  - name: {name}")?;
        if pool.cluster != pool.name {
            // Dots in a cluster's name would end in the names of its metrics, and the access log names the pool by it.
            writeln!(out, "    alt_stat_name: {}", quoted(&pool.name))?;
        }
        match (&pool.discovery, &self.hosts) {
            (None, _) => writeln!(out, "    type: STATIC")?,
            (Some(_), Hosts::Dns { .. }) => writeln!(
                out,
                "    # What discovery finds must be in the cluster: the name has an address for each pod.
    cluster_type:
      name: envoy.clusters.dns
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
        dns_refresh_rate: 1s
        # Of a pod with two addresses Kubernetes names the first, which seldom is the IPv6 one.
        dns_lookup_family: V4_PREFERRED"
            )?,
            (Some(_), Hosts::Files(folder)) => writeln!(
                out,
                "    # What discovery finds must be in the cluster: whatever writes this file says what is.
    type: EDS
    eds_cluster_config:
      eds_config:
        path_config_source: {{path: {}}}",
                quoted(&folder.join(format!("{}.yaml", pool.cluster)).to_string_lossy())
            )?,
        }
        writeln!(out, "    connect_timeout: 1s")?;
        match self.filter {
            Filter::NativeBuffer => writeln!(out, "    lb_policy: ROUND_ROBIN")?,
            Filter::Plugin => writeln!(
                out,
                "    # The picked endpoints in their order, one for each attempt; without a pick, or past its end, the
    # fallback policy balances.
    load_balancing_policy:
      policies:
      - typed_extension_config:
          name: envoy.load_balancing_policies.override_host
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
            override_host_sources:
            - header: {}
            fallback_policy:
              policies:
              - typed_extension_config:
                  name: envoy.load_balancing_policies.least_request
                  typed_config:
                    \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                headers::DESTINATION
            )?,
        }
        writeln!(
            out,
            "    # LLM requests are long: the default of 1024 at a time would be a limit on concurrency.
    circuit_breakers:
      thresholds:
      - {{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 1000}}"
        )?;
        let is_h2c = self.h2c.contains(&pool.name);
        let is_discovered = pool.discovery.is_some() && self.filter == Filter::Plugin;
        if is_h2c || is_discovered {
            write_protocol(out, is_h2c, is_discovered)?;
        }
        let hosts = self.hosts(pool);
        if hosts.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:"
        )?;
        for (host, port) in hosts {
            let host = quoted(&host);
            writeln!(
                out,
                "        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}"
            )?;
        }
        Ok(())
    }

    /// The hosts that the bootstrap itself gives a pool's cluster.
    fn hosts(&self, pool: &Pool) -> Vec<(String, u16)> {
        let of_name = |name: String, ports: &[u16]| ports.iter().map(|port| (name.clone(), *port)).collect();
        match (&pool.discovery, &self.hosts) {
            (None, _) => {
                let addresses = pool.endpoints.iter().filter_map(|endpoint| endpoint.as_str().parse().ok());
                addresses.map(|address: SocketAddr| (address.ip().to_string(), address.port())).collect()
            }
            (Some(_), Hosts::Files(_)) => Vec::new(),
            (Some(Discovery::EnvoyAdmin { .. }), Hosts::Dns { ports }) => of_name(pool.cluster.clone(), ports),
            (Some(Discovery::Kubernetes { namespace, pods, .. }), Hosts::Dns { ports: usual }) => {
                let name = format!("{}.{namespace}.svc", pool.cluster);
                match pods {
                    Pods::Selected { ports, .. } => of_name(name, ports),
                    Pods::InferencePool(_) => of_name(name, usual),
                }
            }
        }
    }

    /// The clusters by which discovery asks.
    pub(super) fn write_discovery_clusters(&self, out: &mut String) -> std::fmt::Result {
        let mut admin: Vec<&str> = Vec::new();
        let mut kube: Vec<&str> = self.config.resources.iter().map(|resources| resources.cluster.as_str()).collect();
        for discovery in self.config.pools.iter().filter_map(|pool| pool.discovery.as_ref()) {
            match discovery {
                Discovery::EnvoyAdmin { cluster, .. } => admin.push(cluster),
                Discovery::Kubernetes { cluster, .. } => kube.push(cluster),
            }
        }
        for clusters in [&mut admin, &mut kube] {
            clusters.sort_unstable();
            clusters.dedup();
        }
        for cluster in admin {
            self.write_admin_cluster(out, cluster)?;
        }
        for cluster in kube {
            self.write_kube_cluster(out, cluster)?;
        }
        Ok(())
    }

    /// The clusters by which metrics pages on a port of their own are read: where the configuration names such a port, or a pod's annotation
    /// may.
    pub(super) fn write_metrics_clusters(&self, out: &mut String) -> std::fmt::Result {
        let is_wanted = |pool: &&Pool| {
            let is_annotated = matches!(pool.discovery, Some(Discovery::Kubernetes { .. }));
            is_annotated || pool.metrics_port.is_some() || pool.metrics_ports.iter().any(Option::is_some)
        };
        let wanted = self.config.pools.iter().filter(is_wanted).map(|pool| pool.metrics_cluster.as_str());
        let taken: BTreeSet<&str> = self.config.pools.iter().map(|pool| pool.cluster.as_str()).collect();
        for cluster in wanted.collect::<BTreeSet<&str>>().difference(&taken) {
            writeln!(
                out,
                "  # Metrics pages on a port of their own. The poller says in a header which address and port it asks; no route may lead here,
  # or clients could ask any.
  - name: {}
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 1s
    original_dst_lb_config: {{use_http_header: true, http_header_name: {}}}",
                quoted(cluster),
                headers::DESTINATION
            )?;
        }
        Ok(())
    }

    fn write_admin_cluster(&self, out: &mut String, cluster: &str) -> std::fmt::Result {
        let name = quoted(cluster);
        writeln!(
            out,
            "  # Envoy's own admin interface, which lists the hosts of each cluster.
  - name: {name}
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{{}}}}}",
            address(&self.admin, "")
        )
    }

    fn write_kube_cluster(&self, out: &mut String, cluster: &str) -> std::fmt::Result {
        let name = quoted(cluster);
        let sds = |file: &str| quoted(&self.kube.sds_folder.join(file).to_string_lossy());
        let (host, port) = &self.kube.address;
        writeln!(
            out,
            "  # The Kubernetes API. The token and the authority are read from files by SDS, so that they may be rotated.
  - name: {name}
    cluster_type:
      name: envoy.clusters.dns
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
        # A name that is not there yet is looked up again soon; Envoy's usual is five seconds.
        dns_failure_refresh_rate: {{base_interval: 0.2s, max_interval: 2s}}
        dns_lookup_family: V4_PREFERRED
    connect_timeout: 2s
    # Ends connections to an API server that vanished without a word.
    upstream_connection_options:
      tcp_keepalive: {{keepalive_probes: 3, keepalive_time: 10, keepalive_interval: 2}}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {}, port_value: {port}}}}}}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {KUBE_API}
        common_tls_context:
          validation_context_sds_secret_config:
            name: kube-ca
            sds_config: {{path_config_source: {{path: {}}}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http_protocol_options: {{}}}}
        http_filters:
        - name: envoy.filters.http.credential_injector
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector
            overwrite: true
            credential:
              name: envoy.http.injected_credentials.generic
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic
                header: authorization
                header_value_prefix: \"Bearer \"
                credential:
                  name: kube-token
                  sds_config:
                    path_config_source:
                      path: {}
                      watched_directory: {{path: {}}}
        - name: envoy.filters.http.upstream_codec
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
            quoted(host),
            sds("sds-ca.yaml"),
            sds("sds-token.yaml"),
            quoted(&self.kube.token_folder.to_string_lossy())
        )
    }
}

/// How to speak to a pool's servers, and who has answered.
fn write_protocol(out: &mut String, is_h2c: bool, is_discovered: bool) -> std::fmt::Result {
    let protocol = if is_h2c { "http2_protocol_options" } else { "http_protocol_options" };
    writeln!(
        out,
        "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{protocol}: {{}}}}"
    )?;
    if !is_discovered {
        return Ok(());
    }
    writeln!(
        out,
        "        # Says who has answered: the poller must not take another server's metrics for those of one that the cluster
        # does not have yet.
        http_filters:
        - name: envoy.filters.http.header_mutation
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
            mutations:
              response_mutations:
              - append:
                  header: {{key: {}, value: \"%UPSTREAM_REMOTE_ADDRESS%\"}}
                  append_action: OVERWRITE_IF_EXISTS_OR_ADD
        - name: envoy.filters.http.upstream_codec
          typed_config:
            \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        headers::SERVED
    )
}
