"""One pod from its assignment to this node until its object is gone."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.node import volumes
from tests.cluster.node.api import Api, Object, Refused
from tests.cluster.node.container import RETRY, Container
from tests.cluster.node.images import Images
from tests.cluster.node.launch import Place
from tests.cluster.node.manifest import Manifest, unsupported
from tests.cluster.node.network import Bridge
from tests.cluster.node.sources import CannotStart
from tests.cluster.node.status import Progress, pod_status


@dataclass(frozen=True)
class Host:
    """What the pods of a node share."""

    api: Api
    bridge: Bridge
    images: Images
    folder: Path
    api_address: str
    """ClusterIP of the API server."""


class Pod:
    """Runs one pod. `update` brings what the API server says of it."""

    def __init__(self, host: Host, pod: Object) -> None:
        self._host = host
        self.manifest = Manifest(pod, host.bridge.gateway)
        self._folder = host.folder / self.manifest.uid
        self._network = f"{host.bridge.name}-{self.manifest.uid[:8]}"
        spec = self.manifest.spec
        self._inits = [self._container(one, init=True) for one in spec.get("initContainers", [])]
        self._mains = [self._container(one, init=False) for one in spec["containers"]]
        self._progress = Progress()
        self._told: Object = pod.get("status", {})
        self._news = asyncio.Event()
        self._deleted = asyncio.Event()
        self._gone = asyncio.Event()

    def update(self, pod: Object | None) -> None:
        """Take a newer version of its object, or None when that is gone."""
        if pod is None:
            self._gone.set()
        else:
            self.manifest.object = pod
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            self._deleted.set()

    def find(self, container: str) -> Container | None:
        """Return a container by name."""
        every = [*self._inits, *self._mains]
        return next((one for one in every if one.name == container), None)

    async def run(self) -> None:
        """Run the pod, tell the API server, and clean up."""
        self._folder.mkdir(parents=True)
        self.manifest.address = await self._host.bridge.attach(self._network)
        reporting = asyncio.ensure_future(self._report_news())
        stopping = asyncio.ensure_future(self._stop_in_time())
        try:
            await self._run_containers()
        except Exception as error:  # noqa: BLE001 - a node outlives whatever a pod does
            traceback.print_exc()
            self._progress.reason, self._progress.message = "NodeError", repr(error)
        finally:
            reporting.cancel()
            stopping.cancel()
            await self.kill()
        self._progress.ended = True
        await self._report()
        await self._deleted.wait()
        await self._remove()

    async def kill(self) -> None:
        """End its processes at once, and free its network and volumes; its logs stay."""
        await asyncio.gather(*(one.stop(0) for one in [*self._inits, *self._mains]))
        with contextlib.suppress(OSError):
            await self._host.bridge.detach(self._network, self.manifest.address)
        shutil.rmtree(self._folder / "volumes", ignore_errors=True)

    def _container(self, spec: Object, *, init: bool) -> Container:
        host, folder = self._host, self._folder / "containers" / spec["name"]
        return Container(
            host.api, host.images, self.manifest, spec, folder, self._changed,
            init=init, api_address=host.api_address,
        )  # fmt: skip

    def _changed(self) -> None:
        self._news.set()

    async def _run_containers(self) -> None:
        if lacks := unsupported(self.manifest.spec):
            self._progress.reason = "UnsupportedByTestNode"
            self._progress.message = f"the test node has no {', '.join(lacks)}"
            return
        self._changed()
        place = await self._prepare()
        if place is None:
            return
        for one in self._inits:
            if await one.run(place) != 0 or self._deleted.is_set():
                return
        self._progress.initialized = True
        self._changed()
        await asyncio.gather(*(one.run(place) for one in self._mains))

    async def _prepare(self) -> Place | None:
        """Write its files and make its volumes, again until that works or it is deleted."""
        address, name = self.manifest.address, self.manifest.name
        search = f"{self.manifest.namespace}.svc.cluster.local svc.cluster.local cluster.local"
        (self._folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (self._folder / "resolv.conf").write_text(
            f"nameserver {self._host.bridge.gateway}\nsearch {search}\noptions ndots:5\n"
        )
        while not self._deleted.is_set():
            try:
                folder = self._folder / "volumes"
                made = await volumes.create(self._host.api, self.manifest, folder)
                return Place(self._folder, self._network, made)
            except CannotStart as error:
                print(f"{name}: {error}", flush=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._deleted.wait(), RETRY)
        return None

    async def _stop_in_time(self) -> None:
        """Stop the containers when the pod is deleted, or has run too long."""
        deadline = self.manifest.spec.get("activeDeadlineSeconds")
        try:
            await asyncio.wait_for(self._deleted.wait(), deadline)
        except TimeoutError:
            self._progress.reason = "DeadlineExceeded"
        every = [*self._inits, *self._mains]
        await asyncio.gather(*(one.stop(self.manifest.grace) for one in every))

    async def _report_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._report()

    async def _report(self) -> None:
        addresses = (self._host.bridge.gateway, self.manifest.address)
        status = pod_status(self._progress, self._inits, self._mains, addresses, self._told)
        if status == self._told or self._gone.is_set():
            return
        body = {"metadata": {"uid": self.manifest.uid}, "status": status}
        try:
            await self._host.api.patch(f"{self.manifest.path}/status", body)
            self._told = status
        except Refused as error:
            if error.status not in (404, 409):  # it is gone, and another may have its name
                raise

    async def _remove(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.manifest.uid}}
        try:
            if not self._gone.is_set():
                await self._host.api.delete(self.manifest.path, options)
        except Refused as error:
            if error.status not in (404, 409):
                raise
        shutil.rmtree(self._folder, ignore_errors=True)
