"""Prometheus' discovery of pods: `kubernetes_sd_configs` with the role `pod`, as a file.

Debian builds Prometheus without it. This runs beside Prometheus in its pod, under its service
account, and writes each port of each pod with the meta labels that its documentation lists:
https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from tidemill.adapters.kubernetes.access import connect, namespace
from tidemill.adapters.kubernetes.client import PODS, KubeClient
from tidemill.errors import TidemillError

POLL_SECONDS = 0.5


def targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a target for each port that the pod declares; none before it has an address."""
    address = pod["status"].get("podIP")
    found = []
    for container in pod["spec"]["containers"] if address else ():
        for port in container.get("ports", ()):
            meta = {
                "namespace": pod["metadata"]["namespace"],
                "pod_name": pod["metadata"]["name"],
                "pod_phase": pod["status"]["phase"],
                "pod_container_name": container["name"],
                "pod_container_port_name": port.get("name", ""),
            }
            for label, value in pod["metadata"].get("labels", {}).items():
                name = re.sub(r"\W", "_", label)
                meta |= {f"pod_label_{name}": value, f"pod_labelpresent_{name}": "true"}
            labels = {f"__meta_kubernetes_{name}": value for name, value in meta.items()}
            found.append({"targets": [f"{address}:{port['containerPort']}"], "labels": labels})
    return found


def main(file: Path) -> None:
    """Write the pods of this namespace to a file, forever."""
    with connect() as http:
        api = KubeClient(http)
        while True:
            try:
                pods = api.select(PODS, namespace(), {})
            except TidemillError as error:
                print(error.message, flush=True)
            else:
                fresh = file.with_suffix(".new")
                fresh.write_text(json.dumps([one for pod in pods for one in targets(pod)]))
                fresh.replace(file)
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
