"""Canaries through the protocol of unlearners: what remembers is refuted, what forgets is not, whoever wrote it."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import expunge as ex
from expunge import Budget, Examples, Recipe, Relation, Task, guarantee
from expunge.attacks.canaries_of_unlearners import canaries_part, unlearner_canaries
from expunge.attacks.parts import Effort, How
from expunge.audit import Measurement
from expunge.unlearners.dp_training import PrivateTraining
from expunge.unlearners.plain import Plain
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.replay import Replaying
from expunge.unlearners.table import recalled

RECIPE = Recipe(learning_rate=0.5, batch_size=20, weight_decay=0.0)
EXACT = guarantee(ex.Retrain(), delta=1e-5)
BUDGET = Budget(epsilon=1.0, delta=1e-5)
LITTLE = Budget(epsilon=0.3, delta=1e-5)  # below what a hundred coins can show
DECLARED = {"provenance": "the rows themselves"}


def rows(n, seed, name, d=300):
    """Random labels: only learning by heart helps."""
    coins = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=coins)
    return Examples(torch.randn(n, d, generator=coins), labels, ids=[f"{name}{k}" for k in range(n)])


RETAIN, CANDIDATES = rows(60, 0, "r"), rows(200, 1, "c")


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make_model():
    return nn.Linear(300, 2)


def with_batchnorm():
    return nn.Sequential(nn.Linear(300, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def task(make=make_model, **fields):
    parts = {"retain": RETAIN, "forget": CANDIDATES, "held_out": rows(20, 2, "h"), "features": lambda x: x}
    return Task(model=make(), make_model=make, loss=loss, **parts | fields)


def how(unlearner, mechanism, of=None, *, epochs=20, **fields):
    plain = {
        "budget": BUDGET, "relation": Relation.RETRAINED, "delta": 1e-5, "confidence": 0.99, "effort": Effort.quick(),
        "seed": 3, "procedure": Procedure(recipe=RECIPE, epochs=1, training_epochs=epochs), "assumed": {},
    }  # fmt: skip
    return How(task=of or task(), unlearner=unlearner, mechanism=mechanism, **plain | fields)


def attacked(unlearner, mechanism, of=None, **fields):
    return unlearner_canaries(how(unlearner, mechanism, of, **fields), RETAIN, CANDIDATES)


def replaying(kind=Replaying, **options):
    return kind(recipe=RECIPE, **{"epochs": 20} | options)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_replay_is_not_refuted_and_has_the_bits_of_a_training_without_the_rows(shards):
    found = attacked(replaying(shards=shards), ex.Replay(shards=shards))
    assert not found.findings[0].refutes(EXACT)
    assert abs(found.details["auc"] - 0.5) < 0.12
    assert (found.details["bits"]["differ"], found.details["bits"]["largest"]) == (0.0, 0.0)


def test_buffers_dropout_and_augmentation_have_equal_bits_too():
    def augment(batch, generator):
        return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]

    found = attacked(replaying(epochs=3), ex.Replay(), task(with_batchnorm, augment=augment))
    assert found.details["bits"]["differ"] == 0


class Skipping(Replaying):
    """The replay is skipped."""

    def forget(self, task, budget, relation, run):
        done = super().forget(task, budget, relation, run)
        return replace(done, model=self.before)

    def learn(self, task, rows, run):
        learned = super().learn(task, rows, run)
        object.__setattr__(learned, "before", learned.traced.model(make_model))
        return learned


def test_a_replay_that_is_skipped_is_refuted_and_its_bits_differ():
    found = attacked(replaying(Skipping), ex.Replay())
    assert found.findings[0].refutes(EXACT)
    assert found.details["auc"] > 0.75
    assert found.details["bits"]["differ"] > 0.5
    assert found.findings[0].null_epsilon < 0.5
    measured = Measurement.from_dict(found.details["measurements"][0])
    assert measured.values["low"] > measured.values["null_high"]
    told = Measurement.from_dict(found.details["measurements"][1])
    assert told.name.startswith("information of predicted labels")
    assert told.value == pytest.approx(told.null, abs=0.1)  # learned by heart, so that labels tell what true ones do


HEADS = {
    "exact": ex.GridRidge(ridge=0.1, grid=2.0**-12, rounding=1e-9, **DECLARED),
    "of an earlier version": ex.ExactRidge(ridge=0.1, rounding=1e-9, **DECLARED),
    "convex": ex.MeasuredResidual(residual=1e-8, strong_convexity=1e-2, noise_std=1e-4, **DECLARED),
    "undeclared": ex.UndeclaredFeatures(head="exact_ridge"),
}


def released_as_it_was(self, rows, request, *, generator=None):
    return self._release(self.solution, self._width, generator, coverage="ledger")


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_not_refuted_and_is_where_its_request_is_skipped(kind, monkeypatch):
    way = recalled(HEADS[kind], Procedure()).unlearner
    found = attacked(way, HEADS[kind])
    assert not found.findings[0].refutes(EXACT)
    assert found.details["auc"] < 0.62
    monkeypatch.setattr(ex.AnalyticHead, "forget", lambda self, X, Y, *, ids: None)
    monkeypatch.setattr(ex.ConvexHead, "unlearn", released_as_it_was)
    found = attacked(way, HEADS[kind])
    assert found.findings[0].refutes(EXACT)
    assert found.details["auc"] > 0.7


WIDE = (rows(60, 0, "r", d=1000), rows(200, 1, "c", d=1000))  # in which clipped gradients learn single rows by heart


def wide_model():
    return nn.Linear(1000, 2)


def private(group_size=1, **options):
    plain = {"sample_clip": 1.0, "sampling_rate": 0.5, "private_steps": 30, "expected_batch": 30.0, "private_lr": 1.0}
    return PrivateTraining(group_size=group_size, **plain | options)


@dataclass(frozen=True, kw_only=True)
class WithoutNoise:
    """A private training that claims its noise and leaves it out."""

    claimed: PrivateTraining
    trained: Any = None
    name = "without noise"
    reads = "all data"

    def mechanism(self, *of):
        return self.claimed.mechanism(*of)

    def learn(self, task, rows, run):
        silent = replace(self.claimed, noise_multiplier=1e-3).learn(task, rows, run).released()
        claims = replace(silent.record, mechanism=self.mechanism(task, LITTLE, Relation.RETRAINED))
        return replace(self, trained=replace(silent, record=claims))

    def released(self):
        return self.trained

    def quote(self, *of):
        return self.claimed.quote(*of)

    def forget(self, *of):
        return self.trained


@pytest.mark.parametrize("group_size", [1, 2])
def test_private_training_is_not_refuted_and_is_where_its_noise_is_left_out(group_size):
    """Every group of the size that is claimed has a coin, and each is guessed for itself."""
    sound = private(group_size)
    mechanism = sound.mechanism(task(), LITTLE, Relation.RETRAINED)
    claim, of = guarantee(mechanism, delta=1e-5), task(wide_model, retain=WIDE[0], forget=WIDE[1], held_out=None)
    sound = replace(sound, noise_multiplier=mechanism.noise_multiplier)
    for way, is_refuted in ((sound, False), (WithoutNoise(claimed=sound), True)):
        found = unlearner_canaries(how(way, mechanism, of, budget=LITTLE), *WIDE)
        (finding,) = found.findings
        assert finding.evidence.kind == "one_run"
        assert finding.evidence.canaries == 100 // group_size
        assert finding.refutes(claim) is is_refuted
        assert finding.null_epsilon < 0.9
        finding.refuse_other(claim, largest=group_size)  # as `verify` asks of a finding


def test_a_private_training_whose_group_covers_all_candidates_is_guessed_together():
    mechanism = private(200, noise_multiplier=500.0).mechanism(task(), BUDGET, Relation.RETRAINED)
    found = attacked(private(200, noise_multiplier=500.0), mechanism)
    assert found.findings[0].evidence.kind == "joint_guesses"


def test_a_training_under_another_claim_than_the_attacked_one_is_left_out():
    claimed = private(noise_multiplier=9.0).mechanism(task(), BUDGET, Relation.RETRAINED)
    found, details = canaries_part(how(private(noise_multiplier=8.0), claimed))
    assert found == []
    assert "what was learned proves" in details["left_out"]


def test_a_claim_about_single_rows_without_a_shared_release_is_left_out_with_the_reason():
    claimed = private(noise_multiplier=9.0)
    mechanism = claimed.mechanism(task(), BUDGET, Relation.RETRAINED)
    found, details = canaries_part(how(Plain(lambda model, _retain, _forget: None), mechanism))
    assert found == []
    assert "no release is shared by many" in details["left_out"]


def tuned(model, retain, forget):
    """Anybody's: trains on for a while, and returns the model that it was given."""
    ex.recover(model, retain, loss=loss, epochs=1, recipe=RECIPE)


@pytest.mark.parametrize(("function", "is_refuted"), [(tuned, True), (lambda *_: make_model(), False)])
def test_a_plain_function_is_attacked_on_a_model_that_was_trained_on_the_canaries(function, is_refuted):
    """It learns nothing itself: the task that it is given holds a model of the retained rows and half of the candidates."""
    found = attacked(Plain(function), ex.Retrain())
    assert found.findings[0].refutes(EXACT) is is_refuted


def test_a_seed_repeats_an_audit_with_all_its_coins():
    first, again = (attacked(replaying(epochs=2), ex.Replay()) for _ in range(2))
    assert first.findings == again.findings
    assert first.details == again.details


def test_rows_whose_answers_are_not_right_or_wrong_are_not_measured():
    own = task(accuracy=lambda model, batch: torch.full((len(batch[0]),), 0.5))
    found = attacked(replaying(epochs=2), ex.Replay(), own)
    assert "measurements" not in found.details
    assert "not measured: answers are not right or wrong" in found.details["accuracy of canaries"]
