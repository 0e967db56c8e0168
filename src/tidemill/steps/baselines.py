"""What a model must beat: the prior, logistic regression and gradient boosting on the same rows."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import polars as pl
import structlog
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

from tidemill.domain.metrics import measure
from tidemill.ports.tracking import Tracker
from tidemill.steps.examples import Examples, examples
from tidemill.steps.model import Encoder
from tidemill.steps.periods import read_training_set
from tidemill.steps.train import load_model

__all__ = ["BASELINES", "fit_baselines"]

log = structlog.get_logger(__name__)

Matrix = NDArray[np.float32]
BASELINES = ("prior", "logistic", "boosting")
ITERATIONS = 200
TREES = 100


def fit_baselines(
    training_set: Path, trained: Path, out: Path, *, tracker: Tracker
) -> dict[str, dict[str, float]]:
    """Fit the baselines to the training period of `trained` and write `baselines.parquet`.

    It holds one column of scores per baseline for the test period's rows, in their order. Both
    fitted ones read what the network reads: the same encoder, categories one-hot. Returns the
    figures of each.
    """
    model, record = load_model(trained)
    settings = record.settings
    frame = read_training_set(training_set, settings)
    train, test = (
        examples(rows, settings.inputs, record.vocabularies, settings.label)
        for rows in (record.split.train_rows(frame), record.split.test_rows(frame))
    )
    labels = train.labels.numpy()
    x, x_test = _dense(model.encoder, train), _dense(model.encoder, test)
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    one_hot.fit(train.codes.numpy())
    wide, wide_test = (
        np.hstack([dense, one_hot.transform(rows.codes.numpy())])
        for dense, rows in ((x, train), (x_test, test))
    )
    scores = {
        "prior": np.full(len(test), record.prior, dtype=np.float32),
        "logistic": _logistic(wide, labels, wide_test),
        "boosting": _boosting(
            np.hstack([x, train.codes.numpy()]),
            labels,
            np.hstack([x_test, test.codes.numpy()]),
            settings.seed,
        ),
    }
    out.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(scores).write_parquet(out / "baselines.parquet")
    figures = {name: measure(score, test.labels.numpy()) for name, score in scores.items()}
    for name, values in figures.items():
        log.info("baseline", name=name, auc=values["auc"], logloss=values["logloss"])
        tracker.log_metrics({f"{name}/{k}": v for k, v in values.items() if np.isfinite(v)})
    return figures


def _dense(encoder: Encoder, rows: Examples) -> Matrix:
    dense: Matrix = encoder(rows.numbers).numpy()
    return dense


def _logistic(x: Matrix, y: Matrix, x_test: Matrix) -> Matrix:
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations move digit 5
        fitted = LogisticRegression(max_iter=ITERATIONS).fit(x, y)
    return np.asarray(fitted.predict_proba(x_test)[:, 1], dtype=np.float32)


def _boosting(x: Matrix, y: Matrix, x_test: Matrix, seed: int) -> Matrix:
    # One thread: on shared cores, two spinning OpenMP threads took four times the wall time.
    with threadpool_limits(1):
        fitted = HistGradientBoostingClassifier(
            max_iter=TREES, early_stopping=False, random_state=seed
        ).fit(x, y)
        return np.asarray(fitted.predict_proba(x_test)[:, 1], dtype=np.float32)
