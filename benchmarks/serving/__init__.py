"""Inference servers over HTTP: `python -m benchmarks serving [--quick]`.

Every server is started in turn on one core and driven from another with the same model and the same
rows; all must answer the same numbers. Lives here: the contestants and their configuration
(`contestants`), the encodings (`encoding`), the rounds and the report.
May not live here: a figure that was not measured in the run that prints it; a change to the
project's environment (foreign servers get their own, in `.tidemill/bench`).
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version

from benchmarks.serving.contestants import CONTESTANTS
from benchmarks.serving.load import CONNECTIONS, require_wrk
from benchmarks.serving.report import render
from benchmarks.serving.rounds import Course, measure
from tidemill.errors import TidemillError

__all__ = ["main"]

SECONDS = 2
"""Of each drive; the whole run stays under ten minutes, the installs of the first among them."""


def main(*arguments: str) -> None:
    """Measure and print the report; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks serving")
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of three servers, under two minutes"
    )
    quick = parser.parse_args(arguments).quick
    chosen = [contestant for contestant in CONTESTANTS if contestant.quick or not quick]
    try:
        require_wrk()
        course = _course(quick)
    except TidemillError as error:
        sys.exit(str(error))
    print(
        f"MLP 30-256-128-1, ONNX Runtime {version('onnxruntime')} with one thread, one core for "
        f"the server, wrk with {CONNECTIONS} connections on another, {course.rounds} rounds of "
        f"{course.seconds} s, medians\n"
    )
    results = measure(chosen, course)
    print(render(results))


def _course(quick: bool) -> Course:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("this needs two cores: one for the server, one for the load")
    os.sched_setaffinity(0, cores[1:])
    return Course(2 if quick else 3, SECONDS, cores[0], cores[1])
