"""Keeps Envoy as the Gateways and routes say, then says so in their statuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.addresses import Addresses
from tests.cluster.controlplane import Ready
from tests.cluster.gateway.envoy import Envoy
from tests.cluster.gateway.routes import Rejection
from tests.cluster.gateway.world import (
    CLASS,
    CONTROLLER,
    FEATURES,
    GROUP,
    Plan,
    World,
    condition,
    plan,
    supported,
)
from tests.cluster.node.api import Api, Object, Refused
from tests.cluster.node.network import Bridge
from tests.cluster.node.node import SLICES
from tests.cluster.node.services import Services

API = f"/apis/{GROUP}/v1"
QUIET = 0.05
"""Seconds in which changes that come together are collected."""
FIRST = 2
"""First of the 14 addresses of the service block that the API server gives away last."""


@asynccontextmanager
async def running(plane: Ready, folder: Path) -> AsyncIterator[None]:
    """Run Envoy and what drives it."""
    api = Api(plane.server, plane.authority, plane.admin)
    bridge = Bridge(plane.addresses.bridge, plane.addresses.pods)
    envoy = Envoy(folder)
    try:
        await announce(api)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(Controller(api, bridge, plane.addresses, envoy).run())
            yield
            task.cancel()
    finally:
        envoy.stop()


async def announce(api: Api) -> None:
    """Create the GatewayClass and accept it."""
    body = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "GatewayClass",
        "metadata": {"name": CLASS},
        "spec": {"controllerName": CONTROLLER},
    }
    try:
        made = await api.post(f"{API}/gatewayclasses", body)
    except Refused as error:
        if error.status != 409:  # it is there from an earlier time
            raise
        made = await api.get(f"{API}/gatewayclasses/{CLASS}")
    accepted = Rejection("Accepted", "the stand-in of tidemill's tests")
    status = {
        "conditions": [condition("Accepted", True, accepted, made["metadata"]["generation"])],
        "supportedFeatures": [{"name": name} for name in FEATURES],
    }
    await api.merge(f"{API}/gatewayclasses/{CLASS}/status", {"status": status})


class Controller:
    """Level-triggered: each change leads to the whole plan anew."""

    def __init__(self, api: Api, bridge: Bridge, addresses: Addresses, envoy: Envoy) -> None:
        self._api, self._bridge, self._envoy = api, bridge, envoy
        self._free = [str(addresses.services[FIRST + number]) for number in range(14)]
        self._addresses: dict[str, str] = {}
        self._world = World(Services(("", 0)))
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the API server for ever."""
        world = self._world
        lists = {
            "/api/v1/services": world.services.services,
            SLICES: world.services.slices,
            f"{API}/gateways": world.gateways,
            f"{API}/httproutes": world.http_routes,
            f"{API}/grpcroutes": world.grpc_routes,
        }
        async with asyncio.TaskGroup() as group:
            for path, store in lists.items():
                group.create_task(self._api.mirror(path, partial(self._keep, store)))
            group.create_task(self._reconcile())

    def _keep(self, store: dict[str, Object], uid: str, item: Object | None) -> None:
        if item is None:
            store.pop(uid, None)
        else:
            store[uid] = item
        self._changed.set()

    async def _reconcile(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(QUIET)
            self._changed.clear()
            await self._assign_addresses()
            made = plan(self._world, self._addresses)
            try:
                await self._envoy.apply(self._world, made)
            except TimeoutError:  # statuses say only what is in force
                print("Envoy has not taken the last change: see envoy.log", flush=True)
                self._changed.set()
            else:
                await self._report(made)

    async def _assign_addresses(self) -> None:
        wanted = [gateway["metadata"]["uid"] for gateway in self._world.ours()]
        for uid in set(self._addresses) - set(wanted):
            self._free.append(self._addresses.pop(uid))
        for uid in wanted:
            if uid not in self._addresses:
                self._addresses[uid] = self._free.pop(0)
                await self._bridge.add_service(self._addresses[uid])

    async def _report(self, made: Plan) -> None:
        """Tell what a plan came to; what is newer than the plan is told by the next one."""
        for gateway in self._world.ours():
            if gateway["metadata"]["uid"] in made.listeners:
                await self._tell(gateway, _gateway_status(gateway, made, self._addresses))
        routes = self._world.http_routes | self._world.grpc_routes
        for uid in made.parents.keys() & routes.keys():
            theirs = [
                one
                for one in routes[uid].get("status", {}).get("parents", [])
                if one["controllerName"] != CONTROLLER
            ]
            await self._tell(routes[uid], {"parents": theirs + made.parents[uid]})

    async def _tell(self, item: Object, status: Object) -> None:
        """Write a status unless it is what stands there, times apart; no list is an empty one.

        A route of which no parent is ours is not touched.
        """
        known = item.get("status", {})
        status = _with_known_times(status, known)
        if status == {key: known.get(key, []) for key in status}:
            return
        meta, plural = item["metadata"], f"{item['kind'].lower()}s"
        path = f"{API}/namespaces/{meta['namespace']}/{plural}/{meta['name']}/status"
        version = {"resourceVersion": meta["resourceVersion"]}
        try:
            await self._api.merge(path, {"metadata": version, "status": status})
        except Refused as error:
            if error.status not in (404, 409):  # a newer version is on its way here
                raise


def _gateway_status(gateway: Object, made: Plan, addresses: dict[str, str]) -> Object:
    uid, generation = gateway["metadata"]["uid"], gateway["metadata"]["generation"]
    attached: dict[str, int] = {}
    for one in made.listeners[uid]:
        attached |= one.attached
    listeners = [
        _listener_status(one, attached.get(one["name"], 0), generation)
        for one in gateway["spec"]["listeners"]
    ]
    return {
        "addresses": [{"type": "IPAddress", "value": addresses[uid]}],
        "conditions": [
            condition(kind, True, Rejection(kind, ""), generation)
            for kind in ("Accepted", "Programmed")
        ],
        "listeners": listeners,
    }


def _listener_status(listener: Object, attached: int, generation: int) -> Object:
    good = supported(listener)
    refused = Rejection("UnsupportedProtocol", "the test gateway knows HTTP without a hostname")
    kinds = ("Accepted", "Programmed", "ResolvedRefs")
    return {
        "name": listener["name"],
        "attachedRoutes": attached,
        "supportedKinds": [{"group": GROUP, "kind": kind} for kind in ("HTTPRoute", "GRPCRoute")],
        "conditions": [
            condition(kind, good, Rejection(kind, "") if good else refused, generation)
            for kind in kinds
        ],
    }


def _with_known_times(new: Any, old: Any) -> Any:
    """Return `new` with the transition times of `old` where nothing else of a condition differs."""
    if isinstance(new, list):
        before = old if isinstance(old, list) else []
        return [
            _with_known_times(one, before[at] if at < len(before) else None)
            for at, one in enumerate(new)
        ]
    if not isinstance(new, dict):
        return new
    known = old if isinstance(old, dict) else {}
    merged = {key: _with_known_times(value, known.get(key)) for key, value in new.items()}
    if "lastTransitionTime" in new and known.get("status") == new["status"]:
        merged["lastTransitionTime"] = known["lastTransitionTime"]
    return merged
