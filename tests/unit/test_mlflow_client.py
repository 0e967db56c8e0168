"""How the client treats connections; what it says to a real server is tested on one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tidemill.adapters.mlflow.client import IDLE_SECONDS, Client

ANSWER = b'{"experiment": {"experiment_id": "7", "lifecycle_stage": "active"}}'


@pytest.fixture
def forgetful() -> Iterator[str]:
    """Serve one answer on each connection, and drop what comes on it later.

    So does a server that closes an idle connection while the next request is on its way.
    """

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=answer_once, args=(connection,), daemon=True).start()

    def answer_once(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
            connection.sendall(head + ANSWER)
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_connection_that_stood_idle_is_not_trusted(forgetful: str) -> None:
    client = Client(forgetful)
    assert client.experiment("any") == "7"
    time.sleep(IDLE_SECONDS + 0.1)
    assert client.experiment("any") == "7"
