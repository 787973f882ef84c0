{{- /* Names and labels. */ -}}

{{- define "columba.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 52 characters: Kubernetes puts a hash of ten and a dash behind a StatefulSet's name, and a label
       takes 63. */ -}}
{{- define "columba.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- /* What finds the objects of a release. Never changes: selectors cannot. */ -}}
{{- define "columba.selectorLabels" -}}
app.kubernetes.io/name: {{ include "columba.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "columba.serverLabels" -}}
{{ include "columba.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "columba.testLabels" -}}
{{ include "columba.selectorLabels" . }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "columba.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "columba.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "columba.serviceAccountName" -}}
{{- $default := ternary (include "columba.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{- define "columba.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- /* An address for the server to listen on; takes the context and a port. */ -}}
{{- define "columba.listen" -}}
{{- $address := .context.Values.listenAddress -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ .port }}
{{- end -}}

{{- /* The claim with the data, if it is one that is there. */ -}}
{{- define "columba.claimIsMade" -}}
{{- if and .Values.persistence.enabled (not .Values.persistence.existingClaim) }}true{{ end -}}
{{- end -}}

{{- /* What every pod of the chart runs under: the "restricted" profile. */ -}}
{{- define "columba.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.security.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "columba.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "columba.probe" -}}
periodSeconds: {{ int64 .periodSeconds }}
timeoutSeconds: {{ int64 .timeoutSeconds }}
failureThreshold: {{ int64 .failureThreshold }}
{{- end -}}
