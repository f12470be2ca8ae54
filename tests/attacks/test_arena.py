"""In an arena, what leaks is seen and what is exact is not; and the audit of a task goes on where it stopped."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from expunge import (
    DPTraining,
    Examples,
    OutputPerturbation,
    Recipe,
    Retrain,
    Task,
    guarantee,
)
from expunge.attacks import Arena, Effort, audit_task, distances, membership
from expunge.attacks.arena import fine_tuning, gradient_ascent, mechanism, nothing, retraining
from expunge.errors import StateError, TaskError
from expunge.replicates import Rows
from expunge.unlearners.noisy import Noisy
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.table import recalled

NOISY = OutputPerturbation(init_clip=0.01, noise_std=0.0746126327)
RECIPE = Recipe(learning_rate=0.5, batch_size=20, weight_decay=0.0)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make_model():
    return nn.Linear(40, 2)


def rows(n, seed=0):
    """Random labels: only learning by heart helps."""
    coins = torch.Generator().manual_seed(seed)
    return torch.randn(n, 40, generator=coins), torch.randint(2, (n,), generator=coins)


@pytest.fixture(scope="module")
def arena():
    return Arena(
        data=Rows(*rows(120)), retain=torch.arange(40), candidates=torch.arange(40, 60),
        population=torch.arange(60, 120), runs=64, make_model=make_model, loss=loss, recipe=RECIPE, epochs=40,
        recovery_epochs=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(arena):
    return arena.trained()


def test_each_candidate_is_in_by_a_fair_coin_of_its_own(arena):
    assert arena.coins.shape == (64, 20)
    assert 0.4 < arena.coins.double().mean() < 0.6
    assert len({tuple(row) for row in arena.coins.tolist()}) == 64


def test_candidates_that_were_in_are_known_better_than_those_that_were_out(arena, trained):
    right = (arena.outputs(trained).argmax(-1) == arena.data.labels[arena.candidates]).double()
    assert right[arena.coins].mean() > right[~arena.coins].mean() + 0.2


def test_what_was_not_unlearned_is_refuted_as_exact_unlearning(arena, trained):
    exact = guarantee(Retrain(), delta=1e-5)
    for unlearner in (nothing(), fine_tuning()):
        seen = membership(arena, unlearner, trained=trained)
        assert any(f.refutes(exact) for f in seen.findings)
        assert seen.details["LiRA"]["attack"]["auc"] > 0.65
        assert abs(seen.details["LiRA"]["null"]["auc"] - 0.5) < 0.08


@pytest.mark.parametrize("unlearner", [retraining(), mechanism(NOISY), mechanism(NOISY, rescale=True)])
def test_what_was_unlearned_is_not_refuted(arena, trained, unlearner):
    seen = membership(arena, unlearner, trained=trained)
    assert not any(f.refutes(guarantee(NOISY, delta=1e-5)) for f in seen.findings)
    assert all(abs(seen.details[name]["attack"]["auc"] - 0.5) < 0.08 for name in ("loss threshold", "U-LiRA"))


def test_shadow_models_that_unlearned_too_see_what_the_unlearning_left(arena, trained):
    """After ascent members are known worse than others: LiRA from before the unlearning guesses wrong, U-LiRA right."""
    seen = membership(arena, gradient_ascent(steps=20, learning_rate=20.0), trained=trained)
    assert seen.details["U-LiRA"]["attack"]["auc"] > 0.7
    assert seen.details["LiRA"]["attack"]["auc"] < 0.3


def test_guesses_are_chosen_on_other_runs_than_those_they_are_counted_on(arena, trained, monkeypatch):
    module = importlib.import_module("expunge.attacks.shadow_models")
    whole = module.one_run

    def watched(scores, members, *, practice, **how):
        assert not np.shares_memory(scores, practice[0])
        assert not np.shares_memory(members, practice[1])
        return whole(scores, members, practice=practice, **how)

    monkeypatch.setattr(module, "one_run", watched)
    found = membership(arena, nothing(), trained=trained, confidence=0.9).findings
    assert sum(1 - f.confidence for f in found) == pytest.approx(0.1)


def test_the_trained_models_are_left_as_they_were(arena, trained):
    before = trained.theta.clone()
    membership(arena, gradient_ascent(steps=2, learning_rate=0.1), trained=trained)
    assert torch.equal(trained.theta, before)


def test_ascent_raises_the_loss_of_what_was_in(arena, trained):
    after = gradient_ascent(steps=20, learning_rate=20.0)(arena, trained.copy())
    right = [
        (arena.outputs(stack).argmax(-1) == arena.data.labels[arena.candidates])[arena.coins].double().mean()
        for stack in (trained, after)
    ]
    assert right[1] < right[0] - 0.2


def test_retrained_models_are_as_far_from_retrained_ones_as_their_null(arena, trained):
    found = distances(arena, retraining(), trained=trained)
    assert found["KLOM"]["value"] == pytest.approx(found["KLOM"]["null"], rel=0.25)
    assert found["forgetting score"]["value"] == pytest.approx(found["forgetting score"]["null"], rel=0.5)
    far = distances(arena, gradient_ascent(steps=20, learning_rate=0.5), trained=trained)
    assert far["KLOM"]["value"] > 2 * far["KLOM"]["null"]
    assert far["forgetting score"]["value"] < far["forgetting score"]["null"]
    json.dumps([found, far], allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 3}, "runs must be a whole number of at least 4"),
        ({"candidates": torch.arange(30, 60)}, "hold a row twice"),
        ({"candidates": torch.arange(40, 40)}, "not 0 candidates"),
        ({"retain": torch.arange(10)}, "20 candidates and 10 rows"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_a_bad_arena_is_refused_by_name(arena, change, message):
    with pytest.raises(ValueError, match=message):
        replace(arena, **change)


PRIVATE = DPTraining(sample_clip=1.0, noise_multiplier=5.0, sampling_rate=0.5, steps=2, group_size=1)
SMALL = Effort(replicates=200, seeds=8, runs=8)


def task(**fields):
    x, y = rows(120)
    parts = {
        "retain": Examples(x[:40], y[:40]), "forget": Examples(x[40:60], y[40:60]), "held_out": Examples(x[60:], y[60:]),
    }  # fmt: skip
    return Task(loss=loss, **(parts | {"model": make_model(), "make_model": make_model} | fields))


PROCEDURE = Procedure(recipe=RECIPE, epochs=1, training_epochs=2)


def audit(of, *, attacked=NOISY, procedure=PROCEDURE, **fields):
    way = recalled(attacked, procedure).unlearner
    return audit_task(of, way, attacked, **{"procedure": procedure, "effort": SMALL} | fields)


def test_the_audit_of_a_task_has_all_its_parts():
    found = audit(task())
    assert {f.attack.partition(":")[0].partition(",")[0] for f in found.findings} == {
        "two worlds", "null start", "membership", "canaries",
    }  # fmt: skip
    assert all(f.null is not None for f in found.findings)
    json.loads(found.to_json())


@pytest.mark.parametrize(
    ("fields", "attacked", "part", "reason"),
    [
        ({"make_model": None}, NOISY, "membership", "has no make_model"),
        ({"public": ("0*",)}, NOISY, "membership", "public parts or a centre"),
        ({"retain": [(torch.zeros(2, 40), torch.zeros(2).long())]}, NOISY, "membership", "must be Examples"),
        ({"model": nn.BatchNorm1d(40)}, NOISY, "null start", "buffer"),
        ({"make_model": None}, NOISY, "canaries", "has no make_model"),
        ({"public": ("0*",)}, NOISY, "canaries", "matches no parameter"),
        ({"forget": Examples(*rows(9)), "held_out": Examples(*rows(10))}, NOISY, "canaries", "at least 20 rows"),
        ({"held_out": None}, NOISY, "null start", "has no held_out"),
        ({"held_out": None}, NOISY, "membership", "task.held_out must be Examples"),
        ({"forget": Examples(*rows(9)), "held_out": None}, NOISY, "canaries", "at least 20 rows"),
        ({"held_out": Examples(a=torch.zeros(9, 40), labels=torch.zeros(9).long())}, NOISY, "membership", "task.held_out must be"),
        ({}, PRIVATE, "two worlds", "runs no steps on one vector"),
        ({}, PRIVATE, "membership", "cannot be made many at once"),
        ({}, PRIVATE, "null start", "has no start in a ball"),
        ({}, Retrain(), "two worlds", "exact: no noise to attack"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_apply_is_left_out_with_the_reason(fields, attacked, part, reason):
    assert reason in audit(task(**fields), attacked=attacked).details[part]["left_out"]


def test_a_model_too_large_for_shadow_models_is_audited_without_them():
    found = audit(task(), effort=replace(SMALL, runs=0))
    assert found.details["membership"]["left_out"] == "no shadow models were asked for"
    assert any(f.attack == "canaries: one training" for f in found.findings)


def test_a_request_of_one_row_is_audited_with_held_out_rows_as_canaries():
    x, y = rows(120)
    found = audit(task(forget=Examples(x[40:41], y[40:41])))
    assert found.details["canaries"]["candidates"] == {"forget": 1, "held_out": 60}
    assert [f.evidence.candidates for f in found.findings if f.attack.startswith("canaries")] == [61]


def test_a_task_without_held_out_data_is_audited_with_the_rows_of_the_request():
    found = audit(task(held_out=None))
    assert found.details["canaries"]["candidates"] == {"forget": 20, "held_out": 0}
    assert [f.evidence.candidates for f in found.findings if f.attack.startswith("canaries")] == [20]


def test_a_task_whose_data_are_not_parted_is_not_audited():
    with pytest.raises(TaskError, match="a request must name what is to be forgotten"):
        audit(Task(model=make_model(), loss=loss, data=Examples(*rows(40))))


class Normed(nn.Module):
    """A public first layer, BatchNorm, and a layer that is trained."""

    def __init__(self):
        super().__init__()
        self.front, self.norm, self.last = nn.Linear(40, 16), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 2)

    def forward(self, x):
        return self.last(self.norm(self.front(x)).relu())


def test_batch_norm_public_parts_and_a_centre_are_audited_run_by_run():
    found = audit(task(model=Normed(), make_model=Normed, public=("front.*",), buffers="reset"))
    assert {f.attack.partition(":")[0].partition(",")[0] for f in found.findings} == {
        "two worlds", "null start", "canaries",
    }  # fmt: skip
    assert found.details["null start"]["one by one"].startswith("8 runs from each start: ")
    assert "public parts or a centre" in found.details["membership"]["left_out"]
    centred = audit(task(center=make_model()))
    assert any(f.attack.startswith("canaries") for f in centred.findings)


def test_public_parts_are_the_tasks_own_and_are_not_trained_on_the_canaries(monkeypatch):
    seen = []
    forget = Noisy.forget
    monkeypatch.setattr(Noisy, "forget", lambda self, *args: seen.append(self.trained) or forget(self, *args))
    own = task(model=Normed(), make_model=Normed, public=("front.*", "norm.*"))
    audit(own, effort=replace(SMALL, runs=0))
    for name in ("front.weight", "front.bias", "norm.running_mean"):
        assert torch.equal(seen[-1].state_dict()[name], own.model.state_dict()[name])
    assert not torch.equal(seen[-1].last.weight, own.model.last.weight)


def test_under_the_centre_relation_one_run_is_compared_with_noise_alone():
    found = audit(task(), relation="center")
    assert {(f.attack, f.relation.value) for f in found.findings} == {("canaries: one training", "center")}
    assert "compares two runs" in found.details["two worlds"]["left_out"]


@pytest.mark.parametrize("confidence", [0.3, 1.0, 1 - 1e-12, float("nan")])
def test_a_bad_confidence_is_refused_before_anything_runs(confidence, monkeypatch):
    from expunge.attacks import task_audit

    monkeypatch.setattr(task_audit, "steps_worlds", lambda _how: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="confidence"):
        audit(task(), confidence=confidence)


def test_retraining_is_audited_by_canaries_too():
    assert [f.attack for f in audit(task(), attacked=Retrain()).findings][-1] == "canaries: one training"


def test_the_null_start_audit_runs_from_the_model_and_from_zero():
    """With next to no noise and no recovery the model keeps what it says, and zero says one class only."""
    model = make_model()
    x, _ = rows(60, seed=1)
    own = task(model=model, held_out=Examples(x, model(x).argmax(1)))
    silent = OutputPerturbation(init_clip=100.0, noise_std=1e-6)
    still = Recipe(learning_rate=1e-9, batch_size=20)
    how = Procedure(recipe=still, epochs=1, training_epochs=1, rescale=False)
    found = audit(own, attacked=silent, procedure=how).details["null start"]
    assert min(found["trained"]) == 1
    assert max(found["null"]) < 0.9


def test_an_interrupted_audit_goes_on_and_ends_as_the_whole_one(tmp_path, monkeypatch):
    from expunge.attacks import task_audit

    def interrupted(how):
        raise KeyboardInterrupt

    torch.manual_seed(0)
    of = task()
    whole = audit(of)
    with monkeypatch.context() as patch:
        patch.setattr(task_audit, "steps_membership", interrupted)
        with pytest.raises(KeyboardInterrupt):
            audit(of, state=tmp_path / "state")
    with monkeypatch.context() as patch:
        patch.setattr(task_audit, "steps_worlds", interrupted)  # this part is not run again
        assert audit(of, state=tmp_path / "state").to_json() == whole.to_json()
    assert not (tmp_path / "state").exists()


def test_a_state_of_other_settings_or_a_damaged_one_is_refused(tmp_path, monkeypatch):
    from expunge.attacks import task_audit

    def interrupted(how):
        raise KeyboardInterrupt

    state = tmp_path / "state"
    with monkeypatch.context() as patch:
        patch.setattr(task_audit, "starts_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            audit(task(), state=state)
    with pytest.raises(StateError, match="other settings"):
        audit(task(), state=state, seed=1)
    content = json.loads(state.read_text())
    content["parts"]["two worlds"]["findings"][0]["bounds"]["epsilon"] = 3.0
    state.write_text(json.dumps(content))
    with pytest.raises(StateError, match="follows from the evidence"):
        audit(task(), state=state)
    state.write_text("{")
    with pytest.raises(StateError, match="not a whole audit state"):
        audit(task(), state=state)
