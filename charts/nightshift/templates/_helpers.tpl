{{/* The release's name for its objects. */}}
{{- define "nightshift.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "nightshift.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that never change: (dict "root" $ "component" NAME). */}}
{{- define "nightshift.selector" -}}
app.kubernetes.io/name: {{ include "nightshift.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "nightshift.labels" -}}
{{ include "nightshift.selector" . }}
app.kubernetes.io/part-of: nightshift
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "nightshift.scheduler" -}}{{ include "nightshift.fullname" . }}-scheduler{{- end -}}
{{- define "nightshift.agent" -}}{{ include "nightshift.fullname" . }}-agent{{- end -}}
{{- define "nightshift.join" -}}{{ include "nightshift.fullname" . }}-join{{- end -}}
{{- define "nightshift.gateway" -}}{{ include "nightshift.fullname" . }}-gateway{{- end -}}
{{/* The Secret that the first scheduler makes: the agents' CA, the gateway's token, Prometheus' token. */}}
{{- define "nightshift.credentials" -}}{{ include "nightshift.fullname" . }}-scheduler{{- end -}}

{{- define "nightshift.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "nightshift.scheduler" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name one, or let the chart make it with serviceAccount.create=true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" $ "image" VALUES) */}}
{{- define "nightshift.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "nightshift.claim" -}}
{{- default (printf "%s-blobs" (include "nightshift.fullname" .)) .Values.blobs.persistence.existingClaim -}}
{{- end -}}

{{- define "nightshift.joinAddress" -}}
{{- default (printf "%s.%s.svc:%v" (include "nightshift.join" .) .Release.Namespace .Values.join.service.port) .Values.join.address -}}
{{- end -}}

{{- define "nightshift.gatewayHost" -}}
{{ include "nightshift.gateway" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Of every container: no root, no new privileges, nothing to write to but its volumes. */}}
{{- define "nightshift.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "nightshift.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
