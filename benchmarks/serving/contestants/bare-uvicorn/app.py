"""The bare prototype as a raw ASGI application; whatever is no POST is a probe."""

from bare import answer


async def app(scope, receive, send):
    """Answer one request."""
    body = b""
    more = scope["method"] == "POST"
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    content = answer(body) if body else b"{}"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
