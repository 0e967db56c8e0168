"""`tidemill up`, `down`, `status`: the platform on one machine."""

from __future__ import annotations

from dataclasses import asdict
from os.path import relpath
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.app import open_checked, open_project
from tidemill.cli.output import emit, emit_line, table

if TYPE_CHECKING:
    from rich.table import Table

    from tidemill.ports.processes import ProcessStatus

up = typer.Typer()
down = typer.Typer()
status = typer.Typer()


@up.command()
def _up(
    timeout: Annotated[float, typer.Option(help="Seconds until all must be ready.")] = 180.0,
) -> None:
    """Start the local platform, or attach to it, and wait until it is ready."""
    project = open_checked()
    shown: set[tuple[str, str]] = set()

    def watch(seen: dict[str, ProcessStatus]) -> None:
        for name, process in seen.items():
            if (name, process.state) not in shown:
                shown.add((name, process.state))
                emit_line(process, f"{name:<20} {process.state} {process.detail}")

    already = project.platform.supervisor()
    project.platform.up(project.platform_specs(), timeout=timeout, watch=watch)
    settings = project.settings
    urls = {
        "models": f"http://127.0.0.1:{settings.gateway.port}/v2",
        "registry": settings.registry.uri,
    }
    how = f"attached to the platform that runs (pid {already})" if already else "started"
    emit(
        {"attached": bool(already), "urls": urls},
        f"{how}; " + ", ".join(f"{what}: {url}" for what, url in urls.items()),
    )


@down.command()
def _down() -> None:
    """Stop everything that `up` or a rollout started, also after a crash."""
    stopped = open_project().platform.down()
    emit(stopped, f"stopped: {', '.join(stopped) or 'nothing was running'}")


@status.command()
def _status() -> None:
    """Show each process of the local platform: state, port, restarts, log."""
    project = open_project()
    platform = project.platform
    seen = platform.processes.statuses()
    declared = platform.processes.declared()
    ports = {name: declared[name].port if name in declared else 0 for name in seen}
    logs = {name: str(platform.logs / f"{name}.log") for name in seen}
    body = {
        "supervisor": platform.supervisor(),
        "processes": {
            name: asdict(process) | {"port": ports[name], "log": logs[name]}
            for name, process in seen.items()
        },
    }
    view = _table(seen, ports, logs)
    view.caption = _supervisor(platform.supervisor())
    emit(body, view)
    if not body["supervisor"] or any(p.state != "ready" for p in seen.values()):
        raise typer.Exit(1)


def _table(seen: dict[str, ProcessStatus], ports: dict[str, int], logs: dict[str, str]) -> Table:
    rows = [
        (
            p.name,
            p.state,
            ports[n] or "",
            p.pid or "",
            p.restarts,
            p.since,
            relpath(logs[n]),
            p.detail,
        )
        for n, p in seen.items()
    ]
    view = table(("process", "state", "port", "pid", "restarts", "since", "log", "detail"), rows)
    view.caption_justify = "left"
    return view


def _supervisor(pid: int) -> str:
    return f"supervisor: pid {pid}" if pid else "supervisor: not running (tidemill up)"
