"""What probes and lifecycle hooks do: ask a port, or run a command in the container."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
from tests.cluster.node.api import Object
from tests.cluster.node.manifest import port


async def perform(
    handler: Object, container: Object, address: str, pid: int, env: Mapping[str, str]
) -> bool:
    """Carry out a handler and say whether it succeeded; the caller limits its time."""
    if "httpGet" in handler:
        return await _ask(handler["httpGet"], container, address)
    if "tcpSocket" in handler:
        return await _connect(address, port(container, handler["tcpSocket"]["port"]))
    if "exec" in handler:
        return await _execute(handler["exec"]["command"], pid, env)
    if "sleep" in handler:
        await asyncio.sleep(handler["sleep"]["seconds"])
        return True
    raise NotImplementedError(f"the test node has no handler for {sorted(handler)}")


async def _ask(get: Object, container: Object, address: str) -> bool:
    scheme = get.get("scheme", "HTTP").lower()
    host, number = get.get("host", address), port(container, get["port"])
    url = f"{scheme}://{host}:{number}/{get.get('path', '/').lstrip('/')}"
    headers = {one["name"]: one["value"] for one in get.get("httpHeaders", [])}
    try:
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=None) as client:
            return (await client.get(url, headers=headers)).status_code < 400
    except httpx.HTTPError:
        return False


async def _connect(address: str, number: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, number)
    except OSError:
        return False
    writer.close()
    return True


async def _execute(command: list[str], pid: int, env: Mapping[str, str]) -> bool:
    namespaces = ("--mount", "--pid", "--net", "--uts", "--root", "--wd")
    process = await asyncio.create_subprocess_exec(
        "nsenter", "--target", str(pid), *namespaces, "--", *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(env),
    )  # fmt: skip
    try:
        return await process.wait() == 0
    except asyncio.CancelledError:
        process.kill()
        raise
