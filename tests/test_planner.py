"""The plan recommends the cheapest lane that meets the budget and keeps something, and says when there is none."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from expunge import Budget, Examples, ModelClipping, OutputPerturbation, Recipe, calibrate, delta_at
from expunge.demo import digits, mechanisms
from expunge.planner import plan
from expunge.trace import train_traced

BUDGET = Budget(epsilon=1.0, delta=1e-5)


@pytest.fixture(scope="module")
def task():
    return digits(0)


def planned(task, budget=BUDGET, **how):
    return plan(task, budget, **{"mechanisms": mechanisms(budget)} | how)


def test_on_the_demo_it_recommends_the_exact_head(task):
    found = planned(task)
    assert found.recommended == "exact_ridge"
    assert found.option("exact_ridge").seconds < found.option("retrain").seconds
    assert "times as fast as retraining" in found.reason


def test_without_a_feature_map_it_says_that_nothing_beats_retraining(task):
    found = planned(replace(task, features=None))
    assert found.recommended == "retrain"
    assert "nothing that proves (1, 1e-05) and keeps anything is cheaper" in found.reason
    for lane in ("exact_ridge", "measured_residual"):
        assert "names no feature map" in found.option(lane).why


def test_the_convex_head_meets_the_budget_and_reads_the_retained_features(task):
    option = planned(task).option("measured_residual")
    assert (option.epsilon, option.delta, option.kind) == (1.0, 1e-5, "epsilon_delta")
    assert option.applies
    assert option.keeps
    assert option.reads == "retained features"


def test_a_noisy_mechanism_at_small_epsilon_saves_nothing(task):
    found = planned(task)
    for name, mechanism in mechanisms(BUDGET).items():
        option = found.option(name)
        assert option.applies
        assert not option.keeps
        assert option.gap == delta_at(mechanism, 0.0)
        assert "saves nothing: a start that never saw data" in option.why
    assert found.option("output_perturbation").gap == pytest.approx(0.1066, abs=2e-4)


def test_at_a_large_epsilon_a_noisy_mechanism_may_be_recommended(task):
    large = Budget(epsilon=50.0, delta=1e-5)
    found = planned(replace(task, features=None), large, recovery_epochs=1)
    assert found.recommended in mechanisms(large)
    assert found.option(found.recommended).keeps


def test_a_mechanism_beyond_the_budget_does_not_apply(task):
    loud = calibrate(lambda s: OutputPerturbation(init_clip=0.5, noise_std=s), Budget(epsilon=5.0, delta=1e-5))
    option = planned(task, mechanisms={"output_perturbation": loud}).option("output_perturbation")
    assert not option.applies
    assert option.why.startswith("proves epsilon=5 only, 1 is asked")


def test_a_trace_says_how_many_steps_are_repeated(task, tmp_path):
    rows = Examples(
        *(torch.cat(pair) for pair in zip(task.retain.tensors, task.forget.tensors, strict=True)),
        ids=[*task.retain.ids, *task.forget.ids],
    )
    late = dict.fromkeys(task.forget.ids, 2)
    trace = train_traced(
        task.make_model, rows, loss=task.loss, epochs=3, steps_per_epoch=10, folder=tmp_path / "trace",
        recipe=Recipe(learning_rate=0.1), first_epochs=late, checkpoints=[20],
    )  # fmt: skip
    option = planned(task, trace=trace).option("replay")
    assert option.applies
    assert option.steps == 10
    assert "10 of 30 steps are repeated" in option.why


def test_what_does_not_apply_says_why(task):
    found = planned(replace(task, provenance="", make_model=None, model=nn.BatchNorm1d(64)), recovery_epochs=1)
    reasons = {option.lane: option.why for option in found.options if not option.applies}
    assert "not declared (provenance)" in reasons["exact_ridge"]
    assert "no make_model" in reasons["retrain"]
    assert "left no trace" in reasons["replay"]
    assert "buffer" in reasons["gradient_clipping"]
    assert (found.recommended, found.reason) == ("none", "no lane applies; see the reasons")


def test_it_changes_nothing_and_is_json(task):
    before = [p.clone() for p in task.model.parameters()]
    state = torch.get_rng_state()
    found = planned(task)
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    json.dumps(found.to_dict(), allow_nan=False)


def test_model_clipping_is_judged_by_its_profile_and_not_by_its_mu(task):
    chain = calibrate(lambda s: ModelClipping(model_clip=0.5, learning_rate=0.1, steps=50, noise_std=s), BUDGET)
    option = planned(task, mechanisms={"model_clipping": chain}).option("model_clipping")
    assert option.gap < 0.2 < chain.mu()


@pytest.mark.parametrize("field", ["recovery_epochs", "training_epochs", "ridge"])
def test_bad_settings_are_refused_by_name(task, field):
    with pytest.raises(ValueError, match=field):
        planned(task, **{field: 0})


def test_a_forget_set_that_cannot_be_counted_is_refused(task):
    with pytest.raises(ValueError, match=r"task\.forget must be Examples"):
        planned(replace(task, forget=[task.forget.tensors]))
