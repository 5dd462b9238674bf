{{/* What the processes differ in. Secrets are those of docs/production.md. */}}
{{- define "openkcm.processes" -}}
worker:
  module: worker
  secrets: [database-worker, context-worker, vault-worker, vault-offboarding, boundary-identity.pem, intake.pem]
  ports: {metrics: 17464}
  liveness: {path: /metrics, port: metrics}
  readiness: {path: /metrics, port: metrics}
  temporal: true
  egress: [database, vault, temporal, rootKeys, notifications]
  traces: true
  ingress: {metrics: monitoring}
marketplace:
  module: marketplace
  secrets: [database-marketplace, context-marketplace, webhook-secrets, marketplace-token]
  ports: {http: 18080}
  liveness: {path: /healthz, port: http}
  readiness: {path: /readyz, port: http}
  temporal: true
  preStopSeconds: 5
  egress: [database, temporal, web]
  traces: true
  ingress: {http: events}
crypto:
  module: crypto_service
  secrets: [database-crypto, context-crypto, vault-crypto, boundary-identity.pem]
  ports: {https: 18443, kmip: 15696, metrics: 17465}
  liveness: {path: /healthz, port: metrics}
  readiness: {path: /readyz, port: metrics}
  egress: [database, vault, rootKeys]
  traces: true
  ingress: {https: clients, kmip: clients, metrics: monitoring}
dashboard:
  module: dashboard
  secrets: [database-dashboard, context-dashboard, dashboard-cookie, oidc-client-secret, intake.pub]
  ports: {http: 18501}
  liveness: {path: /healthz, port: http}
  readiness: {path: /readyz, port: http}
  temporal: true
  preStopSeconds: 5
  egress: [database, temporal, web]
  traces: true
  ingress: {http: users}
codec:
  module: worker.codec_server
  secrets: [vault-codec, codec-token]
  ports: {http: 18081}
  liveness: {path: /healthz, port: http}
  readiness: {path: /healthz, port: http}
  preStopSeconds: 5
  egress: [vault]
  ingress: {http: operators}
{{- end -}}

{{- define "openkcm.selector" -}}
app.kubernetes.io/name: openkcm
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "openkcm.labels" -}}
{{ include "openkcm.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "openkcm.metadata" -}}
name: {{ .root.Release.Name }}-{{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "openkcm.labels" . | nindent 2 }}
{{- end -}}

{{- define "openkcm.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* The settings file: the values' settings, and those that belong to the pods. */}}
{{- define "openkcm.toml" -}}
{{- $fixed := dict "temporal" "profile" "secrets_dir" "/run/openkcm/secrets" "audit_archive_dir" "/var/lib/openkcm-archive" -}}
{{- range list "marketplace_host" "dashboard_host" "crypto_host" "codec_host" "worker_metrics_host" "crypto_metrics_host" -}}
{{- $_ := set $fixed . "0.0.0.0" -}}
{{- end -}}
{{- $_ := set $fixed "shutdown_notice_seconds" .Values.shutdownNotice -}}
{{- $_ := set $fixed "shutdown_grace_seconds" .Values.shutdownGrace -}}
{{- $_ := set $fixed "crypto_processes" .Values.crypto.processes -}}
{{- toToml (merge $fixed .Values.settings) | trim -}}
{{- end -}}

{{/* More than shutdown_notice_seconds + 2 × shutdown_grace_seconds + 10, and the pause before SIGTERM. */}}
{{- define "openkcm.stopSeconds" -}}
{{ add (ceil .Values.shutdownNotice) (mul 2 (ceil .Values.shutdownGrace)) 20 }}
{{- end -}}

{{- define "openkcm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "openkcm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "openkcm.environment" -}}
{{- $values := index .root.Values .name -}}
{{- if .process.temporal }}
- {name: TEMPORAL_ADDRESS, value: {{ .root.Values.temporal.address | quote }}}
- {name: TEMPORAL_NAMESPACE, value: {{ .root.Values.temporal.namespace | quote }}}
{{- if .root.Values.temporal.tlsSecret }}
- {name: TEMPORAL_TLS, value: "true"}
- {name: TEMPORAL_TLS_CLIENT_CERT_PATH, value: /run/openkcm/temporal/tls.crt}
- {name: TEMPORAL_TLS_CLIENT_KEY_PATH, value: /run/openkcm/temporal/tls.key}
- {name: TEMPORAL_TLS_SERVER_CA_CERT_PATH, value: /run/openkcm/temporal/ca.crt}
{{- end }}
{{- end }}
{{- range $name, $value := $values.environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "openkcm.mounts" -}}
- {name: settings, mountPath: /etc/openkcm/openkcm.toml, subPath: openkcm.toml, readOnly: true}
- {name: secrets, mountPath: /run/openkcm/secrets, readOnly: true}
- {name: state, mountPath: /var/lib/openkcm}
- {name: temporary, mountPath: /tmp}
{{- if .root.Values.trustConfigMap }}
- {name: trust, mountPath: /etc/openkcm/trust, readOnly: true}
{{- end }}
{{- if and .process.temporal .root.Values.temporal.tlsSecret }}
- {name: temporal, mountPath: /run/openkcm/temporal, readOnly: true}
{{- end }}
{{- if eq .name "worker" }}
- {name: archive, mountPath: /var/lib/openkcm-archive}
{{- end }}
{{- end -}}

{{- define "openkcm.volumes" -}}
- name: settings
  configMap: {name: {{ .root.Release.Name }}-{{ if eq .name "setup" }}setup{{ else }}settings{{ end }}}
- name: secrets
  secret:
    secretName: {{ (index .root.Values .name).secret }}
    defaultMode: 0440
    {{- with .process.secrets }}
    items:
      {{- range . }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
    {{- end }}
{{- if ne .name "crypto" }}
- {name: state, emptyDir: {sizeLimit: 256Mi}}
{{- end }}
- {name: temporary, emptyDir: {sizeLimit: 256Mi}}
{{- if .root.Values.trustConfigMap }}
- name: trust
  configMap: {name: {{ .root.Values.trustConfigMap }}}
{{- end }}
{{- if and .process.temporal .root.Values.temporal.tlsSecret }}
- name: temporal
  secret: {secretName: {{ .root.Values.temporal.tlsSecret }}, defaultMode: 0440}
{{- end }}
{{- if eq .name "worker" }}
- name: archive
  persistentVolumeClaim: {claimName: {{ .root.Values.worker.archiveClaim }}}
{{- end }}
{{- end -}}

{{/* The template of a process's pods. */}}
{{- define "openkcm.pod" -}}
metadata:
  labels:
    {{- include "openkcm.labels" . | nindent 4 }}
  annotations:
    openkcm/settings: {{ include "openkcm.toml" .root | sha256sum }}
spec:
  serviceAccountName: {{ .root.Release.Name }}-{{ .name }}
  automountServiceAccountToken: false
  # Otherwise a Service named openkcm-marketplace sets OPENKCM_MARKETPLACE_PORT, which is a setting.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "openkcm.stopSeconds" .root }}
  securityContext:
    {{- include "openkcm.podSecurity" . | nindent 4 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "openkcm.selector" $ | nindent 10 }}
    {{- end }}
  containers:
    - name: {{ .name }}
      image: {{ include "openkcm.image" .root | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [/opt/openkcm/bin/python, -m, {{ .process.module }}]
      {{- with include "openkcm.environment" . | trim }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      ports:
        {{- range $port, $number := .process.ports }}
        - {name: {{ $port }}, containerPort: {{ $number }}, protocol: TCP}
        {{- end }}
      startupProbe:
        httpGet: {{ toJson .process.liveness }}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {{ toJson .process.liveness }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {{ toJson .process.readiness }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- with .process.preStopSeconds }}
      lifecycle:
        preStop: {sleep: {seconds: {{ . }}}}
      {{- end }}
      securityContext:
        {{- include "openkcm.containerSecurity" . | nindent 8 }}
      resources:
        {{- toYaml (index .root.Values .name).resources | nindent 8 }}
      volumeMounts:
        {{- include "openkcm.mounts" . | nindent 8 }}
  volumes:
    {{- include "openkcm.volumes" . | nindent 4 }}
{{- end -}}
