"""Golden rows: what a model said to some rows when it was packaged.

`golden.json` holds

    request    the rows as one request of the Open Inference Protocol, in which null is missing
    rows       why each row is there: `held out`, `carrier unknown`, `nothing known`, …
    scores     what ONNX Runtime said then, one number per row; null is a score that is no number
    tolerance  the largest difference that is none, as between torch and ONNX Runtime

A server that loads the bundle must give the same scores, or it is not the model that was judged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.bundle.content import FETCH, GOLDEN, read
from tidemill.errors import IntegrityError

__all__ = ["MAX_GOLDEN", "Golden", "read_golden", "write_golden"]

MAX_GOLDEN = 64
"""Rows at most: they are scored at every start."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows with the scores that they must get."""

    request: Mapping[str, Any]
    rows: tuple[str, ...]
    scores: tuple[float, ...]
    """NaN: the model said no number."""
    tolerance: float

    def deviation(self, found: Sequence[float]) -> str:
        """Name the row whose score deviates most, expected and found; empty when all hold."""
        if len(found) != len(self.scores):
            return f"{len(self.scores)} golden rows got {len(found)} scores"
        apart = [_distance(a, b) for a, b in zip(self.scores, found, strict=True)]
        beyond = [row for row, distance in enumerate(apart) if distance > self.tolerance]
        if not beyond:
            return ""
        worst = max(beyond, key=apart.__getitem__)
        return (
            f"golden row {worst} ({self.rows[worst]}) scored {self.scores[worst]:.9g} when it was "
            f"packaged and scores {found[worst]:.9g} here; {len(beyond)} of {len(apart)} rows "
            f"deviate by more than {self.tolerance:g}"
        )


def write_golden(folder: Path, golden: Golden) -> Path:
    """Write `golden.json` into a bundle; the same rows and scores give the same bytes."""
    if not 0 < len(golden.scores) <= MAX_GOLDEN:
        raise ValueError(f"{len(golden.scores)} golden rows, expected 1 to {MAX_GOLDEN}")
    body = {
        "request": golden.request,
        "rows": golden.rows,
        "scores": [score if math.isfinite(score) else None for score in golden.scores],
        "tolerance": golden.tolerance,
    }
    path = folder / GOLDEN
    path.write_text(json.dumps(body, sort_keys=True, allow_nan=False) + "\n")
    return path


def read_golden(folder: Path) -> Golden | None:
    """Read `golden.json`; None when the bundle has none.

    Raises IntegrityError when it is malformed, Unavailable when it cannot be read.
    """
    content = read(folder, GOLDEN)
    if content is None:
        return None
    try:
        body = json.loads(content)
        scores = tuple(math.nan if score is None else float(score) for score in body["scores"])
        golden = Golden(body["request"], tuple(body["rows"]), scores, float(body["tolerance"]))
        if len(golden.rows) != len(scores) or not 0 < len(scores) <= MAX_GOLDEN:
            raise ValueError(f"{len(golden.rows)} rows and {len(scores)} scores")
        if not 0 <= golden.tolerance < math.inf:  # nothing is further apart than NaN
            raise ValueError(f"its tolerance is {golden.tolerance}")
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder} is no model bundle: {GOLDEN} cannot be read ({error})", hint=FETCH
        ) from error
    return golden


def _distance(expected: float, found: float) -> float:
    """Return how far two scores are apart; a number and no number are infinitely far."""
    if math.isnan(expected) or math.isnan(found):
        return 0.0 if math.isnan(expected) and math.isnan(found) else math.inf
    return abs(expected - found)
