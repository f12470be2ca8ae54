"""Anybody's recovery runs behind any noisy unlearner; what would void the certificate is refused."""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
import sample_tasks
from expunge.attacks import Effort
from expunge.errors import ModelRefused, RunError, StillRetained
from expunge.recovery import FineTuning
from expunge.training.starts import STARTS
from expunge.unlearners import GradientClipping, OutputPerturbation, Run
from interrupted import interrupted
from recovery.recoveries_of_mine import Averaged, LastLayer

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
WAY = GradientClipping(steps=4, batch_size=32, recovery=LastLayer())
SETTINGS = {"epochs": 2, "learning_rate": 0.1, "batch_size": 32}


def bits(model: nn.Module) -> list[torch.Tensor]:
    return [t.detach().clone() for t in model.state_dict().values()]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


def test_a_recovery_of_fifteen_lines_is_planned_run_certified_and_compared(tmp_path: Path) -> None:
    task = sample_tasks.task()
    quote = ex.plan(task, None, BUDGET, unlearners=[WAY]).quotes[0]
    assert quote.steps == 4 + 2 * (270 // 32)
    done = ex.unlearn(task, None, WAY, budget=BUDGET)
    assert done.record.procedure["recovery"] == {"name": "last_layer", "settings": SETTINGS}
    assert done.certified is not None
    assert torch.equal(done.model[0].weight, done.certified[0].weight)
    assert not torch.equal(done.model[2].weight, done.certified[2].weight)
    certificate = done.save(tmp_path / "out")
    assert certificate.content["recovery"].endswith(
        "the recovery 'last_layer', which reads retained rows, with fresh coins"
    )
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    found = ex.compare(task, None, unlearners={"mine": WAY}, seeds=2)
    assert [curve.name for curve in found.curves] == ["mine", "null start: mine", "retrain"]
    assert found.curves[0].steps == quote.steps


def test_without_one_fine_tuning_is_stated_as_ever() -> None:
    """And the object says the same as the options, bit for bit."""
    plain = GradientClipping(steps=4, epochs=1, batch_size=32)
    tuned = replace(plain, epochs=5, recovery=FineTuning(epochs=1, recipe=ex.Recipe(batch_size=32), rescale=True))
    one, other = (ex.unlearn(sample_tasks.task(), None, way, seed=0) for way in (plain, tuned))
    assert same(one.model, other.model)
    stated = {"epochs": 1, "rescale": True, "recipe": ex.Recipe(batch_size=32).to_dict()}
    assert one.record.procedure["recovery"] == other.record.procedure["recovery"] == stated


def test_recover_takes_a_recovery() -> None:
    task = sample_tasks.task()
    coins = [torch.Generator().manual_seed(0) for _ in range(3)]
    how: dict[str, Any] = {"loss": task.loss}
    options = ex.recover(task.model, task.retain, epochs=1, generator=coins[0], **how)
    tuned = ex.recover(task.model, task.retain, recovery=FineTuning(epochs=1), generator=coins[1], **how)
    mine = ex.recover(task.model, task.retain, recovery=LastLayer(), generator=coins[2], **how)
    assert same(options, tuned)
    assert torch.equal(mine[0].weight, task.model[0].weight)
    with pytest.raises(ValueError, match="recovery and rescale were given"):
        ex.recover(task.model, task.retain, recovery=LastLayer(), rescale=True, **how)


@pytest.mark.parametrize("recovery", [LastLayer(), Averaged()], ids=lambda r: r.name)
def test_an_interrupted_recovery_of_anybodys_goes_on_bit_for_bit(
    recovery: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)
    way, task = replace(WAY, recovery=recovery), sample_tasks.task()
    whole = way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=0))
    for after in (7, 5):  # calls of the mechanism's loss come first, those of recovery are not counted
        with pytest.raises(KeyboardInterrupt):
            stopped(way, task, tmp_path, after)
        assert (tmp_path / "recovery.state").is_file()
    resumed = way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(folder=tmp_path, seed=1))
    assert same(resumed.model, whole.model)


def stopped(way: Any, task: ex.Task, folder: Path, after: int) -> None:
    """Interrupted as by Ctrl-C, before a batch of recovery."""
    from expunge.recovery.progress import _Stream

    plain, left = _Stream.__next__, iter(range(after))

    def stop(stream: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return plain(stream)

    with pytest.MonkeyPatch.context() as patch, interrupted():
        patch.setattr(_Stream, "__next__", stop)
        way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(folder=folder, seed=0))


# Settings


@dataclass(frozen=True, kw_only=True)
class Wide(LastLayer):
    name: ClassVar[str] = "wide"
    recipe: ex.Recipe = field(default_factory=lambda: ex.Recipe(momentum=0.5))
    layers: tuple[str, ...] = ("head", "body")
    teacher: nn.Module | None = None
    limit: float | None = -0.5


def test_settings_inside_of_settings_are_stated_and_a_public_network_by_its_digest() -> None:
    public = sample_tasks.make_model()
    done = ex.unlearn(sample_tasks.task(), None, replace(WAY, recovery=Wide(teacher=public)))
    told = done.record.procedure["recovery"]["settings"]
    assert told["recipe.momentum"] == 0.5
    assert (told["layers.0"], told["layers.1"], told["limit"]) == ("head", "body", -0.5)
    assert told["teacher"].startswith("sha256:")
    assert len(told) == 3 + 6 + 2 + 2


@dataclass(frozen=True, kw_only=True)
class Silent(LastLayer):
    name: ClassVar[str] = "silent"
    reads: ClassVar[str] = "retained\nrows"


@dataclass(frozen=True, slots=True)
class Slotted:
    name: ClassVar[str] = "slotted"
    reads: ClassVar[str] = "retained rows"
    learning_rate: float = 0.1
    batch_size: int = 32
    epochs: int = 1
    total, steps = LastLayer.total, LastLayer.steps


def test_a_recovery_with_slots_runs() -> None:
    done = ex.unlearn(sample_tasks.task(), None, replace(WAY, recovery=Slotted()), seed=0)
    assert done.record.procedure["recovery"]["name"] == "slotted"


class Unfrozen:
    name, reads, batch_size = "unfrozen", "retained rows", 32
    total, steps = LastLayer.total, LastLayer.steps


class Tuning(FineTuning):
    pass


class Slow(ex.Recipe):
    def to_dict(self) -> dict[str, Any]:
        return {"optimizer": "sgd", "learning_rate": 1e-9}


def patched() -> FineTuning:
    tuning = FineTuning()
    object.__setattr__(tuning, "steps", LastLayer().steps)
    return tuning


@pytest.mark.parametrize(
    ("recovery", "told"),
    [
        (Unfrozen(), "must be a frozen dataclass"), (patched(), "needs a name of its own"),
        (FineTuning(recipe=Slow()), "needs a name of its own"),
        (Wide(layers=({"a": 1.0, "b": {"c": 2.0}, "b.c": 3.0},)), r"two settings would be stated as layers\.0\.b\.c"),  # type: ignore[arg-type]
        (Tuning(), "needs a name of its own"), (LastLayer, "a recovery has name"),
        ("fine_tuning", "a recovery has name"), (Wide(limit=float("inf")), "limit=inf is not finite"),
        (Wide(layers={"head"}), "the setting layers is a set"),  # type: ignore[arg-type]
        (Silent(), "what recovery 'silent' reads must be one line of text"),
    ],
)  # fmt: skip
def test_what_no_record_can_state_is_refused_before_a_run(recovery: Any, told: str) -> None:
    """Fine-tuning that somebody changed is no fine-tuning."""
    with pytest.raises((TypeError, ValueError), match=told):
        OutputPerturbation(recovery=recovery)


def test_an_option_that_a_recovery_leaves_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs=3 would do nothing"):
        GradientClipping(epochs=3, recovery=LastLayer())
    with pytest.raises(ValueError, match=r"recovery_lr=0\.3 would do nothing"):
        GradientClipping(recovery_lr=0.3, recovery=FineTuning())
    assert GradientClipping(recovery_lr=0.3, recovery=LastLayer()).recipe.learning_rate == 0.3


# What voids a certificate


class Holding(LastLayer):
    """Reaches something by a name that is not among its settings."""

    name: ClassVar[str] = "holding"
    thing: ClassVar[Any] = None

    def steps(self, *given: Any) -> Any:
        assert self.thing is not None
        yield from super().steps(*given)


def holding(thing: Any) -> Any:
    return type("Holding", (Holding,), {"thing": thing, "__module__": __name__})()


def with_norm(original: nn.Module | None = None) -> ex.Task:
    torch.manual_seed(0)
    model = original or nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    model(sample_tasks.everything().tensors[0])
    return replace(sample_tasks.task(), model=model, buffers="reset")


WEIGHTS: dict[str, Callable[[nn.Module], Any]] = {
    "the model": lambda m: m,
    "a copy in half precision": lambda m: copy.deepcopy(m).half(),
    "a weight": lambda m: [m[0].weight.detach().clone()],
    "an array": lambda m: {"w": m[0].weight.detach().numpy().copy()},
    "an array for reading": lambda m: np.broadcast_to(m[0].weight.detach().numpy(), (32, 64)),
    "statistics": lambda m: m[1].running_var.clone(),
    "all in one vector": lambda m: nn.utils.parameters_to_vector(m.parameters()).detach(),
    "all in one vector, in half precision": lambda m: nn.utils.parameters_to_vector(m.parameters()).detach().half(),
    "statistics as an array": lambda m: m[1].running_mean.numpy().astype(np.float64),
}


@pytest.mark.parametrize("take", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_a_recovery_that_holds_the_trained_model_is_refused_before_the_run(take: Any) -> None:
    task = with_norm()
    way = OutputPerturbation(noise_std=1.0, recovery=holding(take(task.model)))
    with (
        interrupted() as counted,
        pytest.raises(ModelRefused, match=r"recovery 'holding' holds the trained weights \('"),
    ):
        ex.unlearn(task, None, way)
    assert counted.calls == 0
    certified = ex.unlearn(
        task.model, task.retain, ex.OutputPerturbation(init_clip=1.0, noise_std=1.0), loss=task.loss, buffers="reset"
    )
    with pytest.raises(ModelRefused, match="recovery 'holding' holds the trained weights"):
        ex.recover(certified.model, task.retain, loss=task.loss, recovery=way.recovery)


def test_a_public_network_and_retained_rows_may_be_held() -> None:
    task = with_norm()
    own = [sample_tasks.make_model(), task.retain.take(range(20))]
    ex.unlearn(task, None, OutputPerturbation(noise_std=1.0, recovery=holding(own)))


ROWS: dict[str, Callable[[ex.Examples], Any]] = {
    "examples": lambda rows: rows,
    "one row": lambda rows: [rows.tensors[0][3].clone()],
    "an array": lambda rows: rows.tensors[0][:2].numpy().astype(np.float64),
    "a loader": lambda rows: DataLoader(TensorDataset(*rows.tensors)),
    "pictures": lambda rows: rows.tensors[0].reshape(-1, 8, 8).half(),
}


@pytest.mark.parametrize("take", ROWS.values(), ids=ROWS.keys())
def test_a_recovery_that_holds_forgotten_rows_is_refused(take: Any) -> None:
    task = sample_tasks.task()
    for forget in (task.forget, list(task.forget.chunks(7))):
        with pytest.raises(
            StillRetained, match=r"recovery 'holding' holds \d+ rows with the content of rows to forget"
        ):
            ex.unlearn(replace(task, forget=forget), None, replace(WAY, recovery=holding(take(task.forget))))


class FromFile(LastLayer):
    """Puts what a file holds into the model, behind its last step."""

    name: ClassVar[str] = "from_file"
    path: ClassVar[str] = ""
    part: ClassVar[str] = ""

    def steps(self, model: Any, *given: Any) -> Any:
        yield from super().steps(model, *given)
        model.load_state_dict({self.part: torch.load(self.path)[self.part]}, strict=False)


@pytest.mark.parametrize("part", ["1.running_mean", "3.weight"])
def test_what_of_the_trained_model_is_put_into_the_outcome_is_refused_wherever_it_came_from(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption too, when another process made the certified weights."""
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)
    task = with_norm()
    torch.save(task.model.state_dict(), tmp_path / "trained.pt")
    kind = type("FromFile", (FromFile,), {"path": str(tmp_path / "trained.pt"), "part": part, "__module__": __name__})
    way = OutputPerturbation(noise_std=1.0, batch_size=32, recovery=kind())
    with pytest.raises(ModelRefused, match=f"put '{part}' of the model before unlearning into '{part}'"):
        ex.unlearn(task, None, way)
    with pytest.raises(KeyboardInterrupt):
        stopped(way, task, tmp_path, 3)
    with pytest.raises(ModelRefused, match=f"put '{part}' of the model before unlearning"):
        way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(folder=tmp_path, seed=0))


def test_statistics_of_the_trained_model_are_not_released_either() -> None:
    task = with_norm()
    done = ex.unlearn(task, None, OutputPerturbation(noise_std=1.0, epochs=1))
    done.model[1].running_mean.copy_(task.model[1].running_mean)
    with pytest.raises(RunError, match=r"'1\.running_mean' is that of the model before the run"):
        ex.issue(done.record, released=done.model)
    assert STARTS.start_of(task.model) == {}


@dataclass(frozen=True, kw_only=True)
class Spoils(LastLayer):
    name: ClassVar[str] = "spoils"
    how: str = "nan"

    def steps(self, model: Any, *given: Any) -> Any:
        yield from super().steps(model, *given)
        if self.how == "nan":
            model[0].bias.data[0] = torch.nan
        else:
            model[0].bias = nn.Parameter(torch.zeros(16, dtype=torch.float64))


UNSEEN: dict[str, Callable[[ex.Task], Any]] = {
    "an iterator": lambda task: itertools.cycle([task.forget.tensors[0]]),
    "a generator": lambda task: (row for row in task.forget.tensors[0]),
}


@pytest.mark.parametrize("take", UNSEEN.values(), ids=UNSEEN.keys())
def test_a_recovery_that_holds_what_cannot_be_looked_into_is_refused_before_the_run(take: Any) -> None:
    task = sample_tasks.task()
    recovery = holding(take(task))
    with interrupted() as counted:
        with pytest.raises(ModelRefused, match="recovery 'holding' → "):
            ex.unlearn(task, None, replace(WAY, recovery=recovery))
        with pytest.raises(ModelRefused, match="recovery 'holding' → "):
            ex.recover(task.model, task.retain, loss=task.loss, recovery=recovery)
    assert counted.calls == 0


def test_a_teacher_that_is_nested_too_deeply_is_no_way_around() -> None:
    task = sample_tasks.task()
    deep: list[Any] = [copy.deepcopy(task.model)]
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ModelRefused, match="nested too deeply"):
        ex.unlearn(task, None, replace(WAY, recovery=holding(deep)))
    with pytest.raises(ModelRefused, match="nested too deeply"):
        ex.unlearn(
            replace(task, loss=lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]) + 0 * len(deep)), None, WAY
        )


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_compiled_teacher_is_refused_in_a_loss_and_in_a_recovery() -> None:
    task = sample_tasks.task()
    teacher = torch.jit.script(copy.deepcopy(task.model))
    with pytest.raises(ModelRefused, match="recovery 'holding' holds the trained weights"):
        ex.unlearn(task, None, replace(WAY, recovery=holding(teacher)))
    with pytest.raises(ModelRefused, match="the loss holds the trained weights"):
        ex.unlearn(
            replace(task, loss=lambda m, b: ((m(b[0]) - teacher(b[0])) ** 2).mean()), None, GradientClipping(steps=2)
        )


@dataclass(frozen=True, kw_only=True)
class Leaves(LastLayer):
    """Leaves something on the model behind its last step."""

    name: ClassVar[str] = "leaves"
    what: str = "attribute"

    def steps(self, model: Any, *given: Any) -> Any:
        yield from super().steps(model, *given)
        if self.what == "attribute":
            model.notes = torch.arange(5000.0)
        elif self.what == "hook":
            kept = torch.arange(5000.0)
            model[0].register_forward_hook(lambda _m, _given, out: out + 0 * kept[0])
        else:
            model[0].weight.notes = [torch.ones(200)]


@pytest.mark.parametrize("what", ["attribute", "hook", "on a parameter"])
def test_a_recovery_that_leaves_more_than_weights_on_the_model_is_refused(what: str) -> None:
    """What is released is the module, and not only what a file of weights shows of it."""
    with pytest.raises(ModelRefused, match=r"after recovery 'leaves' '.*' holds"):
        ex.unlearn(sample_tasks.task(), None, replace(WAY, recovery=Leaves(what=what)))


def test_what_a_recovery_leaves_on_a_model_that_held_something_before_is_refused_too() -> None:
    task = sample_tasks.task()
    model = copy.deepcopy(task.model)
    model[2].bank = torch.arange(9.0)
    with pytest.raises(ModelRefused, match=r"after recovery 'leaves' '.*notes' holds"):
        ex.recover(model, task.retain, loss=task.loss, recovery=Leaves(what="attribute"))


def test_an_outcome_that_is_not_finite_or_of_another_form_is_refused() -> None:
    with pytest.raises(ex.errors.NonFinite, match=r"recovery 'spoils' left NaN or infinity in '0\.bias'"):
        ex.unlearn(sample_tasks.task(), None, replace(WAY, recovery=Spoils()))
    with pytest.raises(RunError, match=r"recovery 'spoils' changed '0\.bias' from .*float32.* to .*float64"):
        ex.unlearn(sample_tasks.task(), None, replace(WAY, recovery=Spoils(how="dtype")))


# Audits


def test_an_audit_of_a_certificate_is_given_its_recovery_or_refuses(tmp_path: Path) -> None:
    """Never pretends that it was fine-tuning."""
    task = sample_tasks.task()
    ex.unlearn(task, None, replace(WAY, batch_size=64), budget=BUDGET).save(tmp_path / "out")
    path = tmp_path / "out" / "certificate.json"
    assert json.loads(path.read_text())["run"]["procedure"]["recovery"]["name"] == "last_layer"
    with pytest.raises(ValueError, match=r"recovered by 'last_layer' .* give the object that it ran with: --recovery"):
        ex.audit(task, path)
    for other in (LastLayer(epochs=3), FineTuning()):
        with pytest.raises(ValueError, match="contradicts the certificate's record"):
            ex.audit(task, path, recovery=other)
    effort = replace(Effort.quick(), runs=0, replicates=4000, seeds=8)
    found = ex.audit(task, path, recovery=LastLayer(), effort=effort)
    assert "one by one" in found.audit.details["null start"]
    assert "left out" not in found.audit.details["canaries"]
