"""Serving: the model server, and the rollout with its hands on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.settings.secrets import reveal
from tidemill.wiring.models import ModelParts

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tidemill.adapters.evidence import ServerEvidence
    from tidemill.adapters.store.rollouts import StoredRollouts
    from tidemill.controller.listening import HttpServer
    from tidemill.controller.loop import Controller
    from tidemill.domain.rollout.model import Plan, Revision
    from tidemill.ports.processes import ProcessSpec
    from tidemill.ports.rollout import CounterSource
    from tidemill.server import (
        App,
        Authentication,
        Certificates,
        Keyring,
        Model,
        Repository,
        Served,
        Unstored,
    )
    from tidemill.server.jwks import KeySet
    from tidemill.server.rpc import Endpoint
    from tidemill.steps.release import RegistryReleases
    from tidemill.wiring.kubernetes import RolloutFleet
    from tidemill.workers.member import Member

__all__ = ["ServingParts"]

FILE_SECONDS = 1.0
"""Between two looks at a file of public keys, as at the other files of the server."""


class ServingParts(ModelParts):
    """The adapters that answer requests."""

    crew: Member | None = None
    """The other workers, where this process is one of several that serve together."""

    def server(self, repository: Repository) -> App:
        """Return the application that serves a repository."""
        from tidemill import server

        if self.unstored is not None:
            repository.rows_lost.update(self.unstored.collect())
        return server.build_app(repository, self.settings.serving, self.authentication, self.crew)

    def grpc(self, app: App, address: tuple[str, int], announce: Callable[[str], None]) -> Endpoint:
        """Return the gRPC endpoint beside an application; `announce` is told its URL."""
        from tidemill.server.rpc import Endpoint

        shared = self.crew is not None
        serving = self.settings.serving
        return Endpoint(app, serving, address, self.certificates, announce, shared=shared)

    def repository(self, folder: Path | None = None, *, verify: bool = True) -> Repository:
        """Return the server's models, none loaded yet; `folder` holds those that can be."""
        from tidemill import server

        serving = self.settings.serving
        return server.Repository(
            lambda bundle, version, name: self._load(bundle, version, name, verify=verify),
            folder,
            max_bytes=serving.model_memory_mb * 2**20,
            drain_seconds=serving.drain_seconds,
            falls_back="previous" in serving.fallback,
        )

    def _load(self, bundle: Path, version: str, name: str, *, verify: bool) -> Served:
        from tidemill import server

        model = self.load_model(bundle, version=version, name=name, verify=verify)
        server.verify_features(model, self.online)
        return self.served(model)

    def load_model(self, bundle: Path, *, version: str, name: str, verify: bool) -> Model:
        """Verify a bundle, load it and score the requests that it recorded."""
        from tidemill import server

        model = server.load_model(
            bundle,
            version=version,
            name=name,
            threads=self.settings.serving.intra_op_threads,
            public_key=self.paths.resolve(self.settings.registry.verify_key) if verify else None,
        )
        server.warm_up(model, bundle)
        return model

    def served(self, model: Model) -> Served:
        """Return a model with what belongs to it."""
        from tidemill import server

        return server.build_served(
            model,
            self.settings.serving,
            reader=self.online,
            objects=self.objects,
            clock=self.clock,
            unstored=self.unstored,
        )

    @cached_property
    def unstored(self) -> Unstored | None:
        """The rows that a crash would lose; None for a worker, whose parent counts them."""
        from tidemill.server import Unstored

        return None if self.crew else Unstored(self.paths.state / "unstored")

    @cached_property
    def authentication(self) -> Authentication | None:
        """Who may call the server; None when nobody is asked."""
        from tidemill.server import Authentication

        tokens = None
        if self.key_set is not None:
            from tidemill.server.tokens import Tokens

            tokens = Tokens(self.key_set, self.settings.serving.auth.jwt)
        return Authentication(self.keyring, tokens) if self.keyring or tokens else None

    @cached_property
    def keyring(self) -> Keyring | None:
        """The API keys; None without a file of them."""
        from tidemill.server import Keyring

        path = self.settings.serving.auth.key_file
        if not path:
            return None
        numbers = self.crew.cells.cell if self.crew else None
        counts = self.paths.state / "quota.db"
        return Keyring(self.paths.resolve(path), counts, numbers=numbers)

    @cached_property
    def key_set(self) -> KeySet | None:
        """The public keys of tokens; None without a place of them."""
        jwt = self.settings.serving.auth.jwt
        if not jwt.jwks:
            return None
        from tidemill.adapters.https import fetch
        from tidemill.server import read_file
        from tidemill.server.jwks import KeySet

        if jwt.jwks.startswith("https://"):
            return KeySet(partial(fetch, jwt.jwks), refresh_seconds=jwt.refresh_seconds)
        path = self.paths.resolve(jwt.jwks)
        return KeySet(partial(read_file, path), refresh_seconds=FILE_SECONDS)

    @cached_property
    def certificates(self) -> Certificates | None:
        """The server's certificate; None without TLS."""
        from tidemill.server import Certificates

        tls = self.settings.serving.tls
        if not tls.cert:
            return None
        ca = self.paths.resolve(tls.client_ca) if tls.client_ca else None
        return Certificates(self.paths.resolve(tls.cert), self.paths.resolve(tls.key), ca)

    @cached_property
    def rollouts(self) -> StoredRollouts:
        """What is wanted, known and was decided of rollouts."""
        from tidemill.adapters.store.rollouts import StoredRollouts

        return StoredRollouts(self.store, lambda: self.rollout_plan)

    @cached_property
    def rollout_plan(self) -> Plan:
        """How a new version takes over, from the settings."""
        from tidemill.controller.plan import make_plan

        return make_plan(self.settings)

    @cached_property
    def controller(self) -> Controller:
        """The rollout's controller with its hands on this machine."""
        import httpx

        from tidemill.adapters.envoy import EnvoyRouter
        from tidemill.adapters.workloads import ProcessWorkloads
        from tidemill.controller.loop import Controller, Hands

        client = httpx.Client(timeout=2.0, trust_env=False)
        admin = f"http://127.0.0.1:{self.settings.gateway.admin_port}"
        serving = self.settings.serving
        hands = Hands(
            ProcessWorkloads(
                self.platform.processes,
                self._serve,
                self.settings.gateway.server_ports,
                host=serving.host,
                grace_seconds=serving.notice_seconds
                + 2 * serving.drain_seconds
                + serving.traces.timeout_seconds
                + 1,
            ),
            EnvoyRouter(self.paths.state / "gateway", admin, client),
            self._evidence(self.settings.rollout.prometheus_url),
            self._releases,
        )
        return Controller(
            self.settings.name,
            self.rollouts,
            self.rollouts,
            hands,
            self.clock,
            lambda: datetime.now(UTC),
        )

    def rollout_fleet(self, namespace: str, address: tuple[str, int]) -> RolloutFleet:
        """Return the controller of all rollouts of a namespace of the cluster, or of all.

        Its probes answer at `address`, and tell what the monitors found.
        """
        import os
        import socket

        from tidemill.adapters.kubernetes.access import connect
        from tidemill.adapters.kubernetes.access import namespace as home
        from tidemill.adapters.kubernetes.client import KubeClient
        from tidemill.adapters.store.standings import StoredStandings
        from tidemill.controller.standing import StandingGauges
        from tidemill.wiring.kubernetes import RolloutFleet

        return RolloutFleet(
            KubeClient(connect()),
            namespace,
            home(),
            address,
            self.clock,
            self._evidence,
            self._releases,
            f"{socket.gethostname()}-{os.getpid()}",
            [StandingGauges(StoredStandings(self.store))],
        )

    def rollout_judge(self, address: tuple[str, int]) -> HttpServer:
        """Return the judge of rollouts that others carry out, to be entered.

        Raises Refused when everyone could reach it and nobody is asked for a key.
        """
        from tidemill import server
        from tidemill.wiring.judge import judge_server

        server.refuse_exposure(address[0], self.settings.serving)
        # Callers name the servers: the controller's key would go wherever they say.
        counters = self._counters(self.settings.rollout.prometheus_url, self._asking(""))
        plan = self.rollout_plan
        return judge_server(address, self.store, counters, plan, self.authentication)

    @property
    def _releases(self) -> RegistryReleases:
        from tidemill.steps.release import RegistryReleases

        return RegistryReleases(self.registry, self.ledger, self.clock)

    def _evidence(self, prometheus: str) -> ServerEvidence:
        """Return what an attempt is judged by; an empty URL asks the servers themselves."""
        from tidemill.adapters.evidence import ServerEvidence
        from tidemill.adapters.outcomes import Outcomes

        asking = self._asking(reveal(self.settings.serving.auth.controller_key))
        return ServerEvidence(Outcomes(self.objects), self._counters(prometheus, asking), asking)

    def _counters(self, prometheus: str, asking: httpx.Client) -> CounterSource:
        """Return what reads the servers' counters; without a URL by `asking` them themselves."""
        import httpx

        from tidemill.adapters.counters import ScrapedCounters
        from tidemill.adapters.prometheus import PrometheusCounters

        if prometheus:
            return PrometheusCounters(prometheus, httpx.Client(timeout=5.0, trust_env=False))
        return ScrapedCounters(asking)

    def _asking(self, key: str) -> httpx.Client:
        """Return a client of servers, with a key if there is one."""
        import httpx

        keyed = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(timeout=2.0, trust_env=False, headers=keyed)

    def _serve(self, revision: Revision, port: int, shadow: int) -> tuple[str, ...]:
        ports = ("--port", str(port), "--shadow-port", str(shadow))
        bundle = ("--bundle", revision.bundle, *ports)
        # The gateway speaks HTTP alone, and two versions beside each other would want one port.
        alone = ("--set", "serving.grpc_port=null")
        return self.command("serve", *bundle, "--version", revision.version, *alone)

    @cached_property
    def gateway_spec(self) -> ProcessSpec:
        """The gateway as a supervised process."""
        from tidemill.adapters.envoy import envoy_spec

        return envoy_spec(self.paths.state / "gateway", self.settings.gateway)
