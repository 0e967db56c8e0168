"""Steps forked from a warm interpreter, and steps side by side."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kfp.local.io import IOStore
from kfp.local.orchestrator import enhanced_dag_orchestrator as orchestrator
from kfp.pipeline_spec import pipeline_spec_pb2 as spec

from tidemill.adapters.kfp.ahead import run_ahead
from tidemill.wiring import Project

pytestmark = pytest.mark.slow
SCRIPT = """
import contextlib, json, os, signal, sys, threading, time
import psutil
from tidemill.adapters.kfp.sdk import dsl
from tidemill.adapters.kfp.warm import Warm

step = dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)

@step
def tell() -> str:
    import os, sys
    print("colorsys" in sys.modules, os.environ["COLOUR"], file=sys.stderr)
    return f"{os.getpid()} {os.getpgrp()}"

@step
def fail() -> None:
    raise ValueError("no")

@step
def die() -> None:
    import os
    os.kill(os.getpid(), 9)

def command(component):
    spec = component.pipeline_spec.deployment_spec["executors"][f"exec-{component.name}"]
    sh, flag, script, code = spec["container"]["command"]
    request = {"inputs": {}, "outputs": {"outputFile": f"{os.getcwd()}/{component.name}.json"}}
    name = ["--function_to_execute", component.name]
    script = script.replace("python3", sys.executable)
    return [sh, flag, script, code, "--executor_input", json.dumps(request), *name]

@step
def early() -> None:
    import decimal, sys
    print("decimal" in sys.modules, "colorsys" in sys.modules, file=sys.stderr)

@step
def new() -> None:
    import sndhdr, sys
    print(sum(name == "deadly" for name in sys.modules), file=sys.stderr)

@step
def held() -> None:
    import os, sys, time
    print("held", file=sys.stderr, flush=True)
    while not os.path.exists("release"):
        time.sleep(0.02)

@step
def who() -> None:
    import os, psutil, sys
    print(psutil.Process(os.getppid()).ppid(), file=sys.stderr)

@step
def patient() -> None:
    import unhurried, sys
    print("patient", file=sys.stderr)

def run(component):
    fork = warm.begin(command(component), environment)
    lines = [line for line in fork.output.read().splitlines() if "KFP Executor" not in line]
    return [lines[-1] if lines else "", *fork.wait()]

environment = {"COLOUR": "red"}
warm = Warm(environment)
seen = {"its own imports": run(early)[0]}
with open("slow.py", "w") as slow:
    slow.write("import os, time\\nwhile not os.path.exists('go'): time.sleep(0.02)")
with open("deadly.py", "w") as deadly:
    deadly.write("import os; os._exit(1)")
warm.prepare([["there.is.none", "slow"], ["colorsys"]])
seen["beside an import"] = run(tell)[0]
open("go", "w").close()
limit = time.monotonic() + 60
while (told := run(tell))[0] != "True red" and time.monotonic() < limit:
    time.sleep(0.02)
seen["output"], code, seconds = told
seen["code"], seen["cpu"] = code, seconds > 0
pid, group = json.load(open("tell.json"))["parameterValues"]["Output"].split()
seen["own process"], seen["same group"] = int(pid) != os.getpid(), int(group) == os.getpgrp()
seen["fail"], seen["die"] = run(fail)[:2], run(die)[1]
warm.prepare([["deadly"]])
seen["behind a deadly import"] = [run(new)[0], run(tell)[0]]
with open("unhurried.py", "w") as slow:
    slow.write("import os, time\\nopen('imported', 'w').close()\\n"
               "while not os.path.exists('on'): time.sleep(0.02)")
told = []
waits = threading.Thread(target=lambda: told.append(run(patient)[:2]))
waits.start()
while not os.path.exists("imported"):
    time.sleep(0.02)
seen["beside imports of another step"] = [*run(tell)[:2], told[:]]
open("on", "w").close()
waits.join()
seen["behind its imports at last"] = told[0]
seen["too long"] = warm.begin([*command(tell), "x" * (1 << 17)], environment) is None
hold = warm.begin(command(held), environment)
hold.output.readline()  # it runs: whoever forked it waits for it
first = chief = run(who)[0]
warm.prepare([["wave"]])
while chief == first and time.monotonic() < limit:
    chief = run(who)[0]
os.kill(int(chief), 9)
seen["beside a step of a killed one"] = warm.begin(command(tell), environment) is None
open("release", "w").close()
seen["held"] = hold.wait()[0]
seen["other environment"] = warm.begin(command(tell), {}) is None
seen["other script"] = warm.begin(["sh", "-c", "true", *command(tell)[3:]], environment) is None
for process in psutil.Process().children(recursive=True):
    with contextlib.suppress(psutil.NoSuchProcess):  # one ends when another has
        process.kill()
seen["killed"] = warm.begin(command(tell), environment) is None
print(json.dumps(seen))
"""


STEP = spec.ComponentSpec(executor_label="exec")


def make_graph(*names: str) -> spec.ComponentSpec:
    """Return a graph of independent tasks."""
    task = spec.PipelineTaskSpec(component_ref=spec.ComponentRef(name="step"))
    return spec.ComponentSpec(dag=spec.DagSpec(tasks=dict.fromkeys(names, task)))


def test_a_step_is_a_process_of_its_own_behind_the_imports(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    line = [sys.executable, str(script)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "its own imports": "True False",
        "beside an import": "False red",
        "output": "True red",
        "code": 0,
        "cpu": True,
        "own process": True,
        "same group": True,
        "fail": ["ValueError: no", 1],
        "die": -9,
        "behind a deadly import": ["0", "True red"],
        "beside imports of another step": ["True red", 0, []],
        "behind its imports at last": ["patient", 0],
        "too long": True,
        "beside a step of a killed one": True,
        "held": 0,
        "other environment": True,
        "other script": True,
        "killed": True,
    }


def test_independent_steps_run_side_by_side(flows: Project) -> None:
    run = flows.runs.launch("together")
    assert run.state == "succeeded", run.cause
    assert {step.state for step in run.steps} == {"succeeded"}
    assert (flows.root / "ended").read_text() == "SUCCEEDED"


def test_a_failure_beside_a_step_skips_what_needs_it_alone(flows: Project) -> None:
    run = flows.runs.launch("together", {"order": "fail"})
    assert (run.state, run.cause) == ("failed", "left: ValueError: left is wrong")
    states = {step.name: step.state for step in run.steps}
    assert states == {
        "left": "failed",
        "after-left": "skipped",
        "right": "succeeded",
        "after-right": "succeeded",
        "last": "succeeded",
    }
    assert (flows.root / "ended").read_text() == "FAILED"


def test_steps_of_an_iteration_run_side_by_side(flows: Project) -> None:
    wide = Project.load(flows.root, assignments=["execution.parallel_steps=3"])
    run = wide.runs.launch("loops", {"items": ["a", "b"]})
    assert run.state == "succeeded", run.cause
    assert run.outputs == {"Output": "a-left a-right, b-left b-right"}


@pytest.mark.parametrize("order", ["quick a b", "a quick b", "a b quick"])
def test_who_waits_for_a_step_does_not_hold_another_up(
    monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    met = threading.Barrier(2, timeout=30)

    def run_task(task_name: str, **_: object) -> None:
        if task_name != "quick":
            met.wait()

    def run_graph(**_: object) -> None:
        for name in order.split():
            task = graph.dag.tasks[name]
            orchestrator.execute_task(task_name=name, task_spec=task, **call)
            store.put_task_status(name, "SUCCEEDED")

    store = IOStore()
    call, graph = {"io_store": store, "components": {"step": STEP}}, make_graph("quick", "a", "b")
    monkeypatch.setattr(orchestrator, "execute_task", run_task)
    monkeypatch.setattr(orchestrator, "run_enhanced_dag", run_graph)
    with run_ahead(2):
        orchestrator.run_enhanced_dag(dag_component_spec=graph)


def test_no_step_outlives_a_graph_that_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    beside, ended = threading.Event(), []

    def run_task(task_name: str, **_: object) -> None:
        if task_name == "wrong":
            assert beside.wait(30)
            raise OSError("the disk is full")
        beside.set()
        time.sleep(0.2)
        ended.append(task_name)

    def run_graph(**_: object) -> None:
        orchestrator.execute_task(task_name="wrong", task_spec=graph.dag.tasks["wrong"], **call)

    graph = make_graph("wrong", "beside")
    call = {"io_store": IOStore(), "components": {"step": STEP}}
    monkeypatch.setattr(orchestrator, "execute_task", run_task)
    monkeypatch.setattr(orchestrator, "run_enhanced_dag", run_graph)
    with pytest.raises(OSError, match="disk"), run_ahead(2):
        orchestrator.run_enhanced_dag(dag_component_spec=graph)
    assert ended == ["beside"]
    assert orchestrator.execute_task is run_task


def test_cold_steps_one_by_one_give_the_same(flows: Project) -> None:
    settings = ["execution.warm=false", "execution.parallel_steps=1"]
    alone = Project.load(flows.root, assignments=settings)
    assert alone.runs.launch("chain", {"as_of": "now"}).outputs == {"Output": "@now"}
