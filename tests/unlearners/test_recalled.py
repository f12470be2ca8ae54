"""Every mechanism of the closed table leads back to an unlearner that runs it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import expunge as ex
from expunge.accounting import MECHANISMS
from expunge.unlearners.capabilities import AtOnce, Fresh, Minimiser, OwnModule, SameBits, StartsInBall, Steps, Sums
from expunge.unlearners.dp_training import PrivateTraining
from expunge.unlearners.recalled import EVERY_SETTING, Procedure
from expunge.unlearners.table import recalled
from expunge.unlearners.working import Run

NOISY = {"grad_clip": 1.0, "weight_decay": 0.5, "noise_std": 0.7}
DECLARED = {"provenance": "random layer"}
OURS = {
    type(m): (m, capabilities)
    for m, capabilities in (
        (ex.GradientClipping(init_clip=0.3, learning_rate=0.1, steps=3, **NOISY), {Steps, StartsInBall}),
        (
            ex.ScheduledGradientClipping(
                init_clip=0.3, learning_rate=(0.1, 0.05), **(NOISY | {"noise_std": (0.5, 0.7)})
            ),
            {Steps, StartsInBall},
        ),
        (
            ex.BlockwiseGradientClipping(
                block_sizes=(82,), block_clips=(0.3,), learning_rate=0.1, steps=2, blind=True, **NOISY
            ),
            {Steps, StartsInBall},
        ),
        (
            ex.ModelClipping(model_clip=0.4, learning_rate=0.1, weight_decay=0.5, steps=3, noise_std=0.7),
            {Steps, StartsInBall},
        ),
        (ex.OutputPerturbation(init_clip=0.3, noise_std=0.7), {Steps, StartsInBall}),
        (ex.Retrain(), {Fresh}),
        (ex.GridRidge(ridge=0.5, grid=2.0**-10, rounding=1e-8, **DECLARED), {Sums, SameBits}),
        (ex.ExactRidge(ridge=0.5, rounding=1e-8, **DECLARED), {Sums, SameBits}),
        (ex.MeasuredResidual(residual=1e-6, strong_convexity=1e-2, noise_std=1e-3, **DECLARED), {Minimiser}),
        (ex.UndeclaredFeatures(head="exact_ridge"), {Sums, SameBits}),
        (ex.accounting.Unproven(method="scrub"), set()),
        (ex.accounting.Prune(layers=("linear", "relu", "linear"), input_shape=(40,), lowest=-4.0, highest=4.0, patches=1, margin=0.1), {OwnModule}),
        (ex.Replay(shards=2), {SameBits}),
        (
            ex.DPTraining(sample_clip=1.0, noise_multiplier=2.0, sampling_rate=0.5, steps=3, group_size=1),
            {AtOnce},
        ),
    )
}  # fmt: skip
CAPABILITIES = {AtOnce, Fresh, Minimiser, OwnModule, SameBits, StartsInBall, Steps, Sums}


def task():
    coins = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 40, generator=coins), torch.randint(2, (60,), generator=coins)
    parts = {
        name: ex.Examples(x[k : k + 20], y[k : k + 20], ids=[f"{name}{i}" for i in range(20)])
        for name, k in (("retain", 0), ("forget", 20), ("held_out", 40))
    }
    return ex.Task(
        model=nn.Linear(40, 2), make_model=lambda: nn.Linear(40, 2), features=lambda x: x, provenance="random layer",
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), **parts,
    )  # fmt: skip


def test_no_mechanism_of_the_table_is_missing_here():
    assert set(OURS) == set(MECHANISMS.values())


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name)
def test_a_mechanism_is_recalled_with_what_its_unlearner_can_do(kind):
    mechanism, capabilities = OURS[kind]
    found = recalled(mechanism, Procedure())
    assert {one for one in CAPABILITIES if isinstance(found.unlearner, one)} == capabilities
    assert found.reads <= EVERY_SETTING


@pytest.mark.parametrize(
    "kind",
    [k for k in OURS if k not in (ex.ExactRidge, ex.UndeclaredFeatures, ex.accounting.Prune)],
    ids=lambda kind: kind.name,
)
def test_a_recalled_unlearner_learns_and_forgets_under_the_mechanism_of_the_certificate(kind, tmp_path):
    """And the same seed gives the same bits, training included."""
    mechanism, _ = OURS[kind]
    recipe = ex.Recipe(learning_rate=0.1, batch_size=10, weight_decay=0.0)
    own, ways = task(), []
    few = own.forget.take([0])
    for folder in ("one", "other"):
        way = recalled(mechanism, Procedure(recipe=recipe, epochs=1, training_epochs=2)).unlearner
        learned = way.learn(
            own, ex.Examples(*(torch.cat(p) for p in zip(own.retain.tensors, few.tensors, strict=True)),
                             ids=[*own.retain.ids, *few.ids]),
            Run(folder=tmp_path / folder, seed=3),
        )  # fmt: skip
        done = learned.forget(
            replace(own, forget=few), ex.Budget(epsilon=1.0, delta=1e-5), ex.Relation.RETRAINED, Run(seed=3)
        )
        assert done.record.mechanism == mechanism
        ways.append(done.predict(own.held_out))
    assert torch.equal(*ways)


def test_the_descent_of_a_private_training_is_that_of_the_record_or_assumed_and_named():
    mechanism, _ = OURS[ex.DPTraining]
    recorded = {"learning_rate": 0.25, "momentum": 0.5, "expected_batch": 30.0}
    known = recalled(mechanism, Procedure(of_training=recorded))
    way = known.unlearner
    assert isinstance(way, PrivateTraining)
    assert (way.private_lr, way.momentum, way.expected_batch, dict(known.assumed)) == (0.25, 0.5, 30.0, {})
    for other in ({}, {"optimizer": "sgd", "learning_rate": 0.25}):
        unknown = recalled(mechanism, Procedure(of_training=other))
        assert unknown.unlearner == replace(way, private_lr=0.5, momentum=0.0, expected_batch=None)
        assert set(unknown.assumed) == {"learning_rate", "momentum", "expected_batch"}


@dataclass(frozen=True, kw_only=True)
class Strange(ex.OutputPerturbation):
    """In no table."""

    name: ClassVar[str] = "strange"


def test_a_mechanism_of_no_unlearner_is_refused():
    with pytest.raises(TypeError, match="no unlearner runs Strange"):
        recalled(Strange(init_clip=1.0, noise_std=1.0), Procedure())
