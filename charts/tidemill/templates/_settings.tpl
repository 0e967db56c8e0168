{{/*
The settings that all parts share, as YAML: those of the values, and where the release's own MLflow
listens.
*/}}
{{- define "tidemill.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- if .Values.mlflow.enabled -}}
{{- $uri := printf "http://%s:5000" (include "tidemill.name" (dict "root" . "part" "mlflow")) -}}
{{- $settings = mergeOverwrite $settings (dict "registry" (dict "uri" $uri)) -}}
{{- end -}}
{{ toYaml $settings }}
{{- end -}}

{{/* The settings of one model: `dict "root" $ "model" <entry of models>`. */}}
{{- define "tidemill.modelSettings" -}}
{{- $settings := include "tidemill.settings" .root | fromYaml -}}
{{- $own := dict "registry" (dict "model" (.model.model | default .model.name)) -}}
{{ mergeOverwrite $settings (deepCopy (.model.settings | default dict)) $own | toYaml }}
{{- end -}}

{{/*
Environment variables of a tree of settings, a line each: `dict "root" $ "tree" <tree>`. A name has
one case there, so a mapping with a key that is not lower case is one variable, as JSON.
*/}}
{{- define "tidemill.environment" -}}
{{- with .root.Values.environment }}
TIDEMILL_ENV: {{ . | quote }}
{{- end }}
{{- include "tidemill.variables" (dict "prefix" "TIDEMILL_" "tree" .tree) }}
{{- end -}}

{{- define "tidemill.variables" -}}
{{- range $key, $value := .tree }}
{{- $name := printf "%s%s" $.prefix (upper $key) }}
{{- $keys := "" }}
{{- if kindIs "map" $value }}{{ $keys = printf "%s," (join "," (keys $value)) }}{{ end }}
{{- if regexMatch "^([a-z][a-z0-9]*(_[a-z0-9]+)*,)+$" $keys }}
{{- include "tidemill.variables" (dict "prefix" (printf "%s__" $name) "tree" $value) }}
{{- else }}
{{ $name }}: {{ toJson $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Environment variables that say where the governor finds rollouts, a list: on this cluster, in the
release's namespace, unless the settings say otherwise. `dict "root" $ "tree" <tree of settings>`.
A run that the retrain trigger starts orders its rollout there, too.
*/}}
{{- define "tidemill.rollouts" -}}
- name: TIDEMILL_ROLLOUT__TARGET
  value: {{ dig "rollout" "target" "kubernetes" .tree | toJson | quote }}
- name: TIDEMILL_ROLLOUT__KUBERNETES__NAMESPACE
  value: {{ dig "rollout" "kubernetes" "namespace" .root.Release.Namespace .tree | toJson | quote }}
{{- end -}}

{{/*
Environment variables of the retrain trigger, a list. It hands its settings to the pods of a run,
which have another namespace: they reach the release's MLflow by its name with the namespace.
*/}}
{{- define "tidemill.trigger" -}}
{{ include "tidemill.rollouts" (dict "root" . "tree" (include "tidemill.settings" . | fromYaml)) }}
{{- if .Values.mlflow.enabled }}
- name: TIDEMILL_REGISTRY__URI
  value: {{ printf "http://%s.%s:5000" (include "tidemill.name" (dict "root" . "part" "mlflow")) .Release.Namespace | toJson | quote }}
{{- end }}
{{- end -}}

{{/* Name of a model's ConfigMap: its content is in its name, so that a revision keeps its own. */}}
{{- define "tidemill.modelConfig" -}}
{{- $content := include "tidemill.environment" (dict "root" .root "tree" (include "tidemill.modelSettings" . | fromYaml)) -}}
{{ include "tidemill.fullname" .root }}-{{ .model.name }}-{{ $content | sha256sum | trunc 8 }}
{{- end -}}
