"""The HTTP server of judge and controller: what it reads, what it sends, how it ends."""

from __future__ import annotations

import socket
from threading import Event, Thread

import httpx
import pytest

from tidemill.controller.listening import MAX_BODY, Answer, HttpServer
from tidemill.errors import Unavailable


def echo(method: str, target: str, authorization: str, body: bytes) -> Answer:
    return Answer(200, f"{method} {target} {authorization} ".encode() + body)


def test_a_request_is_handed_on_whole_and_answered():
    with HttpServer(("127.0.0.1", 0), echo, "echo") as server:
        url = f"http://127.0.0.1:{server.port}/a?b=c"
        with httpx.Client(trust_env=False, headers={"authorization": "Bearer x"}) as http:
            assert http.put(url, content=b"said").text == "PUT /a?b=c Bearer x said"
            answer = http.head(url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len("HEAD /a?b=c Bearer x "))
    assert answer.headers["server"] == "tidemill"


def test_what_was_asked_is_answered_before_the_end():
    asked, go, heard = Event(), Event(), []

    def slow(*_: object) -> Answer:
        asked.set()
        go.wait(30)
        return Answer(200, b"late")

    server = HttpServer(("127.0.0.1", 0), slow, "slow")
    url = f"http://127.0.0.1:{server.port}/"
    client = Thread(target=lambda: heard.append(httpx.get(url, trust_env=False, timeout=30).text))
    with server:
        client.start()
        assert asked.wait(30)
        Thread(target=go.set).start()
    client.join()
    assert heard == ["late"]


def test_a_body_is_bounded_and_of_a_stated_length():
    with (
        HttpServer(("127.0.0.1", 0), echo, "echo") as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as http,
    ):
        large = http.post("/", content=b"x" * (MAX_BODY + 1))
        assert (large.status_code, large.text) == (413, "the body is larger than 65536 bytes\n")
        assert http.post("/", content=iter([b"a", b"b"])).status_code == 411
        assert http.get("/", headers={"transfer-encoding": "chunked"}).status_code == 411


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}: ") as caught:
            HttpServer(("127.0.0.1", port), echo, "echo")
    assert caught.value.hint
