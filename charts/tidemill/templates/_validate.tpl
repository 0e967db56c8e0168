{{/* What a schema cannot say; all problems are told at once, each with what to do. */}}
{{- define "tidemill.validate" -}}
{{- $problems := list }}
{{- $settings := .Values.settings }}
{{- $storage := $settings.storage | default dict }}
{{- if not (hasPrefix "postgresql+psycopg://" ($storage.database | default "")) }}
{{- $problems = append $problems "settings.storage.database is not postgresql+psycopg://…: pods share no file, each would keep a ledger of its own" }}
{{- end }}
{{- if not (hasPrefix "s3://" ($storage.objects | default "")) }}
{{- $problems = append $problems "settings.storage.objects is not s3://bucket/prefix: the monitor would not see what servers log" }}
{{- end }}
{{- $uri := ($settings.registry | default dict).uri | default "" }}
{{- if and .Values.mlflow.enabled $uri }}
{{- $problems = append $problems "settings.registry.uri is set and mlflow.enabled is true: keep one of the two MLflow servers" }}
{{- end }}
{{- if not (or .Values.mlflow.enabled $uri) }}
{{- $problems = append $problems "settings.registry.uri is empty and mlflow.enabled is false: name your MLflow, or run the chart's" }}
{{- end }}
{{- if and .Values.features.enabled (ne ((($settings.features | default dict).online | default dict).type | default "") "redis") }}
{{- $problems = append $problems "settings.features.online.type is not redis: servers do not see a file that another pod fills; or set features.enabled=false" }}
{{- end }}
{{- if and .Values.retrain.enabled (not (hasPrefix "kfp" (($settings.execution | default dict).target | default ""))) }}
{{- $problems = append $problems "settings.execution.target is not kfp: the retrain trigger would train in its own pod" }}
{{- end }}
{{- if and .Values.retrain.enabled (not ((($settings.execution | default dict).kfp | default dict).host)) }}
{{- $problems = append $problems "settings.execution.kfp.host is empty: on which Kubeflow Pipelines does the retrain trigger start runs?" }}
{{- end }}
{{- range $model := .Values.models }}
{{- if and .rollout (not (((.rollout).runtime | default dict).image)) (not $.Values.images.serve.digest) }}
{{- $problems = append $problems (printf "models[%s] needs images.serve.digest: a ModelRollout names its image by digest" .name) }}
{{- end }}
{{- $runtime := (.rollout | default dict).runtime | default dict }}
{{- if and .rollout (not $runtime.bundles) (not $runtime.fetchImage) (not $.Values.images.registry.digest) }}
{{- $problems = append $problems (printf "models[%s] needs images.registry.digest, or runtime.bundles: from where does it get its bundle?" .name) }}
{{- end }}
{{- with .autoscaling }}
{{- $requests := (mergeOverwrite (deepCopy $.Values.servers.resources) (deepCopy ($runtime.resources | default dict))).requests | default dict }}
{{- if and $model.rollout (or .targetCPU (not .keda)) (not $requests.cpu) }}
{{- $problems = append $problems (printf "models[%s].autoscaling goes by CPU, and its servers request none: set servers.resources.requests.cpu" $model.name) }}
{{- end }}
{{- if gt .minReplicas .maxReplicas }}
{{- $problems = append $problems (printf "models[%s].autoscaling.minReplicas is above maxReplicas" $model.name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $problems }}
{{- fail (printf "the values cannot run:\n  - %s" (join "\n  - " $problems)) }}
{{- end }}
{{- end -}}
