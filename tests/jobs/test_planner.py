"""The plan recommends the cheapest lane that meets the budget and keeps something, and says when there is none."""

import json
from dataclasses import replace
from math import inf

import pytest
import torch
from torch import nn

from expunge import (
    AnalyticHead,
    Budget,
    ConvexHead,
    Examples,
    GradientClipping,
    ModelClipping,
    OutputPerturbation,
    Recipe,
    calibrate,
    delta_at,
)
from expunge.jobs import planner
from expunge.jobs.comparison import featured
from expunge.jobs.digits import digits, mechanisms
from expunge.jobs.planner import plan
from expunge.trace import train_shards, train_traced

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
    assert option.reads == "the head's state and the retained features"
    assert "about 40 passes over them, a rule of thumb; a first one is fitted in about 250" in option.why


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


def everything(task):
    return Examples(
        *(torch.cat(pair) for pair in zip(task.retain.tensors, task.forget.tensors, strict=True)),
        ids=[*task.retain.ids, *task.forget.ids],
    )


def test_a_trace_says_how_many_steps_are_repeated(task, tmp_path):
    rows = everything(task)
    late = dict.fromkeys(task.forget.ids, 2)
    trace = train_traced(
        task.make_model, rows, loss=task.loss, epochs=3, steps_per_epoch=10, folder=tmp_path / "trace",
        recipe=Recipe(learning_rate=0.1), first_epochs=late, checkpoints=[20],
    )  # fmt: skip
    option = planned(task, trace=trace).option("replay")
    assert option.applies
    assert option.steps == 10
    assert "10 of 30 steps are repeated" in option.why


def test_shards_say_exactly_how_many_steps_are_repeated_and_what_is_expected(task, tmp_path):
    shards = train_shards(
        task.make_model, everything(task), loss=task.loss, shards=4, slices=3, steps_per_epoch=6, folder=tmp_path / "s",
        recipe=Recipe(learning_rate=0.1),
    )  # fmt: skip
    few = replace(task, forget=task.forget.take([0]), make_model=task.make_model)
    found = planned(few, shards=shards)
    option, cost = found.option("shards"), shards.cost(few.forget.ids)
    _, part = shards.plan.cell(shards.key, few.forget.ids[0])
    assert option.steps == cost.steps == sum(shards.plan.stage_steps[part:])
    assert (option.applies, option.kind, option.epsilon) == (True, "exact", 0.0)
    # one record: stage j (2, 4, 6 steps) is replayed with chance (j + 1)/3
    assert f"{option.steps} of 48 steps are repeated, in 1 of 4 shards" in option.why
    assert f"{2 / 3 + 8 / 3 + 6:.0f} on average" in option.why
    assert 0 < option.seconds < found.option("retrain").seconds
    assert "not trained in shards" in planned(task).option("shards").why
    stranger = replace(task, forget=task.held_out)
    assert "is not in the trace" in planned(stranger, shards=shards).option("shards").why
    assert "no make_model" in planned(replace(few, make_model=None), shards=shards).option("shards").why
    quick = planned(replace(few, features=None), shards=shards, training_epochs=1e6)
    assert (quick.recommended, quick.lane) == ("shards", "replay")


def test_a_replay_is_timed_with_batches_of_its_own_size_and_its_augmentation(task, tmp_path, monkeypatch):
    rows, calls, sizes = everything(task), [], []

    def augment(batch, generator):
        calls.append(len(batch[0]))
        return batch

    def loss(model, batch):
        sizes.append(len(batch[0]))
        return task.loss(model, batch)

    trace = train_traced(  # without the logs, which a trace refuses
        task.make_model, rows, loss=task.loss, epochs=2, steps_per_epoch=100, folder=tmp_path / "t",
        augment=lambda batch, generator: batch, recipe=Recipe(learning_rate=0.1),
    )  # fmt: skip
    planned(replace(task, loss=loss, augment=augment), trace=trace, recipe=Recipe(batch_size=64))
    assert set(sizes) == {64, *calls}
    assert 13 <= min(calls) == max(calls) <= 15  # 1,437 rows over 100 steps


def test_the_heads_are_as_wide_as_the_network_whatever_labels_are_forgotten(task, monkeypatch):
    zeros = task.forget.take((task.forget.tensors[1] == 0).nonzero()[:, 0])
    seen = []

    class Watched(AnalyticHead):
        def __init__(self, **settings):
            seen.append(settings["classes"])
            super().__init__(**settings)

    monkeypatch.setattr(planner, "AnalyticHead", Watched)
    made, real = [], torch.zeros
    monkeypatch.setattr(planner.torch, "zeros", lambda *size, **how: made.append(size) or real(*size, **how))
    planned(replace(task, forget=zeros))
    assert seen == [10, 10]
    assert (512, 10) in made


def test_labels_beyond_the_networks_outputs_and_one_output_are_no_case_for_a_head(task):
    narrow = replace(task, model=nn.Linear(64, 4), loss=lambda m, b: m(b[0]).square().mean())
    for lane in ("exact_ridge", "measured_residual"):
        assert planned(narrow).option(lane).why.startswith("the network has 4 outputs, and labels reach 9")
    one = replace(
        narrow, model=nn.Linear(64, 1),
        **{name: Examples(getattr(task, name).tensors[0], 0 * getattr(task, name).tensors[1]) for name in ("retain", "forget")},
    )  # fmt: skip
    assert planned(one).option("measured_residual").why == "it needs 2 outputs at least, the network has 1"


def test_a_head_at_hand_must_have_learned_the_forget_set(task):
    exact = AnalyticHead(ridge=1.0, classes=10, provenance=task.provenance)
    convex = ConvexHead(
        loss="squared", regularization=0.1, classes=10, residual=1e-6, noise_std=1.0, provenance=task.provenance,
        factor_limit=0,
    )  # fmt: skip
    rows = everything(task)
    wide = featured(task, rows)
    exact.learn(wide, rows.tensors[1], ids=rows.ids)
    convex.fit(Examples(wide, rows.tensors[1], ids=rows.ids))
    for head, lane, other in (
        (exact, "exact_ridge", "measured_residual"),
        (convex, "measured_residual", "exact_ridge"),
    ):
        found = planned(task, head=head)
        assert found.option(lane).applies
        assert "a first one" not in found.option(lane).why
        assert "a first one" in found.option(other).why
        strangers = Examples(*task.forget.tensors, ids=["nobody", *task.forget.ids[1:]])
        refused = planned(replace(task, forget=strangers), head=head)
        assert refused.option(lane).why.startswith("1 of the 144 forgotten rows were never learned by the head")
        assert not refused.option(lane).applies
        assert refused.option(other).applies


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


@pytest.mark.parametrize("settings", [{"learning_rate": 0.05}, {"steps": 4000}], ids=str)
def test_a_mechanism_that_leaves_nothing_of_the_weights_has_noise_beyond_any_number(task, settings):
    """All decays in one step, or in so many that what is left is no float: told, not divided by."""
    gone = calibrate(
        lambda s: GradientClipping(
            **{"init_clip": 0.5, "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 20.0, "steps": 50} | settings,
            noise_std=s,
        ),
        BUDGET,
    )
    found = planned(task, mechanisms={"gradient_clipping": gone})
    assert found.option("gradient_clipping").noise_to_weight == inf
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [o["noise_to_weight"] for o in plain["options"] if o["lane"] == "gradient_clipping"] == [None]
