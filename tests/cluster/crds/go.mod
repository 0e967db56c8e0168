// Custom resources of others that the tests install; nothing of it is compiled.
module tidemill.dev/tests/crds

go 1.24.0

require (
	github.com/kedacore/keda/v2 v2.16.1
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.4.1
)
