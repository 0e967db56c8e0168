"""Who gives an order."""

from __future__ import annotations

import getpass
import os

__all__ = ["actor"]


def actor() -> str:
    """Return the user's name, or the number of one without a name, as clusters assign them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
