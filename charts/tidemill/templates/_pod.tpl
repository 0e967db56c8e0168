{{/*
A part's pod under Pod Security `restricted`. A dict of
  root, part, values   the context, the part's name, its values
  set, args            the image's dependency set, the arguments of `tidemill`
  container            more fields of the container: ports, probes, another command
  env                  more environment variables
  config               ConfigMap of its settings; by default the one that all parts share
  token                true: it talks to the Kubernetes API
  restart              restartPolicy; by default Always
  priority             control or batch; servers have serving
  state                what is mounted at /project/.tidemill; by default an emptyDir
*/}}
{{- define "tidemill.pod" -}}
{{- $root := .root -}}
metadata:
  labels: {{- include "tidemill.selector" . | nindent 4 }}
  {{- if not .restart }}
  annotations:
    # Settings are read once, at the start.
    checksum/settings: {{ include "tidemill.environment" (dict "root" $root "tree" (include "tidemill.settings" $root | fromYaml)) | sha256sum }}
  {{- end }}
spec:
  serviceAccountName: {{ include "tidemill.name" . }}
  automountServiceAccountToken: {{ .token | default false }}
  # Kubernetes' own TIDEMILL_…_PORT variables would be read as settings.
  enableServiceLinks: false
  {{- with .restart }}
  restartPolicy: {{ . }}
  {{- end }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "tidemill.priorityClass" (dict "root" $root "kind" .priority) }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with .values.replicas }}
  topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "tidemill.selector" $ | nindent 8 }}
  {{- end }}
  {{- end }}
  containers:
  - name: {{ .part }}
    image: {{ include "tidemill.image" . }}
    {{- $command := dict "command" (list "tidemill") "args" .args }}
    {{- merge (deepCopy (.container | default dict)) $command | toYaml | nindent 4 }}
    envFrom:
    - configMapRef: {name: {{ .config | default (include "tidemill.name" (dict "root" $root "part" "settings")) }}}
    {{- with .values.secretName | default $root.Values.secretName }}
    - secretRef: {name: {{ . }}}
    {{- end }}
    env:
    - {name: HOME, value: /tmp}
    {{- with .env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    resources: {{- toYaml .values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
    - {name: state, mountPath: /project/.tidemill}
    - {name: tmp, mountPath: /tmp}
  volumes:
  - name: state
    {{- toYaml (.state | default (dict "emptyDir" dict)) | nindent 4 }}
  - name: tmp
    emptyDir: {}
{{- end -}}

{{/* Name of the PriorityClass of a kind of part, empty for none. */}}
{{- define "tidemill.priorityClass" -}}
{{- $classes := .root.Values.priorityClasses -}}
{{- if $classes.create -}}
{{ include "tidemill.fullname" .root }}-{{ .root.Release.Namespace }}-{{ .kind }}
{{- else -}}
{{ index $classes .kind }}
{{- end -}}
{{- end -}}
