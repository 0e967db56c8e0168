"""Three steps in a row; files in the project's folder steer what they do."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

step = dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)


@step
def make(size: int, data: Output[Dataset]) -> int:
    """Write `size` letters; one more line in `made` for each execution."""
    from pathlib import Path

    with Path("made").open("a") as made:
        made.write("x\n")
    Path(data.path).write_text("a" * size)
    return size


@step
def work(data: Input[Dataset], partial: Output[Dataset]) -> str:
    """Refuse, doubt, wait, sleep with a child process, or be killed, as the file `work` says."""
    import os
    import subprocess
    import sys
    import time
    from pathlib import Path

    from tidemill.errors import IntegrityError, Refused

    order = Path("work").read_text() if Path("work").exists() else ""
    found = Path(partial.path)
    seen = found.read_text() if found.exists() else ""
    found.write_text("half done")
    print(f"\x1b[31mworking\x1b[0m on {Path(data.path).read_text()}", flush=True)
    if order == "refuse":
        raise Refused("auc 0.5 is below 0.62", hint="look at the evidence")
    if order == "doubt":
        raise IntegrityError("the key is not the pinned one")
    if order == "die":
        os.kill(os.getpid(), 9)
    while order == "wait" and Path("work").exists():
        time.sleep(0.02)
    if order == "sleep":
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("pids").write_text(f"{os.getpid()} {sleeper.pid}")
        sleeper.wait()
    return seen


@step
def finish(seen: str, as_of: str, wait: float) -> str:
    """Pass on what the step before has seen."""
    return f"{seen}@{as_of}"


@dsl.pipeline(name="chain")
def chain(as_of: str, correlation_id: str, size: int = 3, wait: float = 0.0) -> str:
    """Make, work, finish."""
    made = make(size=size)
    worked = work(data=made.outputs["data"])
    return finish(seen=worked.outputs["Output"], as_of=as_of, wait=wait).output
