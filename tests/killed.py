"""Two processes on one folder, one of them killed at a moment of its run: what is left, and what the next call makes of it.

Run as a program: it forks from a process that has imported torch already. Prints one line of JSON.

    python killed.py unlearn|rewind MOMENTS FOLDER
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import expunge as ex
import expunge.jobs.demos
import expunge.jobs.unlearning
from expunge.cli.commands import main
from expunge.errors import ExpungeError
from expunge.trace import Trace, rewind, train_traced
from expunge.training import state

KEPT = {"certificate.json", "certified.safetensors", "model.safetensors", "report.html", "summary.json"}
TASK = """
import time
import torch
from torch import nn
import expunge as ex

def make_model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

def loss(model, batch):
    time.sleep(0.003)
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

def rows(count, name):
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(count))
    return ex.Examples(x, x[:, :3].argmax(1), ids=[f"{name}{i}" for i in range(count)])

def task():
    torch.manual_seed(0)
    return ex.Task(
        model=make_model(), make_model=make_model, retain=rows(160, "r"), forget=rows(20, "f"), held_out=rows(50, "h"),
        loss=loss,
    )
"""


def child(run: Callable[[], object], log: Path) -> int:
    """Fork; the child's process id."""
    process = os.fork()
    if process:
        return process
    code = 0
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        run()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    except ExpungeError as error:
        print(f"refused: {error}")
        code = 1
    except BaseException:  # noqa: BLE001 - whatever it was, the parent is told
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    os._exit(code)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def race(run: Callable[[], object], folder: Path, moment: float, between: float) -> tuple[list[int], str]:
    """Two processes at the same job, the first killed at a moment; their exit codes, and what the second said."""
    first = child(run, folder / "first.log")
    time.sleep(between)
    second = child(run, folder / "second.log")
    time.sleep(max(0.0, moment - between))
    os.kill(first, signal.SIGKILL)
    return [ended(first), ended(second)], (folder / "second.log").read_text()


def unlearning(folder: Path) -> tuple[Callable[[], object], Callable[[], None]]:
    """`expunge unlearn --resume` into one folder."""
    (folder / "task.py").write_text(TASK)
    out = folder / "out"

    def run() -> None:
        sys.argv = [
            "expunge", "unlearn", f"{folder / 'task.py'}:task", "--out", str(out), "--resume", "--unlearner", "gradient_clipping", "--steps", "30",
            "--epochs", "20", "--batch-size", "64",
        ]  # fmt: skip
        main()

    def check() -> None:
        assert {path.name for path in out.iterdir()} == KEPT, sorted(path.name for path in out.iterdir())
        ex.verify(
            out / "certificate.json", weights=out / "model.safetensors",
            certified_weights=out / "certified.safetensors",
        )  # fmt: skip
        left = {path.name for path in folder.iterdir()} - {"task.py", "out", "first.log", "second.log", "__pycache__"}
        assert not left - {"again.log", "out.secret"}, left
        secret = {str(path.relative_to(folder)) for path in (folder / "out.secret").rglob("*.*")}
        assert secret == {
            "out.secret/keys/commitment.key", "out.secret/original.digest", "out.secret/summary.json",
        }, secret  # fmt: skip

    return run, check


def rewinding(folder: Path) -> tuple[Callable[[], object], Callable[[], None]]:
    """`rewind` of one trace for one record."""
    space: dict[str, object] = {"__name__": "task_of_mine", "__file__": str(folder / "task.py")}
    exec(compile(TASK, str(folder / "task.py"), "exec"), space)
    data, code = space["rows"](160, "r"), {"make_model": space["make_model"], "loss": space["loss"]}  # type: ignore[operator]
    common = {"loss": code["loss"], "epochs": 5, "steps_per_epoch": 12, "key": bytes(range(32)), "checkpoints": 4}
    train_traced(code["make_model"], data, folder=folder / "trace", **common)
    kept = data.take([i for i, name in enumerate(data.ids) if name != "r3"])
    reference = train_traced(code["make_model"], kept, folder=folder / "reference", **common)

    def run() -> None:
        trace = Trace(folder / "trace", key=bytes(range(32)))
        try:
            rewind(trace, ["r3"], data, **code)
        except ValueError as error:
            if "was forgotten before" not in str(error):
                raise
            print("done before")

    def check() -> None:
        trace = Trace(folder / "trace", key=bytes(range(32)))
        found = trace.model(code["make_model"]).state_dict()
        wanted = reference.model(code["make_model"]).state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        names = {path.name for path in (folder / "trace").iterdir()}
        assert names == {"manifest.json", *(file.name for file in trace.manifest.files)}, names
        assert [f.digest for f in trace.manifest.checkpoints] == [f.digest for f in reference.manifest.checkpoints]

    return run, check


def rounds(job: str, moments: int, home: Path) -> dict[str, int]:
    """Kill at so many moments, spread over a whole run; raises where a call is neither done nor refused, or leaves parts."""
    made = {"unlearn": unlearning, "rewind": rewinding}[job]
    whole = home / "whole"
    whole.mkdir()
    run, check = made(whole)
    begun = time.monotonic()
    assert ended(child(run, whole / "again.log")) == 0, (whole / "again.log").read_text()
    length = time.monotonic() - begun
    check()
    coins, told = random.Random(0), {"moments": moments, "told who holds it": 0, "second finished": 0, "killed": 0}
    for moment in range(moments):
        folder = home / str(moment)
        folder.mkdir()
        run, check = made(folder)
        at = length * 1.15 * (moment + coins.random()) / moments
        codes, said = race(run, folder, at, coins.random() * at)
        assert codes[0] in (0, -signal.SIGKILL), (codes, (folder / "first.log").read_text())
        assert codes[1] in (0, 1), (codes, said)
        told["killed"] += codes[0] != 0
        told["told who holds it"] += "is in use by process" in said
        told["second finished"] += codes[1] == 0
        if codes[1] == 1:
            said = " ".join(said.split())  # as the terminal has wrapped it
            assert any(words in said for words in ("is in use by", "exists already", "meanwhile")), said
        if codes[0] != 0 and codes[1] != 0:
            again = ended(child(run, folder / "again.log"))
            assert again == 0, (folder / "again.log").read_text()
        check()
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    state.SAVE_EVERY = state.SHARE = 0.0
    print(json.dumps(rounds(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
