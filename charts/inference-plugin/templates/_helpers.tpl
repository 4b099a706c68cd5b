{{/* Names. */}}
{{- define "inference-plugin.fullname" -}}
{{- $name := .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" $name) -}}
{{- fail (printf "a release with the name %q makes no Service: begin with a letter, and have letters, digits and '-' alone" .Release.Name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "inference-plugin.envoyName" -}}
{{- printf "%s-envoy" (include "inference-plugin.fullname" .) -}}
{{- end -}}

{{- define "inference-plugin.gatewayName" -}}
{{- default (printf "%s-gateway" (include "inference-plugin.fullname" .)) .Values.gateway.name -}}
{{- end -}}

{{/* Whether this chart runs an Envoy of its own. */}}
{{- define "inference-plugin.ownsEnvoy" -}}
{{- if has .Values.provider.name (list "none" "kgateway") -}}true{{- end -}}
{{- end -}}

{{/* Whether the Kubernetes API is asked for anything, for which a token is needed. */}}
{{- define "inference-plugin.asksKubernetes" -}}
{{- if or (ne .Values.discovery "envoyAdmin") .Values.modelResources -}}true{{- end -}}
{{- end -}}

{{/* Whether a metrics page may be on a port of its own: where pods' annotations are read, or a pool names one. */}}
{{- define "inference-plugin.readsOtherPorts" -}}
{{- $reads := ne .Values.discovery "envoyAdmin" -}}
{{- range $pool := (include "inference-plugin.pools" . | fromJson).pools -}}
{{- if $pool.settings.metricsPort -}}{{- $reads = true -}}{{- end -}}
{{- end -}}
{{- if $reads -}}true{{- end -}}
{{- end -}}

{{- define "inference-plugin.selectorLabels" -}}
app.kubernetes.io/name: inference-plugin
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "inference-plugin.labels" -}}
{{ include "inference-plugin.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* Fails on values that have no effect in the place where they are. */}}
{{- define "inference-plugin.check" -}}
{{- if and .Values.filterPosition (include "inference-plugin.ownsEnvoy" .) -}}
{{- fail (printf "filterPosition: the plugin is the only filter in front of the router in this chart's own Envoy, which provider.name=%s runs. Leave filterPosition out; provider.name=envoy-gateway and provider.name=istio have it" .Values.provider.name) -}}
{{- end -}}
{{- $usual := list "/v1/models" "/models" "/v1beta/models" "/v1/responses" "/v1/conversations" "/health" "/ping" -}}
{{- if and (gt (len (default (list) .Values.pools)) 1) .Values.openPaths (not (deepEqual .Values.openPaths $usual)) -}}
{{- fail "openPaths: with several pools a request that names no model belongs to no pool, so no path can be opened. Leave openPaths out, or give the pool whose paths are to be open a release of its own" -}}
{{- end -}}
{{- end -}}

{{/*
The pools, as {"pools": [...]}: those of `pools`, or else the one of `inferencePool`. Each has name, baseModel, labels,
ports, appProtocol, cluster, endpointPickerRef, and settings: what goes into the plugin JSON as it stands.
*/}}
{{- define "inference-plugin.pools" -}}
{{- $written := .Values.pools -}}
{{- if and $written (or .Values.inferencePool.baseModel .Values.inferencePool.name (dig "modelServers" "matchLabels" (dict) .Values.inferencePool)) -}}
{{- fail "both pools and inferencePool name a pool: with several, say all of them in pools" -}}
{{- end -}}
{{- if not $written -}}
{{- $written = list (mergeOverwrite (deepCopy .Values.inferencePool) (dict "name" (include "inference-plugin.onlyName" .))) -}}
{{- end -}}
{{- $pools := list -}}
{{- $names := list -}}
{{- range $pool := $written -}}
{{- $at := ternary (printf "pool %q" $pool.name) "inferencePool" (not (empty $.Values.pools)) -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$" $pool.name) -}}
{{- fail (printf "%s: a pool's name is that of its Service: begin with a letter, and have up to 63 small letters, digits and '-' alone, instead of %q" (ternary "pools" "inferencePool.name" (not (empty $.Values.pools))) $pool.name) -}}
{{- end -}}
{{- if has $pool.name $names -}}{{- fail (printf "%s: the name is there twice" $at) -}}{{- end -}}
{{- $names = append $names $pool.name -}}
{{- if and (include "inference-plugin.ownsEnvoy" $) (eq $pool.name (include "inference-plugin.envoyName" $)) -}}
{{- fail (printf "%s: %q is the name of Envoy's own Service" $at $pool.name) -}}
{{- end -}}
{{- $labels := dig "modelServers" "matchLabels" (dict) $pool -}}
{{- if empty $labels -}}{{- fail (printf "%s: modelServers.matchLabels must name labels of the model servers' pods" $at) -}}{{- end -}}
{{- if empty $pool.baseModel -}}{{- fail (printf "%s: baseModel must name the model that the servers were started with" $at) -}}{{- end -}}
{{- $ports := list -}}
{{- range $port := (default (list (dict "number" 8000)) $pool.targetPorts) -}}{{- $ports = append $ports (int $port.number) -}}{{- end -}}
{{- if and (eq $.Values.provider.name "istio") (gt (len $ports) 1) -}}
{{- fail (printf "%s: Istio has a cluster for each port, so a pool has one target port there" $at) -}}
{{- end -}}
{{- $settings := dict "engine" (default (default "vllm" $pool.modelServerType) $pool.engine) -}}
{{- range $key := list "adapters" "failureMode" "flowControl" "metricsPath" "metricsPort" "outlierDetection" "saturation" "scheduling" -}}
{{- $value := index $pool $key -}}
{{- /* An empty flowControl turns it on with its defaults; other empty values say nothing. */ -}}
{{- if or $value (and (eq $key "flowControl") (kindIs "map" $value)) -}}{{- $_ := set $settings $key $value -}}{{- end -}}
{{- end -}}
{{- if kindIs "bool" $pool.retryRefused -}}{{- $_ := set $settings "retryRefused" $pool.retryRefused -}}{{- end -}}
{{- $cluster := $pool.name -}}
{{- if eq $.Values.provider.name "istio" -}}
{{- $cluster = printf "outbound|%d||%s.%s.svc.%s" (index $ports 0) $pool.name $.Release.Namespace $.Values.clusterDomain -}}
{{- else if eq $.Values.provider.name "envoy-gateway" -}}
{{- $cluster = printf "httproute/%s/%s/rule/0" $.Release.Namespace $pool.name -}}
{{- end -}}
{{- $pools = append $pools (dict "name" $pool.name "baseModel" $pool.baseModel "labels" $labels "ports" $ports "appProtocol" (default "http" $pool.appProtocol) "cluster" $cluster "settings" $settings "endpointPickerRef" (default (dict) $pool.endpointPickerRef)) -}}
{{- end -}}
{{- toJson (dict "pools" $pools) -}}
{{- end -}}

{{/*
What the InferencePool's definition takes, as {"apiVersion", "name", "isOld", "pickerRequired", "hasAppProtocol", "maxPorts"}. Without
inferencePool.gieVersion the pool is such that every release from 1.1 on takes it. A cluster that has nothing but the older kind gets that.
*/}}
{{- define "inference-plugin.poolCrd" -}}
{{- $v1 := "inference.networking.k8s.io/v1" -}}
{{- $old := "inference.networking.x-k8s.io/v1alpha2" -}}
{{- $version := trimPrefix "v" .Values.inferencePool.gieVersion -}}
{{- if and $version (not (regexMatch "^1\\.[0-9]+(\\.[0-9]+)?$" $version)) -}}
{{- fail (printf "inferencePool.gieVersion: %q is no release of the Inference Extension: write one such as 1.4.0" .Values.inferencePool.gieVersion) -}}
{{- end -}}
{{- $has := .Capabilities.APIVersions -}}
{{- $hasOldAlone := and ($has.Has (printf "%s/InferencePool" $old)) (not ($has.Has (printf "%s/InferencePool" $v1))) (empty $version) -}}
{{- $api := default (ternary $old $v1 $hasOldAlone) .Values.inferencePool.apiVersion -}}
{{- $minor := int (default "1" (index (splitList "." (printf "%s.1" (default "1.1" $version))) 1)) -}}
{{- $isOld := eq $api $old -}}
{{- $crd := dict "apiVersion" $api "isOld" $isOld -}}
{{- $_ := set $crd "name" (ternary $api (printf "the Inference Extension %s" (default "1.1" $version)) $isOld) -}}
{{- $_ := set $crd "pickerRequired" (or $isOld (lt $minor 6)) -}}
{{- $_ := set $crd "hasAppProtocol" (or (empty $version) (ge $minor 4)) -}}
{{- $_ := set $crd "maxPorts" (ternary 1 8 (or $isOld (and (not (empty $version)) (eq $minor 0)))) -}}
{{- toJson $crd -}}
{{- end -}}

{{/*
Who picks for a pool, which definitions before 1.6 require: what the values say, or else where it is true that this gateway picks. The
arguments are the root, the pool, and whether one is required; it is {} when none is needed. A reference has no namespace, and Envoy Gateway
has its Service in another, so there it is the Gateway.
*/}}
{{- define "inference-plugin.endpointPickerRef" -}}
{{- $root := .root -}}
{{- $ref := .pool.endpointPickerRef -}}
{{- if and (empty $ref) .required -}}
{{- $port := dict "number" (int (index $root.Values.gateway.listeners 0).port) -}}
{{- if include "inference-plugin.ownsEnvoy" $root -}}
{{- $ref = dict "name" (include "inference-plugin.envoyName" $root) "port" (dict "number" (int $root.Values.envoy.service.port)) -}}
{{- else if eq $root.Values.provider.name "istio" -}}
{{- $ref = dict "name" (include "inference-plugin.istioProxy" $root) "port" $port -}}
{{- else -}}
{{- $ref = dict "group" "gateway.networking.k8s.io" "kind" "Gateway" "name" (include "inference-plugin.gatewayName" $root) "port" $port -}}
{{- end -}}
{{- $_ := set $ref "failureMode" "FailOpen" -}}
{{- end -}}
{{- toJson $ref -}}
{{- end -}}

{{/* The name of the pool of `inferencePool`. */}}
{{- define "inference-plugin.onlyName" -}}
{{- default (include "inference-plugin.fullname" .) .Values.inferencePool.name -}}
{{- end -}}

{{/* A container that can do nothing but run. */}}
{{- define "inference-plugin.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "inference-plugin.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "inference-plugin.image" -}}
{{- if .digest -}}{{ printf "%s@%s" .repository .digest }}{{- else -}}{{ printf "%s:%s" .repository .tag }}{{- end -}}
{{- end -}}

{{/* What the test's containers share; it ends in the list of their environment. */}}
{{- define "inference-plugin.testContainer" -}}
image: {{ include "inference-plugin.image" .Values.test.image | quote }}
imagePullPolicy: {{ .Values.test.image.pullPolicy }}
command: [curl]
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 64Mi}
securityContext:
  {{- include "inference-plugin.containerSecurity" . | nindent 2 }}
env:
- name: URL
  value: {{ include "inference-plugin.gatewayUrl" . | quote }}
{{- end -}}

{{/* Where clients inside the cluster reach the gateway. */}}
{{- define "inference-plugin.gatewayUrl" -}}
{{- if .Values.test.url -}}
{{- .Values.test.url -}}
{{- else if eq .Values.provider.name "envoy-gateway" -}}
{{- printf "http://%s.%s.svc:%d" (include "inference-plugin.envoyGatewayProxy" .) .Values.envoyGateway.namespace (int (index .Values.gateway.listeners 0).port) -}}
{{- else if eq .Values.provider.name "istio" -}}
{{- printf "http://%s.%s.svc:%d" (include "inference-plugin.istioProxy" .) .Release.Namespace (int (index .Values.gateway.listeners 0).port) -}}
{{- else -}}
{{- printf "http://%s.%s.svc:%d" (include "inference-plugin.envoyName" .) .Release.Namespace (int .Values.envoy.service.port) -}}
{{- end -}}
{{- end -}}

{{/*
The name that Envoy Gateway gives a Gateway's Deployment, Service and ServiceAccount: envoy-NAMESPACE-NAME, at most 48
characters of it, and eight digits of a hash.
*/}}
{{- define "inference-plugin.envoyGatewayProxy" -}}
{{- $gateway := include "inference-plugin.gatewayName" . -}}
{{- $computed := printf "envoy-%s-%s" (printf "%s-%s" .Release.Namespace $gateway | trunc 48) (printf "%s/%s" .Release.Namespace $gateway | sha256sum | trunc 8) -}}
{{- default $computed .Values.envoyGateway.serviceAccountName -}}
{{- end -}}

{{/* The name that Istio gives a Gateway's Deployment, Service and ServiceAccount. */}}
{{- define "inference-plugin.istioProxy" -}}
{{- default (printf "%s-%s" (include "inference-plugin.gatewayName" .) (include "inference-plugin.gatewayClass" .)) .Values.istio.serviceAccountName -}}
{{- end -}}

{{- define "inference-plugin.gatewayClass" -}}
{{- default (get (dict "envoy-gateway" "eg" "istio" "istio" "kgateway" "kgateway") .Values.provider.name) .Values.gateway.className -}}
{{- end -}}
