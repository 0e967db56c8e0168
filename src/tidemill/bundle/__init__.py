"""The model bundle: what is trained, signed, registered, deployed and verified as one folder.

    model.onnx         raw columns in, probability out
    manifest.json      `Manifest`
    evaluation.json    metrics of model and baselines, on which rows
    evidence.json      verdicts of the gates
    profile.json       the reference profile that monitoring compares with
    reference.parquet  sample of the profile's rows, for evidence reports
    warmup.json        requests that a server scores before it is ready; bundles may lack it
    golden.json        rows with the scores that a server must give them (`golden`); only older
                       bundles lack it, they can be served and not registered
    MODEL_CARD.md      for people
    model.sig          signature over all other files

A bundle's identity is its digest: `sha256:` over the lines `<sha256 of file>  <name>` of every file
but the signature, sorted by name. The first ten hex digits are the *revision* that servers report.

Lives here: the format (`manifest`, `reference`, `golden`), the identity (`content`), the
verification (`signature`).
May not live here: signing (an adapter's work), a model's inference, any platform SDK.
"""

from tidemill.bundle.content import GOLDEN, SIGNATURE, WARM_UP, digest, hashes, read, revision
from tidemill.bundle.golden import MAX_GOLDEN, Golden, read_golden, write_golden
from tidemill.bundle.manifest import (
    FeatureField,
    FeatureService,
    FeatureView,
    InputColumn,
    Manifest,
    read_manifest,
    write_manifest,
)
from tidemill.bundle.reference import read_profile
from tidemill.bundle.signature import verify

__all__ = [
    "GOLDEN",
    "MAX_GOLDEN",
    "SIGNATURE",
    "WARM_UP",
    "FeatureField",
    "FeatureService",
    "FeatureView",
    "Golden",
    "InputColumn",
    "Manifest",
    "digest",
    "hashes",
    "read",
    "read_golden",
    "read_manifest",
    "read_profile",
    "revision",
    "verify",
    "write_golden",
    "write_manifest",
]
