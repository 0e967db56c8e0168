"""The models and versions in this process: found by name, loaded and unloaded while it serves.

A repository folder holds a bundle per version, `<folder>/<model>/<version>/`. Without a folder the
process serves the bundle that it was started with, and nothing is loaded or unloaded.

At most `max_models` are loaded. A version of the folder that is not loaded is loaded when it is
asked for, in the place of the least recently used; one that was unloaded by order stays so until
it is loaded by order. Whoever holds an entry may finish with it: its log is closed after the last.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from msgspec import Struct

from tidemill.errors import IntegrityError, NotFound, TidemillError
from tidemill.server.inference import Inference
from tidemill.server.metrics import Counters
from tidemill.server.predictions import PredictionLog
from tidemill.server.protocol import Rejected
from tidemill.server.records import Records

__all__ = ["Change", "Entry", "Filter", "Nothing", "Repository", "Served"]

log = structlog.get_logger(__name__)

Key = tuple[str, str]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A model or a version: a folder's name, and no way out of the repository."""
IDLE_SECONDS = 0.02
"""Between two looks whether the last request of an unloaded model was answered."""


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version with what belongs to it."""

    inference: Inference
    counters: Counters
    predictions: PredictionLog
    records: Records

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
                "rows of the prediction log were lost", model=name, version=version, rows=lost
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
        max_models: int = 1,
        drain_seconds: float = 10.0,
    ) -> None:
        """`load` verifies and loads the bundle of a folder under a version and a name."""
        self._load = load
        self._folder = folder
        self._max_models = max_models
        self._drain_seconds = drain_seconds
        self._served: OrderedDict[Key, Served] = OrderedDict()
        self._newest: dict[str, Served] = {}
        self._withdrawn: set[Key] = set()
        self._failures: dict[Key, str] = {}
        self._loading: dict[Key, asyncio.Task[Served]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Served]:
        """Iterate over what is loaded."""
        return iter(list(self._served.values()))

    def add(self, bundle: Path, version: str, name: str = "") -> None:
        """Load a bundle before the server listens; raises IntegrityError when it must not."""
        self._adopt(self._load(bundle, version, name))

    def fill(self) -> None:
        """Load the newest versions of the folder before the server listens.

        Raises NotFound when it holds none. A bundle that must not be served is left out with its
        reason in the index and the log; raises IntegrityError when no other is left.
        """
        found = sorted(self._held(), key=lambda key: _order(key[1]), reverse=True)
        if not found:
            raise NotFound(
                f"the repository {self._folder} holds no bundle",
                hint="its layout is MODEL/VERSION/ with a bundle each: "
                "tidemill registry fetch MODEL/VERSION FOLDER/MODEL/VERSION",
            )
        for key in found:
            if len(self._served) == self._max_models:
                break
            try:
                self._adopt(self._load(self._path(key), key[1], key[0]))
            except TidemillError as error:
                self._refuse(key, error)
        if not self._served:
            raise IntegrityError(
                "no bundle of the repository can be served: "
                + "; ".join(f"{n}/{v}: {why}" for (n, v), why in self._failures.items())
            )

    def find(self, name: str, version: str = "") -> Served | None:
        """Return what serves a version, the newest by default; None when it is not loaded."""
        if not version:
            return self._newest.get(name)
        return self._served.get((name, version))

    def only(self) -> str:
        """Return the name of the only model; raises Rejected when there are several."""
        names = {entry.name for entry in self.index()}
        if len(names) != 1:
            raise Rejected(
                "ambiguous_model",
                f"this server has the models {_list(names)}; name one: /v2/models/MODEL/predict",
            )
        return names.pop()

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model that can be asked."""
        return [entry.version for entry in self.index() if entry.name == name]

    def require(self, name: str, version: str) -> None:
        """Raise Rejected unless a version, by default any, is loaded or in the folder."""
        self._choose(name, version)

    async def get(self, name: str, version: str = "") -> Served:
        """Return what serves a version, which is loaded if need be; raises Rejected."""
        served = self.find(name, version)
        if served is None:
            key = self._choose(name, version)
            if key in self._withdrawn:
                raise Rejected("not_loaded", f"version '{key[1]}' of '{name}' is unloaded", 503)
            served = await self._bring(key)
        elif self._folder is not None:
            self._served.move_to_end(served.key)
        return served

    async def load(self, name: str, version: str = "") -> None:
        """Load a version, the folder's newest by default, again if it is loaded already.

        Raises Rejected with the reason; what is served meanwhile stays.
        """
        self._changeable()
        key = self._newest_held(name) if not version else (name, version)
        if key not in set(self._held()):
            raise self._unknown(name, version)
        self._withdrawn.discard(key)
        await self._bring(key)

    async def unload(self, name: str, version: str = "") -> None:
        """Unload a version, by default every version of the model; raises Rejected.

        Requests that were accepted are answered first.
        """
        self._changeable()
        keys = [k for k in self._held() | self._served.keys() if k == (name, version or k[1])]
        if not keys:
            raise self._unknown(name, version)
        self._withdrawn.update(keys)
        waiting = [self._retire(key) for key in keys if key in self._served]
        await asyncio.gather(*waiting)

    def index(self) -> list[Entry]:
        """Return every version that is loaded or in the folder, by name and version."""
        keys = sorted(self._held() | self._served.keys(), key=lambda k: (k[0], _order(k[1])))
        return [self._entry(key) for key in keys]

    def close(self) -> None:
        """Write what is left of every prediction log, after the last request was answered."""
        for served in self._served.values():
            served.finish(self._drain_seconds)

    def _entry(self, key: Key) -> Entry:
        if key in self._loading:
            return Entry(*key, "LOADING")
        if key in self._served:
            return Entry(*key, "READY")
        reason = "unloaded" if key in self._withdrawn else "not loaded; loaded when asked for"
        return Entry(*key, "UNAVAILABLE", self._failures.get(key, reason))

    def _choose(self, name: str, version: str) -> Key:
        """Return the version of the folder that is meant; raises Rejected when there is none."""
        held = {key for key in self._held() if key[0] == name}
        if version:
            if (name, version) in held:
                return name, version
            raise self._unknown(name, version)
        awake = held - self._withdrawn
        if not awake and not held:
            raise self._unknown(name, version)
        return max(awake or held, key=lambda key: _order(key[1]))

    def _newest_held(self, name: str) -> Key:
        held = [key for key in self._held() if key[0] == name]
        if not held:
            raise self._unknown(name, "")
        return max(held, key=lambda key: _order(key[1]))

    def _changeable(self) -> None:
        if self._folder is None:
            raise Rejected(
                "unsupported", "this server was started with one bundle and has no repository"
            )

    def _unknown(self, name: str, version: str) -> Rejected:
        known = {key[0] for key in self._held() | self._served.keys()}
        if name not in known:
            return Rejected(
                "unknown_model",
                f"there is no model '{name:.80}'; this server has {_list(known)}",
                404,
            )
        versions = {key[1] for key in self._held() | self._served.keys() if key[0] == name}
        return Rejected(
            "unknown_version",
            f"there is no version '{version:.80}' of '{name}'; this server has {_list(versions)}",
            404,
        )

    async def _bring(self, key: Key) -> Served:
        """Load a version of the folder, once however many ask for it meanwhile."""
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key))
            self._loading[key] = task
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        try:
            return await asyncio.shield(task)
        except TidemillError as error:
            raise Rejected(
                "not_loaded",
                f"version '{key[1]}' of '{key[0]}' cannot be loaded; the server's log says why",
                503,
            ) from error

    async def _fetch(self, key: Key) -> Served:
        try:
            served = await asyncio.to_thread(self._load, self._path(key), key[1], key[0])
        except TidemillError as error:
            self._refuse(key, error)
            raise
        if key in self._served:
            self._dismiss(key)
        while len(self._served) >= self._max_models:
            self._dismiss(next(iter(self._served)))
        self._adopt(served)
        return served

    def _adopt(self, served: Served) -> None:
        name, version = served.key
        served.predictions.start()
        self._served[served.key] = served
        self._failures.pop(served.key, None)
        self._choose_newest(name)
        log.info("model loaded", model=name, version=version)

    def _refuse(self, key: Key, error: TidemillError) -> None:
        log.error("model not loaded", model=key[0], version=key[1], reason=error.message)
        self._failures[key] = "it was refused; the server's log says why"

    def _dismiss(self, key: Key) -> None:
        """Unload in the background."""
        task = asyncio.create_task(self._retire(key))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _retire(self, key: Key) -> Coroutine[Any, Any, None]:
        """Take a version out of service at once; the rest is to wait for."""
        served = self._served.pop(key)
        self._choose_newest(key[0])
        log.info("model unloaded", model=key[0], version=key[1])
        return served.close(self._drain_seconds)

    def _choose_newest(self, name: str) -> None:
        held = [served for key, served in self._served.items() if key[0] == name]
        if held:
            self._newest[name] = max(held, key=lambda served: _order(served.key[1]))
        else:
            self._newest.pop(name, None)

    def _path(self, key: Key) -> Path:
        assert self._folder is not None
        return self._folder / key[0] / key[1]

    def _held(self) -> set[Key]:
        """Return the versions that the folder holds now."""
        if self._folder is None:
            return set()
        try:
            return {
                (path.parent.parent.name, path.parent.name)
                for path in self._folder.glob("*/*/manifest.json")
                if NAME.fullmatch(path.parent.name) and NAME.fullmatch(path.parent.parent.name)
            }
        except OSError:
            return set()


def _order(version: str) -> tuple[int, str]:
    """Order versions as people count: numbers by their value, above everything else."""
    return (int(version), "") if version.isdecimal() else (-1, version)


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"
