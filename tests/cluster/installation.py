"""The chart, installed on the test cluster: images of this machine's files, and backing services.

The images hold the interpreter and packages that run the tests, with this checkout as the project:
what an image of `infra/` adds is its own file system, not other code.
"""

from __future__ import annotations

import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import yaml
from tests import servers
from tests.bundles import make_bundle
from tests.cluster.access import Access, Cluster
from tests.cluster.endings import telling
from tests.cluster.gateway.world import CLASS
from tests.cluster.node.images import Image
from tests.cluster.sources import NoCluster
from tests.cluster.workloads import Workloads
from tests.registering import registered

from tidemill.ports.registry import ModelVersion
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tidemill"
EDGE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "edge"},
    "spec": {
        "gatewayClassName": CLASS,
        "listeners": [{"name": "http", "protocol": "HTTP", "port": 8080}],
    },
}
"""The Gateway that clients come through."""
PROJECT = ("components", "configs", "feature_repo", "pipelines")
BUCKET = "tidemill"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def add_images(node: Workloads, folder: Path) -> None:
    """Let the images that the chart names stand for this checkout.

    Raises:
        NoCluster: This machine has no PostgreSQL, which the backing services need.
    """
    project, code = folder / "project", folder / "code"
    if not code.exists():
        for name in PROJECT:
            _copy(ROOT / name, project / name)
        _copy(ROOT / "src", code)
    postgres = servers.programs("initdb", "postgres")
    if postgres is None:
        raise NoCluster("PostgreSQL's programs are not installed: apt-get install postgresql")
    path = f"{Path(sys.executable).parent}:{postgres}:/usr/bin:/bin"
    env = {"PATH": path, "PYTHONPATH": "/opt/tidemill", "PYTHONDONTWRITEBYTECODE": "1"}
    copies = {"/project": str(project), "/opt/tidemill": str(code)}
    node.add_image("tidemill/*", Image(env=env, workdir="/project", user=10001, copies=copies))
    node.add_image("test/backing", Image(env=env))


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


@dataclass(frozen=True)
class Backing:
    """PostgreSQL and an object store in a namespace of their own."""

    namespace: str
    host: str
    """Address of PostgreSQL, from this machine too."""
    endpoint: str
    """URL of the object store."""

    @classmethod
    def start(cls, cluster: Cluster, namespace: str) -> Backing:
        """Start them and wait until they answer."""
        user = pwd.getpwnam("postgres").pw_uid
        text = (Path(__file__).with_name("backing.yaml")).read_text()
        within = ("--namespace", namespace)
        cluster.kubectl("apply", *within, "-f", "-", stdin=text.replace("POSTGRES_UID", str(user)))
        wait = ("--for=condition=Ready", "pod", "--all", "--timeout=300s")
        with telling(cluster, namespace):
            cluster.kubectl("wait", *within, *wait)
        host, objects = (address(cluster, namespace, name) for name in ("database", "objects"))
        # By its address: moto would take the first part of a name for a bucket.
        endpoint = f"http://{objects}:9000"
        _s3(endpoint).create_bucket(Bucket=BUCKET)
        return cls(namespace, host, endpoint)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that lead there; MLflow's store may go with its pod."""
        storage = {
            "database": f"postgresql+psycopg://tidemill@database.{self.namespace}:5432/postgres",
            "objects": f"s3://{BUCKET}/state",
            "endpoint_url": self.endpoint,
        }
        backend = "sqlite:////project/.tidemill/mlflow/mlflow.db"
        return {"storage": storage, "registry": {"backend": backend}}

    def secret(self, access: Access, namespace: str) -> str:
        """Make the Secret with the credentials and return its name."""
        values = [f"--from-literal={name}={value}" for name, value in CREDENTIALS.items()]
        create = ("create", "secret", "generic", "credentials", "--namespace", namespace)
        access.kubectl(*create, *values)
        return "credentials"


def address(access: Access, namespace: str, service: str) -> str:
    """Return the address of a Service, which this machine reaches as pods do."""
    read = ("service", service, "--output=jsonpath={.spec.clusterIP}")
    return access.kubectl("get", *read, "--namespace", namespace)


def _s3(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
    )


@dataclass(frozen=True)
class Release:
    """A release of the chart in a namespace."""

    access: Access
    namespace: str
    name: str = "tidemill"

    def upgrade(self, values: Mapping[str, Any], *, chart: Path = CHART) -> None:
        """Install it, or upgrade it, and wait until it is ready."""
        options = ("--install", "--wait", "--timeout=300s", "--values=-")
        with telling(self.access, self.namespace):
            self.helm("upgrade", self.name, chart, *options, stdin=yaml.safe_dump(dict(values)))

    def helm(self, *arguments: str | Path, stdin: str = "", check: bool = True) -> str:
        """Run helm in the namespace."""
        return self.access.helm(*arguments, "--namespace", self.namespace, stdin=stdin, check=check)

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl in the namespace."""
        within = ("--namespace", self.namespace)
        return self.access.kubectl(*arguments, *within, stdin=stdin, check=check)


@dataclass(frozen=True)
class Opened:
    """A release, and the project that its images hold, as this machine opens it."""

    release: Release
    project: Path
    backing: Backing

    @contextmanager
    def opened(self, *assignments: str) -> Iterator[Project]:
        """Open the project on the release's database."""
        database = f"postgresql+psycopg://tidemill@{self.backing.host}:5432/postgres"
        settings = ("registry.verify_key=configs/signing.pub", f"storage.database={database}")
        project = Project.load(self.project, assignments=(*settings, *assignments))
        try:
            yield project
        finally:
            project.store.dispose()

    def register(self, folder: Path, name: str, scale: float) -> ModelVersion:
        """Sign a bundle with the project's key and register it at the release's MLflow."""
        host = address(self.release.access, self.release.namespace, "tidemill-mlflow")
        uri = f"registry.uri=http://{host}:5000"
        key = f"registry.signing_key={self.project.parent / 'signing.pem'}"
        with self.opened(uri, key) as project:
            return registered(project, make_bundle(folder, name, scale), "run-1")
