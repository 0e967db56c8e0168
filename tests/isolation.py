"""Run a command where there is no network, and see whom it tried to reach.

`run` starts it in a network namespace that has only loopback: what it needs from outside fails.
`trap` does the same and makes every address of the world local to that namespace, so that each
attempt becomes a packet on loopback which is recorded, from native code and grandchildren too.
Nothing gets out in either: the sockets by which a resolver of this machine answers are covered, and
a question of DNS is recorded even if it asks loopback, where many machines have their resolver.

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

NAMESPACE = (
    *("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"),
    "--mount-proc",
)
RESOLVERS = ("/run/nscd", "/run/systemd/resolve")
"""Where daemons outside of the namespace resolve names by a Unix socket, which a namespace of the
network does not part from them."""


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
) -> subprocess.CompletedProcess[str]:
    """Run a command with only loopback and return what it said; its whole tree ends with it."""
    return _enter("run", "", argv, env, cwd, timeout)


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
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "attempts.json")
        done = _enter("trap", str(report), argv, env, cwd, timeout)
        if not report.exists():
            raise RuntimeError(f"the trap did not start: {done.stderr}")
        return done, json.loads(report.read_text())


def _enter(
    mode: str,
    report: str,
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    inside = [*NAMESPACE, sys.executable, __file__, mode, report, *argv]
    return subprocess.run(
        inside,
        capture_output=True,
        text=True,
        env=None if env is None else dict(env),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )


def _inside(mode: str, report: str, argv: Sequence[str]) -> int:
    """Set the namespace up, run the command, and write down whom it tried to reach."""
    for folder in filter(os.path.isdir, RESOLVERS):
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if mode == "run":
        return _status(subprocess.call(argv))
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
