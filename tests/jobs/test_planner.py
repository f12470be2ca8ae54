"""The plan recommends the cheapest unlearner that meets the budget and keeps something, and says when there is none."""

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
    Kind,
    ModelClipping,
    OutputPerturbation,
    Recipe,
    Relation,
    calibrate,
    delta_at,
)
from expunge.data import Batches
from expunge.jobs.digits_task import digits, mechanisms, unlearners
from expunge.jobs.planner import plan
from expunge.jobs.unlearning import chosen
from expunge.trace import train_shards, train_traced
from expunge.training.task import featured
from expunge.unlearners import grid_ridge, measured_residual
from expunge.unlearners.gradient_clipping import GradientClipping
from expunge.unlearners.grid_ridge import ExactHead
from expunge.unlearners.measured_residual import NoisyHead
from expunge.unlearners.replay import Replaying
from expunge.unlearners.retrain import Retraining
from expunge.unlearners.working import Run

BUDGET = Budget(epsilon=1.0, delta=1e-5)


@pytest.fixture(scope="module")
def task():
    return digits(0)


def planned(task, budget=BUDGET, *, noisy=None, batch_size=128, epochs=5, training_epochs=30, **how):
    """Of the noisy mechanisms (by default the demo's), retraining, heads and a replay."""
    training = {"epochs": epochs, "batch_size": batch_size}
    ways = [replace(way, **training) for way in unlearners(5).values()] if noisy is None else noisy
    own = {name: {one: how[one] for one in taken if one in how} for name, taken in TAKES.items()}
    others = [
        Retraining(epochs=training_epochs, batch_size=batch_size), ExactHead(**own["exact"]), NoisyHead(**own["noisy"]),
        Replaying(**own["replay"]),
    ]  # fmt: skip
    return plan(task, None, budget, unlearners=[*ways, *others])


TAKES = {"exact": ("ridge", "learned"), "noisy": ("learned",), "replay": ("traced",)}


@pytest.fixture
def steady(monkeypatch):
    """Every timing is a millisecond: what is recommended follows from how often a thing is done."""

    def millisecond(work):
        work()
        return 1e-3

    for room in ("costs", "grid_ridge", "measured_residual"):
        monkeypatch.setattr(f"expunge.unlearners.{room}.timed", millisecond)


@pytest.mark.usefixtures("steady")
def test_on_the_demo_it_recommends_the_exact_head(task):
    found = planned(task)
    assert found.name == "grid_ridge"
    assert found.recommended is found.unlearners[found.best]
    assert found.quote("grid_ridge").seconds < found.quote("retrain").seconds
    assert found.reason.startswith("It is the cheapest that meets epsilon=1, delta=1e-05, in about ")


@pytest.mark.usefixtures("steady")
def test_without_a_feature_map_it_says_that_nothing_beats_retraining(task):
    found = planned(replace(task, features=None))
    assert found.name == "retrain"
    assert "3 noisy methods are passed over: at this budget the noise leaves so little" in found.reason
    assert "Next time: train with a trace" in found.reason
    for name in ("grid_ridge", "measured_residual"):
        assert "names no feature map" in found.quote(name).why


def test_the_convex_head_meets_the_budget_and_reads_the_retained_features(task):
    option = planned(task).quote("measured_residual")
    assert option.claim.kind is Kind.EPSILON_DELTA
    assert option.claim.meets(BUDGET)
    assert option.guarantee == "epsilon=1"
    assert option.applies
    assert option.keeps
    assert option.reads == "the head's state and the retained features"
    assert "about 40 passes over them, a rule of thumb; a first one is fitted in about 250" in option.why


def test_a_noisy_mechanism_at_small_epsilon_saves_nothing(task):
    found = planned(task)
    for name, mechanism in mechanisms(BUDGET).items():
        option = found.quote(name)
        assert option.applies
        assert not option.keeps
        assert option.gap == delta_at(mechanism, 0.0)
        assert "training a new model for as long is as good" in option.why
    assert found.quote("output_perturbation").gap == pytest.approx(0.1066, abs=2e-4)


@pytest.mark.usefixtures("steady")
def test_at_a_large_epsilon_a_noisy_mechanism_may_be_recommended(task):
    large = Budget(epsilon=50.0, delta=1e-5)
    found = planned(replace(task, features=None), large, epochs=1)
    assert found.name in mechanisms(large)
    assert found.quote(found.name).keeps


def test_a_mechanism_beyond_the_budget_does_not_apply(task):
    loud = calibrate(lambda s: OutputPerturbation(init_clip=0.5, noise_std=s), Budget(epsilon=5.0, delta=1e-5))
    option = planned(task, noisy=[chosen(loud)]).quote("foreign")
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
    option = planned(task, traced=trace).quote("replay")
    assert option.applies
    assert option.steps == 10
    assert "10 of 30 steps are repeated" in option.why


def test_shards_say_exactly_how_many_steps_are_repeated_and_what_is_expected(task, tmp_path):
    shards = train_shards(
        task.make_model, everything(task), loss=task.loss, shards=4, slices=3, steps_per_epoch=6, folder=tmp_path / "s",
        recipe=Recipe(learning_rate=0.1),
    )  # fmt: skip
    few = replace(task, forget=task.forget.take([0]), make_model=task.make_model)
    found = planned(few, traced=shards)
    option, cost = found.quote("replay"), shards.cost(few.forget.ids)
    _, part = shards.plan.cell(shards.key, few.forget.ids[0])
    assert option.steps == cost.steps == sum(shards.plan.stage_steps[part:])
    assert (option.applies, option.guarantee) == (True, "exact")
    # one record: stage j (2, 4, 6 steps) is replayed with chance (j + 1)/3
    assert f"{option.steps} of 48 steps are repeated, in 1 of 4 shards" in option.why
    assert f"{2 / 3 + 8 / 3 + 6:.0f} on average" in option.why
    assert 0 < option.seconds < found.quote("retrain").seconds
    assert "left no trace" in planned(task).quote("replay").why
    stranger = replace(task, forget=task.held_out)
    assert "is not in the trace" in planned(stranger, traced=shards).quote("replay").why
    assert "no make_model" in planned(replace(few, make_model=None), traced=shards).quote("replay").why
    quick = planned(replace(few, features=None), traced=shards, training_epochs=1e6)
    assert quick.name == "replay"


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
    planned(replace(task, loss=loss, augment=augment), traced=trace, batch_size=64)
    assert set(sizes) == {64, *calls}
    assert 13 <= min(calls) == max(calls) <= 15  # 1,437 rows over 100 steps


def test_the_heads_are_as_wide_as_the_network_whatever_labels_are_forgotten(task, monkeypatch):
    zeros = task.forget.take((task.forget.tensors[1] == 0).nonzero()[:, 0])
    seen = []

    class Watched(AnalyticHead):
        def __init__(self, **settings):
            seen.append(settings["classes"])
            super().__init__(**settings)

    monkeypatch.setattr(grid_ridge, "AnalyticHead", Watched)
    made, real = [], torch.zeros
    monkeypatch.setattr(measured_residual.torch, "zeros", lambda *size, **how: made.append(size) or real(*size, **how))
    planned(replace(task, forget=zeros))
    assert seen == [10, 10]
    assert (512, 10) in made


def test_labels_beyond_the_networks_outputs_and_one_output_are_no_case_for_a_head(task):
    narrow = replace(task, model=nn.Linear(64, 4), loss=lambda m, b: m(b[0]).square().mean())
    for name in ("grid_ridge", "measured_residual"):
        assert planned(narrow).quote(name).why.startswith("the network has 4 outputs, and labels reach 9")
    one = replace(
        narrow, model=nn.Linear(64, 1),
        **{name: Examples(getattr(task, name).tensors[0], 0 * getattr(task, name).tensors[1]) for name in ("retain", "forget")},
    )  # fmt: skip
    assert planned(one).quote("measured_residual").why == "it needs 2 outputs at least, the network has 1"


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
    strangers = Examples(*task.forget.tensors, ids=["nobody", *task.forget.ids[1:]])
    for way in (ExactHead(learned=exact), NoisyHead(learned=convex)):
        found = plan(task, None, BUDGET, unlearners=[way]).quotes[0]
        assert found.applies
        assert "a first one" not in found.why
        assert "a first one" in plan(task, None, BUDGET, unlearners=[type(way)()]).quotes[0].why
        refused = plan(replace(task, forget=strangers), None, BUDGET, unlearners=[way]).quotes[0]
        assert refused.why.startswith("1 of the 144 forgotten rows were never learned by the head")
        assert not refused.applies


def test_what_does_not_apply_says_why(task):
    found = planned(replace(task, provenance="", make_model=None, model=nn.BatchNorm1d(64)), epochs=1)
    reasons = {quote.unlearner: quote.why for quote in found.quotes if not quote.applies}
    assert "not declared (provenance)" in reasons["grid_ridge"]
    assert "no make_model" in reasons["retrain"]
    assert "left no trace" in reasons["replay"]
    assert "buffer" in reasons["gradient_clipping"]
    assert (found.recommended, found.name) == (None, "none")
    assert found.reason.startswith("No way to unlearn applies to this task")


def test_it_changes_nothing_and_is_json(task):
    before = [p.clone() for p in task.model.parameters()]
    state = torch.get_rng_state()
    found = planned(task)
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    json.dumps(found.to_dict(), allow_nan=False)


def test_model_clipping_is_judged_by_its_profile_and_not_by_its_mu(task):
    chain = calibrate(lambda s: ModelClipping(model_clip=0.5, learning_rate=0.1, steps=50, noise_std=s), BUDGET)
    option = planned(task, noisy=[chosen(chain)]).quote("foreign")
    assert option.gap < 0.2 < chain.mu()


@pytest.mark.parametrize("field", ["epochs", "training_epochs", "ridge"])
def test_bad_settings_are_refused_by_name(task, field):
    with pytest.raises(ValueError, match=field.removeprefix("training_")):
        planned(task, **{field: 0})


def test_a_forget_set_that_cannot_be_counted_is_refused(task):
    with pytest.raises(ValueError, match=r"task\.forget must be Examples"):
        planned(replace(task, forget=[task.forget.tensors]))


@pytest.mark.parametrize("settings", [{"learning_rate": 0.05}, {"steps": 4000}], ids=str)
def test_a_mechanism_that_leaves_nothing_of_the_weights_has_noise_beyond_any_number(task, settings):
    """All decays in one step, or in so many that what is left is no float: told, not divided by."""
    found = planned(task, noisy=[GradientClipping(**settings)])
    assert found.quote("gradient_clipping").noise_to_weight == inf
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [q["noise_to_weight"] for q in plain["quotes"] if q["unlearner"] == "gradient_clipping"] == [None]


def test_a_table_of_all_ways_with_the_reason_below(task):
    found = plan(task, None, BUDGET, unlearners=[Retraining(epochs=1), ExactHead()])
    lines = str(found).splitlines()
    assert lines[0].split() == ["unlearner", "guarantee", "steps", "seconds"]
    assert [line.split()[:2] for line in lines[1:3]] == [["retrain", "exact"], ["grid_ridge", "exact"]]
    assert f"Recommended: {found.name}. It is the cheapest that meets" in str(found)
    assert all(len(line) <= 80 for line in lines)


def test_the_table_says_why_a_way_does_not_apply(task):
    found = str(plan(replace(task, features=None), None, BUDGET, unlearners=[ExactHead(), Replaying()]))
    assert "does not apply: the task names no feature map" in found
    assert all(len(line) <= 80 for line in found.splitlines())


def test_retraining_takes_as_many_epochs_as_the_trained_model_took(task, steady):
    """The caller's number goes first, then the task's; a number that nobody has said is called assumed, wherever it is told."""
    for way, told, epochs in (
        (Retraining(batch_size=129), 12, 12),
        (Retraining(batch_size=129, epochs=2), 12, 2),
        (Retraining(batch_size=129, epochs=2), None, 2),
        (Retraining(batch_size=129), None, 5),
    ):
        own = replace(task, training_epochs=told)
        found = plan(own, None, BUDGET, unlearners=[way])
        quote, steps = found.quotes[0], epochs * Batches(own.retain, batch_size=129, seed=0).per_epoch
        assert quote.steps == steps
        assumed = (way.epochs, told) == (None, None)
        assert ("Assumes 5 epochs, as task.training_epochs does not say" in " ".join(str(found).split())) == assumed
        assert ("This assumes 5 epochs" in found.reason) == assumed
        assert (str(found).splitlines()[1][-2:] == " *") == assumed
        assert bool(found.to_dict()["quotes"][0]["assumed"]) == assumed
        assert way.fresh(own)[0] == epochs
    assert not plan(task, None, BUDGET, unlearners=[ExactHead()]).quotes[0].assumed


def test_a_retraining_runs_as_long_as_was_quoted(task):
    own = replace(task, training_epochs=2)
    done = [way.forget(own, BUDGET, Relation.RETRAINED, Run(seed=0)) for way in (Retraining(), Retraining(epochs=2))]
    assert [one.record.procedure["training"]["epochs"] for one in done] == [2, 2]
    assert torch.equal(done[0].model[0].weight, done[1].model[0].weight)
