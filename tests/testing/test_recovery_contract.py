"""Fine-tuning and anybody's own recoveries keep the contract; each broken promise is named; a blind refusal is no pass."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import expunge as ex
import sample_tasks
from expunge.recovery import FineTuning
from expunge.testing import ContractViolation, check_recovery
from recovery.recoveries_of_mine import Averaged, LastLayer

TUNED = ex.Recipe(optimizer="adamw", learning_rate=0.01, batch_size=32)


@pytest.mark.parametrize(
    "recovery",
    [FineTuning(epochs=1, recipe=TUNED, rescale=True), LastLayer(), Averaged(epochs=1)],
    ids=lambda r: r.name,
)
def test_a_recovery_keeps_its_contract(recovery: Any) -> None:
    check_recovery(recovery)


def test_the_contract_is_held_on_a_task_of_ones_own() -> None:
    check_recovery(LastLayer(epochs=1), sample_tasks.task())


ROWS = torch.randn(32, 8), torch.zeros(32, dtype=torch.long)


@dataclass(frozen=True, kw_only=True)
class Broken(LastLayer):
    name: ClassVar[str] = "broken"
    fault: str = ""
    held: Any = None

    def total(self, per_epoch: int) -> int:
        return {"one step": 1, "half a step": 1.5}.get(self.fault, super().total(per_epoch))

    def steps(self, model: Any, batches: Any, loss: Any, progress: Any) -> Any:
        head, fault, seen = model[-1].weight, self.fault, 0.0
        if fault == "unguided":
            yield from range(1, progress.total + 1)
            return
        for step in progress:
            batch = ROWS if fault == "rows" else next(batches)
            if fault == "ahead" and step % 2:
                batch = next(batches)
            shift = torch.autograd.grad(loss(model, batch), head)[0]
            with torch.no_grad():
                if fault == "coins":
                    shift += torch.from_numpy(np.random.default_rng().normal(size=(3, 32))).float()
                if fault == "unkept":
                    seen += float(shift.norm())
                if fault == "moved":
                    model[-1].weight.data = head.data.clone()
                if fault == "frozen":
                    model.body.weight += 1
                if fault == "statistics":
                    model.fixed.running_mean += 1
                if fault == "nan":
                    shift[:] = torch.nan
                head -= 0.1 * shift + 1e-3 * seen
            if fault == "looks":
                model(torch.rand(32, 8))
            if not (fault == "short" and step == progress.total):
                yield 2 * step if fault == "double" else step


@pytest.mark.parametrize(
    ("fault", "contract"),
    [
        ("one step", "steps: 1 step of it is all"), ("half a step", "total must be a whole number"),
        ("unguided", "runs behind an unlearner: .*`for step in progress`"), ("double", "yields 2 after 0 of 6 steps"),
        ("short", "ended after 5 of 6 steps"), ("nan", "left NaN or infinity in 'head.weight'"),
        ("coins", "replay"), ("unkept", "resume"), ("moved", "in place"), ("frozen", "frozen and public parts stay: 'body"),
        ("statistics", "frozen and public parts stay: 'fixed"), ("rows", "reads its batches"), ("looks", "reads its batches"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_named(fault: str, contract: str) -> None:
    with pytest.raises((ContractViolation, ValueError), match=contract):
        check_recovery(Broken(fault=fault))


def test_two_batches_a_step_are_counted() -> None:
    check_recovery(Broken(fault="ahead"))


def test_settings_that_no_record_can_state_are_named() -> None:
    for held, told in ((object(), "the setting held is a object"), (float("nan"), "held=nan is not finite")):
        with pytest.raises(ContractViolation, match=f"settings: recovery 'broken': .*{told}"):
            check_recovery(Broken(held=held))


class Idle(LastLayer):
    name: ClassVar[str] = "idle"

    def steps(self, model: Any, batches: Any, loss: Any, progress: Any) -> Any:
        model.eval()
        yield from progress


def test_a_recovery_that_does_nothing_tests_nothing() -> None:
    with pytest.raises(ContractViolation, match="changes the model: no tensor is another one"):
        check_recovery(Idle())


@pytest.mark.parametrize(
    ("blind", "missed"),
    [
        (["expunge.unlearners.noisy.refuse_start", "expunge.training.starts.refuse_start"], "as teacher"),
        (["expunge.unlearners.noisy.rows_held", "expunge.unlearners.noisy.check_disjoint"], "forgotten rows"),
        (["expunge.training.starts.Starts.refuse_outcome"], "put into the outcome"),
    ],
)
def test_a_refusal_that_sees_nothing_is_noticed(blind: list[str], missed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in blind:
        monkeypatch.setattr(name, lambda *_a, **_k: 0)
    with pytest.raises(ContractViolation, match=f"refuses what voids a certificate: .*{missed}"):
        check_recovery(LastLayer(epochs=1))


def test_statistics_alone_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the digests of the start are those of parameters alone."""
    monkeypatch.setattr("expunge.training.starts.named_buffers", lambda _model: ())
    with pytest.raises(ContractViolation, match="statistics of the trained model"):
        check_recovery(LastLayer(epochs=1))
