"""What a model must beat: the prior, logistic regression and gradient boosting on the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import structlog
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

from tidemill.domain.metrics import measure
from tidemill.files import place
from tidemill.ports.tracking import Tracker
from tidemill.steps.examples import Examples
from tidemill.steps.formats import to_parquet
from tidemill.steps.model import Encoder
from tidemill.steps.training_data import TrainingData

__all__ = ["fit_baselines"]

log = structlog.get_logger(__name__)

Matrix = NDArray[np.float32]
ITERATIONS = 500
TOLERANCE = 1e-3
"""Of the gradient: a tighter one takes four times as long and overfits."""
TREES = 100


def fit_baselines(
    data: TrainingData, out: Path, *, tracker: Tracker
) -> dict[str, dict[str, float]]:
    """Fit the baselines to the training period and write `baselines.parquet`.

    It holds one column of scores per baseline for the test period's rows, in their order. The
    logistic regression reads what the network reads, the encoder's cells and the categories
    one-hot; boosting reads the raw numbers and codes. Returns the figures of each. Raises
    Unavailable when the file cannot be written.
    """
    settings = data.settings
    train, test = data.examples("train"), data.examples("test")
    encoder = Encoder(settings.inputs, settings.bins)
    encoder.fit(train.numbers)
    labels = train.labels.numpy()
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    one_hot.fit(train.codes.numpy())
    wide, wide_test = (
        np.hstack([encoder(rows.numbers).numpy(), one_hot.transform(rows.codes.numpy())])
        for rows in (train, test)
    )
    scores = {
        "prior": np.full(len(test), data.prior, dtype=np.float32),
        "logistic": _logistic(wide, labels, wide_test),
        "boosting": _boosting(_raw(train), labels, _raw(test), settings.seed),
    }
    place(out / "baselines.parquet", to_parquet(pl.DataFrame(scores)))
    figures = {name: measure(score, test.labels.numpy()) for name, score in scores.items()}
    for name, values in figures.items():
        log.info("baseline", name=name, auc=values["auc"], logloss=values["logloss"])
        tracker.log_metrics({f"{name}/{k}": v for k, v in values.items() if np.isfinite(v)})
    return figures


def _raw(rows: Examples) -> Matrix:
    """Return numbers and codes side by side; boosting takes NaN, but no infinity."""
    numbers = rows.numbers.numpy()
    finite = np.where(np.isfinite(numbers), numbers, np.nan)
    return np.hstack([finite, rows.codes.numpy()]).astype(np.float32)


def _logistic(x: Matrix, y: Matrix, x_test: Matrix) -> Matrix:
    with threadpool_limits(1):
        fitted = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE).fit(x, y)
    return np.asarray(fitted.predict_proba(x_test)[:, 1], dtype=np.float32)


def _boosting(x: Matrix, y: Matrix, x_test: Matrix, seed: int) -> Matrix:
    # One thread: on shared cores, two spinning OpenMP threads took four times the wall time.
    with threadpool_limits(1):
        fitted = HistGradientBoostingClassifier(
            max_iter=TREES, early_stopping=False, random_state=seed
        ).fit(x, y)
        return np.asarray(fitted.predict_proba(x_test)[:, 1], dtype=np.float32)
