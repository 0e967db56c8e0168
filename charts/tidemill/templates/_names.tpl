{{/* Name of everything that the release makes. */}}
{{- define "tidemill.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* Name of one part: `dict "root" $ "part" "controller"`. */}}
{{- define "tidemill.name" -}}
{{ include "tidemill.fullname" .root }}-{{ .part }}
{{- end -}}

{{/* The labels by which a part's pods are chosen; they never change. */}}
{{- define "tidemill.selector" -}}
app.kubernetes.io/name: tidemill
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "tidemill.labels" -}}
{{ include "tidemill.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Metadata of a part's object: `dict "root" $ "part" "controller"`. */}}
{{- define "tidemill.metadata" -}}
name: {{ include "tidemill.name" . }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "tidemill.labels" . | nindent 2 }}
{{- end -}}

{{/* Reference of an image, by digest if there is one: `dict "root" $ "set" "control"`. */}}
{{- define "tidemill.image" -}}
{{- $image := index .root.Values.images .set -}}
{{- $name := $image.repository -}}
{{- with .root.Values.imageRegistry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}
