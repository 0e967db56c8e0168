"""What the chart is rendered with in the tests."""

from __future__ import annotations

from typing import Any

import yaml
from tests.charts.rendering import CHART, NEEDED, STORAGE

DIGEST = "sha256:" + "1" * 64
ROLLOUT: dict[str, Any] = {
    "model": {
        "version": "7",
        "digest": "sha256:" + "a" * 64,
        "threshold": "0.21",
        "scoreTails": {"low": "0.08", "high": "0.31"},
    },
    "runtime": {"replicas": 1},
    "traffic": {"parentRefs": [{"name": "gateway"}]},
    "strategy": {"steps": [{"name": "c5", "weight": 500}]},
}
DIGESTS = {
    name: {"digest": DIGEST}
    for name in ("control", "features", "monitor", "pipelines", "registry", "serve")
}
BACKEND = {
    "backend": "postgresql+psycopg://mlflow@db.example.com:5432/mlflow",
    "artifacts": "s3://models/mlflow",
}
IMAGES = {"serve": {"digest": DIGEST}, "registry": {"digest": DIGEST}}
SETTINGS = {
    "storage": STORAGE,
    "features": {"online": {"type": "redis", "host": "redis.example.com"}},
}
RUNNER = {"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}
MODEL = {"name": "churn", "model": "Churn", "rollout": ROLLOUT}
HPA = {"minReplicas": 2, "maxReplicas": 6}
KEDA = HPA | {"keda": {"serverAddress": "http://prometheus.monitoring:9090", "threshold": 50}}
ONE_MODEL: dict[str, Any] = {"settings": SETTINGS, "images": IMAGES, "models": [MODEL]}
EVERYTHING: dict[str, Any] = {
    "settings": SETTINGS
    | {"execution": {"target": "kfp", "kfp": {"host": "http://ml-pipeline.kubeflow:8888"}}},
    "environment": "production",
    "secretName": "credentials",
    "imageRegistry": "registry.example.com",
    "imagePullSecrets": [{"name": "pull"}],
    "images": {**IMAGES, "pipelines": {"repository": "acme/pipelines"}},
    "controller": {"replicas": 2, "scope": "Cluster"},
    "mlflow": {"hosts": ["mlflow.example.com"]},
    "features": {"enabled": True},
    "retrain": {"enabled": True},
    "judge": {"enabled": True},
    "rbac": {"deployers": [RUNNER]},
    "prometheus": {
        "monitors": True,
        "rules": True,
        "dashboard": True,
        "labels": {"release": "prometheus"},
    },
    "priorityClasses": {"create": True},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "ml", "operator": "Exists"}],
    "models": [
        MODEL | {"settings": {"serving": {"slow_ms": 20}}, "autoscaling": KEDA},
        {"name": "upsell", "autoscaling": HPA},
    ],
}


def profile(name: str) -> dict[str, Any]:
    """Return a profile's values with what it needs of the platform and one model."""
    return ONE_MODEL | dict(yaml.safe_load((CHART / f"values-{name}.yaml").read_text()))


RENDERED: dict[str, dict[str, Any]] = {
    "default": NEEDED,
    "small": profile("small"),
    "production": profile("production")
    | {
        "models": [MODEL | {"autoscaling": HPA}],
        "images": DIGESTS,
        "settings": SETTINGS | {"registry": BACKEND},
    },
    "everything": EVERYTHING,
}
