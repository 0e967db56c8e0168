"""The supervisor makes what runs equal to what is declared, and survives kill -9 of anything."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tidemill.errors import Refused, Timeout, Unavailable, UsageError
from tidemill.local import supervisor
from tidemill.local.folder import PlatformFolder
from tidemill.local.platform import Platform
from tidemill.ports.processes import ProcessSpec, ProcessStatus

SERVER = """
import sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(1)
time.sleep(600)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def server(name: str, port: int) -> ProcessSpec:
    argv = (sys.executable, "-c", SERVER, str(port))
    return ProcessSpec(name, argv, ready_url=f"http://127.0.0.1:{port}/", port=port)


def sleeper(name: str, seconds: int = 600) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-c", f"import time; time.sleep({seconds})"))


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path / "platform", tmp_path / "logs")
    yield made
    made.down()


def test_up_waits_until_ready_and_down_leaves_nothing(platform: Platform) -> None:
    port = free_port()
    seen = platform.up([server("web", port), sleeper("worker")])
    assert {p.state for p in seen.values()} == {"ready"}
    pids = [p.pid for p in seen.values()]
    assert sorted(platform.down()) == ["web", "worker"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert platform.supervisor() == 0
    assert platform.processes.statuses() == {}


def test_a_killed_child_is_restarted(platform: Platform) -> None:
    first = platform.up([sleeper("worker")])["worker"]
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: platform.processes.statuses()["worker"].pid not in (0, first.pid))
    again = platform.wait(["worker"])["worker"]
    assert again.restarts == 1


def test_a_successor_adopts_the_children_of_a_killed_supervisor(platform: Platform) -> None:
    pid = platform.up([sleeper("worker")])["worker"].pid
    os.kill(platform.supervisor(), signal.SIGKILL)
    until(lambda: platform.supervisor() == 0)
    assert psutil.pid_exists(pid)
    assert platform.up([sleeper("worker")])["worker"].pid == pid


def test_up_does_not_believe_what_a_killed_supervisor_saw(platform: Platform) -> None:
    pid = platform.up([sleeper("worker")])["worker"].pid
    os.kill(platform.supervisor(), signal.SIGKILL)
    until(lambda: platform.supervisor() == 0)
    os.kill(pid, signal.SIGKILL)
    assert platform.processes.statuses()["worker"].state == "ready"
    assert platform.up([sleeper("worker")])["worker"].pid not in (0, pid)
    assert platform.supervisor()


def test_a_supervisor_that_cannot_run_names_its_log(platform: Platform) -> None:
    platform.processes.status.mkdir()
    with pytest.raises(Unavailable, match=r"ended at once\n.*supervisor\.log"):
        platform.attach()
    platform.processes.status.rmdir()


def test_down_finds_everything_after_the_supervisor_was_killed(platform: Platform) -> None:
    pid = platform.up([sleeper("worker")])["worker"].pid
    os.kill(platform.supervisor(), signal.SIGKILL)
    until(lambda: platform.supervisor() == 0)
    platform.down()
    until(lambda: not psutil.pid_exists(pid))


def test_a_process_started_but_never_recorded_is_found(platform: Platform) -> None:
    pid = platform.up([sleeper("worker")])["worker"].pid
    os.kill(platform.supervisor(), signal.SIGKILL)
    until(lambda: platform.supervisor() == 0)
    platform.processes.forget("worker")  # as if the crash came before the record
    platform.down()
    until(lambda: not psutil.pid_exists(pid))


def test_a_changed_specification_restarts_and_a_withdrawn_one_stops(platform: Platform) -> None:
    pid = platform.up([sleeper("worker", 600)])["worker"].pid
    platform.processes.declare(sleeper("worker", 601))
    until(lambda: platform.processes.statuses()["worker"].pid not in (0, pid))
    platform.processes.withdraw("worker")
    until(lambda: platform.processes.statuses() == {})


def test_a_stubborn_process_is_killed_after_its_grace(platform: Platform) -> None:
    spec = ProcessSpec("stubborn", (sys.executable, "-c", STUBBORN), grace_seconds=0.2)
    pid = platform.up([spec])["stubborn"].pid
    until(lambda: "1" in (platform.logs / "stubborn.log").read_text())
    platform.down()
    assert not psutil.pid_exists(pid)


def test_a_failing_process_names_its_exit_and_last_line(platform: Platform) -> None:
    code = "import sys; print('no such table: flights'); sys.exit(3)"
    with pytest.raises(Unavailable, match=r"exit code 3; last line: no such table: flights"):
        platform.up([ProcessSpec("broken", (sys.executable, "-c", code), ready_url="http://x/")])


def test_a_command_of_ours_that_ends_is_told_by_its_error(platform: Platform) -> None:
    error = Refused("the model scores 0.3,\nnot 0.2", hint="do not serve it")
    code = f"import sys; print('ready\\n' + {error.spoken!r}); sys.exit(3)"
    spec = ProcessSpec("broken", (sys.executable, "-c", code), ready_url="http://x/")
    with pytest.raises(Unavailable) as told:
        platform.up([spec])
    assert "ended with exit code 3: the model scores 0.3, not 0.2\n  → its log" in str(told.value)
    assert platform.processes.statuses()["broken"].exit_code == 3


@pytest.fixture
def inline(tmp_path: Path) -> Iterator[supervisor.Supervisor]:
    made = supervisor.Supervisor(PlatformFolder(tmp_path / "platform"), tmp_path / "logs")
    yield made
    made.stop_all()


def stepped(inline: supervisor.Supervisor, name: str) -> ProcessStatus:
    inline.step()
    return inline.folder.statuses()[name]


def seen_after(inline: supervisor.Supervisor, restarts: int) -> ProcessStatus:
    """Step until a process ended so often."""
    until(lambda: stepped(inline, "server").restarts == restarts)
    return stepped(inline, "server")


def test_what_refused_and_was_withdrawn_starts_anew(
    inline: supervisor.Supervisor, tmp_path: Path
) -> None:
    repaired = tmp_path / "repaired"
    code = f"import os, sys, time; os.path.exists({str(repaired)!r}) or sys.exit(3); time.sleep(60)"
    spec = ProcessSpec("server", (sys.executable, "-c", code))
    inline.folder.declare(spec)
    refused = seen_after(inline, 1)
    assert (refused.state, refused.exit_code) == ("backoff", 3)
    inline.folder.withdraw("server")
    until(lambda: inline.step() or not inline.folder.statuses())
    repaired.touch()
    inline.folder.declare(spec)
    seen: list[ProcessStatus] = []
    until(lambda: seen.append(stepped(inline, "server")) or seen[-1].state == "ready")
    assert {(s.exit_code, s.restarts, s.detail) for s in seen} == {(None, 0, "")}


def test_an_end_is_not_blamed_on_what_an_earlier_start_said(
    inline: supervisor.Supervisor, tmp_path: Path
) -> None:
    spoken = Unavailable("MLflow does not answer").spoken
    code = f"""
import os, pathlib, sys
started = pathlib.Path({str(tmp_path / "started")!r})
if started.exists():
    os.kill(os.getpid(), 9)
started.touch()
sys.exit({spoken!r})
"""
    inline.folder.declare(ProcessSpec("server", (sys.executable, "-c", code)))
    assert seen_after(inline, 1).detail == "ended with exit code 1: MLflow does not answer"
    said = seen_after(inline, 2).detail
    assert said == "ended with SIGKILL; last line: (nothing was printed)"


def test_a_taken_port_names_its_holder(platform: Platform) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"port {port} is taken by process {os.getpid()}"):
            platform.up([server("web", port)])


def test_two_ups_share_one_supervisor(platform: Platform) -> None:
    platform.up([sleeper("one")])
    first = platform.supervisor()
    platform.up([sleeper("two")])
    assert platform.supervisor() == first
    assert set(platform.processes.statuses()) == {"one", "two"}


def test_a_bad_name_is_refused(platform: Platform) -> None:
    with pytest.raises(UsageError, match="no process name"):
        platform.processes.declare(sleeper("../x"))


def test_two_declarations_within_one_tick_of_the_file_system_are_seen(
    inline: supervisor.Supervisor,
) -> None:
    declared = inline.folder.folder / "declared"
    inline.folder.declare(sleeper("one"))
    tick = time.time_ns() + 10**9  # a stamp that stays young for the whole test
    os.utime(declared, ns=(tick, tick))
    inline.step()
    inline.folder.declare(sleeper("two"))
    os.utime(declared, ns=(tick, tick))
    inline.step()
    assert set(inline.children) == {"one", "two"}


def test_old_crashes_do_not_fail_the_next_up(
    platform: Platform, inline: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HEALTHY_SECONDS", 0.0)
    inline.folder.declare(sleeper("worker"))
    for crashes in range(4):
        until(lambda: stepped(inline, "worker").state == "ready")
        assert stepped(inline, "worker").restarts == crashes
        os.kill(stepped(inline, "worker").pid, signal.SIGKILL)
        until(lambda: stepped(inline, "worker").state == "backoff")
    assert stepped(inline, "worker").failures == 1
    with pytest.raises(Timeout, match="not ready after 0 s: worker"):
        platform.wait(["worker"], timeout=0)  # it waits for the restart, and is not hopeless


def test_a_process_that_hangs_is_restarted_with_the_reason(
    inline: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROBE_SECONDS", 0.5)
    inline._client.timeout = 0.5
    monkeypatch.setattr(supervisor, "SILENT_PROBES", 2)
    spec = replace(server("web", free_port()), grace_seconds=0.1)
    inline.folder.declare(spec)
    until(lambda: stepped(inline, "web").state == "ready")
    pid = stepped(inline, "web").pid
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stepped(inline, "web").state == "backoff")
    seen = stepped(inline, "web")
    assert seen.detail == f"did not answer {spec.ready_url} 2 times in a row, and was restarted"
    assert seen.restarts == 1
    until(lambda: stepped(inline, "web").state == "ready")
    assert not psutil.pid_exists(pid)


def test_a_process_that_does_not_listen_is_said_not_to_answer_yet(
    inline: supervisor.Supervisor,
) -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    inline.folder.declare(ProcessSpec("mute", (sys.executable, "-c", STUBBORN), ready_url=url))
    until(lambda: stepped(inline, "mute").detail == f"does not answer {url} yet")
    assert stepped(inline, "mute").state == "starting"


def test_an_answer_other_than_ready_does_not_restart_a_process(
    inline: supervisor.Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supervisor, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "SILENT_PROBES", 3)
    page = tmp_path / "ready"
    page.touch()
    port = free_port()
    url = f"http://127.0.0.1:{port}{page}"
    root = (sys.executable, "-c", "import os; os.chdir('/')\n" + SERVER, str(port))
    inline.folder.declare(ProcessSpec("web", root, ready_url=url, port=port))
    until(lambda: stepped(inline, "web").state == "ready")
    page.unlink()
    until(lambda: stepped(inline, "web").state == "starting")
    assert stepped(inline, "web").detail == f"{url} answers 404"
    page.touch()
    until(lambda: stepped(inline, "web").state == "ready")
    assert stepped(inline, "web").restarts == 0
