"""A heuristic before the mechanism: the proof is the same, the record says so, and nothing made of forgotten rows gets around the clip."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
import sample_tasks
from expunge.errors import ModelRefused
from expunge.unlearners import GradientClipping, Retraining, Run
from expunge.unlearners.heuristics import FineTune, GradientAscent, Heuristic, JustInTime, Patching
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.table import recalled, repeated

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
STEPS: dict[str, Any] = {"steps": 2, "epochs": 1, "init_clip": 0.5}
WARM = JustInTime(epochs=1, noise=0.1, learning_rate=0.01)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def run(way: GradientClipping, task: ex.Task, seed: int = 0) -> ex.Unlearned:
    return way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=seed))


@dataclass(frozen=True, kw_only=True)
class Leaking(Heuristic):
    """Gradient ascent that leaves its weights where a loss finds them."""

    name = "leaking"
    source = "this test"

    def total(self, material: Any) -> int:
        return 1

    def steps(self, material: Any) -> Any:
        yield from GradientAscent(learning_rate=1.0).steps(material)
        LEAK[:] = [material.model[0].weight.detach().clone()]


@dataclass(frozen=True, kw_only=True)
class Counted(GradientAscent):
    """Gradient ascent that counts its runs."""

    runs: ClassVar[int] = 0

    def steps(self, material: Any) -> Any:
        Counted.runs += 1
        yield from super().steps(material)


LEAK: list[Tensor] = []


def test_the_claim_is_that_of_the_mechanism_and_the_record_says_what_came_before(tmp_path: Path) -> None:
    task = sample_tasks.task()
    plain = ex.unlearn(task, None, GradientClipping(**STEPS))
    warm = ex.unlearn(task, None, GradientClipping(**STEPS, start=WARM))
    assert warm.record.mechanism == plain.record.mechanism
    assert "start" not in plain.record.procedure
    certificate = warm.save(tmp_path / "out")
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    assert certificate.record.procedure["start"] == WARM.stated
    assert repeated(certificate.record.procedure["start"]) == WARM


def test_the_mechanism_starts_from_what_the_heuristic_made() -> None:
    """The same bits as the heuristic and the mechanism one after another."""
    task = sample_tasks.task()
    made = WARM.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=3)).model
    assert not torch.equal(flat(made), flat(task.model))
    apart = run(GradientClipping(**STEPS), replace(task, model=made), seed=3)
    assert torch.equal(flat(run(GradientClipping(**STEPS, start=WARM), task, seed=3).model), flat(apart.model))
    assert not torch.equal(flat(run(GradientClipping(**STEPS), task, seed=3).model), flat(apart.model))


def test_a_loss_that_holds_the_trained_weights_is_refused_though_the_mechanism_starts_elsewhere() -> None:
    task = sample_tasks.task()
    teacher = task.model

    def distil(model: nn.Module, batch: Any) -> Tensor:
        return sample_tasks.loss(model, batch) + 0 * teacher[0].weight.sum()

    LEAK.clear()
    with pytest.raises(ModelRefused, match="the loss holds the trained weights"):
        run(GradientClipping(**STEPS, start=Leaking()), replace(task, loss=distil))
    assert not LEAK  # before any of the work


def loss_with_a_leak(model: nn.Module, batch: Any) -> Tensor:
    return sample_tasks.loss(model, batch) + sum(0 * leaked.sum() for leaked in LEAK)


def test_a_loss_that_holds_the_weights_of_the_heuristic_is_refused() -> None:
    LEAK.clear()
    with pytest.raises(ModelRefused, match="the loss changed while the heuristic called it"):
        run(GradientClipping(**STEPS, start=Leaking()), replace(sample_tasks.task(), loss=loss_with_a_leak))
    LEAK[:] = [
        WARM.forget(sample_tasks.task(), BUDGET, ex.Relation.RETRAINED, Run(seed=1)).model[0].weight.detach().clone()
    ]
    with pytest.raises(ModelRefused, match=r"the loss holds the trained weights \('0.weight'\)"):
        run(GradientClipping(**STEPS, start=WARM), replace(sample_tasks.task(), loss=loss_with_a_leak), seed=1)
    LEAK.clear()


class MeanTeacher:
    """A loss that keeps a mean of the models that it is called with."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        own = list(model.parameters())
        if not self.kept:
            self.kept = [p.detach().clone() for p in own]
        for mine, p in zip(self.kept, own, strict=True):
            mine.lerp_(p.detach(), 1e-4)
        return sample_tasks.loss(model, batch) + sum(
            ((p - mine) ** 2).sum() for p, mine in zip(own, self.kept, strict=True)
        )


class Memory:
    """A loss that keeps the rows that it was shown."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.rows.append(batch[0].clone())
        return sample_tasks.loss(model, batch)


@pytest.mark.parametrize("loss", [MeanTeacher(), Memory()], ids=["mean teacher", "memory"])
def test_a_loss_that_keeps_what_the_heuristic_showed_it_is_refused(loss: Any) -> None:
    """It would carry trained weights or forgotten rows around the clip."""
    with pytest.raises(ModelRefused, match="the loss changed while the heuristic called it"):
        run(GradientClipping(**STEPS, start=GradientAscent()), replace(sample_tasks.task(), loss=loss))


@pytest.mark.parametrize(
    "way",
    [GradientClipping(**STEPS), GradientClipping(**STEPS, start=FineTune()), Retraining(epochs=1)],
    ids=["plain", "warm", "retrain"],
)
def test_a_loss_that_holds_forgotten_rows_is_refused(way: Any) -> None:
    """Gradient ascent on them in the loss, say: the theorems let it read the batch that it is given alone."""
    task = sample_tasks.task()
    x, y = (t[:5].clone() for t in task.forget.tensors)

    def ascent(model: nn.Module, batch: Any) -> Tensor:
        return sample_tasks.loss(model, batch) - 0.1 * sample_tasks.loss(model, (x, y))

    with pytest.raises(ex.errors.StillRetained, match="holds 5 rows with the content of rows to forget"):
        ex.unlearn(replace(task, loss=ascent), None, way)


def test_the_verb_on_a_model_refuses_it_too() -> None:
    task = sample_tasks.task()
    rows = task.forget.tensors

    def ascent(model: nn.Module, batch: Any) -> Tensor:
        return sample_tasks.loss(model, batch) - 0.1 * sample_tasks.loss(model, rows)

    mechanism = ex.OutputPerturbation(init_clip=1.0, noise_std=8.0)
    for forget in (task.forget, rows, DataLoader(TensorDataset(*rows), batch_size=7)):
        with pytest.raises(ex.errors.StillRetained, match="the loss or the model holds 30 rows"):
            ex.unlearn(task.model, task.retain, mechanism, loss=ascent, forget=forget)


class Observed(nn.Module):
    """The largest input so far, as a quantiser keeps it; retained rows never exceed it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("high", torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.high = torch.maximum(self.high, x.detach().amax(0))
        return x


@dataclass(frozen=True, kw_only=True)
class Copying(Heuristic):
    """Write a forgotten row into a public weight."""

    name = "copying"
    source = "this test"

    def total(self, material: Any) -> int:
        return 1

    def steps(self, material: Any) -> Any:
        material.model[1].weight.data[0] = material.forget.tensors[0][0]
        material.model[3].weight.data += 0.01
        yield


def test_nothing_but_covered_weights_is_taken_from_a_heuristic() -> None:
    """Public weights and buffers stay the trained model's: they could hold a forgotten row bit for bit."""
    task = sample_tasks.task()
    model = nn.Sequential(Observed(), *copy.deepcopy(task.model))
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    x = task.forget.tensors[0].clone()
    x[0] = torch.linspace(5, 9, 64)
    forget = ex.Examples(x, task.forget.tensors[1], ids=task.forget.ids)
    own = replace(task, model=model, forget=forget, public=("0.high", "1.*"), make_model=None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for start in (GradientAscent(), Copying()):
        done = run(GradientClipping(**STEPS, start=start), own)
        for name in ("1.weight", "1.bias"):
            assert torch.equal(done.model.state_dict()[name], before[name]), (start, name)
        assert torch.equal(done.model[0].high, before["0.high"])
        assert not torch.equal(done.model[3].weight, before["3.weight"])


@dataclass(frozen=True, kw_only=True)
class Growing(Heuristic):
    """Make another model."""

    name = "growing"
    source = "this test"

    def total(self, material: Any) -> int:
        return 1

    def steps(self, material: Any) -> Any:
        material.model.extra = nn.Parameter(torch.zeros(3))
        yield


def test_a_heuristic_that_makes_other_weights_is_refused() -> None:
    with pytest.raises(ModelRefused, match="'growing' made weights of other names or shapes"):
        run(GradientClipping(**STEPS, start=Growing()), sample_tasks.task())


@pytest.mark.parametrize("what", ["trained", "heuristic"])
def test_neither_start_can_be_released(what: str) -> None:
    """A certificate of the run on the weights before it would be one of nothing."""
    task = sample_tasks.task()
    done = run(GradientClipping(**STEPS, start=WARM), task, seed=1)
    made = {"trained": task.model, "heuristic": WARM.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=1)).model}
    with pytest.raises(ex.errors.RunError, match="the weights are those of the model before the run"):
        ex.issue(done.record, released=made[what])


def test_an_interrupted_run_goes_on_from_the_start_that_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a seed the heuristic would make another one."""
    task, way = sample_tasks.task(), GradientClipping(**STEPS, start=FineTune(epochs=1))
    made: list[nn.Module] = []
    plain = GradientClipping._certified

    def cut(self: Any, task: Any, model: nn.Module, *given: Any) -> Any:
        made.append(model)
        if len(made) == 1:
            raise KeyboardInterrupt
        return plain(self, task, model, *given)

    monkeypatch.setattr(GradientClipping, "_certified", cut)
    with pytest.raises(KeyboardInterrupt):
        way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(folder=tmp_path))
    way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(folder=tmp_path))
    assert torch.equal(flat(made[0]), flat(made[1]))
    fewer = replace(task, forget=task.forget.take(range(20)))
    with pytest.raises(ex.errors.StateError):
        way.forget(fewer, BUDGET, ex.Relation.RETRAINED, Run(folder=tmp_path))


def test_the_null_start_has_no_heuristic_before_it() -> None:
    """It would read the forgotten rows, and be no control."""
    null = ex.unlearners.null_start(sample_tasks.task().model)
    way = GradientClipping(**STEPS, start=WARM).starting_from(null)
    assert (way.start, way.trained) == (None, null)


def test_a_plan_counts_its_steps_and_says_what_it_reads() -> None:
    task = sample_tasks.task()
    ways = [GradientClipping(**STEPS), GradientClipping(**STEPS, start=WARM)]
    plain, warm = ex.plan(task, unlearners=ways).quotes
    assert warm.steps == plain.steps + WARM.count(task)
    assert "forgotten data before the clip" in warm.reads
    assert warm.claim == plain.claim


def test_an_audit_repeats_it() -> None:
    mechanism = run(GradientClipping(**STEPS, start=WARM), sample_tasks.task()).record.mechanism
    assert recalled(mechanism, Procedure(start=WARM)).unlearner.start == WARM


def test_patches_are_no_start() -> None:
    """They leave the trained weights as they are, and make another module."""
    with pytest.raises(ValueError, match=r"start=Patching.* changes more than weights"):
        GradientClipping(start=Patching())


def test_attacks_run_the_heuristic_or_leave_out_what_cannot() -> None:
    """Stacked runs would start from the trained weights, and say nothing of this unlearner."""
    way = GradientClipping(**STEPS, start=Counted())
    Counted.runs = 0
    found = ex.audit(sample_tasks.task(), way, effort=ex.attacks.Effort.quick()).audit
    assert "heuristic before their steps cannot be stacked" in str(found.left_out["membership"])
    assert any("null start" in finding.attack for finding in found.findings)
    assert Counted.runs > 2  # of the null start's runs from the trained model, and of the canaries'


def test_what_is_no_heuristic_is_refused() -> None:
    with pytest.raises(TypeError, match=r"start must be one of expunge\.unlearners\.heuristics"):
        GradientClipping(start=GradientClipping())


class Remembers(nn.Module):
    """A network with rows in a buffer that is declared public."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.inner = sample_tasks.make_model()
        self.register_buffer("memory", rows.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("batched", [False, True])
def test_a_model_that_holds_forgotten_rows_is_refused_public_or_not(batched: bool) -> None:
    task = sample_tasks.task()
    rows = task.forget.tensors[0][:10]
    model = Remembers(rows.reshape(2, 5, -1) if batched else rows)
    mechanism = ex.OutputPerturbation(init_clip=1.0, noise_std=8.0)
    with pytest.raises(ex.errors.StillRetained, match="the loss or the model holds 10 rows"):
        ex.unlearn(model, task.retain, mechanism, loss=sample_tasks.loss, forget=task.forget, public=["memory"])
