"""Small documents fetched over HTTPS."""

from __future__ import annotations

from time import monotonic

from tidemill.errors import Unavailable

__all__ = ["fetch"]

SECONDS = 10.0
"""For the whole document."""
MAX_BYTES = 1024 * 1024


def fetch(url: str) -> bytes:
    """Return the document at `url`; redirects are not followed. Raises Unavailable.

    Certificates are checked against the authorities of `SSL_CERT_FILE` or else certifi's, and the
    usual variables name a proxy.
    """
    import httpx

    end = monotonic() + SECONDS
    content = b""
    try:
        with httpx.stream("GET", url, timeout=SECONDS / 2) as response:
            if response.status_code != httpx.codes.OK:
                raise Unavailable(f"{url} answered {response.status_code}, expected 200")
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_BYTES or monotonic() > end:
                    raise Unavailable(f"{url}: more than {MAX_BYTES} bytes or {SECONDS:g} s")
    except httpx.HTTPError as error:
        raise Unavailable(f"{url} did not answer: {error}") from error
    return content
