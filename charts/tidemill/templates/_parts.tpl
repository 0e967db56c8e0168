{{/* The parts that run, a list. Each has a ServiceAccount and, but for servers, pods of its own. */}}
{{- define "tidemill.parts" -}}
- controller
- check
{{- range $part := list "features" "judge" "mlflow" "retrain" }}
{{- if (index $.Values $part).enabled }}
- {{ $part }}
{{- end }}
{{- end }}
{{- if .Values.models }}
- labels
- monitor
{{- end }}
{{- end -}}
