"""Run a command where there is no network, and see whom it tried to reach.

`run` starts it in a network namespace that has only loopback: what it needs from outside fails,
and the kernel counts how often it tried. `trap` makes every address of the world local to that
namespace instead, so that each attempt becomes a packet on loopback, which tells whom it was for.
Both see native code and grandchildren too. Nothing gets out in either: the sockets by which a
resolver of this machine answers are covered, and a question of DNS is seen even if it asks
loopback, where many machines have their resolver.

Both need unprivileged user namespaces and iproute2's `ip`; `skip_unless_possible` says so loudly.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

NAMESPACE = (
    *("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"),
    "--mount-proc",
)
RESOLVERS = ("/run/nscd", "/run/systemd/resolve")
"""Where daemons outside of the namespace resolve names by a Unix socket, which a namespace of the
network does not part from them."""
COUNTERS = ("IpOutNoRoutes", "Ip6OutNoRoutes", "UdpNoPorts", "Udp6NoPorts")
"""What the kernel counts, per namespace, of sends that have nowhere to go: no route leads there, or
nobody listens at that port of loopback, which is what becomes of a question to a resolver there."""


def skip_unless_possible() -> None:
    """Refuse the calling test, with the reason, where namespaces are not permitted."""
    from tests.refusal import refuse

    reason = obstacle()
    if reason:
        refuse("NO TESTS WITHOUT A NETWORK", reason)


def obstacle() -> str:
    """Return why namespaces cannot be used here; empty when they can."""
    missing = [name for name in ("unshare", "ip") if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: util-linux, iproute2)"
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    return f"network namespaces are not permitted here: {done.stderr}" if done.returncode else ""


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """Run a command with only loopback and return what it said and how often it tried to leave.

    The attempts stand under the `COUNTERS` that rose; `trap` tells whom they were for. The whole
    tree of the command ends with it.
    """
    return _enter("run", argv, env, cwd, timeout)


def trap(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command and return what it said and whom it tried to reach beyond loopback.

    An attempt reads `tcp 8.8.8.8:443`, `udp 8.8.8.8:53` or `dns example.com`, each once.
    """
    return _enter("trap", argv, env, cwd, timeout)


def _enter(
    mode: str,
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    timeout: float,
) -> tuple[subprocess.CompletedProcess[str], Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "attempts.json")
        done = subprocess.run(
            [*NAMESPACE, sys.executable, __file__, mode, str(report), *argv],
            capture_output=True,
            text=True,
            env=None if env is None else dict(env),
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
        if not report.exists():
            raise RuntimeError(f"the namespace did not start: {done.stderr}")
        return done, json.loads(report.read_text())


def _inside(mode: str, report: str, argv: Sequence[str]) -> int:
    """Set the namespace up, run the command, and write down whom it tried to reach."""
    for folder in filter(os.path.isdir, RESOLVERS):
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if mode == "run":
        status = _status(subprocess.call(argv))
        Path(report).write_text(json.dumps(_nowhere_to_go()))
        return status
    subprocess.run(["ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo"], check=True)
    subprocess.run(["ip", "-6", "route", "add", "local", "::/0", "dev", "lo"], check=False)
    attempts: set[str] = set()
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    threading.Thread(target=_listen, args=(listener, attempts), daemon=True).start()
    try:
        return _status(subprocess.call(argv))
    finally:
        Path(report).write_text(json.dumps(sorted(attempts)))


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _nowhere_to_go() -> dict[str, int]:
    """Return those `COUNTERS` of this namespace that are not zero."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    counts = {
        names[0].rstrip(":") + name: int(count)
        for names, values in zip(lines[::2], lines[1::2], strict=True)
        for name, count in zip(names[1:], values[1:], strict=True)
    }
    six = Path("/proc/net/snmp6")  # absent from a kernel without IPv6
    for line in six.read_text().splitlines() if six.exists() else ():
        name, count = line.split()
        counts[name] = int(count)
    return {name: counts[name] for name in COUNTERS if counts.get(name)}


def _listen(listener: socket.socket, attempts: set[str]) -> None:
    while True:
        packet = listener.recv(65535)
        if attempt := describe(packet[14:]):
            attempts.add(attempt)


def describe(packet: bytes) -> str:
    """Say what an IP packet asks of whom; empty for answers, and for loopback unless it is DNS."""
    if packet[0] >> 4 == 4:
        protocol, header = packet[9], (packet[0] & 15) * 4
        target = ip_address(packet[16:20])
    else:
        protocol, header = packet[6], 40
        target = ip_address(packet[24:40])
    body = packet[header:]
    if target.is_multicast or len(body) < 8:
        return ""
    port = struct.unpack("!H", body[2:4])[0]
    if target.is_loopback and port != 53:
        return ""
    if protocol == socket.IPPROTO_TCP and body[13] & 0x12 == 0x02:  # SYN and not its answer
        return f"tcp {target}:{port}"
    if protocol != socket.IPPROTO_UDP:
        return ""
    return f"dns {_name(body[8:])}" if port == 53 else f"udp {target}:{port}"


def _name(query: bytes) -> str:
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    return ".".join(labels)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    sys.exit(_inside(sys.argv[1], sys.argv[2], sys.argv[3:]))
