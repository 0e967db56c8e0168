"""A cluster as one identity sees it: the API client, kubectl and helm with its kubeconfig."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kubernetes import client, config
from tests.cluster import build, pki

LABEL = "tidemill.dev/test"


@dataclass(frozen=True)
class Access:
    """An identity on a cluster."""

    kubeconfig: Path
    programs: Path
    """Folder of kubectl. What is not there is one of the built programs, or on the PATH."""

    @cached_property
    def api(self) -> client.ApiClient:
        """Return a client of the Kubernetes API."""
        return config.new_client_from_config(str(self.kubeconfig))

    def kubectl(self, *arguments: str | Path, stdin: str = "", check: bool = True) -> str:
        """Run kubectl and return what it printed.

        Raises:
            CommandFailed: It ended with an error; unless `check` is false, then its message is
                returned after what it printed.
        """
        return self._run("kubectl", *arguments, stdin=stdin, check=check)

    def helm(self, *arguments: str | Path, stdin: str = "", check: bool = True) -> str:
        """Run helm; like `kubectl`."""
        return self._run("helm", *arguments, stdin=stdin, check=check)

    def _run(self, program: str, *arguments: str | Path, stdin: str, check: bool) -> str:
        path = os.pathsep.join([f"{self.programs}", f"{build.folder()}", os.environ["PATH"]])
        found = shutil.which(program, path=path)
        if found is None:
            raise CommandFailed(f"no {program} in {self.programs}, built or on the PATH")
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [found, *arguments],
            input=stdin, capture_output=True, text=True, env=env, timeout=330, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise CommandFailed(f"{program} {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout + ("" if check else done.stderr)


class CommandFailed(Exception):
    """kubectl or helm ended with an error; the message has what it said."""


@dataclass(frozen=True)
class Cluster(Access):
    """A cluster as its administrator sees it."""

    folder: Path
    """Where credentials are written."""
    controllers: bool
    """Whether it has a controller manager and a scheduler; envtest has not."""

    def namespace(self, **labels: str) -> str:
        """Create a namespace and return its name.

        Labels are those of Pod Security, with `_` for `-`: `enforce="restricted"`.
        """
        security = {
            f"pod-security.kubernetes.io/{k.replace('_', '-')}": v for k, v in labels.items()
        }
        meta = client.V1ObjectMeta(generate_name="test-", labels={LABEL: "", **security})
        core = client.CoreV1Api(self.api)
        name = str(core.create_namespace(client.V1Namespace(metadata=meta)).metadata.name)
        if self.controllers:  # pods are refused until the controller manager has made it
            wait = ("--for=create", "serviceaccount/default", "--timeout=300s")
            self.kubectl("wait", "--namespace", name, *wait)
        return name

    def user(self, name: str, namespace: str) -> Access:
        """Return the access of a ServiceAccount, made if it does not exist, by a token."""
        core = client.CoreV1Api(self.api)
        try:
            meta = client.V1ObjectMeta(name=name)
            core.create_namespaced_service_account(
                namespace, client.V1ServiceAccount(metadata=meta)
            )
        except client.ApiException as error:
            if error.status != 409:
                raise
        spec = client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)
        request = client.AuthenticationV1TokenRequest(spec=spec)
        made = core.create_namespaced_service_account_token(name, namespace, request)
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        server = self.api.configuration
        trust = Path(server.ssl_ca_cert).read_bytes()
        pki.write_kubeconfig(path, server.host, trust, {"token": made.status.token})
        return Access(path, self.programs)
