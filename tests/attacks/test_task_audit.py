"""Every part of an audit that applies to an unlearner attacks it; the others are left out with the reason."""

import importlib
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from expunge import (
    Examples,
    GridRidge,
    MeasuredResidual,
    Recipe,
    Replay,
    Task,
    UndeclaredFeatures,
    guarantee,
)
from expunge.attacks import Effort, audit_task
from expunge.features import RandomFeatures
from expunge.heads import AnalyticHead
from expunge.heads.corrections import Corrections
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.table import recalled

rewinding = importlib.import_module("expunge.trace.rewinding")

RECIPE = Recipe(learning_rate=0.5, batch_size=20, weight_decay=0.0)
EFFORT = Effort(replicates=500, seeds=8, runs=16)
RIDGE = GridRidge(ridge=0.5, grid=2.0**-12, rounding=1e-9, provenance="random layer")
CONVEX = MeasuredResidual(residual=1e-8, strong_convexity=1e-2, noise_std=1e-6, provenance="random layer")
UNKNOWN = UndeclaredFeatures(head="exact_ridge")
UNKNOWN_CONVEX = UndeclaredFeatures(head="measured_residual", noise_std=1e-3)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make_model():
    return nn.Linear(40, 3)


def task(**fields):
    """Random labels; parts named by position, as examples without ids are."""
    coins = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 40, generator=coins), torch.randint(3, (120,), generator=coins)
    parts = {
        "retain": Examples(x[:60], y[:60]), "forget": Examples(x[60:90], y[60:90]), "held_out": Examples(x[90:], y[90:]),
    }  # fmt: skip
    plain = {"model": make_model(), "make_model": make_model, "features": RandomFeatures(40, 60, seed=0)}
    return Task(loss=loss, **(parts | plain | fields))


def audit(attacked, of=None, training_epochs=3, **fields):
    procedure = Procedure(recipe=RECIPE, epochs=1, training_epochs=training_epochs)
    found = recalled(attacked, procedure)
    how = {"procedure": procedure, "assumed": found.assumed, "effort": EFFORT}
    return audit_task(of or task(), found.unlearner, attacked, **how | fields)


def parts_of(found):
    return {f.attack.partition(":")[0].partition(",")[0] for f in found.findings}


@pytest.mark.parametrize(
    ("mechanism", "parts"),
    [
        (RIDGE, {"membership", "canaries"}),
        (CONVEX, {"two worlds", "membership", "canaries"}),
        (Replay(), {"canaries"}),
        (Replay(shards=2), {"canaries"}),
        (UNKNOWN, {"membership", "canaries"}),
        (UNKNOWN_CONVEX, {"membership", "canaries"}),
    ],
    ids=["exact", "convex", "replay", "shards", "undeclared exact", "undeclared convex"],
)
def test_an_unlearner_is_attacked_by_what_applies_and_not_refuted(mechanism, parts):
    found = audit(mechanism, confidence=0.999)  # a sound one is refuted once in 1/(1 - confidence) tries
    assert parts_of(found) == parts
    assert all(f.null is not None for f in found.findings)
    assert found.refuting(guarantee(mechanism, delta=1e-5)) == []
    json.loads(found.to_json())


FEW = {
    "forget": Examples(torch.zeros(9, 40), torch.zeros(9).long()),
    "held_out": Examples(torch.zeros(10, 40), torch.zeros(10).long()),
}


@pytest.mark.parametrize("mechanism", [RIDGE, CONVEX, Replay()], ids=lambda m: m.name)
def test_a_request_of_one_row_is_audited_by_canaries(mechanism):
    own = task()
    found = audit(mechanism, task(forget=own.forget.take([0])), effort=replace(EFFORT, runs=0, replicates=100))
    held = found.details["canaries"]["candidates"]
    assert held["forget"] == 1
    assert held["held_out"] >= 19
    refuting = found.refuting(guarantee(mechanism, delta=1e-5))
    assert not any(f.attack.startswith("canaries") for f in refuting)


@pytest.mark.parametrize(
    ("fields", "mechanism", "part", "reason"),
    [
        ({}, RIDGE, "two worlds", "exact: no noise to attack"),
        ({}, Replay(), "two worlds", "exact: no noise to attack"),
        ({}, UNKNOWN_CONVEX, "two worlds", "nothing is claimed"),
        ({}, CONVEX, "null start", "has no start in a ball"),
        ({}, Replay(), "membership", "bit for bit"),
        ({"features": None}, RIDGE, "membership", "needs task.features"),
        ({"features": None}, CONVEX, "canaries", "needs task.features"),
        ({"features": None}, RIDGE, "two worlds", "exact: no noise to attack; bits are not compared"),
        ({"held_out": [(torch.zeros(2, 40), torch.zeros(2).long())]}, RIDGE, "membership", "task.held_out as Examples"),
        ({"make_model": None}, Replay(), "canaries", "needs task.make_model"),
        (FEW, Replay(), "canaries", "at least 20"),
        (FEW, RIDGE, "canaries", "at least 20"),
        ({}, replace(CONVEX, residual=1e-30), "canaries", "cannot be certified"),
        ({}, replace(CONVEX, residual=1e-30), "membership", "cannot be certified"),
        ({}, replace(UNKNOWN_CONVEX, noise_std=0.0), "membership", "noise_std"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_apply_to_an_unlearner_is_left_out_with_the_reason(fields, mechanism, part, reason):
    found = audit(mechanism, task(**fields), effort=replace(EFFORT, runs=8, replicates=100), training_epochs=1)
    assert reason in found.details[part]["left_out"]


def test_bits_are_shown_beside_the_reason_and_refute_nothing():
    held = audit(RIDGE, effort=replace(EFFORT, runs=0)).details["two worlds"]
    assert held["bits"]["float64"]["differ"] > 0
    assert held["bits"]["grid"]["differ"] == 0
    assert audit(Replay()).details["canaries"]["bits"]["differ"] == 0


def test_without_shadow_models_a_head_is_attacked_by_canaries_alone():
    found = audit(RIDGE, effort=replace(EFFORT, runs=0))
    assert parts_of(found) == {"canaries"}
    assert found.details["membership"]["left_out"] == "no shadow models were asked for"


def test_convex_heads_are_fewer_and_what_the_certificate_does_not_say_is_named():
    held = audit(CONVEX).details["membership"]
    assert (held["runs"], held["retained rows"], held["assumed"]) == (8, 60, {"loss": "logistic"})
    kinds = {(f.attack.partition(":")[0], f.evidence.kind) for f in audit(CONVEX).findings if "worlds" not in f.attack}
    assert kinds == {
        ("membership", "one_run_via_certifier"), ("membership", "joint_guesses"), ("canaries", "joint_guesses"),
    }  # fmt: skip
    undeclared = audit(UNKNOWN).details["membership"]["assumed"]
    assert undeclared == {"grid": 2.0**-12, "ridge": 1.0}


def test_an_exact_head_that_is_broken_in_the_library_itself_is_refuted(monkeypatch):
    """The audit drives the real class: breaking it must show."""
    monkeypatch.setattr(AnalyticHead, "forget", lambda self, X, Y, *, ids: None)
    assert audit(RIDGE, effort=replace(EFFORT, runs=64)).refuting(guarantee(RIDGE, delta=1e-5))


def test_a_convex_head_that_is_broken_in_the_library_itself_is_refuted(monkeypatch):
    """Requests are taken and nothing is removed."""
    monkeypatch.setattr(Corrections, "after", lambda self, _request, **_how: self)
    little = replace(CONVEX, noise_std=1e-5)  # a claim of 0.34, below the ceiling of so few runs
    assert audit(little, effort=replace(EFFORT, runs=64)).refuting(guarantee(little, delta=1e-5))


def test_a_rewind_that_is_broken_in_the_library_itself_shows_in_the_bits(monkeypatch):
    """The replay runs, but from the last checkpoint, whatever used it."""
    monkeypatch.setattr(
        rewinding, "checkpoint_before", lambda manifest, _first: max(manifest.checkpoints, key=lambda file: file.step)
    )
    assert audit(Replay()).details["canaries"]["bits"]["differ"] > 0.5


def test_nothing_refutes_a_certificate_that_claims_nothing(monkeypatch):
    monkeypatch.setattr(AnalyticHead, "forget", lambda self, X, Y, *, ids: None)
    found = audit(UNKNOWN, effort=replace(EFFORT, runs=64))
    assert max(f.epsilon for f in found.findings) > 1
    assert found.refuting(guarantee(UNKNOWN, delta=1e-5)) == []
    assert found.refuting(guarantee(RIDGE, delta=1e-5))


def test_an_interrupted_audit_of_an_unlearner_goes_on_and_ends_as_the_whole_one(tmp_path, monkeypatch):
    from expunge.attacks import task_audit

    def interrupted(how):
        raise KeyboardInterrupt

    whole = audit(CONVEX, state=tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(task_audit, "canaries_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            audit(CONVEX, state=tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(task_audit, "minimiser_membership", interrupted)  # this part is not run again
        assert audit(CONVEX, state=tmp_path / "state").to_json() == whole.to_json()
    assert not (tmp_path / "state").exists()
