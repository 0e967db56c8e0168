"""The model: its inputs, training, export, and the gates before the registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tidemill.domain.criteria import BOUND
from tidemill.settings.base import DatabaseUrl, Group, Secret, Url

__all__ = [
    "ExportSettings",
    "GateSettings",
    "ModelInput",
    "RegistrySettings",
    "TrainingSettings",
]


class ModelInput(Group):
    """One raw column that the model reads; its preprocessing is part of the ONNX graph."""

    name: str
    """Column name, as in the request or the feature service."""
    origin: Literal["request", "feature"] = "feature"
    """`request`: the caller sends it. `feature`: looked up online if the caller does not."""
    encoding: Literal["numeric", "log", "cyclic", "category", "difference"] = "numeric"
    """`numeric` spread over quantile bins; `log` log1p first; `cyclic` sine and cosine of `period`;
    `category` embedded, unknown values share one row; `difference` is this column minus `minus`."""
    period: float | None = Field(default=None, gt=0)
    """Period of a cyclic column, in its own unit."""
    minus: str | None = None
    """The column that a `difference` subtracts."""

    @model_validator(mode="after")
    def _complete(self) -> ModelInput:
        if (self.encoding == "cyclic") != (self.period is not None):
            raise ValueError(f"input '{self.name}': 'period' belongs to encoding 'cyclic' alone")
        if (self.encoding == "difference") != (self.minus is not None):
            raise ValueError(f"input '{self.name}': 'minus' belongs to encoding 'difference' alone")
        return self


class TrainingSettings(Group):
    """How the torch model is trained."""

    inputs: Annotated[list[ModelInput], Field(min_length=1)]
    """The raw columns the model reads."""
    label: str = "late"
    """Column of the label in the training set: 1 is the event."""
    validation_days: int = Field(default=10, ge=1)
    """The last days before the test period, for early stopping and calibration."""
    test_days: int = Field(default=14, ge=1)
    """The last matured days, held out for evaluation, parity and the champion's comparison."""
    bins: int = Field(default=8, ge=1)
    """Quantile bins over which every number is spread, beside its standardised value."""
    hidden: list[int] = Field(default=[128, 64])
    """Widths of the hidden layers."""
    embedding: int = Field(default=8, ge=1)
    """Largest width of an embedding."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of hidden units dropped in training."""
    hidden_cells: float = Field(default=0.02, ge=0, lt=1)
    """Share of cells made missing or unknown in training, so that the model has learned what to do
    when a feature's lookup fails or a category is new."""
    batch_size: int = Field(default=2048, ge=1)
    """Rows per optimiser step."""
    epochs: int = Field(default=8, ge=1)
    """Most epochs; early stopping usually ends sooner."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation loss before training stops."""
    learning_rate: float = Field(default=4e-3, gt=0)
    """Peak learning rate of AdamW under a one-cycle schedule."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Weight decay of AdamW."""
    folds: int = Field(default=3, ge=2)
    """Refits that predict the training period without having seen it, for the monitor's profile."""
    min_category_rows: int = Field(default=20, ge=1)
    """A category seen in fewer training rows shares the row of unknown values."""
    seed: int = 20130101
    """Seed of every generator: same data, code and seed give byte-equal ONNX on one machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU, with mixed precision, when there is one."""
    threads: int = Field(default=2, ge=1)
    """Intra-op threads of torch on the CPU; with more cores, folds are fitted side by side."""


class ExportSettings(Group):
    """ONNX export and its release gate."""

    opset: int = Field(default=20, ge=17)
    """ONNX operator set."""
    parity_rows: int = Field(default=15000, ge=1)
    """Held-out real rows on which ONNX Runtime must equal torch; with fewer in the test and
    validation periods together, a candidate does not pass."""


class GateSettings(Group):
    """What a candidate must show before it is registered as a challenger."""

    thresholds: dict[str, Annotated[str, Field(pattern=BOUND.pattern)]] = Field(
        default={
            "auc": ">= 0.62",
            "logloss": "<= 0.60",
            "ece": "<= 0.08",
            "calibration_slope": ">= 0.7",
            "parity_max_abs": "<= 1e-5",
            "parity_flips": "<= 0",
        }
    )
    """Absolute bounds by metric name. Sound models of the reference data had AUC 0.70 to 0.77,
    log-loss 0.46 to 0.57 (the latter over Christmas), ECE 0.01 to 0.07 and slopes from 0.8 in
    nine trainings; a constant 0.5 has log-loss 0.69, logits of twice the size have slope 0.5."""
    beat_baselines: list[str] = Field(default=["prior", "logistic"])
    """Baselines of the same run whose log-loss the model must not exceed."""
    non_inferiority_margin: float = Field(default=0.003, ge=0)
    """Champion comparison: the 90th percentile of the bootstrapped difference of log-loss
    (challenger minus champion, day blocks, same matured rows) stays below this."""
    non_inferiority_level: float = Field(default=0.9, gt=0.5, lt=1)
    """Percentile of that comparison."""
    bootstrap_samples: int = Field(default=2000, ge=200)
    """Resamples of the paired bootstrap."""
    slices: list[str] = Field(default=["carrier", "origin", "month"])
    """Columns whose values are checked one by one."""
    slice_min_rows: int = Field(default=500, ge=1)
    """A slice with fewer rows is reported, not judged."""
    slice_min_auc: float = Field(default=0.55, ge=0, le=1)
    """Lowest AUC of a judged slice. It fails when its AUC plus two standard errors (Hanley and
    McNeil) is lower: of 500 rows with 20% events below 0.486, of 2000 below 0.518."""


class RegistrySettings(Group):
    """MLflow: tracking server and model registry."""

    uri: Url = "http://127.0.0.1:5500"
    """Tracking URI: the server that `tidemill up` starts, or yours."""
    backend: DatabaseUrl = "sqlite:///.tidemill/mlflow/mlflow.db"
    """Backend store of the local server: SQLite or `postgresql+psycopg://`."""
    backend_password: Secret = ""
    """Password of the backend store, by reference; its URL must hold none."""
    artifacts: Url = ".tidemill/mlflow/artifacts"
    """Artifact destination of the local server: a folder or `s3://bucket/prefix`."""
    artifacts_endpoint_url: Url = ""
    """Endpoint of an S3-compatible artifact destination; empty means AWS."""
    experiment: str = "flight-delay"
    """MLflow experiment of the training runs."""
    model: str = "flight-delay"
    """Registered model name."""
    signing_key: str = ".tidemill/keys/signing.pem"
    """EC P-256 private key that signs bundles; generated on first use, file mode 0600. On a cluster
    a path in the pod of `register` (`execution.resources`, `secret_files`)."""
    verify_key: str = ".tidemill/keys/signing.pub"
    """Public key against which a bundle is verified before it is loaded."""
    token: Secret = ""
    """Bearer token of a remote MLflow; empty means none."""
    connect_seconds: float = Field(default=1.5, ge=0)
    """How long a step or command tries to connect. Longer outlives a restart of the server (seven
    seconds here, a new pod takes more); shorter tells sooner that there is none."""
