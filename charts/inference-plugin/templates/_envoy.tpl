{{/* Wasm metrics carry their labels in their names, as ;key=value. These expressions take them out again. */}}
{{- define "inference-plugin.statsConfig" -}}
stats_config:
  stats_tags:
  {{- range $label := list "about" "endpoint" "health" "outcome" "pool" "rank" "reason" "result" "rule" "tier" }}
  - {tag_name: {{ $label }}, regex: "^wasmcustom\\.inference_.*?(;{{ $label }}=([^;]*))"}
  {{- end }}
{{- end -}}

{{/* The metrics poller: one VM on the main thread. Should it trap, an inference VM polls instead. */}}
{{- define "inference-plugin.singleton" -}}
bootstrap_extensions:
- name: envoy.bootstrap.wasm
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.wasm.v3.WasmService
    singleton: true
    config:
      {{- include "inference-plugin.wasm" (dict "root" . "module" "metrics-poller") | nindent 6 }}
{{- end -}}

{{/* The policy of a pool's cluster, for the root: the picked endpoints in their order, one for each attempt. */}}
{{- define "inference-plugin.loadBalancing" -}}
load_balancing_policy:
  policies:
  - typed_extension_config:
      name: envoy.load_balancing_policies.override_host
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
        override_host_sources:
        - header: x-gateway-destination-endpoint
        fallback_policy:
          policies:
          - typed_extension_config:
              name: envoy.load_balancing_policies.least_request
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
{{- end -}}

{{- define "inference-plugin.circuitBreakers" -}}
circuit_breakers:
  thresholds:
  - {max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 1000}
{{- end -}}

{{/* How to reach the Kubernetes API; the arguments are the root, the folder of the SDS files, and that of the token. */}}
{{- define "inference-plugin.kubeCluster" -}}
name: kube-apiserver
cluster_type:
  name: envoy.clusters.dns
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
    # A name that is not there yet is looked up again soon; Envoy's usual is five seconds.
    dns_failure_refresh_rate: {base_interval: 0.2s, max_interval: 2s}
    dns_lookup_family: V4_PREFERRED
connect_timeout: 2s
# Ends connections to an API server that vanished without a word.
upstream_connection_options:
  tcp_keepalive: {keepalive_probes: 3, keepalive_time: 10, keepalive_interval: 2}
load_assignment:
  cluster_name: kube-apiserver
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: kubernetes.default.svc, port_value: 443}}}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: kubernetes.default.svc
    common_tls_context:
      validation_context_sds_secret_config:
        name: kube-ca
        sds_config: {path_config_source: {path: {{ printf "%s/sds-ca.yaml" .sdsFolder | quote }}}}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http_protocol_options: {}}
    http_filters:
    - name: envoy.filters.http.credential_injector
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector
        overwrite: true
        credential:
          name: envoy.http.injected_credentials.generic
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic
            header: authorization
            header_value_prefix: "Bearer "
            credential:
              name: kube-token
              sds_config:
                path_config_source:
                  path: {{ printf "%s/sds-token.yaml" .sdsFolder | quote }}
                  watched_directory: {path: {{ .tokenFolder | quote }}}
    - name: envoy.filters.http.upstream_codec
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
{{- end -}}

{{/*
Metrics pages on a port of their own. The poller says in a header which address and port it asks; no route may lead here, or clients could
ask any.
*/}}
{{- define "inference-plugin.metricsCluster" -}}
name: inference-metrics
type: ORIGINAL_DST
lb_policy: CLUSTER_PROVIDED
connect_timeout: 1s
original_dst_lb_config: {use_http_header: true, http_header_name: x-gateway-destination-endpoint}
{{- end -}}

{{/* Envoy's own admin interface, by a port of loopback. */}}
{{- define "inference-plugin.adminCluster" -}}
name: envoy-admin
type: STATIC
connect_timeout: 1s
load_assignment:
  cluster_name: envoy-admin
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: "127.0.0.1", port_value: {{ . }}}}}
{{- end -}}

{{/* The files by which Envoy reads the token and the authority, so that both may be rotated. */}}
{{- define "inference-plugin.sdsFiles" -}}
sds-token.yaml: |
  resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: kube-token
    generic_secret: {secret: {filename: {{ printf "%s/token" .tokenFolder }}}}
sds-ca.yaml: |
  resources:
  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
    name: kube-ca
    validation_context:
      trusted_ca: {filename: {{ printf "%s/ca.crt" .tokenFolder }}}
      match_typed_subject_alt_names:
      - {san_type: DNS, matcher: {exact: kubernetes.default.svc}}
{{- end -}}

{{/* The token and the authority as files. No other token is mounted. */}}
{{- define "inference-plugin.tokenVolume" -}}
name: kube-api-access
projected:
  sources:
  - serviceAccountToken: {path: token, expirationSeconds: 3607}
  - configMap:
      name: kube-root-ca.crt
      items: [{key: ca.crt, path: ca.crt}]
{{- end -}}

{{/* Those of openPaths that are only read: below /models some engines load and unload models. A test compares them with inferencectl's. */}}
{{- define "inference-plugin.readPaths" -}}
[/v1/models, /models, /v1beta/models, /health, /ping]
{{- end -}}

{{/* The paths of the inference APIs whose requests need no model, with the method; a test compares them with the plugin's table. They are
several, since Envoy refuses an expression whose program has more than 100 steps. */}}
{{- define "inference-plugin.openRegexes" -}}
- POST: ".*(/chat/completions/input_tokens|/chat/completions/derender)/?"
- POST: ".*(/v1/completions/derender|/chat/completions/batch|/responses/input_tokens)/?"
- POST: ".*(/audio/transcriptions|/audio/speech/batch|/audio/translations)/?"
- POST: ".*(/generative_scoring|/images/generations|/images/variations|/responses/compact)/?"
- POST: ".*(/v1/conversations|/generate_stream|/vertex_generate|/apply-template)/?"
- POST: ".*(/v1/videos/sync|/audio/speech|/images/edits|/v1/decisions|/v1/systemone)/?"
- POST: ".*(/completions|/invocations|/moderations|/completion|/detokenize|/embeddings)/?"
- POST: ".*(/api/embed|/embedding|/reranking|/responses|/v1/videos|/api/chat|/api/show)/?"
- POST: ".*(/classify|/generate|/tokenize|/v1/embed|/v2/embed|/pooling|/encode)/?"
- POST: ".*(/infill|/rerank|/score)/?"
- PUT: ".*(/classify|/generate|/encode)/?"
{{- end -}}

{{- define "inference-plugin.poolRoute" -}}
route:
  cluster: {{ . | quote }}
  # No limit on an answer's time as long as it moves; stream_idle_timeout ends what doesn't.
  timeout: 0s
  {{- include "inference-plugin.retryPolicy" . | nindent 2 }}
{{- end -}}

{{- define "inference-plugin.retryPolicy" -}}
# Each retry goes to the next endpoint of the pick. Nothing is retried that a model server has
# begun to answer.
retry_policy:
  retry_on: connect-failure,refused-stream,reset-before-request,retriable-status-codes
  retriable_status_codes: [503]
  num_retries: 2
  retry_back_off: {base_interval: 0.005s, max_interval: 0.05s}
{{- end -}}

{{/* What of the connection manager differs from its defaults, wherever it stands. */}}
{{- define "inference-plugin.connectionManager" -}}
# Answers may take minutes, and may pause between two tokens.
stream_idle_timeout: 600s
# For an HTTP/2 request it is the window that limits what Envoy holds, and not the listener's buffer.
http2_protocol_options: {initial_stream_window_size: {{ include "inference-plugin.bufferBytes" . }}, initial_connection_window_size: {{ include "inference-plugin.bufferBytes" . }}}
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
        - response_flag_filter: {flags: [NC]}
        - status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: inference.no_pool}}}
    headers_to_add:
    - header: {key: content-type, value: application/json}
      append_action: OVERWRITE_IF_EXISTS_OR_ADD
    body_format_override:
      json_format:
        error:
          message: no pool serves this path
          type: invalid_request_error
          param: null
          code: not_found
  - filter: {response_flag_filter: {flags: [UH, UF, UC, UT, UR, UO, URX, LR, NC, UPE]}}
    headers_to_add:
    - header: {key: content-type, value: application/json}
      append_action: OVERWRITE_IF_EXISTS_OR_ADD
    body_format_override:
      json_format:
        error:
          # Envoy's own text may name the server's address.
          message: "the model server failed: %RESPONSE_FLAGS_LONG%"
          type: server_error
          param: null
          code: upstream_failure
# What steers is not the client's to say. This comes before all filters, so what the plugin finds of these a
# filter has set, and trustedHeaders says which it believes. It holds even while the plugin is being loaded anew.
early_header_mutation_extensions:
- name: envoy.http.early_header_mutation.header_mutation
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
    mutations:
    {{- range $header := (include "inference-plugin.controlHeaders" . | fromYamlArray) }}
    - {remove: {{ $header }}}
    {{- end }}
{{- end -}}

{{/* The bootstrap of an Envoy of our own: what `inferencectl render` writes, and a listener for probes. */}}
{{- define "inference-plugin.bootstrap" -}}
{{- $pools := (include "inference-plugin.pools" . | fromJson).pools -}}
# An Envoy bootstrap with the Inference Plugin, as `inferencectl render` writes it.
# Files by which Envoy is configured while it runs are for a node with a name.
node: {id: inference-plugin, cluster: inference-plugin}
# Only this pod's own loopback leads to the admin interface.
admin:
  address:
    socket_address: {address: "127.0.0.1", port_value: 9901}
# Wasm metrics carry their labels in their names, as ;key=value. These expressions take them out again.
{{ include "inference-plugin.statsConfig" . }}
# The metrics poller: one VM on the main thread, which reads every endpoint's metrics. Envoy never reloads
# it; should it trap, an inference VM polls instead.
{{ include "inference-plugin.singleton" . }}
static_resources:
  listeners:
  - name: inference
    address:
      socket_address: {address: "0.0.0.0", port_value: 8080}
    # How much of a request Envoy holds while the filter waits for its end: more than the plugin's maxBodyBytes, which
    # refuses first.
    per_connection_buffer_limit_bytes: {{ include "inference-plugin.bufferBytes" . }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: inference
          {{- include "inference-plugin.connectionManager" . | nindent 10 }}
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /dev/stdout
              log_format:
                json_format:
                  time: "%START_TIME%"
                  method: "%REQ(:METHOD)%"
                  path: "%REQ(:PATH)%"
                  status: "%RESPONSE_CODE%"
                  flags: "%RESPONSE_FLAGS%"
                  pool: "%UPSTREAM_CLUSTER%"
                  model: "%REQ(X-GATEWAY-MODEL-NAME)%"
                  picked: "%REQ(X-GATEWAY-DESTINATION-ENDPOINT)%"
                  endpoint: "%UPSTREAM_HOST%"
                  tier: "%FILTER_STATE(wasm.inference_tier:PLAIN)%"
                  refused: "%RESP(X-LLM-D-REQUEST-DROPPED-REASON)%"
                  unknown_model: "%FILTER_STATE(wasm.inference_unknown_model:PLAIN)%"
                  attempts: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"
                  first_byte_ms: "%RESPONSE_DURATION%"
                  duration_ms: "%DURATION%"
          http_filters:
          # In front of the plugin: CORS, authentication, what sets trustedHeaders. Such filters see the last route, and
          # the settings of the virtual host. Behind it: what differs from model to model. docs/filter-order.md says more.
          - name: inference
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                {{- include "inference-plugin.wasm" (dict "root" . "module" "inference") | nindent 16 }}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: inference
            # The last route's cluster is meant to be missing.
            validate_clusters: false
            virtual_hosts:
            - name: inference
              domains: ["*"]
              routes:
              {{- range $pool := $pools }}
              - match:
                  prefix: /
                  headers:
                  - {name: x-gateway-base-model-name, string_match: {exact: {{ $pool.baseModel | quote }}}}
                {{- include "inference-plugin.poolRoute" $pool.cluster | nindent 16 }}
              {{- end }}
              {{- if eq (len $pools) 1 }}
              # What names no model goes to the only pool there is, on the paths that clients may use: those of the inference
              # APIs that need no model, and openPaths. An engine's other paths, such as /metrics, are its operator's.
              {{- if not (has "/" .Values.openPaths) }}
              {{- range $api := (include "inference-plugin.openRegexes" . | fromYamlArray) }}
              {{- range $method, $regex := $api }}
              - match:
                  safe_regex: {regex: {{ $regex | quote }}}
                  headers: [{name: ":method", string_match: {exact: {{ $method }}}}]
                {{- include "inference-plugin.poolRoute" (index $pools 0).cluster | nindent 16 }}
              {{- end }}
              {{- end }}
              {{- end }}
              {{- range $path := .Values.openPaths }}
              - match:
                  {{ ternary "prefix" "path_separated_prefix" (eq $path "/") }}: {{ $path | quote }}
                  {{- if has $path (include "inference-plugin.readPaths" . | fromYamlArray) }}
                  headers: [{name: ":method", string_match: {safe_regex: {regex: GET|HEAD}}}]
                  {{- end }}
                {{- include "inference-plugin.poolRoute" (index $pools 0).cluster | nindent 16 }}
              {{- end }}
              {{- end }}
              {{- if or (gt (len $pools) 1) (not (has "/" .Values.openPaths)) }}
              # What names no model belongs to no pool. The plugin itself answers for unknown models. Filters in front of the
              # plugin see this route, and by it the settings of the virtual host; a direct_response would hide those from CORS.
              - match: {prefix: /}
                route: {cluster: "no pool", cluster_not_found_response_code: NOT_FOUND}
              {{- end }}
  # What kubelet and Prometheus may ask of the admin interface, and nothing else of it.
  - name: probes
    address:
      socket_address: {address: "0.0.0.0", port_value: 9902}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: probes
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: probes
            virtual_hosts:
            - name: probes
              domains: ["*"]
              routes:
              {{- range $path := list "/ready" "/stats/prometheus" }}
              - match:
                  path: {{ $path }}
                  headers:
                  - {name: ":method", string_match: {exact: GET}}
                route: {cluster: envoy-admin}
              {{- end }}
  clusters:
  {{- range $pool := $pools }}
  - name: {{ $pool.cluster | quote }}
    # What discovery finds must be in the cluster: the name has an address for each pod.
    cluster_type:
      name: envoy.clusters.dns
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
        dns_refresh_rate: 1s
        # Of a pod with two addresses Kubernetes names the first, which seldom is the IPv6 one.
        dns_lookup_family: V4_PREFERRED
    connect_timeout: 1s
    # The picked endpoints in their order, one for each attempt; without a pick, or past its end, the
    # fallback policy balances.
    {{- include "inference-plugin.loadBalancing" $ | nindent 4 }}
    # LLM requests are long: the default of 1024 at a time would be a limit on concurrency.
    {{- include "inference-plugin.circuitBreakers" $ | nindent 4 }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { {{- ternary "http2_protocol_options" "http_protocol_options" (eq $pool.appProtocol "kubernetes.io/h2c") }}: {}}
        # Says who has answered: the poller must not take another server's metrics for those of one that the cluster
        # does not have yet.
        http_filters:
        - name: envoy.filters.http.header_mutation
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
            mutations:
              response_mutations:
              - append:
                  header: {key: x-gateway-destination-endpoint-served, value: "%UPSTREAM_REMOTE_ADDRESS%"}
                  append_action: OVERWRITE_IF_EXISTS_OR_ADD
        - name: envoy.filters.http.upstream_codec
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
    load_assignment:
      cluster_name: {{ $pool.cluster | quote }}
      endpoints:
      - lb_endpoints:
        {{- range $port := $pool.ports }}
        - endpoint: {address: {socket_address: {address: {{ printf "%s.%s.svc" $pool.name $.Release.Namespace | quote }}, port_value: {{ int $port }}}}}
        {{- end }}
  {{- end }}
  {{- if include "inference-plugin.readsOtherPorts" . }}
  # Metrics pages on a port of their own: metricsPort, and pods' annotation prometheus.io/port.
  - {{- include "inference-plugin.metricsCluster" . | nindent 4 }}
  {{- end }}
  # Envoy's own admin interface, for probes and, with discovery by it, for the list of each cluster's hosts.
  - {{- include "inference-plugin.adminCluster" 9901 | nindent 4 }}
  {{- if include "inference-plugin.asksKubernetes" . }}
  # The Kubernetes API. The token and the authority are read from files by SDS, so that they may be rotated.
  - {{- include "inference-plugin.kubeCluster" (dict "sdsFolder" "/etc/envoy" "tokenFolder" "/var/run/secrets/kubernetes.io/serviceaccount") | nindent 4 }}
  {{- end }}
  {{- if eq .Values.plugin.source "url" }}
  # Where the modules come from.
  {{- range $module := list "inference" "metrics-poller" }}
  - {{- include "inference-plugin.moduleCluster" (dict "root" $ "module" $module) | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* The server that a module is fetched from. */}}
{{- define "inference-plugin.moduleCluster" -}}
{{- $url := urlParse (include "inference-plugin.url" . | fromJson).uri -}}
{{- $port := ternary "443" "80" (eq $url.scheme "https") -}}
{{- if contains ":" $url.host -}}{{- $port = last (splitList ":" $url.host) -}}{{- end -}}
name: {{ printf "module-%s" .module }}
type: STRICT_DNS
connect_timeout: 5s
load_assignment:
  cluster_name: {{ printf "module-%s" .module }}
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: {{ $url.hostname | quote }}, port_value: {{ $port }}}}}
{{- if eq $url.scheme "https" }}
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {{ $url.hostname | quote }}
    common_tls_context:
      validation_context:
        trusted_ca: {filename: /etc/ssl/certs/ca-certificates.crt}
        match_typed_subject_alt_names:
        - {san_type: DNS, matcher: {exact: {{ $url.hostname | quote }}}}
{{- end }}
{{- end -}}
