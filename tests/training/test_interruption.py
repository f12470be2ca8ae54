"""A state file belongs to one model, one loss and one process, and says what differs where it is another's."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import expunge as ex
from expunge.errors import StateError
from expunge.training.state import StateFile
from interrupted import interrupted

MECHANISM = ex.GradientClipping(
    init_clip=0.5, grad_clip=1.0, learning_rate=0.05, weight_decay=1.0, steps=10, noise_std=0.01
)
WEIGHTS = torch.ones(3)
criterion = nn.CrossEntropyLoss(weight=torch.ones(3))


def rows() -> ex.Examples:
    coins = torch.Generator().manual_seed(0)
    return ex.Examples(torch.randn(64, 8, generator=coins), torch.randint(3, (64,), generator=coins))


def make(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def make_wider() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def plain(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def weighted(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], weight=WEIGHTS)


def by_criterion(model: nn.Module, batch: Any) -> torch.Tensor:
    return criterion(model(batch[0]), batch[1])


def with_buffer(value: float) -> nn.Module:
    model = make()
    model.register_buffer("scale", torch.tensor(value))
    return model


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)
    monkeypatch.setattr("expunge.training.state.SHARE", 0.0)


def unlearning(**options: Any) -> Callable[[Path], Any]:
    chosen = {"model": make(), "loss": plain, "public": ()} | options
    return lambda path: ex.unlearn(chosen.pop("model"), rows(), MECHANISM, batch_size=16, state=path, **chosen)


def recovering(**options: Any) -> Callable[[Path], Any]:
    chosen = {"model": make(), "loss": plain} | options
    return lambda path: ex.recover(chosen.pop("model"), rows(), epochs=10, state=path, **chosen)


def retraining(**options: Any) -> Callable[[Path], Any]:
    chosen = {"make_model": make, "loss": plain} | options
    return lambda path: ex.retrain(chosen.pop("make_model"), rows(), epochs=10, state=path, **chosen)


def stop(run: Callable[[Path], Any], path: Path) -> bytes:
    with pytest.raises(KeyboardInterrupt), interrupted(1 + 2):
        run(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        (unlearning(), unlearning(model=make(seed=1)), "weights differs"),
        (unlearning(), unlearning(loss=weighted), "loss differs"),
        (unlearning(), unlearning(loss=lambda m, b: 2 * plain(m, b)), "loss differs"),
        (
            unlearning(model=with_buffer(1.0), public=["scale"]), unlearning(model=with_buffer(2.0), public=["scale"]),
            "weights differs",
        ),
        (recovering(), recovering(model=make(seed=1)), "weights differs"),
        (recovering(), recovering(loss=weighted), "loss differs"),
        (recovering(), recovering(rescale=True), "recovery, settings differ"),
        (retraining(), retraining(make_model=make_wider), "make_model, model differ"),
        (retraining(), retraining(loss=weighted), "loss differs"),
    ],
)  # fmt: skip
def test_the_state_of_another_model_or_loss_of_the_same_shapes_is_refused(tmp_path, first, second, differs):
    before = stop(first, tmp_path / "run.state")
    with pytest.raises(StateError, match=f"another run: {differs}"):
        second(tmp_path / "run.state")
    assert (tmp_path / "run.state").read_bytes() == before


@pytest.mark.parametrize("held", ["WEIGHTS", "criterion"])
@pytest.mark.parametrize("verb", [unlearning, recovering, retraining])
def test_a_loss_with_other_settings_in_its_module_is_another_loss(tmp_path, monkeypatch, verb, held):
    loss = weighted if held == "WEIGHTS" else by_criterion
    stop(verb(loss=loss), tmp_path / "run.state")
    other = torch.tensor([1.0, 5.0, 9.0])
    monkeypatch.setitem(globals(), held, other if held == "WEIGHTS" else nn.CrossEntropyLoss(weight=other))
    with pytest.raises(StateError, match="another run: loss differs"):
        verb(loss=loss)(tmp_path / "run.state")


@pytest.mark.parametrize("verb", [unlearning, recovering, retraining])
def test_the_same_call_goes_on_whatever_coins_it_was_given(tmp_path, verb):
    """A retraining draws other initial weights, and takes those of its state."""
    stop(verb(), tmp_path / "run.state")
    with interrupted() as rest:
        verb()(tmp_path / "run.state")
    assert 0 < rest.calls < 13
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_cannot_be_looked_into_is_taken_by_its_type(tmp_path):
    """What no digest sees would only part runs; the certificate does not rest on it."""
    noise = torch.Generator().manual_seed(0)
    run = unlearning(loss=lambda m, b: plain(m, b) + 0 * torch.rand(1, generator=noise).sum())
    stop(run, tmp_path / "run.state")
    assert (tmp_path / "run.state").exists()


def test_a_state_of_the_first_format_is_refused_with_the_reason(tmp_path):
    """It knew neither weights nor loss."""
    (tmp_path / "run.state").write_bytes(b"expunge.state/1\n" + b"0" * 300)
    with pytest.raises(StateError, match="made by an earlier version"):
        unlearning()(tmp_path / "run.state")


def test_two_runs_on_one_state_file_exclude_each_other(tmp_path):
    seen = []

    def meanwhile(model: nn.Module, batch: Any) -> torch.Tensor:
        if not seen:
            seen.append("")
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        return plain(model, batch)

    def second() -> None:
        try:
            unlearning()(tmp_path / "run.state")
        except StateError as error:
            seen.append(str(error))

    ex.unlearn(make(), rows(), MECHANISM, loss=meanwhile, state=tmp_path / "run.state")
    assert "run.state is in use by process" in seen[1]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_left_is_swept(tmp_path):
    """It holds weights between the steps. Files of others stay."""
    for name in (".run.state.abcd1234", ".run.state.other", ".run.state2.abcd1234"):
        (tmp_path / name).write_bytes(b"secret")
    unlearning()(tmp_path / "run.state")
    assert {path.name for path in tmp_path.iterdir()} == {".run.state.other", ".run.state2.abcd1234"}


def test_a_state_names_all_parts_that_differ(tmp_path):
    StateFile(tmp_path / "s", {"a": 1, "b": 2, "c": 3}).save({"x": 1})
    assert StateFile(tmp_path / "s", {"c": 3, "b": 2, "a": 1}).load() == {"x": 1}
    with pytest.raises(StateError, match="another run: b, c, d differ"):
        StateFile(tmp_path / "s", {"a": 1, "b": 3, "d": 3}).load()
