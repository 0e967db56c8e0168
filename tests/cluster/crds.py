"""Custom resource definitions of others, from Go modules that crds/go.mod pins."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.cluster.build import CannotBuild

MODULE = Path(__file__).with_name("crds")


def gateway_api() -> Path:
    """Return the folder of Gateway API's standard definitions; raises CannotBuild."""
    return module("sigs.k8s.io/gateway-api", MODULE) / "config" / "crd" / "standard"


def prometheus_operator() -> list[Path]:
    """Return the Prometheus operator's definitions of what others make; raises CannotBuild."""
    found = module("github.com/prometheus-operator/prometheus-operator", MODULE)
    folder = found / "example" / "prometheus-operator-crd"
    kinds = ("podmonitors", "prometheusrules", "servicemonitors")
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in kinds]


def keda() -> Path:
    """Return KEDA's definition of a ScaledObject; raises CannotBuild."""
    folder = module("github.com/kedacore/keda/v2", MODULE) / "config" / "crd" / "bases"
    return folder / "keda.sh_scaledobjects.yaml"


def module(name: str, pins: Path) -> Path:
    """Return the files of a Go module, in the version that `pins`/go.mod names.

    Raises:
        CannotBuild: Go is absent, or cannot reach its module proxy.
    """
    if not shutil.which("go"):
        raise CannotBuild(f"no `go` on the PATH to fetch {name} with")
    argv = ["go", "mod", "download", "-json", name]
    done = subprocess.run(argv, cwd=pins, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"go mod download: {done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])
