"""The account as one HTML file that needs nothing from outside."""

from __future__ import annotations

from html import escape
from pathlib import Path

from tidemill.demo.plots import auc_plot, canary_plot, drift_plot
from tidemill.demo.story import Canary, Story

__all__ = ["write_page"]

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22303c;max-width:960px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%} td,th{padding:.25rem .6rem;text-align:left;
vertical-align:top;border-bottom:1px solid #e3e8ec} th{font-weight:600;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{max-width:100%;height:auto;margin:.6rem 0}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:.6rem}
.figures div{background:#f3f6f8;border-radius:6px;padding:.6rem .8rem}
.figures b{display:block;font-size:1.15rem}
.why{color:#5b6b78;white-space:pre-line;overflow-wrap:anywhere} .wide{overflow-x:auto}
"""

DRIFT = (
    "How far the features, and what the scores promise, have moved from the model's reference. "
    "What stays above the dashed bound opens an incident; dotted lines are what was done."
)
CANARY = (
    "Evidence about each canary, metric by metric. Above the dashed red line it is rolled back, "
    "above the green one the metric passes; a step is left when those of its gate do."
)
AUC = "What retraining bought: the model that served against the first one, on the same flights."


def write_page(story: Story, path: Path) -> None:
    """Write the page."""
    marks = [
        (e.clock, e.title.replace("version ", "v").replace("retraining", "retrain"))
        for e in story.events
        if e.clock and _is_mark(e.title)
    ]
    points = [p for p in story.points if p.day]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>tidemill: the loop on 2013</title><style>{STYLE}</style>",
        "<h1>The loop on 2013</h1>",
        "<p class='why'>Real flights, real servers, real decisions; the clock is replayed.</p>",
        _figures(story),
        "<h2>What happened</h2>",
        _events(story),
    ]
    if points:
        parts += [
            "<h2>Why</h2>",
            _caption(DRIFT),
            drift_plot(points, marks, story.performance_bound),
        ]
    if moved := [canary for canary in story.canaries if _moved(canary)]:
        parts += [_caption(CANARY), *map(canary_plot, moved)]
    if any(p.auc_first is not None for p in points):
        parts += [_caption(AUC), auc_plot(points, marks)]
    parts += ["<h2>What it cost</h2>", _stages(story), "</html>"]
    path.write_text("\n".join(parts), encoding="utf-8")


def _caption(text: str) -> str:
    return f"<p class='why'>{escape(text)}</p>"


def _is_mark(title: str) -> bool:
    return any(word in title for word in ("released", "promoted", "rolled back", ": RUN"))


def _moved(canary: Canary) -> bool:
    """Whether there was any evidence: without one bad event there is nothing to draw."""
    return max(canary.log_e_harm) - min(canary.log_e_harm) > 0.01


def _figures(story: Story) -> str:
    cells = (
        f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in story.figures.items()
    )
    return f"<div class='figures'>{''.join(cells)}</div>"


def _events(story: Story) -> str:
    rows = (
        f"<tr><th>{escape(e.clock.replace('T', ' ')[:16])}</th><td>{escape(e.title)}"
        f"<div class='why'>{escape(e.why)}</div></td><td class='n'>{e.wall:.0f} s</td></tr>"
        for e in story.events
    )
    head = "<tr><th>clock of the replay</th><th></th><th>after</th></tr>"
    return f"<div class='wide'><table>{head}{''.join(rows)}</table></div>"


def _stages(story: Story) -> str:
    rows = (
        f"<tr><td>{escape(s.name)}</td><td class='n'>{s.wall_seconds:.1f} s</td>"
        f"<td class='n'>{s.work_seconds:.1f} s</td><td class='n'>{s.cpu_seconds:.1f} s</td></tr>"
        for s in story.stages
    )
    head = "<tr><th>stage</th><th>wall</th><th>of it work</th><th>CPU</th></tr>"
    return f"<div class='wide'><table>{head}{''.join(rows)}</table></div>"
