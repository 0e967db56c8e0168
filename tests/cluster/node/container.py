"""One container of a pod over all its runs: process, probes, back-off, state."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.node import handlers
from tests.cluster.node.api import Api, Object
from tests.cluster.node.clock import now
from tests.cluster.node.environment import variables
from tests.cluster.node.images import Images, NoImage
from tests.cluster.node.launch import Place, StartError, launch
from tests.cluster.node.manifest import Manifest
from tests.cluster.node.probes import Prober
from tests.cluster.node.sources import CannotStart

RETRY = 1.0
"""Seconds until a container that cannot be made is tried again."""
BACKOFF = 1.0
"""Seconds before the second restart in a row, doubled each time; a real kubelet starts at 10."""
MAX_BACKOFF = 300.0
STEADY = 600.0
"""Seconds of a run after which the next failure counts as the first."""
MESSAGE = 4096
"""Bytes of a termination message."""
AFTER_HOOK = 2.0
"""Seconds that SIGTERM has at least when a preStop hook has used up the grace period."""


class Container:
    """Runs one container; `status` is what the API server is told, `changed` is called for it."""

    def __init__(
        self, api: Api, images: Images, pod: Manifest, spec: Object, folder: Path,
        changed: Callable[[], None], *, init: bool, api_address: str,
    ) -> None:  # fmt: skip
        self._api, self._images, self._pod, self._spec = api, images, pod, spec
        self._folder, self._changed, self._api_address = folder, changed, api_address
        self._init = init
        self._restarts = 0
        self._backoff = BACKOFF
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._prober: Prober | None = None
        self._env: dict[str, str] = {}
        self._last: Object = {}
        self._state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.runs = 0

    @property
    def name(self) -> str:
        """Return the container's name."""
        return str(self._spec["name"])

    @property
    def ready(self) -> bool:
        """Return whether it serves."""
        return self._prober is not None and self._prober.ready

    @property
    def exit_code(self) -> int | None:
        """Return how its last run ended; None while it runs, or waits for another."""
        code = self._state.get("terminated", {}).get("exitCode")
        return None if code is None else int(code)

    @property
    def ended(self) -> bool:
        """Return whether no run of it goes on; another may follow."""
        return self._process is None

    def log(self, *, previous: bool = False) -> Path:
        """Return the log of its latest run, or of the latest that ended."""
        waiting = "waiting" in self._state and self._restarts > 0
        return self._folder / f"{self._restarts - int(previous or waiting)}.log"

    async def run(self, place: Place) -> int:
        """Run it, again and again as its pod wishes; returns the last exit code."""
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._start(place)
            except NoImage as error:
                await self._wait("ErrImagePull", str(error))
                continue
            except CannotStart as error:
                await self._wait("CreateContainerConfigError", str(error))
                continue
            except StartError as error:
                self._ended(128, "StartError", str(error))
            else:
                await self._attend()
            if self._stopping.is_set() or not self._runs_again():
                break
            await self._back_off(steady=time.monotonic() - began > STEADY)
        return self.exit_code or 0

    async def stop(self, grace: float) -> None:
        """End it for good: the preStop hook, SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping.set()
        await self._terminate(grace)

    def status(self) -> Object:
        """Return its ContainerStatus."""
        done = self._init and self.exit_code == 0
        image = self._spec["image"]
        return {
            "name": self.name,
            "image": image,
            "imageID": f"process://{image}",
            "containerID": self._id if self.runs else "",
            "restartCount": self._restarts,
            "ready": self.ready or done,
            "started": self._prober is not None and self._prober.started,
            "state": dict(self._state),
            "lastState": dict(self._last),
        }

    @property
    def _id(self) -> str:
        return f"process://{self._pod.uid}/{self.name}/{self._restarts}"

    @property
    def _run(self) -> Path:
        return self._folder / str(self._restarts)

    async def _start(self, place: Place) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        image = self._images.find(self._spec["image"])
        self._env = await variables(self._api, self._pod, self._spec, image, self._api_address)
        self._run.mkdir(parents=True)
        self._process = await launch(self._pod, self._spec, image, self._env, place, self._run)
        self.runs += 1
        self._state = {"running": {"startedAt": now()}}

    async def _attend(self) -> None:
        """Probe the running process until it ends, and end it if a probe says so."""
        assert self._process is not None
        self._prober = Prober(self._spec, self._perform, self._changed)
        self._changed()
        if self._stopping.is_set():  # it was told to stop while it started
            await self._terminate(self._pod.grace)
        probing = asyncio.ensure_future(self._prober.watch())
        exited = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({probing, exited}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                print(f"{self._pod.name}/{self.name}: {probing.result()}", flush=True)
                await self._terminate(self._pod.grace)
        finally:
            probing.cancel()
        code = await exited
        self._prober = self._process = None
        self._ended(128 - code if code < 0 else code, "Completed" if code == 0 else "Error")

    async def _terminate(self, grace: float) -> None:
        process = self._process
        if process is None:
            return
        deadline = time.monotonic() + grace
        if grace and (hook := self._spec.get("lifecycle", {}).get("preStop")):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._perform(hook), grace)
        self._signal(signal.SIGTERM if grace else signal.SIGKILL)
        rest = max(deadline - time.monotonic(), AFTER_HOOK if grace else 0)
        try:
            await asyncio.wait_for(process.wait(), rest)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # the kernel kills all in its PID namespace

    async def _perform(self, handler: Object) -> bool:
        address = self._pod.address
        return await handlers.perform(handler, self._spec, address, self._first_pid(), self._env)

    def _signal(self, number: signal.Signals) -> None:
        if pid := self._first_pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _first_pid(self) -> int:
        """Return the PID, outside, of the container's process 1: the child of `unshare`."""
        if self._process is None:
            return 0
        outer = self._process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            return int(children[0]) if children else 0
        return 0

    def _ended(self, code: int, reason: str, message: str = "") -> None:
        started = self._state.get("running", {}).get("startedAt", now())
        message = message or self._message(code)
        self._state = {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "startedAt": started,
                "finishedAt": now(),
                "containerID": self._id,
                **({"message": message} if message else {}),
            }
        }
        shutil.rmtree(self._run, ignore_errors=True)  # what it wrote beside its volumes
        self._changed()

    def _message(self, code: int) -> str:
        text = (self._run / "termination").read_text(errors="replace")
        if not text and code and self._spec.get("terminationMessagePolicy") != "File":
            text = self.log().read_text(errors="replace")[-MESSAGE // 2 :]
        return text[:MESSAGE]

    def _runs_again(self) -> bool:
        policy = self._pod.spec["restartPolicy"]
        if self.exit_code == 0:
            return bool(policy == "Always" and not self._init)
        return bool(policy != "Never")

    async def _back_off(self, *, steady: bool) -> None:
        """Wait before the next run; the first restart is at once."""
        first = steady or self._restarts == 0
        self._last = self._state
        self._restarts += 1
        if first:
            self._backoff = BACKOFF
            self._state = {"waiting": {"reason": "ContainerCreating"}}
            return
        await self._wait("CrashLoopBackOff", f"back-off {self._backoff:g}s", self._backoff)
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)

    async def _wait(self, reason: str, message: str, seconds: float = RETRY) -> None:
        self._state = {"waiting": {"reason": reason, "message": message[:MESSAGE]}}
        self._changed()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
