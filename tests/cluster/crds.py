"""Custom resource definitions of others, from Go modules that crds/go.mod pins."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.cluster.build import CannotBuild

MODULE = Path(__file__).with_name("crds")


def gateway_api() -> Path:
    """Return the folder of Gateway API's standard definitions.

    Raises:
        CannotBuild: Go is absent, or cannot reach its module proxy.
    """
    if not shutil.which("go"):
        raise CannotBuild("no `go` on the PATH to fetch Gateway API's definitions with")
    argv = ["go", "mod", "download", "-json", "sigs.k8s.io/gateway-api"]
    done = subprocess.run(argv, cwd=MODULE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"go mod download: {done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"], "config", "crd", "standard")
