// The oldest Kubernetes that the chart supports: its OpenAPI document; nothing of it is compiled.
module tidemill.dev/tests/oldest

go 1.24.0

require k8s.io/kubernetes v1.29.15
