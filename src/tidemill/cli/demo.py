"""`tidemill demo`: the whole loop, played."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.output import emit_line, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidemill.demo.story import Event, Story

app = typer.Typer()


@app.command()
def _demo(
    into: Annotated[
        Path, typer.Option(help="Folder of the demo's project; replaced if it is an old demo.")
    ] = Path("tidemill-demo"),
) -> None:
    """Play the loop on a replay of 2013: real flights, real servers, real decisions.

    Trains on January to March, releases, lets the weeks pass, retrains when the governor says so,
    and forces a corrupted model into a canary. Writes demo.html and demo.json into the folder and
    leaves nothing running. With --json every event is one line, and the figures are the last.
    """
    from tidemill.demo.play import play

    story = play(into.absolute(), _tell)
    account = {"folder": into, "figures": story.figures}
    emit_line(account, _account(story, into))


def _tell(event: Event) -> None:
    from rich.text import Text

    clock = event.clock.replace("T", " ")[:16] or " " * 16
    line = Text(f"{event.wall:6.0f} s  {clock}  {event.title}")
    if event.why:
        line.append(f"\n{'':28}{event.why}", style="dim")
    emit_line(event, line)


def _account(story: Story, into: Path) -> RenderableType:
    from rich.console import Group

    stages = [
        (
            s.name,
            f"{s.wall_seconds:.1f} s",
            f"{s.wall_seconds - s.work_seconds:.1f} s",
            f"{s.cpu_seconds:.1f} s" if s.cpu_seconds else "",
        )
        for s in story.stages
    ]
    return Group(
        "",
        table(("stage", "wall", "of it orchestration and waiting", "CPU"), stages),
        "",
        table(("figure", ""), list(story.figures.items())),
        "",
        f"the whole account: {into / 'demo.html'}",
    )
