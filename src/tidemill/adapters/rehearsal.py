"""What a canary is asked before it gets a client's request: its metadata, and one row.

A client does not know which arm answers it. So the canary must take what stable takes and answer
under the same name, except for features, which clients need not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import httpx

from tidemill.domain.rollout.model import Revision, State, Workload

__all__ = ["Rehearsal"]

EMPTY = {"BYTES": "", "FP32": 0.0}
STARTING = 503


class Rehearsal:
    """Asks the canary of an attempt that is being prepared, until it answers."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._passed: tuple[object, ...] = ()

    def verdict(self, state: State, workloads: Mapping[str, Workload]) -> str | None:
        """Return what is wrong with the canary, empty when nothing is, None when it is not known.

        A canary that passed is not asked again: every row that it scores is in the prediction log.
        """
        if state.phase != "preparing" or state.arms is None or state.attempt is None:
            return None
        stable, canary = state.arms
        there, here = (workloads.get(arm.revision) for arm in (stable, canary))
        if not (there and there.ready and here and here.ready):
            return None
        asked = (state.attempt.number, state.attempt.holds, there.address, here.address)
        if asked == self._passed:
            return ""
        found = self._rehearse(there.address, here.address, stable, canary)
        if found == "":
            self._passed = asked
        return found

    def _rehearse(self, there: str, here: str, stable: Revision, canary: Revision) -> str | None:
        try:
            known = self._metadata(there, stable)
            offered = self._metadata(here, canary)
            if differs := _other_bundle(offered, canary) or _differs(known, offered):
                return differs
            answer = self._client.post(f"{_model(here, canary)}/infer", json=_row(offered))
            if answer.status_code == STARTING:
                return None
            if answer.status_code != httpx.codes.OK:
                return f"it answered an empty row with {answer.status_code}: {answer.text:.200}"
            return _wrong(answer.json(), offered, canary)
        except (httpx.HTTPError, ValueError):
            return None
        except (KeyError, IndexError, TypeError) as error:
            return f"its answer is not of the protocol: {type(error).__name__} {error}"

    def _metadata(self, address: str, revision: Revision) -> Any:
        answer = self._client.get(_model(address, revision))
        answer.raise_for_status()
        return answer.json()


def _model(address: str, revision: Revision) -> str:
    return f"http://{address}/v2/models/{revision.model}"


def _other_bundle(offered: Any, canary: Revision) -> str:
    """Say which bundle it serves if it is another: one that is signed may be in the wrong place."""
    served = offered["parameters"]["digest"]
    return "" if served == canary.digest else f"it serves the bundle {served}, not {canary.digest}"


def _differs(known: Any, offered: Any) -> str:
    """Say where a client of stable would be refused or misled; empty when nowhere."""
    before, after = _inputs(known), _inputs(offered)
    for name, (datatype, origin, _) in before.items():
        if origin != "feature" and after.get(name, ("", "", True))[0] != datatype:
            return f"stable takes the input '{name}' ({datatype}), the canary does not"
    for name, (datatype, _, optional) in after.items():
        if name not in before and not optional:
            return f"the canary needs the input '{name}' ({datatype}), stable does not"
    answers = [_outputs(body["outputs"]) for body in (known, offered)]
    return "" if answers[0] == answers[1] else f"the outputs are {answers[1]}, not {answers[0]}"


def _outputs(tensors: Any) -> list[str]:
    """Name each output with its datatype and its shape, the rows left out."""
    return [f"{o['name']} {o['datatype']}{o['shape'][1:]}" for o in tensors]


def _inputs(body: Any) -> dict[str, tuple[str, str, bool]]:
    """Datatype with a vector's width, origin and whether it may be left out, by name."""
    return {
        tensor["name"]: (
            tensor["datatype"] + "".join(f"[{size}]" for size in tensor["shape"][1:]),
            tensor["parameters"]["origin"],
            tensor["parameters"]["optional"],
        )
        for tensor in body["inputs"]
    }


def _row(offered: Any) -> dict[str, Any]:
    """Return a request of one row of zeros and empty strings; without keys nothing is looked up."""
    return {
        "id": "rehearsal",
        "inputs": [
            _empty(tensor["name"], tensor["datatype"], [1, *tensor["shape"][1:]])
            for tensor in offered["inputs"]
            if tensor["parameters"]["origin"] in ("request", "feature")
        ],
    }


def _empty(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    data = [EMPTY[datatype]] * prod(shape)
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _wrong(answer: Any, offered: Any, canary: Revision) -> str:
    if answer["model_version"] != canary.version:
        return f"it answers as version {answer['model_version']}, not {canary.version}"
    if fallback := answer["parameters"].get("fallback"):
        return f"its model failed on an empty row, {fallback} answered instead"
    promised, found = _outputs(offered["outputs"]), _outputs(answer["outputs"])
    shape = answer["outputs"][0]["shape"]
    if found != promised or shape[0] != 1:
        return f"it answers one row with {found} of shape {shape}, its metadata say {promised}"
    (score,) = answer["outputs"][0]["data"]
    return "" if 0 <= score <= 1 else f"its score of an empty row is {score}, not in [0, 1]"
