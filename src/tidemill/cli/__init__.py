"""The command line: one module per noun; parse, call, render, and nothing else.

Commands import what they need inside their functions: `tidemill --help` loads no SDK.
"""

from __future__ import annotations

from tidemill.cli.app import main

__all__ = ["main"]
