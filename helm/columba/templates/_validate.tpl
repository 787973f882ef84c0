{{- /* Values that contradict each other, or what the server can do: one line for each, with what to do. What is
       wrong with a single value is in values.schema.json where that can say it well. */ -}}

{{- define "columba.problems" -}}
{{- include "columba.replicaProblems" . }}
{{- include "columba.exposureProblems" . }}
{{- include "columba.configProblems" . }}
{{- include "columba.authorizationProblems" . }}
{{- include "columba.egressProblems" . }}
{{- include "columba.stopProblems" . }}
{{- include "columba.memoryProblems" . }}
{{- include "columba.volumeProblems" . }}
{{- include "columba.uselessProblems" . }}
{{- include "columba.extraProblems" . }}
{{- end -}}

{{- define "columba.replicaProblems" -}}
{{- if ne (int64 .Values.replicas) 1 }}
replicas is {{ int64 .Values.replicas }}: the embedded engine is one process that owns one log, so a second one would serve other messages, and none would serve nothing; leave it at 1, and to stop the server for a while use `kubectl scale statefulset {{ include "columba.fullname" . }} --replicas=0`
{{- end }}
{{- end -}}

{{- /* The chart sets up no TLS and no identity, and does not look whether config does: what lets more in than the pods
       of the namespace must be wanted. */ -}}
{{- define "columba.exposureProblems" -}}
{{- if not .Values.insecure }}
{{- $why := "and the chart does not know whether the server has TLS and identity; say insecure=true if it has, or if you trust everybody there" }}
{{- if not .Values.networkPolicy.enabled }}
networkPolicy.enabled is false: every pod of the cluster could connect, {{ $why }}, or leave the policy enabled
{{- end }}
{{- if ne .Values.service.type "ClusterIP" }}
service.type is {{ .Values.service.type }}: machines outside of the cluster could connect, {{ $why }}, or leave it at ClusterIP
{{- end }}
{{- if .Values.grpcRoute.enabled }}
grpcRoute.enabled is true: whoever reaches the gateway could connect, {{ $why }}, or leave it false
{{- end }}
{{- range .Values.networkPolicy.from }}
{{- if has (get (.ipBlock | default dict) "cidr") (list "0.0.0.0/0" "::/0") }}
networkPolicy.from has {{ .ipBlock.cidr }}: everybody could connect, {{ $why }}, or name the peers that you mean
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The ranges of src/config.rs. */ -}}
{{- define "columba.configProblems" -}}
{{- $root := . }}
{{- range list (list "segment_size" "128MiB" "32MiB" "1GiB") (list "tail_cache_size" "64MiB" "1MiB" "64GiB") (list "write_queue_size" "64MiB" "17MiB" "16GiB") (list "disk_reserve" "64MiB" "0" "1TiB") }}
{{- $of := dict "context" $root "key" (index . 0) "default" (index . 1) }}
{{- $bytes := include "columba.storageBytes" $of | int64 }}
{{- if or (lt $bytes (include "columba.bytes" (index . 2) | int64)) (gt $bytes (include "columba.bytes" (index . 3) | int64)) }}
config.storage.{{ index . 0 }} is {{ include "columba.setting" (merge (dict "section" "storage") $of) }}: it must be from {{ index . 2 }} to {{ index . 3 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The server refuses to start with what is found here, in every pod and again. */ -}}
{{- define "columba.authorizationProblems" -}}
{{- $config := .Values.config | default dict }}
{{- $identity := $config.identity | default dict }}
{{- $authorization := $config.authorization | default dict }}
{{- if and (or $identity.tokens $identity.jwt ($config.tls | default dict).client_ca) (not $authorization.rules) (not $authorization.allow_all) }}
config.authorization.rules is not given and there is identity: name a file of rules that say who may do what, or say config.authorization.allow_all=true
{{- end }}
{{- end -}}

{{- define "columba.egressProblems" -}}
{{- $identity := get (.Values.config | default dict) "identity" | default dict }}
{{- $jwks := get (get $identity "jwt" | default dict) "jwks" | default "" }}
{{- if and (contains "://" $jwks) .Values.networkPolicy.enabled (not .Values.networkPolicy.egress) }}
config.identity.jwt.jwks is {{ $jwks }} and networkPolicy.egress is empty: the server could not ask the issuer for its keys; allow the issuer and DNS (port 53, UDP and TCP) there, or mount the keys and name their file
{{- end }}
{{- end -}}

{{- define "columba.stopProblems" -}}
{{- $deadline := include "columba.setting" (dict "context" . "section" "shutdown" "key" "deadline" "default" "25s") }}
{{- $seconds := include "columba.seconds" $deadline | int64 }}
{{- $grace := int64 .Values.terminationGracePeriodSeconds }}
{{- if or (lt $seconds 1) (gt $seconds 3600) }}
config.shutdown.deadline is {{ $deadline }}: it must be from 1s to 1h
{{- end }}
{{- if lt $grace (add $seconds 5) }}
terminationGracePeriodSeconds is {{ $grace }} and config.shutdown.deadline is {{ $deadline }}: Kubernetes would kill the server before it has stopped by itself; make the former at least {{ add $seconds 5 }}, or the latter shorter
{{- end }}
{{- end -}}

{{- define "columba.memoryProblems" -}}
{{- $limits := get (.Values.resources | default dict) "limits" | default dict }}
{{- with $limits.memory }}
{{- $cache := include "columba.storageBytes" (dict "context" $ "key" "tail_cache_size" "default" "64MiB") | int64 }}
{{- $queue := include "columba.storageBytes" (dict "context" $ "key" "write_queue_size" "default" "64MiB") | int64 }}
{{- $needed := add $cache $queue (include "columba.bytes" "384MiB") }}
{{- if lt (include "columba.bytes" . | int64) $needed }}
resources.limits.memory is {{ toJson . | trimAll "\"" }}: the server would be killed under load, since config.storage.tail_cache_size, write_queue_size and 384MiB for requests that arrive and the state make {{ divf $needed 1048576 | ceil | int64 }}Mi; raise the limit, or lower the settings
{{- end }}
{{- end }}
{{- end -}}

{{- define "columba.volumeProblems" -}}
{{- $volume := .Values.persistence }}
{{- $segment := include "columba.storageBytes" (dict "context" . "key" "segment_size" "default" "128MiB") | int64 }}
{{- $reserve := include "columba.storageBytes" (dict "context" . "key" "disk_reserve" "default" "64MiB") | int64 }}
{{- $needed := add $reserve (mul 2 $segment) }}
{{- if and (not $volume.existingClaim) (lt (include "columba.bytes" $volume.size | int64) $needed) }}
persistence.size is {{ $volume.size }}: config.storage.disk_reserve and two files of config.storage.segment_size make {{ divf $needed 1048576 | ceil | int64 }}Mi, and publishing would be refused soon; raise it, or lower the settings
{{- end }}
{{- if and $volume.existingClaim (not $volume.enabled) }}
persistence.existingClaim is {{ $volume.existingClaim }} and persistence.enabled is false: the claim would not be used; drop one of the two
{{- end }}
{{- if and $volume.existingClaim (or $volume.storageClass $volume.annotations) }}
persistence.existingClaim is {{ $volume.existingClaim }}: persistence.storageClass and annotations are for a claim that the chart makes; drop one or the other
{{- end }}
{{- end -}}

{{- /* Values without effect, beside others. */ -}}
{{- define "columba.uselessProblems" -}}
{{- $service := .Values.service }}
{{- if and $service.nodePort (eq $service.type "ClusterIP") }}
service.nodePort is {{ int64 $service.nodePort }} and service.type is ClusterIP, which has no port on the nodes; drop the former, or choose NodePort or LoadBalancer
{{- end }}
{{- if and $service.loadBalancerSourceRanges (ne $service.type "LoadBalancer") }}
service.loadBalancerSourceRanges is given and service.type is {{ $service.type }}: only a LoadBalancer has them; drop the former, or choose LoadBalancer
{{- end }}
{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) }}
grpcRoute.enabled is true and grpcRoute.parentRefs is empty: a route belongs to a gateway; name one, such as {name: public, namespace: gateways}
{{- end }}
{{- if and (or .Values.networkPolicy.from .Values.networkPolicy.egress) (not .Values.networkPolicy.enabled) }}
networkPolicy.from or networkPolicy.egress is given and networkPolicy.enabled is false: nobody would be held up; enable it, or drop them
{{- end }}
{{- if and .Values.metrics.from (not .Values.networkPolicy.enabled) }}
metrics.from is given and networkPolicy.enabled is false: nobody would be held up; enable it, or drop them
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.metrics.from) }}
metrics.serviceMonitor.enabled is true and metrics.from is empty: the network policy would keep Prometheus away; name its pods in metrics.from, such as {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}
{{- end }}
{{- if and .Values.metrics.prometheusRule.enabled (not .Values.metrics.serviceMonitor.enabled) }}
metrics.prometheusRule.enabled is true and metrics.serviceMonitor.enabled is false: the alerts find the server by the Service of the latter, and would all say that it is down; enable it
{{- end }}
{{- if and .Values.serviceAccount.annotations (not .Values.serviceAccount.create) }}
serviceAccount.annotations is given and serviceAccount.create is false: they are for an account that the chart makes; drop one or the other
{{- end }}
{{- end -}}

{{- define "columba.extraProblems" -}}
{{- range .Values.extraEnv }}
{{- if hasPrefix "COLUMBA_" .name }}
extraEnv has {{ .name }}: the environment wins over the configuration file, so what the chart checks would not be what the server does; put settings under config
{{- end }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if has .name (list "data" "config") }}
extraVolumes has {{ .name }}: the chart has a volume of that name; choose another
{{- end }}
{{- end }}
{{- range .Values.extraVolumeMounts }}
{{- if not .readOnly }}
extraVolumeMounts has {{ .mountPath }} without readOnly: the data is all that the server writes; set readOnly: true
{{- end }}
{{- end }}
{{- range $mount := .Values.extraVolumeMounts }}
{{- range $own := list "/var/lib/columba" "/etc/columba" }}
{{- $there := printf "%s/" (trimSuffix "/" $mount.mountPath) }}
{{- if or (hasPrefix (printf "%s/" $own) $there) (hasPrefix $there (printf "%s/" $own)) }}
extraVolumeMounts has {{ $mount.mountPath }}: it would hide {{ $own }}, or a part of it; choose another path
{{- end }}
{{- end }}
{{- end }}
{{- range $label, $_ := .Values.podLabels }}
{{- if has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component") }}
podLabels has {{ $label }}: the chart finds its pod by it; choose another label
{{- end }}
{{- end }}
{{- end -}}
