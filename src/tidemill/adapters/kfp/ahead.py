"""Independent steps side by side: a step whose inputs are there is begun before its turn.

KFP's local runner takes the tasks of a graph one by one, and still does: in its order it is handed
their results, failures included. While one of them runs, others of the same graph that wait for
nothing are begun in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
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
        self._begun: dict[tuple[int, str], Future[Result]] = {}
        self._tasks: ContextVar[Mapping[str, Any]] = ContextVar("tasks")

    def run_graph(self, **call: Any) -> Result:
        """Run a graph, its tasks known to `run_task` meanwhile."""
        before = self._tasks.set(call["dag_component_spec"].dag.tasks)
        try:
            return self._run_graph(**call)
        finally:
            self._tasks.reset(before)

    def run_task(self, **call: Any) -> Result:
        """Run a task, or wait for the end of one that was begun before."""
        key = (id(call["io_store"]), call["task_name"])
        begun = self._begun.pop(key, None)
        for name, task in self._ready(call):
            self._begun[key[0], name] = self._pool.submit(
                self._run_task, **{**call, "task_name": name, "task_spec": task}
            )
        return begun.result() if begun else self._run_task(**call)

    def end(self) -> None:
        """Begin nothing more, and wait for what was begun: nobody may ask for its result."""
        self._pool.shutdown(cancel_futures=True)

    def _ready(self, call: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield what could run beside a task, as long as there is a thread for it."""
        store, busy = call["io_store"], sum(not one.done() for one in list(self._begun.values()))
        tasks = self._tasks.get({})  # none in the thread of a loop's iteration
        known = {name: _succeeded(store, name) for name in tasks}
        for name, task in tasks.items():
            if busy >= self._threads:
                return
            new = known[name] is None and name != call["task_name"]
            if (
                new
                and (id(store), name) not in self._begun
                and _is_step(task, call["components"])
                and all(known.get(other) for other in task.dependent_tasks)
            ):
                busy += 1
                yield name, task


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
