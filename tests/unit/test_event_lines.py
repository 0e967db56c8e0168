"""Lines on standard error: whole, in order, and nobody waits for who reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from tidemill.workers.lines import BUFFER_LINES, PIECE_BYTES, Lines


def test_lines_leave_whole_in_pieces_that_a_pipe_takes_at_once() -> None:
    pieces: list[bytes] = []
    going = threading.Event()

    def write(piece: bytes) -> None:
        going.wait(30)
        pieces.append(piece)

    lines = Lines(write)
    sent = [b"%d " % n + b"x" * (n % 300) for n in range(500)] + [b"y" * 3 * PIECE_BYTES]
    for line in sent:
        lines.append(line)
    going.set()
    lines.flush()
    assert b"".join(pieces).splitlines() == sent
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIECE_BYTES for piece in pieces[:-1])
    assert len(pieces) < 40


def test_output_that_stalls_costs_lines_and_nobody_waits() -> None:
    stalled, going = threading.Event(), threading.Event()
    kept: list[bytes] = []

    def write(piece: bytes) -> None:
        stalled.set()
        going.wait(30)
        kept.append(piece)

    lines = Lines(write)
    lines.append(b"first", hurry=True)
    assert stalled.wait(30)
    for _ in range(BUFFER_LINES + 7):
        lines.append(b"more", hurry=True)
    assert lines.lost == 7
    going.set()
    lines.flush()
    assert b"".join(kept).count(b"\n") == BUFFER_LINES + 1


def test_what_cannot_be_written_is_counted_and_the_rest_goes_on() -> None:
    kept: list[bytes] = []
    full = True

    def write(piece: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        kept.append(piece)

    lines = Lines(write)
    lines.append(b"gone")
    lines.flush()
    assert lines.lost == 1
    full = False
    lines.append(b"there")
    lines.flush()
    assert kept == [b"there\n"]


SCRIPT = """
import structlog
from tidemill.workers.lines import log_as_json
log_as_json(worker=3)
log = structlog.get_logger()
for number in range(200):
    log.error("said", number=number, text="x" * 100)
"""


def test_a_process_that_ends_has_said_all_of_it() -> None:
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=write) as process:
        os.close(write)
        with os.fdopen(read) as output:
            said = output.read().splitlines()
    assert process.returncode == 0
    assert len(said) == 200
    assert '"number": 199' in said[-1]
    assert '"worker": 3' in said[-1]
