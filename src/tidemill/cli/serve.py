"""`tidemill serve`: serve a bundle or a repository of them, over HTTP and gRPC; make API keys."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit, table
from tidemill.errors import UsageError
from tidemill.wiring.deployment import Check, Deployment, inspect

app = typer.Typer()
key = typer.Typer(no_args_is_help=True, help="Make API keys.")
app.add_typer(key, name="key")


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the model bundle.")] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Folder MODEL/VERSION/ of bundles, instead of one bundle.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port for gRPC; default: serving.grpc_port, or no gRPC.")
    ] = None,
    shadow_port: Annotated[
        int | None, typer.Option(help="Port for mirrored requests; default: none are taken.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address; default: serving.host.")] = "",
    version: Annotated[str, typer.Option(help="Version that answers carry; default: 0.")] = "",
    name: Annotated[str, typer.Option(help="Model name; default: the bundle's.")] = "",
    verify: Annotated[
        bool | None, typer.Option(help="Verify the signature first; default: serving.verify.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether it would start, and why not; then end.")
    ] = False,
) -> None:
    """Serve model bundles over the Open Inference Protocol until a signal ends it.

    With --check nothing is served: exit 0 if all of it would be served, 1 if not.
    """
    if context.invoked_subcommand is not None:
        return
    source = bundle or repository
    if source is None or (bundle and repository) or port is None:
        raise UsageError(
            "a server needs a bundle or a repository, and a port",
            hint="give --bundle FOLDER or --repository FOLDER, and --port",
        )
    if repository and (name or version):
        raise UsageError(
            "a repository's folders name its models and versions",
            hint="leave out --name and --version, or serve one bundle: --bundle FOLDER",
        )
    from tidemill import server

    server.forbid_imports()
    server.log_as_json()
    project = open_project()
    settings = project.settings.serving
    host = host or settings.host
    verified = settings.verify if verify is None else verify
    grpc_port = settings.grpc_port if grpc_port is None else grpc_port
    if check:
        wanted = Deployment(
            source,
            host,
            port,
            verified,
            grpc_port=grpc_port,
            shadow_port=shadow_port,
            repository=bundle is None,
            version=version or "0",
            name=name,
        )
        _report(inspect(project, wanted))
        return
    server.refuse_exposure(host, settings)
    certificates = project.certificates
    models = project.repository(repository, verify=verified)
    if bundle is not None:
        models.add(bundle, version or "0", name)
    else:
        models.fill()
    listening = server.listen(host, port)
    scheme = "https" if certificates else "http"
    typer.echo("{}://{}:{}".format(scheme, *listening.getsockname()[:2]))
    app = project.server(models)
    beside: list[server.Beside] = []
    if grpc_port is not None:
        beside.append(project.grpc(app, (host, grpc_port), typer.echo))
    if shadow_port is not None:
        bound = server.listen(host, shadow_port)
        beside.append(server.ShadowListener(app, settings, bound, certificates, typer.echo))
    server.serve(app, listening, settings, certificates, beside)


def _report(checks: list[Check]) -> None:
    """Print one line per check; raises Exit with 1 when one failed."""
    ready = all(check.state not in ("fail", "skipped") for check in checks)
    rows = [(c.name, c.state, c.found, c.next) for c in checks]
    body = {"ready": ready, "checks": [asdict(c) for c in checks]}
    emit(body, table(("check", "state", "found", "do next"), rows))
    if not ready:
        raise typer.Exit(1)


@key.callback()
def _key() -> None:
    """Make API keys."""


@key.command()
def new(
    name: Annotated[str, typer.Argument(help="The key's id in events and messages.")],
    permission: Annotated[
        list[str] | None, typer.Option(help="infer (default) or admin; repeatable.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second; default: any.")] = None,
    burst: Annotated[float | None, typer.Option(help="At once; default: the rate.")] = None,
    quota: Annotated[int | None, typer.Option(help="Requests a day; default: any.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires.")] = None,
) -> None:
    """Print a new token, once, and the entry to add to serving.auth.key_file.

    The token goes to its owner; the file holds its hash. Nothing is written.
    """
    from tidemill.server.keys import make_entry

    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    token, entry = make_entry(
        name,
        permissions=permission or ["infer"],
        rate=rate,
        burst=burst,
        quota=quota,
        expires=expires,
    )
    import yaml

    emit(
        {"token": token, "entry": entry},
        f"token (shown once): {token}\n\n{yaml.safe_dump([entry], sort_keys=False)}",
    )
