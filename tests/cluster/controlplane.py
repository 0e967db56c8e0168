"""A real control plane on this machine: etcd, API server, controller manager, scheduler."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.cluster import pki
from tests.cluster.addresses import Addresses, free_ports
from tests.cluster.processes import Processes

NODE = "process-0"
READY = 60.0
"""Seconds to wait for the API server: 3 on an idle machine with two cores."""


@dataclass(frozen=True)
class Ready:
    """A control plane that answers, and the identities that its other parts have there."""

    kubeconfig: Path
    server: str
    authority: Path
    addresses: Addresses
    admin: pki.Pair
    node: pki.Pair
    """The kubelet: system:node:NODE."""
    proxy: pki.Pair
    """The service proxy: system:kube-proxy."""
    kubelet: pki.Pair
    """What the kubelet's port shows to the API server, which asks it for logs."""

    @classmethod
    def read(cls, path: Path) -> Ready:
        """Read what the control plane's daemon said when it was ready."""
        said = json.loads(path.read_text())

        def pair(name: str) -> pki.Pair:
            return pki.Pair(Path(said[name]["certificate"]), Path(said[name]["key"]))

        return cls(
            kubeconfig=Path(said["kubeconfig"]),
            server=said["server"],
            authority=Path(said["authority"]),
            addresses=Addresses(**said["addresses"]),
            admin=pair("admin"),
            node=pair("node"),
            proxy=pair("proxy"),
            kubelet=pair("kubelet"),
        )


class ControlPlane:
    """Writes the certificates, then starts the programs on free ports."""

    def __init__(self, folder: Path, programs: Path, addresses: Addresses) -> None:
        self._folder, self._programs, self._addresses = folder, programs, addresses
        self._processes = Processes(folder)
        self._authority = pki.Authority(folder)
        self._token_keys = pki.write_token_keys(folder)
        client, peer, port = free_ports(3)
        self._etcd = [f"http://127.0.0.1:{number}" for number in (client, peer)]
        self._port = port

    def start(self) -> Ready:
        """Start everything that `programs` holds; envtest's lacks the two controllers."""
        issue = self._authority.issue
        admin = issue("admin", "admin", organization="system:masters")
        self._start_etcd()
        self._start_api_server()
        self._wait()
        if (self._programs / "kube-controller-manager").exists():
            self._start_controllers()
        return Ready(
            kubeconfig=self._kubeconfig("admin", admin),
            server=self._server,
            authority=self._authority.path,
            addresses=self._addresses,
            admin=admin,
            node=issue("node", f"system:node:{NODE}", organization="system:nodes"),
            proxy=issue("proxy", "system:kube-proxy"),
            kubelet=issue("kubelet", NODE, hosts=[self._addresses.node]),
        )

    def stop(self) -> None:
        """Stop the programs; their logs stay."""
        self._processes.stop()

    @property
    def _server(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def _kubeconfig(self, file: str, identity: pki.Pair) -> Path:
        user = pki.certificate_user(identity)
        path = self._folder / f"{file}.kubeconfig"
        return pki.write_kubeconfig(path, self._server, self._authority.path.read_bytes(), user)

    def _login(self, program: str) -> Path:
        return self._kubeconfig(program, self._authority.issue(program, f"system:{program}"))

    def _run(self, name: str, **flags: str | Path) -> None:
        options = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
        self._processes.start(name, [self._programs / name, *options])

    def _start_etcd(self) -> None:
        client, peer = self._etcd
        self._run(
            "etcd",
            data_dir=self._folder / "etcd",
            listen_client_urls=client,
            advertise_client_urls=client,
            listen_peer_urls=peer,
            unsafe_no_fsync="true",  # the data goes with the folder
            log_level="warn",
        )

    def _start_api_server(self) -> None:
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        tls = self._authority.issue(
            "kube-apiserver", "kube-apiserver", hosts=[*names, "127.0.0.1", self._addresses.api]
        )
        client = self._authority.issue(
            "kubelet-client", "kube-apiserver", organization="system:masters"
        )
        private, public = self._token_keys
        self._run(
            "kube-apiserver",
            etcd_servers=self._etcd[0],
            bind_address="127.0.0.1",
            secure_port=str(self._port),
            cert_dir=self._folder,
            tls_cert_file=tls.certificate,
            tls_private_key_file=tls.key,
            client_ca_file=self._authority.path,
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
            service_cluster_ip_range=str(self._addresses.services),
            endpoint_reconciler_type="none",  # Endpoints may not hold a loopback address
            service_account_issuer="https://kubernetes.default.svc",
            service_account_key_file=public,
            service_account_signing_key_file=private,
            kubelet_preferred_address_types="InternalIP",
            kubelet_certificate_authority=self._authority.path,
            kubelet_client_certificate=client.certificate,
            kubelet_client_key=client.key,
            shutdown_delay_duration="0s",
        )

    def _start_controllers(self) -> None:
        shared: dict[str, str | Path] = {
            "bind_address": "127.0.0.1",
            "leader_elect": "false",  # there is one of each
            "cert_dir": self._folder,
            "kube_api_qps": "200",  # the default of 20 is made for many clusters' worth of work
            "kube_api_burst": "400",
        }
        manager, scheduler = free_ports(2)
        self._run(
            "kube-controller-manager",
            kubeconfig=self._login("kube-controller-manager"),
            secure_port=str(manager),
            root_ca_file=self._authority.path,
            service_account_private_key_file=self._token_keys[0],
            use_service_account_credentials="true",
            **shared,
        )
        self._run(
            "kube-scheduler",
            kubeconfig=self._login("kube-scheduler"),
            secure_port=str(scheduler),
            **shared,
        )

    def _wait(self) -> None:
        trust = ssl.create_default_context(cafile=str(self._authority.path))
        deadline = time.monotonic() + READY
        with httpx.Client(base_url=self._server, verify=trust, trust_env=False) as client:
            while time.monotonic() < deadline:
                self._processes.check()
                try:
                    if client.get("/readyz", timeout=5).text == "ok":
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise RuntimeError(f"no API server after {READY:g} s: {self._processes.log('etcd')}")


@contextmanager
def running(folder: Path, programs: Path, addresses: Addresses) -> Iterator[Ready]:
    """Run a control plane in an empty folder and yield its credentials."""
    plane = ControlPlane(folder, programs, addresses)
    try:
        yield plane.start()
    finally:
        plane.stop()
