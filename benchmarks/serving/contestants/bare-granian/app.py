"""The bare prototype as a granian RSGI application; whatever is no POST is a probe."""

from bare import answer

HEADERS = [("content-type", "application/json")]


async def app(scope, protocol):
    """Answer one request."""
    body = await protocol() if scope.method == "POST" else b""
    protocol.response_bytes(200, HEADERS, answer(body) if body else b"{}")
