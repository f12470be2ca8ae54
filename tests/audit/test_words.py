"""Every attack that an audit makes is explained to its readers."""

import itertools

import numpy as np
import pytest
import torch

from expunge import GradientClipping, MeasuredResidual, ModelClipping, OutputPerturbation
from expunge.attacks.residual import residual_worlds
from expunge.attacks.shadow_models import MEMBERSHIP_ATTACKS
from expunge.attacks.worlds import two_worlds
from expunge.audit import null_start
from expunge.audit.words import ATTACKS, MEASUREMENTS, explained, told

STEP = {"learning_rate": 0.1, "steps": 3, "noise_std": 1.0}
MECHANISMS = [
    GradientClipping(init_clip=1.0, grad_clip=1.0, weight_decay=0.5, **STEP),
    ModelClipping(model_clip=1.0, **STEP),
    OutputPerturbation(init_clip=1.0, noise_std=1.0),
]


def names() -> list[str]:
    coins = torch.Generator().manual_seed(0)
    found = [f for m in MECHANISMS for f in two_worlds(m, replicates=100, generator=coins).findings]
    convex = MeasuredResidual(residual=1e-6, strong_convexity=1e-2, noise_std=1e-3, provenance="random")
    found += residual_worlds(convex, replicates=100, generator=coins).findings
    found += null_start([0.5] * 8, [0.4] * 8, delta=1e-5, generator=np.random.default_rng(0), metric="accuracy")
    membership = [f"membership: {name}{how}" for name in MEMBERSHIP_ATTACKS for how in ("", ", one release")]
    return [*(f.attack for f in found), *membership, "canaries: one training"]


def test_every_attack_is_explained_and_every_explanation_is_of_an_attack():
    told = {name: explained(name) for name in names()}
    assert not [name for name, text in told.items() if text is None]
    assert {text[0] for text in told.values() if text} == set(ATTACKS)


def test_a_longer_name_is_not_taken_for_a_shorter_one():
    texts = [explained(f"membership: {name}") for name in ("LiRA", "U-LiRA", "LiRA, one release")]
    assert texts[0] == texts[2] != texts[1]
    assert explained("membership: LiRAX") is None
    assert explained("by hand") is None


@pytest.mark.parametrize("text", [*ATTACKS.values(), *MEASUREMENTS.values()])
def test_an_explanation_is_one_or_two_whole_sentences(text: str):
    assert text[0].isupper()
    assert text.endswith(".")
    assert 1 <= text.count(". ") + 1 <= 2


def test_a_measurement_of_another_name_is_not_explained():
    assert told("accuracy on rows learned, beside rows never seen") == MEASUREMENTS["accuracy on rows"]
    assert told("distance to retraining") == ""


def test_no_two_attacks_are_told_alike():
    assert all(one != other for one, other in itertools.combinations(ATTACKS.values(), 2))
