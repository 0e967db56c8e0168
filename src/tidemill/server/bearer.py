"""Bearer credentials as RFC 6750 has them: how they arrive, how they are refused."""

from __future__ import annotations

from tidemill.server.protocol import Rejected

__all__ = ["credential", "forbidden", "unauthenticated"]

SCHEME = b"bearer "
CHALLENGE = b"www-authenticate"
REALM = b'Bearer realm="tidemill"'


def credential(authorization: bytes) -> bytes:
    """Return what follows `Bearer`; raises Rejected with 401 when there is nothing."""
    if authorization[: len(SCHEME)].lower() != SCHEME:
        raise Rejected(
            "missing_key", "expected the header 'Authorization: Bearer …'", 401, {CHALLENGE: REALM}
        )
    return authorization[len(SCHEME) :].strip()


def unauthenticated(code: str, message: str) -> Rejected:
    """Build the refusal of a credential that opens nothing (RFC 6750, section 3)."""
    return Rejected(code, message, 401, {CHALLENGE: REALM + b', error="invalid_token"'})


def forbidden(message: str, scope: str = "") -> Rejected:
    """Build the refusal of a credential that opens something else; `scope` is what would do."""
    challenge = REALM + b', error="insufficient_scope"'
    if scope:
        challenge += b', scope="%s"' % scope.encode()
    return Rejected("forbidden", message, 403, {CHALLENGE: challenge})
