"""A network from its task to a certificate: interrupted anywhere it goes on, and a loader of batches will do."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
import sample_tasks
from expunge.certificate import Certificate
from expunge.errors import OutputError, StateError, TaskError
from expunge.jobs import unlearning
from expunge.unlearners import noisy
from expunge.unlearners.model_clipping import ModelClipping
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.retrain import Retraining
from interrupted import interrupted

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
TRAINING: dict[str, Any] = {"epochs": 2, "recovery_lr": 0.1, "batch_size": 32}
WAY = ModelClipping(model_clip=0.5, learning_rate=0.1, weight_decay=0.0, steps=6, **TRAINING)


@pytest.fixture(autouse=True)
def always_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state file after the first step, and often from then on."""
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the task into `out`, interrupted after so many calls of its loss; says how many there were."""

    def run(after: int | None = None, *, resume: bool = False, way: Unlearner = WAY, **changes: Any) -> int:
        task = replace(sample_tasks.task(), **changes)
        monkeypatch.setattr(unlearning, "load_task", lambda _: task)
        with interrupted(after) as counted:
            unlearning.run_unlearner("its:name", tmp_path / "out", way, BUDGET, resume=resume)
        return counted.calls

    return run


def left(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "out.partial").iterdir()}


STEPS = 6 + 2 * (270 // 32)  # noisy ones, and those of recovery


@pytest.mark.parametrize(
    ("after", "kept", "sure"),
    [
        (3, {"run.state"}, 1),
        (6, {"certified.state"}, 6),
        (9, {"certified.state", "recovery.state"}, 7),
        (STEPS - 1, {"certified.state", "recovery.state"}, 7),
    ],
)
def test_an_interrupted_task_goes_on_where_it_was(
    go, tmp_path: Path, caplog: pytest.LogCaptureFixture, after: int, kept: set[str], sure: int
):
    with pytest.raises(KeyboardInterrupt):
        go(after)
    assert f"what is done is kept in {tmp_path / 'out.partial'}" in caplog.text
    assert left(tmp_path) == kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "out.partial").iterdir())
    with pytest.raises(OutputError, match="--resume"):
        go()
    assert STEPS - after <= go(resume=True) <= STEPS - sure
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"certificate.json", "certified.safetensors", "model.safetensors", "report.html", "summary.json"}
    ex.verify(
        tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors",
        certified_weights=tmp_path / "out" / "certified.safetensors",
    )  # fmt: skip


def test_a_recovery_that_goes_on_is_of_the_weights_that_were_certified_first(go, tmp_path: Path, monkeypatch):
    """A second run of the mechanism would be a second release of noise, and a certificate of other weights."""
    made: list[ex.RunRecord] = []
    whole = noisy.run_executor

    def kept_once(*a: Any, **k: Any) -> Any:
        done = whole(*a, **k)
        made.append(done.record)
        return done

    monkeypatch.setattr(noisy, "run_executor", kept_once)
    with pytest.raises(KeyboardInterrupt):
        go(9)
    go(resume=True)
    (record,) = made
    kept = Certificate.load(tmp_path / "out" / "certificate.json").record
    assert kept.certified == record.certified
    assert kept.procedure["recovery"]["rescale"] is True


def test_an_interrupted_task_is_not_resumed_with_another_mechanism(go, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        go(9)
    before = left(tmp_path)
    with pytest.raises(StateError, match="another run"):
        go(resume=True, way=replace(WAY, steps=7))
    assert left(tmp_path) == before


def test_nothing_is_kept_of_a_task_that_fails_before_its_first_state(go, tmp_path: Path, caplog):
    with pytest.raises(KeyboardInterrupt):
        go(0)
    assert not (tmp_path / "out.partial").exists()
    assert "--resume" not in caplog.text


def test_a_retraining_goes_on_too(go, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        go(5, way=Retraining(**TRAINING))
    assert left(tmp_path) == {"run.state"}
    assert STEPS - 6 - 5 <= go(resume=True, way=Retraining(**TRAINING)) < STEPS - 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_retraining_from_a_copy_of_the_trained_model_is_refused_before_it(go, tmp_path: Path, dtype: torch.dtype):
    trained = sample_tasks.task().model
    with pytest.raises(TaskError, match=r"with the values that task\.model has"):
        go(way=Retraining(**TRAINING), model=trained, make_model=lambda: copy.deepcopy(trained).to(dtype))
    assert not (tmp_path / "out").exists()


def loader(rows: ex.Examples) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows.tensors), batch_size=30, shuffle=True)


@pytest.mark.parametrize("way", [WAY, Retraining(**TRAINING)])
def test_loaders_of_batches_will_do(go, tmp_path: Path, way: Unlearner):
    task = sample_tasks.task()
    parts = {name: loader(getattr(task, name)) for name in ("retain", "forget", "held_out")}
    go(way=way, **parts)
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")


def test_with_a_loader_nothing_is_kept_of_an_interrupted_call(go, tmp_path: Path):
    """Its order cannot be restored, and what is in it is not known."""
    with pytest.raises(KeyboardInterrupt):
        go(9, retain=loader(sample_tasks.task().retain))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [3, 9])
def test_an_interrupted_task_is_not_resumed_with_other_data(go, tmp_path: Path, after: int):
    """As many rows, one of them another: the certificate would be about data that the run did not have."""
    with pytest.raises(KeyboardInterrupt):
        go(after)
    x, y = (tensor.clone() for tensor in sample_tasks.task().retain.tensors)
    x[-1, 0] += 0.5
    with pytest.raises(StateError, match="another run"):
        go(resume=True, retain=ex.Examples(x, y))


def test_what_cannot_be_written_is_not_lost(go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that is full at the end costs the recovery, not the noisy steps and their certificate."""

    def full(*_: Any, **__: Any) -> Any:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(unlearning, "write", full)
        with pytest.raises(OutputError, match="full"):
            go()
    assert left(tmp_path) == {"certified.state"}
    assert go(resume=True) == STEPS - 6
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"certificate.json", "model.safetensors"}
    assert not list((tmp_path / "out").glob("*.state"))


def test_an_interrupted_recovery_is_not_resumed_with_other_public_parameters(go, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        go(9)
    with pytest.raises(StateError, match="another run"):
        go(resume=True, public=["0.*"])


def weighing(model: Any, batch: Any) -> Any:
    return 2 * sample_tasks.loss(model, batch)


@pytest.mark.parametrize("after", [3, 9])
@pytest.mark.parametrize(("changed", "part"), [("model", "weights"), ("loss", "loss")])
def test_an_interrupted_task_is_not_resumed_with_another_model_or_loss(
    go, tmp_path: Path, after: int, changed: str, part: str
):
    """Of the same shapes: the released weights would be those of the first one."""
    with pytest.raises(KeyboardInterrupt):
        go(after)
    before = left(tmp_path)
    other = {"model": sample_tasks.make_model(), "loss": weighing}[changed]
    with pytest.raises(StateError, match=f"another run: {part} differs"):
        go(resume=True, **{changed: other})
    assert left(tmp_path) == before
