"""tidemill closes the loop: data, features, training, guarded serving, drift, retraining.

Importing it loads no platform SDK; it only switches their usage reporting off (`telemetry`).
"""

from importlib.metadata import PackageNotFoundError, version

from tidemill.telemetry import switch_off

__all__ = ["__version__"]

switch_off()

try:
    __version__ = version("tidemill")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
