"""The evidence of a validation: verdicts on partitions, for machines and for people."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from tidemill.errors import DataError
from tidemill.files import place
from tidemill.ports.objects import ObjectStore
from tidemill.steps.checks import Finding

__all__ = ["Report", "Verdict"]

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}.error{color:#b00020}.warn{color:#8a5a00}"
    "code{font-size:13px}"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one month of a table."""

    table: str
    period: str
    attempt: int
    """The newest attempt; 0 if there is none."""
    in_use: int
    """The attempt that the dataset holds; 0 if there is none."""
    rows: int
    """Rows of the newest attempt."""
    findings: tuple[Finding, ...]
    """About the newest attempt."""

    @property
    def broken(self) -> list[Finding]:
        """The findings that are errors."""
        return [f for f in self.findings if f.severity == "error"]

    @property
    def state(self) -> str:
        """What became of the newest attempt, in words."""
        if not self.broken:
            return f"attempt {self.attempt} is valid"
        kept = f"attempt {self.in_use} stays in use" if self.in_use else "nothing is in use"
        return f"attempt {self.attempt} is quarantined, {kept}" if self.attempt else kept

    def __str__(self) -> str:
        lines = "".join(f"\n    {f}" for f in self.broken)
        return f"{self.table} {self.period}: {self.state}{lines}"


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts of one validation."""

    as_of: datetime
    contract: str
    """Digest of the contract."""
    verdicts: tuple[Verdict, ...]

    @property
    def broken(self) -> list[Verdict]:
        """Months whose newest attempt breaks the contract."""
        return [v for v in self.verdicts if v.broken]

    def require_valid(self) -> None:
        """Raise DataError that names every broken rule, its rows and examples."""
        if self.broken:
            raise DataError(
                f"{len(self.broken)} of {len(self.verdicts)} partitions break the contract:\n  "
                + "\n  ".join(map(str, self.broken)),
                hint="mend the source and ingest again, or correct the contract if it is wrong",
            )

    def json(self) -> str:
        """Return the report for machines."""
        body = {
            "as_of": self.as_of.isoformat(),
            "contract": self.contract,
            "valid": not self.broken,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }
        return json.dumps(body, indent=1) + "\n"

    def html(self) -> str:
        """Return the report for people: one self-contained page."""
        count = f"{len(self.broken)} of {len(self.verdicts)} partitions break the contract"
        rows = "".join(map(_html_row, self.verdicts))
        return (
            f"<!doctype html><meta charset=utf-8><title>Validation</title><style>{STYLE}</style>"
            f"<h1>{count}</h1><p>As known at {self.as_of:%Y-%m-%d %H:%M} UTC, contract "
            f"<code>{self.contract[:16]}</code>.</p><table><tr><th>table<th>period<th>rows"
            f"<th>state<th>findings</tr>{rows}</table>\n"
        )

    def write(self, folder: Path) -> None:
        """Write `validation.json` and `validation.html` into a folder; raises Unavailable."""
        place(folder / "validation.json", self.json().encode())
        place(folder / "validation.html", self.html().encode())

    def keep(self, objects: ObjectStore) -> str:
        """Keep the report as evidence, under its digest; returns the key of the JSON."""
        digest = hashlib.sha256(self.json().encode()).hexdigest()[:16]
        objects.put(f"evidence/validation/{digest}.html", self.html().encode())
        objects.put(f"evidence/validation/{digest}.json", self.json().encode())
        return f"evidence/validation/{digest}.json"


def _html_row(verdict: Verdict) -> str:
    findings = "<br>".join(
        f'<span class="{f.severity}">{escape(f.severity)}</span> {escape(str(f))}'
        for f in verdict.findings
    )
    return (
        f"<tr><td>{escape(verdict.table)}<td>{verdict.period}<td>{verdict.rows:,}"
        f"<td>{escape(verdict.state)}<td>{findings}</tr>"
    )
