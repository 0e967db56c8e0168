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
{{- if and .Values.mlflow.enabled (not .Values.mlflow.persistence.enabled) (not (($settings.registry | default dict).backend)) }}
{{- $problems = append $problems "mlflow.persistence.enabled is false and settings.registry.backend is empty: MLflow would forget every model when its pod restarts; if that may be, say sqlite:////project/.tidemill/mlflow/mlflow.db" }}
{{- end }}
{{- $auth := dig "serving" "auth" dict $settings }}
{{- if and (or $auth.key_file (dig "jwt" "jwks" "" $auth)) (not $auth.controller_key) }}
{{- $problems = append $problems "settings.serving.auth.controller_key is empty: servers that ask for a key answer no question of the controller, and no canary passes its rehearsal; name one with infer, as env:CONTROLLER_KEY" }}
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
{{- $online := dig "features" "online" dict $settings }}
{{- $called := dict
  "database" $storage.database
  "identity" (dig "serving" "auth" "jwt" "jwks" "" $settings)
  "objects" $storage.endpoint_url
  "online" ($online.host | empty | ternary "" (printf "redis://%v:%v" $online.host ($online.port | default 6379)))
  "pipelines" (dig "execution" "kfp" "host" "" $settings)
  "prometheus" (dig "rollout" "prometheus_url" "" $settings)
  "registry" $uri
  "traces" (dig "serving" "traces" "endpoint" "" $settings) }}
{{- $usual := dict "http" "80" "https" "443" "postgresql+psycopg" "5432" }}
{{- range $peer, $url := .Values.networkPolicies.enabled | ternary $called dict }}
{{- $url = $url | default "" }}
{{- $scheme := regexFind "^[^:]+" $url }}
{{- $port := regexReplaceAll "^[^:]+://[^/?#]*?(:([0-9]+))?([/?#].*)?$" $url "${2}" | default (get $usual $scheme) }}
{{- $at := index $.Values.networkPolicies.peers $peer }}
{{- if and (contains "://" $url) $at.addresses (not (has $port (splitList " " (join " " $at.ports)))) }}
{{- $problems = append $problems (printf "the settings name %s, port %s, and networkPolicies.peers.%s.ports is %v: what is not there is refused to the pods" $url $port $peer $at.ports) }}
{{- end }}
{{- end }}
{{- $sets := dict "controller" "control" "features" "features" "mlflow" "registry" "monitor" "monitor" "retrain" "pipelines" }}
{{- range $part := include "tidemill.parts" . | fromYamlArray }}
{{- $set := get $sets $part }}
{{- if and $.Values.requireDigests $set (not (get (index $.Values.images ($set | default "control")) "digest")) }}
{{- $problems = append $problems (printf "images.%s.digest is empty, and requireDigests is true: docker buildx imagetools inspect %s prints it" $set (include "tidemill.image" (dict "root" $ "set" $set))) }}
{{- end }}
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
