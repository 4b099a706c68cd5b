{{/* The plugin JSON: what docs/config.md documents. */}}
{{- define "inference-plugin.pluginJson" -}}
{{- $pools := (include "inference-plugin.pools" . | fromJson).pools -}}
{{- $document := dict -}}
{{- $list := list -}}
{{- range $pool := $pools -}}
{{- $entry := merge (dict "name" $pool.name "baseModel" $pool.baseModel) $pool.settings -}}
{{- if ne $pool.cluster $pool.name -}}{{- $_ := set $entry "cluster" $pool.cluster -}}{{- end -}}
{{- if eq $.Values.discovery "envoyAdmin" -}}
{{- $_ := set $entry "endpoints" (dict "envoyAdmin" (dict)) -}}
{{- else if eq $.Values.discovery "selector" -}}
{{- $_ := set $entry "endpoints" (dict "kubernetes" (dict "namespace" $.Release.Namespace "selector" $pool.labels "targetPorts" $pool.ports)) -}}
{{- else -}}
{{- $_ := set $entry "endpoints" (dict "kubernetes" (dict "namespace" $.Release.Namespace "inferencePool" $pool.name)) -}}
{{- end -}}
{{- $list = append $list $entry -}}
{{- end -}}
{{- $_ := set $document "pools" $list -}}
{{- /* With one pool there is no need to name it. */ -}}
{{- range $key := list "models" "modelRewrites" "objectives" -}}
{{- $entries := list -}}
{{- range $entry := (index $.Values $key) -}}
{{- $entry = deepCopy $entry -}}
{{- if and (not (hasKey $entry "pool")) (eq (len $pools) 1) -}}{{- $_ := set $entry "pool" (index $pools 0).name -}}{{- end -}}
{{- $entries = append $entries $entry -}}
{{- end -}}
{{- if $entries -}}{{- $_ := set $document $key $entries -}}{{- end -}}
{{- end -}}
{{- $_ := set $document "exposeEndpoint" .Values.exposeEndpoint -}}
{{- range $key := list "rules" "sessionKeys" "trustedHeaders" "poller" "maxBodyBytes" "maxPrefixEntries" -}}
{{- $value := index $.Values $key -}}
{{- if $value -}}{{- $_ := set $document $key $value -}}{{- end -}}
{{- end -}}
{{- if .Values.modelResources -}}{{- $_ := set $document "kubernetesResources" (dict "namespace" .Release.Namespace) -}}{{- end -}}
{{- mergeOverwrite $document (deepCopy .Values.pluginConfig) | toPrettyJson -}}
{{- end -}}

{{/* How much of a request Envoy holds: more than the plugin's maxBodyBytes, so that its 413 comes first. */}}
{{- define "inference-plugin.bufferBytes" -}}
{{- $document := include "inference-plugin.pluginJson" . | fromJson -}}
{{- add (int64 (default 16777216 $document.maxBodyBytes)) 16777216 -}}
{{- end -}}

{{/* What clients must not send: all that steers, but for what clientHeaders lets through. */}}
{{- define "inference-plugin.controlHeaders" -}}
{{- $names := list "x-gateway-destination-endpoint" "x-gateway-destination-endpoint-subset" "x-gateway-destination-endpoint-served" -}}
{{- $names = concat $names (list "x-gateway-model-name" "x-gateway-base-model-name" "x-gateway-model-name-rewrite") -}}
{{- $names = concat $names (list "x-gateway-inference-objective" "x-gateway-inference-fairness-id" "x-llm-d-destination-endpoint") -}}
{{- $names = concat $names (list "x-llm-d-destination-endpoint-subset" "x-llm-d-destination-endpoint-served" "x-llm-d-model-name-rewrite") -}}
{{- $names = concat $names (list "x-llm-d-inference-objective" "x-llm-d-inference-fairness-id" "x-llm-d-inference-ttl") -}}
{{- $names = concat $names (list "x-llm-d-slo-ttft-ms" "x-llm-d-slo-tpot-ms" "x-slo-ttft-ms" "x-slo-tpot-ms") -}}
{{- $names = concat $names (list "x-prefiller-host-port" "x-encoder-hosts-ports" "x-data-parallel-host-port" "x-kv-cache-source-host-port") -}}
{{- range $name := .Values.clientHeaders -}}
{{- if not (has $name $.Values.trustedHeaders) -}}
{{- fail (printf "clientHeaders: %s must be in trustedHeaders as well, or the plugin does not believe it" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := $names }}
{{- if not (has $name $.Values.clientHeaders) }}
- {{ $name }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether the plugin stands in front of all other filters, or right in front of the router. */}}
{{- define "inference-plugin.position" -}}
{{- default (ternary "last" "first" (eq .Values.provider.name "istio")) .Values.filterPosition -}}
{{- end -}}

{{/* A module's reference in a registry: the argument is the root context, the module's name and a suffix for the tag. */}}
{{- define "inference-plugin.reference" -}}
{{- $image := .root.Values.plugin.image -}}
{{- $repository := required "plugin.image.repository must say where the modules were pushed; see docs/oci.md" $image.repository -}}
{{- if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$" $repository) -}}
{{- fail (printf "plugin.image.repository: %q is no repository: write REGISTRY/PATH, such as registry.example/inference-plugin, without a scheme, a tag or a slash at the end" $repository) -}}
{{- end -}}
{{- $digest := index $image.digests .module -}}
{{- if $digest -}}
{{- printf "%s/%s@%s" $repository .module $digest -}}
{{- else -}}
{{- printf "%s/%s:%s%s" $repository .module (default .root.Chart.AppVersion $image.tag) (default "" .suffix) -}}
{{- end -}}
{{- end -}}

{{/* Where a module lies in Envoy's container. */}}
{{- define "inference-plugin.modulePath" -}}
{{- if eq .root.Values.plugin.source "imageVolume" -}}
{{- printf "/plugin/%s/plugin.wasm" .module -}}
{{- else -}}
{{- printf "/plugin/%s.wasm" .module -}}
{{- end -}}
{{- end -}}

{{/* A module's entry of plugin.url, which must be complete. */}}
{{- define "inference-plugin.url" -}}
{{- $url := index .root.Values.plugin.url .module -}}
{{- if or (empty $url.uri) (empty $url.sha256) -}}
{{- fail (printf "plugin.url.%s: uri and sha256 are needed with plugin.source=url" .module) -}}
{{- end -}}
{{- toJson $url -}}
{{- end -}}

{{/*
A module's vm_config and configuration. The singleton and the filter differ in name and code alone: the same vm_id is
what lets them share data, and each gets the whole plugin JSON.
*/}}
{{- define "inference-plugin.wasm" -}}
name: {{ .module }}
root_id: {{ .module }}
{{- if eq .module "inference" }}
# After a trap the VM is loaded anew. The default would answer 503 for ever.
failure_policy: FAIL_RELOAD
# Without this the filter never sees a body.
allow_on_headers_stop_iteration: true
{{- end }}
vm_config:
  # The two share data under this name.
  vm_id: inference-plugin
  runtime: envoy.wasm.runtime.v8
  {{- if .oci }}
  # The agent in the proxy's pod fetches the module and gives Envoy a file.
  configuration: {"@type": type.googleapis.com/google.protobuf.StringValue, value: {{ .oci.uri | quote }}}
  code:
    remote:
      http_uri: {uri: {{ .oci.uri | quote }}, timeout: 30s}
      {{- with .oci.sha256 }}
      sha256: {{ . | quote }}
      {{- end }}
  {{- else if eq .root.Values.plugin.source "url" }}
  {{- $url := include "inference-plugin.url" . | fromJson }}
  # Envoy decides which VM a module gets by vm_id and this, before it has the code. So this names the code.
  configuration: {"@type": type.googleapis.com/google.protobuf.StringValue, value: {{ $url.sha256 | quote }}}
  code:
    remote:
      http_uri: {uri: {{ $url.uri | quote }}, cluster: {{ printf "module-%s" .module }}, timeout: 30s}
      sha256: {{ $url.sha256 | quote }}
  {{- else }}
  code: {local: {filename: {{ include "inference-plugin.modulePath" . | quote }}}}
  {{- end }}
configuration:
  "@type": type.googleapis.com/google.protobuf.StringValue
  value: |
    {{- include "inference-plugin.pluginJson" .root | nindent 4 }}
{{- end -}}

{{/* The volumes that hold the modules. */}}
{{- define "inference-plugin.moduleVolumes" -}}
{{- if eq .Values.plugin.source "imageVolume" }}
{{- range $module := list "inference" "metrics-poller" }}
- name: {{ $module }}
  image:
    reference: {{ include "inference-plugin.reference" (dict "root" $ "module" $module "suffix" "-image") | quote }}
    pullPolicy: {{ $.Values.plugin.image.pullPolicy }}
{{- end }}
{{- else if eq .Values.plugin.source "initContainer" }}
- name: modules
  emptyDir:
    sizeLimit: 64Mi
{{- with .Values.plugin.initContainer.registrySecret }}
- name: registry
  secret:
    secretName: {{ . | quote }}
    items: [{key: .dockerconfigjson, path: config.json}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "inference-plugin.moduleMounts" -}}
{{- if eq .Values.plugin.source "imageVolume" }}
{{- range $module := list "inference" "metrics-poller" }}
- {name: {{ $module }}, mountPath: {{ printf "/plugin/%s" $module }}, readOnly: true}
{{- end }}
{{- else if eq .Values.plugin.source "initContainer" }}
- {name: modules, mountPath: /plugin, readOnly: true}
{{- end }}
{{- end -}}

{{/* Init containers that fetch the modules: one for each, since the image has no shell to count on. */}}
{{- define "inference-plugin.moduleInitContainers" -}}
{{- if eq .Values.plugin.source "initContainer" }}
{{- range $module := list "inference" "metrics-poller" }}
- name: fetch-{{ $module }}
  image: {{ include "inference-plugin.image" $.Values.plugin.initContainer.image | quote }}
  imagePullPolicy: {{ $.Values.plugin.initContainer.image.pullPolicy }}
  # Writes the module under the name in its title, which is MODULE.wasm.
  command: [oras]
  args:
  - pull
  - --output=/plugin
  {{- if $.Values.plugin.initContainer.registrySecret }}
  - --registry-config=/registry/config.json
  {{- end }}
  {{- if $.Values.plugin.initContainer.plainHttp }}
  - --plain-http
  {{- end }}
  - {{ include "inference-plugin.reference" (dict "root" $ "module" $module) | quote }}
  env:
  - {name: HOME, value: /plugin}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 128Mi}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    {{- include "inference-plugin.containerSecurity" $ | nindent 4 }}
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
  - {name: modules, mountPath: /plugin}
  {{- if $.Values.plugin.initContainer.registrySecret }}
  - {name: registry, mountPath: /registry, readOnly: true}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
