"""The models and versions in this process: found by name, loaded and unloaded while it serves.

A repository folder holds a bundle per version, `<folder>/<model>/<version>/`. Without a folder the
process serves the bundle that it was started with, and nothing is loaded or unloaded.

What is loaded takes a bounded memory. A version of the folder that is not loaded is loaded when it
is asked for, in the place of the least recently used; one that was unloaded by order stays so until
it is loaded by order. What cannot be loaded is refused for a while without another look at it.
Whoever holds an entry may finish with it: its log is closed after the last.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

import structlog
from msgspec import Struct

from tidemill.errors import IntegrityError, NotFound, TidemillError
from tidemill.server.answers import Answers
from tidemill.server.folder import Key, list_bundles, newest_first, order, weigh
from tidemill.server.inference import UNMARKED, Inference
from tidemill.server.metrics import Counters
from tidemill.server.predictions import PredictionLog
from tidemill.server.protocol import Rejected
from tidemill.server.records import Records

__all__ = ["Change", "Entry", "Filter", "Nothing", "Repository", "Served"]

log = structlog.get_logger(__name__)

IDLE_SECONDS = 0.02
"""Between two looks whether the last request of an unloaded model was answered."""
RETRY_SECONDS = 10.0
"""A bundle that was refused is not looked at again for this long, unless it is loaded by order:
verifying a large one for each request would stall all others."""
LISTING_SECONDS = 1.0
"""The folder is listed at most so often, however many ask, orders excepted: on a network's file
system that takes milliseconds, in which nothing else is answered."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """What answers the mirrored requests of one loaded version; see `shadow`."""

    inference: Inference
    counters: Counters
    answers: Answers


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version with what belongs to it."""

    inference: Inference
    counters: Counters
    predictions: PredictionLog
    records: Records
    answers: Answers
    """What clients were answered lately, while a controller compares it."""
    shadow: Shadow

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.inference.model.name, self.inference.model.version

    async def close(self, timeout: float) -> None:
        """Wait for requests in flight, then write the log, each for at most `timeout` seconds."""
        rounds = int(timeout / IDLE_SECONDS)
        while self.counters.in_flight and (rounds := rounds - 1) > 0:
            await asyncio.sleep(IDLE_SECONDS)
        await asyncio.to_thread(self.finish, timeout)

    def finish(self, timeout: float) -> None:
        """Write the log for at most `timeout` seconds."""
        if lost := self.predictions.close(timeout):
            name, version = self.key
            log.error(
                "rows of the prediction log were lost at the end",
                model=name,
                version=version,
                rows=lost,
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """A version that this process serves or could serve."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = ""


class Filter(Struct):
    """Body of a request for the index."""

    ready: bool = False


class Which(Struct, frozen=True):
    """Parameters of an order that are known; others are ignored."""

    version: str = ""


class Change(Struct):
    """Body of a request to load or unload."""

    parameters: Which = Which()


class Nothing(Struct):
    """The answer to an order that was carried out: an empty document."""


class Repository:
    """Finds models; all methods belong to the event loop's thread."""

    def __init__(
        self,
        load: Callable[[Path, str, str], Served],
        folder: Path | None = None,
        *,
        max_bytes: float = math.inf,
        drain_seconds: float = 10.0,
        falls_back: bool = False,
    ) -> None:
        """`load` verifies and loads the bundle of a folder under a version and a name.

        What is loaded of the folder takes at most `max_bytes`, as `weigh` estimates it. If it
        `falls_back`, older versions answer for one that cannot be loaded.
        """
        self.stood_in: Counter[str] = Counter()
        """Requests by model that an older version answered as the one asked cannot be loaded."""
        self.rows_lost: Counter[str] = Counter()
        """Rows of the prediction log by model that others lost: versions that were unloaded since,
        processes that were killed."""
        self._falls_back = falls_back
        self._load = load
        self._folder = folder
        self._listing: frozenset[Key] = frozenset()
        self._listed = -math.inf
        self._max_bytes = max_bytes
        self._drain_seconds = drain_seconds
        self._weights: dict[Key, float] = {}
        """Of what was last loaded, or tried, of the folder."""
        self._served: OrderedDict[Key, Served] = OrderedDict()
        self._newest: dict[str, Served] = {}
        self._withdrawn: set[Key] = set()
        self._refused: dict[Key, float] = {}
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._leaving: dict[asyncio.Task[None], Served] = {}

    def __iter__(self) -> Iterator[Served]:
        """Iterate over what is loaded."""
        return iter(list(self._served.values()))

    def add(self, bundle: Path, version: str, name: str = "") -> None:
        """Load a bundle before the server listens; raises IntegrityError when it must not."""
        served = self._load(bundle, version, name)
        self._weights[served.key] = weigh(bundle)
        self._adopt(served)

    def fill(self) -> None:
        """Load the newest version of each model before the server listens, then what fits.

        Raises NotFound when it holds none. A bundle that must not be served is left out with its
        reason in the index and the log; raises IntegrityError when no other is left.
        """
        found = newest_first(self._held())
        if not found:
            raise NotFound(
                f"the repository {self._folder} holds no bundle",
                hint="its layout is MODEL/VERSION/ with a bundle each: "
                "tidemill registry fetch MODEL/VERSION FOLDER/MODEL/VERSION",
            )
        for key in found:
            self._weights[key] = weigh(self._path(key))
            if self._served and not self._fits(key):
                continue
            if served := self._attempt(key):
                self._adopt(served)
            else:
                self._refused[key] = monotonic()
        if not self._served:
            raise IntegrityError(
                "no bundle of the repository can be served: "
                + ", ".join("/".join(key) for key in found),
                hint="the lines above say why, bundle by bundle",
            )

    def find(self, name: str, version: str = "") -> Served | None:
        """Return what serves a version, the newest by default; None when it is not loaded."""
        if not version:
            return self._newest.get(name)
        return self._served.get((name, version))

    def only(self) -> str:
        """Return the name of the only model; raises Rejected when there are several.

        A model of which nothing is or may be loaded does not count beside others.
        """
        known = self._known()
        out = self._refused.keys() | self._withdrawn
        able = {key for key in known if key in self._served or key not in out}
        names = {name for name, _ in able or known}
        if len(names) != 1:
            raise Rejected(
                "ambiguous_model",
                f"this server has the models {_names(names)}; name one: /v2/models/MODEL/predict",
            )
        return names.pop()

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model that can be asked."""
        return [entry.version for entry in self.index() if entry.name == name]

    def require(self, name: str, version: str) -> None:
        """Raise Rejected unless a version, by default any, is loaded or in the folder.

        The refusal is told to callers without a key: it names no other, and does not tell a model
        that is not there from a version.
        """
        if not any(key == (name, version or key[1]) for key in self._known()):
            wanted = f"version '{version:.80}' of a model" if version else "model"
            raise Rejected("unknown_model", f"there is no {wanted} '{name:.80}'", 404)

    async def get(self, name: str, version: str = "") -> Served:
        """Return what serves a version, which is loaded if need be; raises Rejected.

        The caller has to ask it before it awaits anything else.
        """
        # Not what was just loaded, but what is there now: others may have taken its place.
        while (served := self.find(name, version)) is None:
            await self._bring(self._choose(name, version))
        if self._folder is not None:
            self._served.move_to_end(served.key)
        return served

    async def stand_in(self, name: str, version: str) -> tuple[Served, Mapping[str, str]]:
        """Return what answers for a version, and how its answers are marked; raises Rejected.

        It is the version itself, as of `get`; or, marked, the newest older one that is loaded, if
        it cannot be loaded and previous versions are a fallback.
        """
        try:
            return await self.get(name, version), UNMARKED
        except Rejected:
            key = name, version
            refused = key in self._refused and key not in self._withdrawn
            older = self._older(name, version) if refused and self._falls_back else []
            if not older:
                raise
            self.stood_in[name] += 1
            return older[0], {"fallback": f"version {older[0].key[1]}"}

    def loaded(self, name: str, version: str = "") -> Served:
        """Return what serves a version, without a load or a use of it; raises Rejected."""
        if served := self.find(name, version):
            return served
        name, version = self._choose(name, version)
        raise Rejected(
            "not_loaded",
            f"version '{version}' of '{name}' is not loaded; a request to infer loads it",
            503,
        )

    async def load(self, name: str, version: str = "") -> None:
        """Load a version, the folder's newest by default, again if it is loaded already.

        Raises Rejected with the reason; what is served meanwhile stays.
        """
        self._look_again()
        key = self._newest_held(name) if not version else (name, version)
        if key not in self._held():
            raise self._unknown(name, version)
        self._withdrawn.discard(key)
        while key in self._loading:  # it may have read the files before they were replaced
            await asyncio.wait([self._loading[key]])
        await self._bring(key)
        if key in self._refused:
            raise _not_loaded(key)

    async def unload(self, name: str, version: str = "") -> None:
        """Unload a version, by default every version of the model; raises Rejected.

        Requests that were accepted are answered first.
        """
        self._look_again()
        keys = [key for key in self._known() if key == (name, version or key[1])]
        if not keys:
            raise self._unknown(name, version)
        self._withdrawn.update(keys)
        if leaving := [self._retire(key) for key in keys if key in self._served]:
            await asyncio.wait(leaving)

    @property
    def withdrawn(self) -> frozenset[Key]:
        """The versions that were unloaded by order."""
        return frozenset(self._withdrawn)

    def withdraw(self, keys: Iterable[Key]) -> None:
        """Unload versions that other workers unloaded by order before this one began."""
        for key in keys:
            self._withdrawn.add(key)
            if key in self._served:
                self._retire(key)

    def index(self) -> list[Entry]:
        """Return every version that is loaded or in the folder, by name and version."""
        keys = sorted(self._known(), key=lambda key: (key[0], order(key[1])))
        return [self._entry(key) for key in keys]

    def close(self) -> None:
        """Write what is left of every prediction log, after the last request was answered.

        All of them together take `drain_seconds` at most, or the process would be killed. Rows that
        are lost then the next process counts.
        """
        deadline = monotonic() + self._drain_seconds
        ending = [*self._served.values(), *self._leaving.values()]
        for served in ending:
            served.predictions.begin_close(last=True)
        for served in ending:
            served.finish(max(0.0, deadline - monotonic()))

    def _entry(self, key: Key) -> Entry:
        if key in self._served:
            return Entry(*key, "READY")
        if key in self._loading:
            return Entry(*key, "LOADING")
        reason = "not loaded; loaded when asked for"
        if key in self._refused:
            reason = "it was refused; the server's log says why"
        if key in self._withdrawn:
            reason = "unloaded"
        return Entry(*key, "UNAVAILABLE", reason)

    def _choose(self, name: str, version: str) -> Key:
        """Return the version of the folder to load; raises Rejected when there is none."""
        held = [k for k in newest_first(self._held()) if k == (name, version or k[1])]
        if not held:
            raise self._unknown(name, version)
        if able := [key for key in held if key not in self._withdrawn and self._may_try(key)]:
            return able[0]
        raise _not_loaded(held[0])

    def _may_try(self, key: Key) -> bool:
        refused = self._refused.get(key)
        return refused is None or monotonic() - refused > RETRY_SECONDS

    def _newest_held(self, name: str) -> Key:
        held = [key for key in self._held() if key[0] == name]
        if not held:
            raise self._unknown(name, "")
        return max(held, key=lambda key: order(key[1]))

    def _look_again(self) -> None:
        """Have an order find the folder as it is now; raises Rejected when there is none."""
        if self._folder is None:
            raise Rejected(
                "unsupported", "this server was started with one bundle and has no repository"
            )
        self._listed = -math.inf

    def _unknown(self, name: str, version: str) -> Rejected:
        """Return a refusal, which tells what there is."""
        known = self._known()
        versions = {key[1] for key in known if key[0] == name}
        there = _names(versions or {key[0] for key in known})
        told = f"; this server has {there}"
        if versions:
            what = f"there is no version '{version:.80}' of '{name}'"
            return Rejected("unknown_version", what + told, 404)
        return Rejected("unknown_model", f"there is no model '{name:.80}'{told}", 404)

    async def _bring(self, key: Key) -> None:
        """Try to load a version of the folder, once however many ask for it meanwhile."""
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda _: self._loading.pop(key))
        await asyncio.shield(task)

    async def _fetch(self, key: Key) -> None:
        served = await asyncio.to_thread(self._attempt, key)
        if served is None:
            self._refused[key] = monotonic()
            return
        if key in self._withdrawn:
            return
        if key in self._served:
            self._retire(key)
        while self._served and not self._fits(key):
            self._retire(next(iter(self._served)))
        self._adopt(served)

    def _fits(self, key: Key) -> bool:
        """Tell whether a version of the folder can be loaded beside what is."""
        return sum(self._weights[key] for key in {*self._served, key}) <= self._max_bytes

    def _attempt(self, key: Key) -> Served | None:
        """Load a version of the folder, in any thread; None if it fails, which is logged."""
        name, version = key
        try:
            if (weight := weigh(self._path(key))) > self._max_bytes:
                raise IntegrityError(
                    f"it takes some {weight / 2**20:.0f} MB, more than serving.model_memory_mb"
                )
            self._weights[key] = weight
            return self._load(self._path(key), version, name)
        except TidemillError as error:
            log.error("model not loaded", model=name, version=version, reason=error.message)
        except Exception:  # of a file that others wrote: the other models are served all the same
            log.exception("model not loaded: its load failed inside", model=name, version=version)
        return None

    def _adopt(self, served: Served) -> None:
        name, version = served.key
        served.inference.older = lambda: [s.inference for s in self._older(name, version)]
        served.predictions.start()
        self._served[served.key] = served
        self.rows_lost[name] += 0  # shown from the start: what only appears is no increase
        self._refused.pop(served.key, None)
        self._choose_newest(name)
        log.info("model loaded", model=name, version=version)

    def _retire(self, key: Key) -> asyncio.Task[None]:
        """Take a version out of service at once; the task answers what it accepted and logs it."""
        served = self._served.pop(key)
        self._choose_newest(key[0])
        log.info("model unloaded", model=key[0], version=key[1])
        task = asyncio.create_task(served.close(self._drain_seconds))
        self._leaving[task] = served
        task.add_done_callback(self._left)
        return task

    def _left(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # else the process ends, and `close` writes the log
            served = self._leaving.pop(task)
            self.rows_lost[served.key[0]] += served.predictions.counts()[1]

    def _older(self, name: str, version: str) -> list[Served]:
        """Return what is loaded of a model's older versions, the newest first."""
        held = [k for k in self._served if k[0] == name and order(k[1]) < order(version)]
        return [self._served[key] for key in newest_first(held)]

    def _choose_newest(self, name: str) -> None:
        held = [served for key, served in self._served.items() if key[0] == name]
        if held:
            self._newest[name] = max(held, key=lambda served: order(served.key[1]))
        else:
            self._newest.pop(name, None)

    def _path(self, key: Key) -> Path:
        assert self._folder is not None
        return self._folder / key[0] / key[1]

    def _known(self) -> frozenset[Key]:
        """Return the versions that are loaded or in the folder."""
        return self._held() | self._served.keys()

    def _held(self) -> frozenset[Key]:
        """Return the versions that the folder holds, as seen LISTING_SECONDS ago at most."""
        if self._folder is not None and monotonic() - self._listed >= LISTING_SECONDS:
            self._listing = list_bundles(self._folder)
            self._listed = monotonic()
        return self._listing


def _not_loaded(key: Key) -> Rejected:
    return Rejected(
        "not_loaded",
        f"version '{key[1]}' of '{key[0]}' is not loaded: it was unloaded, or refused for a reason "
        "in the server's log",
        503,
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
