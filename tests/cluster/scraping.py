"""A PodMonitor as Prometheus reads it: what the Prometheus operator makes of one.

Source: https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["scrape_config"]


def scrape_config(monitor: dict[str, Any], pods: str, interval: str) -> dict[str, Any]:
    """Return the job of a PodMonitor's only endpoint, for the pods of a file of `discovery`."""
    name = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    port = endpoint["port"]
    labels = {"namespace": "namespace", "container": "pod_container_name", "pod": "pod_name"}
    return {
        "job_name": f"podMonitor/{name}/0",
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "file_sd_configs": [{"files": [pods], "refresh_interval": "1s"}],
        "relabel_configs": [
            _rule("drop", "pod_phase", "(Failed|Succeeded)"),
            *(_selected(one) for one in monitor["spec"]["selector"]["matchExpressions"]),
            _rule("keep", "pod_container_port_name", port),
            *({"source_labels": [_meta(source)], "target_label": label}
              for label, source in labels.items()),
            {"target_label": "job", "replacement": name},
            {"target_label": "endpoint", "replacement": port},
        ],
    }  # fmt: skip


def _selected(expression: dict[str, str]) -> dict[str, Any]:
    assert expression["operator"] == "Exists", "the only one that our PodMonitor has"
    label = re.sub(r"\W", "_", expression["key"])
    return _rule("keep", f"pod_labelpresent_{label}", "true")


def _rule(action: str, source: str, pattern: str) -> dict[str, Any]:
    return {"action": action, "source_labels": [_meta(source)], "regex": pattern}


def _meta(name: str) -> str:
    return f"__meta_kubernetes_{name}"
