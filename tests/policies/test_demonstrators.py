"""A demonstrator is forgotten by every verb and unlearner as any other group of rows is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge as ex
from expunge.accounting import DPTraining
from expunge.attacks import Effort
from expunge.certificate.digests import weights_digest
from expunge.policies import PersistentEnergyMatching, by_demonstrator, cloning, returns
from expunge.trace import rewind, train_traced
from expunge.unlearners import GradientClipping, PrivateTraining, Retraining
from policies import small

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
WAY = GradientClipping(steps=3, epochs=2, batch_size=32, optimizer="adamw", recovery_lr=0.01)


def test_a_demonstrator_is_planned_for_unlearned_certified_and_compared(tmp_path: Path) -> None:
    task, gone = small.task(), small.ASTRAY
    plan = ex.plan(task, gone, BUDGET, unlearners=[WAY, Retraining(epochs=2)])
    assert [quote.applies for quote in plan.quotes] == [True, True]
    done = ex.unlearn(task, gone, WAY, budget=BUDGET)
    assert done.record.coverage == "ids and content"
    done.save(tmp_path / "out")
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    balanced = ex.Metric(
        measure=lambda done, task: float(returns(done.model, episodes=5, longest=60).mean()), unit="steps"
    )
    persistent = replace(
        WAY, epochs=5, recovery_lr=0.1, optimizer="sgd",
        recovery=PersistentEnergyMatching(epochs=1, recipe=small.RECIPE, langevin=small.LOSS.langevin, buffer=64),
    )  # fmt: skip
    found = ex.compare(
        task, gone, unlearners={"options": WAY, "persistent": persistent}, metrics={"return": balanced}, seeds=1
    )
    names = ["options", "null start: options", "persistent", "null start: persistent", "retrain"]
    assert [curve.name for curve in found.curves] == names


def test_an_audit_attacks_the_forgetting_of_a_demonstrator() -> None:
    """Every part that audits a classifier is made; a stack of runs takes the loss as it is."""
    tested = ex.audit(
        small.task(), replace(WAY, epochs=1), small.ASTRAY, effort=Effort(replicates=200, seeds=8, runs=8), seed=0
    )
    details = tested.audit.details
    assert not tested.refuting
    for part in ("two worlds", "null start", "membership", "canaries"):
        assert "left_out" not in details[part], details[part]
    assert "one by one" not in details["null start"]


def test_a_request_of_a_demonstrator_takes_all_its_steps_and_no_others() -> None:
    parts = small.task().parts(small.ASTRAY)
    assert isinstance(parts.retain, ex.Examples)
    assert isinstance(parts.forget, ex.Examples)
    assert set(parts.forget.groups or ()) == {"astray"}
    assert set(parts.retain.groups or ()) == {"steady", "shaky"}
    with pytest.raises(ValueError, match="nobody"):
        small.task().parts(ex.Request.groups(["nobody"]))


def test_private_training_on_rows_that_are_demonstrators_clips_each_of_them() -> None:
    """The gradient of a whole demonstrator is what is clipped and what is counted: group_size=1, and one has unlearned before it asks."""
    pytest.importorskip("opacus")
    rows = by_demonstrator(small.shown())
    task = ex.Task(model=small.seeded(), data=rows, loss=cloning, make_model=small.make_model)
    way = PrivateTraining(sampling_rate=0.5, private_steps=4, expected_batch=2.0, group_size=1, sample_clip=0.1)
    done = ex.unlearn(task, small.ASTRAY, way, budget=BUDGET, seed=0)
    assert isinstance(done.record.mechanism, DPTraining)
    assert done.record.mechanism.group_size == 1
    assert ex.accounting.guarantee(done.record.mechanism, delta=1e-5).meets(BUDGET)


def test_a_step_of_private_training_moves_by_one_clip_for_each_demonstrator() -> None:
    """Without noise to speak of: the sum of three clipped gradients, each of all steps of one demonstrator."""
    pytest.importorskip("opacus")
    from expunge.training.example_gradients import ExampleGradients
    from expunge.training.weights import FlatWeights

    model, rows = small.seeded(), by_demonstrator(small.shown())
    weights = FlatWeights(model)
    gradients = ExampleGradients(weights, cloning, at_once=8)
    gradients.probe(rows)
    (found,) = gradients(weights.theta, rows.batch(slice(None)))
    gradients.close()
    assert found.shape == (3, len(weights.theta))
    for k, name in enumerate(small.WHO):
        own = small.shown().take([group == name for group in small.shown().groups or ()])
        alone = torch.autograd.grad(cloning(model, own.batch(slice(None))), list(model.parameters()))
        assert torch.allclose(found[k], torch.cat([g.reshape(-1) for g in alone]), atol=1e-6)


def test_a_replay_forgets_a_demonstrator_of_energy_matching_bit_for_bit(tmp_path: Path) -> None:
    """Samples are drawn by the coins of a step alone, so that the training without the demonstrator draws the same."""
    parts = small.task().parts(small.ASTRAY)
    assert isinstance(parts.retain, ex.Examples)
    assert isinstance(parts.forget, ex.Examples)
    how: dict[str, Any] = {
        "loss": small.LOSS, "epochs": 2, "steps_per_epoch": 8, "recipe": small.RECIPE, "key": b"k" * 32, "checkpoints": 2,
    }  # fmt: skip
    trace = train_traced(small.make_model, small.shown(), folder=tmp_path / "all", **how)
    never = train_traced(small.make_model, parts.retain, folder=tmp_path / "retain", **how)
    found = rewind(trace, parts.forget.ids, small.shown(), make_model=small.make_model, loss=small.LOSS).model
    assert weights_digest(found) == weights_digest(never.model(small.make_model))
