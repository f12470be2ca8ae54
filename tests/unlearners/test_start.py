"""A heuristic before the mechanism: the proof is the same, the record says so, and nothing made of forgotten rows gets around the clip."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
import sample_tasks
from expunge.errors import ModelRefused
from expunge.unlearners import GradientClipping, Run
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
    with pytest.raises(ModelRefused, match=r"the loss holds the trained weights \('0.weight'\)"):
        run(GradientClipping(**STEPS, start=Leaking()), replace(sample_tasks.task(), loss=loss_with_a_leak))


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


def test_what_is_no_heuristic_is_refused() -> None:
    with pytest.raises(TypeError, match=r"start must be one of expunge\.unlearners\.heuristics"):
        GradientClipping(start=GradientClipping())
