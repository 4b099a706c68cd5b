//! The half of a bootstrap that faces the model servers: routes by base model, and a cluster for each pool.

use std::fmt::Write;

use inference_plugin::config::Pool;
use inference_plugin::headers;

use super::{Bootstrap, Filter, SERVED_BY, quoted};

impl Bootstrap<'_> {
    pub(super) fn write_routes(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "          route_config:
            name: inference
            virtual_hosts:
            - name: inference
              domains: [\"*\"]"
        )?;
        if self.filter == Filter::NativeBuffer {
            writeln!(
                out,
                "              response_headers_to_add:
              - header: {{key: {SERVED_BY}, value: \"%UPSTREAM_HOST%\"}}"
            )?;
        }
        writeln!(out, "              routes:")?;
        for pool in &self.config.pools {
            writeln!(
                out,
                "              - match:
                  prefix: /
                  headers:
                  - {{name: {}, string_match: {{exact: {}}}}}",
                headers::BASE_MODEL,
                quoted(&pool.base_model)
            )?;
            write_pool_route(out, pool)?;
        }
        match self.config.pools.as_slice() {
            [only] => {
                writeln!(
                    out,
                    "              # What names no model, such as GET /v1/models, goes to the only pool there is.
              - match: {{prefix: /}}"
                )?;
                write_pool_route(out, only)
            }
            _ => writeln!(
                out,
                "              # What names no model belongs to no pool. The plugin itself answers for unknown models.
              - match: {{prefix: /}}
                response_headers_to_add:
                - header: {{key: content-type, value: application/json}}
                  append_action: OVERWRITE_IF_EXISTS_OR_ADD
                direct_response:
                  status: 404
                  body:
                    inline_string: '{{\"error\":{{\"message\":\"no pool serves this path\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"not_found\"}}}}'"
            ),
        }
    }

    pub(super) fn write_cluster(&self, out: &mut String, pool: &Pool) -> std::fmt::Result {
        let name = quoted(&pool.cluster);
        write!(
            out,
            "  - name: {name}
    type: STATIC
    connect_timeout: 1s
"
        )?;
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
      - {{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 1000}}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:"
        )?;
        for endpoint in &pool.endpoints {
            let Ok(address) = endpoint.as_str().parse::<std::net::SocketAddr>() else { continue };
            writeln!(
                out,
                "        - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}",
                quoted(&address.ip().to_string()),
                address.port()
            )?;
        }
        Ok(())
    }
}

fn write_pool_route(out: &mut String, pool: &Pool) -> std::fmt::Result {
    writeln!(
        out,
        "                route:
                  cluster: {}
                  # No limit on an answer's time as long as it moves; stream_idle_timeout ends what doesn't.
                  timeout: 0s
                  # Each retry goes to the next endpoint of the pick. Nothing is retried that a model server has
                  # begun to answer.
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset-before-request,retriable-status-codes
                    retriable_status_codes: [503]
                    num_retries: 2
                    retry_back_off: {{base_interval: 0.005s, max_interval: 0.05s}}",
        quoted(&pool.cluster)
    )
}
