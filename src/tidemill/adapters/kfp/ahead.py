"""Independent steps side by side: a step whose inputs are there is begun before its turn.

KFP's local runner takes the tasks of a graph one by one, and still does: in its order it is handed
their results, failures included. While one of them runs, others of the same graph that wait for
nothing are begun in threads, and again others when one of these ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from kfp.local.orchestrator import enhanced_dag_orchestrator as orchestrator

__all__ = ["run_ahead"]

Result = tuple[dict[str, Any], Any]
"""Outputs and status, as KFP's functions return them."""


@contextmanager
def run_ahead(steps: int) -> Iterator[None]:
    """Let KFP run up to `steps` steps of a graph at a time; none of them runs behind the block."""
    before = orchestrator.run_enhanced_dag, orchestrator.execute_task
    ahead = Ahead(*before, steps - 1)
    orchestrator.run_enhanced_dag, orchestrator.execute_task = ahead.run_graph, ahead.run_task
    try:
        yield
    finally:
        ahead.end()
        orchestrator.run_enhanced_dag, orchestrator.execute_task = before


@dataclass(slots=True)
class _Graph:
    """A graph that is run, its tasks by name."""

    tasks: Mapping[str, Any]
    taken: set[str] = field(default_factory=set)
    """Those that were begun, or are KFP's thread's own."""
    begun: dict[str, Future[Result]] = field(default_factory=dict)
    """Those that were begun before their turn, until it comes."""


class Ahead:
    """Takes the place of two functions of KFP's orchestrator, and calls them."""

    def __init__(
        self, run_graph: Callable[..., Result], run_task: Callable[..., Result], threads: int
    ) -> None:
        self._run_graph = run_graph
        self._run_task = run_task
        self._threads = threads
        # One more: KFP's own thread runs nothing while it waits for the end of one of these.
        self._pool = ThreadPoolExecutor(threads + 1)
        self._lock = Lock()
        self._ended = False
        self._ahead: set[Future[Result]] = set()
        self._graph: ContextVar[_Graph | None] = ContextVar("graph", default=None)

    def run_graph(self, **call: Any) -> Result:
        """Run a graph, its tasks known to `run_task` meanwhile."""
        before = self._graph.set(_Graph(call["dag_component_spec"].dag.tasks))
        try:
            return self._run_graph(**call)
        finally:
            self._graph.reset(before)

    def run_task(self, **call: Any) -> Result:
        """Run a task, or wait for the end of one that was begun before."""
        graph, name = self._graph.get(), call["task_name"]
        if graph is None:  # the thread of a loop's iteration
            return self._run_task(**call)
        with self._lock:
            begun = graph.begun.pop(name, None)
            self._ahead -= {begun}
            graph.taken.add(name)
        self._begin(graph, call)
        return begun.result() if begun else self._run_task(**call)

    def end(self) -> None:
        """Begin nothing more, and wait for what was begun: nobody may ask for its result."""
        with self._lock:
            self._ended = True
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, graph: _Graph, call: Mapping[str, Any]) -> None:
        """Begin what could run now, as long as there is a thread for it, and more at its end."""
        with self._lock:
            ready = [] if self._ended else self._ready(graph, call)
            begun = {
                name: self._pool.submit(
                    self._run_task, **{**call, "task_name": name, "task_spec": graph.tasks[name]}
                )
                for name in ready
            }
            graph.taken |= begun.keys()
            graph.begun |= begun
            self._ahead |= set(begun.values())
        for one in begun.values():  # one that has ended already calls at once
            one.add_done_callback(lambda _: self._begin(graph, call))

    def _ready(self, graph: _Graph, call: Mapping[str, Any]) -> list[str]:
        """Return what waits for nothing, no more than there are free threads."""
        known = {name: _succeeded(call["io_store"], name) for name in graph.tasks}
        ready = [
            name for name, task in graph.tasks.items()
            if known[name] is None
            and name not in graph.taken
            and _is_step(task, call["components"])
            and all(known.get(other) for other in task.dependent_tasks)
        ]  # fmt: skip
        return ready[: self._threads - sum(not one.done() for one in self._ahead)]


def _succeeded(store: Any, name: str) -> bool | None:
    """Return how a task ended; None if it has not."""
    try:
        return bool(store.get_task_status(name) == "SUCCEEDED")
    except ValueError:
        return None


def _is_step(task: Any, components: Mapping[str, Any]) -> bool:
    """Tell a plain step from a graph, a branch, a loop and an exit handler."""
    component = components[task.component_ref.name]
    controlled = task.trigger_policy.condition or task.WhichOneof("iterator")
    final = any(p.HasField("task_final_status") for p in task.inputs.parameters.values())
    return component.WhichOneof("implementation") == "executor_label" and not (controlled or final)
