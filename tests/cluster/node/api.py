"""The Kubernetes API as JSON: requests, and lists that stay true."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from tests.cluster.pki import Pair

Object = dict[str, Any]
RETRY = 1.0
"""Seconds until a broken watch or a request that was put off is tried again."""
LATER = {429, 500, 503, 504}
"""What a busy API server says, or one whose etcd is busy, or that gives a new kind its storage."""


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text[:500]}")
        self.status = status


class Api:
    """One identity's access, by its client certificate."""

    def __init__(self, server: str, authority: Path, identity: Pair) -> None:
        trust = ssl.create_default_context(cafile=str(authority))
        trust.load_cert_chain(identity.certificate, identity.key)
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(
            base_url=server, verify=trust, trust_env=False, timeout=30, limits=limits
        )

    async def get(self, path: str) -> Object:
        """Read an object or a list."""
        return await self._request("GET", path)

    async def post(self, path: str, body: Object) -> Object:
        """Create an object."""
        return await self._request("POST", path, body)

    async def patch(self, path: str, body: Object) -> Object:
        """Merge into an object: lists by their keys, as kubelets do."""
        return await self._request("PATCH", path, body, "application/strategic-merge-patch+json")

    async def merge(self, path: str, body: Object) -> Object:
        """Merge into a custom resource: lists are replaced."""
        return await self._request("PATCH", path, body, "application/merge-patch+json")

    async def delete(self, path: str, options: Object) -> Object:
        """Delete an object."""
        return await self._request("DELETE", path, options)

    async def _request(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json"
    ) -> Object:
        """Ask until there is an answer: a busy machine's API server is late, or closes an idle
        connection just when a request comes."""
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        while True:
            try:
                answer = await self._client.request(method, path, content=content, headers=headers)
            except httpx.TransportError as error:
                print(f"{method} {path}: {error!r}", flush=True)
            else:
                if answer.is_success:
                    return dict(answer.json())
                if answer.status_code not in LATER:
                    raise Refused(answer.status_code, answer.text)
            await asyncio.sleep(RETRY)

    async def mirror(self, path: str, changed: Callable[[str, Object | None], None]) -> None:
        """Call `changed(uid, object)` for each change of a list, with None when one is gone.

        Never returns: what a broken watch missed is found by listing again.
        """
        known: set[str] = set()
        while True:
            try:
                await self._list_and_watch(path, known, changed)
            except (httpx.HTTPError, Refused) as error:
                print(f"watch of {path}: {error!r}", flush=True)
                await asyncio.sleep(RETRY)

    async def _list_and_watch(
        self, path: str, known: set[str], changed: Callable[[str, Object | None], None]
    ) -> None:
        found = await self.get(path)
        items = {item["metadata"]["uid"]: item for item in found["items"]}
        for uid in known - set(items):
            changed(uid, None)
        for uid, item in items.items():
            changed(uid, item)
        known.clear()
        known.update(items)
        query = {"watch": "true", "resourceVersion": found["metadata"]["resourceVersion"]}
        url = httpx.URL(path).copy_merge_params(query)
        async with self._client.stream("GET", url, timeout=None) as answer:
            async for line in answer.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(410, line)
                uid, gone = event["object"]["metadata"]["uid"], event["type"] == "DELETED"
                (known.discard if gone else known.add)(uid)
                changed(uid, None if gone else event["object"])
