"""The two worlds of a measured residual come near the claim, never above it, and refute what is wrong with a head."""

from dataclasses import replace
from fractions import Fraction
from math import inf, sqrt

import pytest
import torch

from expunge import MeasuredResidual, OutputPerturbation, guarantee
from expunge.attacks import residual_worlds, two_worlds
from expunge.attacks.residual import _lost_gradient, _unseen_feature
from expunge.heads.newton import minimise
from expunge.heads.objectives import Objective
from expunge.training.noise import Noise

DELTA = 1e-5
UNSEEN, LOST = "a feature that no row has", "a gradient that rounding loses"
# μ = 1; β so small that rounding can lose a gradient of several β.
TIGHT = MeasuredResidual(residual=1e-12, strong_convexity=1e-2, noise_std=1e-10, provenance="pixels")
USUAL = MeasuredResidual(residual=1e-9, strong_convexity=1e-4, noise_std=1e-5, provenance="pixels")


def attack(mechanism, *, seed=0, replicates=20_000, **how):
    coins = torch.Generator().manual_seed(seed)
    return residual_worlds(mechanism, delta=DELTA, generator=coins, replicates=replicates, **how)


def refuted(mechanism, seen, *, claim=None):
    claim = claim or guarantee(mechanism, delta=DELTA)
    return {f.attack.partition(", ")[2].partition(":")[0] for f in seen.findings if f.refutes(claim)}


@pytest.mark.parametrize("mechanism", [TIGHT, USUAL], ids=["small residual", "usual residual"])
def test_the_bound_comes_near_the_claim_and_never_above_it(mechanism):
    seen = attack(mechanism, replicates=100_000)
    fit = next(f for f in seen.findings if "fit" in f.attack)
    assert 0.97 * mechanism.mu() < fit.mu < mechanism.mu()
    assert max(f.epsilon for f in seen.findings) < guarantee(mechanism, delta=DELTA).epsilon
    assert refuted(mechanism, seen) == set()
    assert all(f.null_epsilon < 0.5 for f in seen.findings)


@pytest.mark.parametrize("residual", [1e-14, 1e-9, 1e-3])
@pytest.mark.parametrize("convexity", [1e-6, 1e-2, 10.0])
def test_the_search_is_left_as_far_from_the_minimiser_as_the_theorem_allows(residual, convexity):
    mechanism = MeasuredResidual(
        residual=residual, strong_convexity=convexity, noise_std=residual / convexity, provenance="pixels"
    )
    held = attack(mechanism, replicates=100).details[UNSEEN]
    assert 1 - 1e-5 < held["distance"] / held["allowed"] <= 1


def test_half_the_true_claim_is_refuted():
    half = replace(TIGHT, noise_std=2 * TIGHT.noise_std)
    assert refuted(TIGHT, attack(TIGHT), claim=guarantee(half, delta=DELTA)) == {UNSEEN}
    lower = replace(guarantee(TIGHT, delta=DELTA), mu=inf, epsilon=guarantee(TIGHT, delta=DELTA).epsilon / 2)
    assert refuted(TIGHT, attack(TIGHT), claim=lower) == {UNSEEN}


def test_noise_that_is_a_tenth_too_small_is_refuted():
    seen = attack(TIGHT, noise=lambda std, generator: Noise(0.9 * std, generator), replicates=100_000)
    assert refuted(TIGHT, seen) == {UNSEEN}


def test_noise_that_is_left_out_is_refuted():
    class Silent:
        def __init__(self, std, generator):
            pass

        def add_(self, theta):
            return theta

    assert refuted(TIGHT, attack(TIGHT, noise=Silent)) == {UNSEEN}


def test_a_search_that_accepts_twice_the_residual_is_refuted():
    def lax(objective, start, *, residual, preconditioner):
        return minimise(objective, start, residual=2 * residual, preconditioner=preconditioner)

    assert refuted(TIGHT, attack(TIGHT, solver=lax)) == {UNSEEN}


def test_a_residual_without_the_regulariser_is_refuted():
    class Unregularised(Objective):
        def measure(self, w):
            seen = super().measure(w)
            gradient = seen.gradient - self.regularization * w
            return replace(seen, gradient=gradient, norm=float(gradient.norm()))

    assert refuted(USUAL, attack(USUAL, objective=Unregularised)) == {UNSEEN}


def test_a_residual_without_its_rounding_bound_is_refuted():
    class Unrounded(Objective):
        def measure(self, w):
            return replace(super().measure(w), bound=0.0)

    seen = attack(TIGHT, objective=Unrounded)
    assert refuted(TIGHT, seen) == {LOST}
    assert seen.details[LOST]["distance"] > 2 * TIGHT.surviving_norm


def test_with_its_rounding_bound_the_search_refuses_the_gradient_that_rounding_loses():
    seen = attack(TIGHT)
    assert "refuses" in seen.details[LOST]["left_out"]
    assert "cannot be certified" in seen.details[LOST]["left_out"]
    assert {f.attack.partition(":")[0] for f in seen.findings} == {f"two worlds, {UNSEEN}"}


def test_for_a_large_residual_no_gradient_can_be_lost():
    assert attack(USUAL).details[LOST] == {"left_out": "no rows do that for so large a residual"}


def exact_gradient(scene, w, convexity):
    """∇F of the smooth hinge in rational arithmetic, output by output."""
    x, y = (t.tolist() for t in scene.rows.tensors)
    gradient = [[Fraction(convexity) * Fraction(v) for v in row] for row in w]
    for row, label in zip(x, y, strict=True):
        exact = [Fraction(v) for v in row]
        for k in (0, 1):
            sign = 1 if label == k else -1
            margin = sign * sum(Fraction(v) * a for v, a in zip(w[k], exact, strict=True))
            slope = -sign * min(max(1 - margin, Fraction(0)), Fraction(1))
            for c in (0, 1):
                gradient[k][c] += slope * exact[c] / len(x)
    return sqrt(float(sum(g * g for row in gradient for g in row)))


def test_the_minimiser_of_the_lost_gradient_is_one_in_exact_arithmetic_and_its_start_is_not():
    scene = _lost_gradient(TIGHT)
    at_minimiser, at_start = (
        exact_gradient(scene, w.tolist(), TIGHT.strong_convexity) for w in (scene.minimiser, scene.start)
    )
    assert at_minimiser < 1e-3 * TIGHT.residual
    assert at_start > 2 * TIGHT.residual
    assert scene.distance(scene.start) == pytest.approx(at_start / TIGHT.strong_convexity, rel=1e-3)


def test_the_minimiser_of_the_unseen_feature_has_no_gradient_at_all():
    scene = _unseen_feature(USUAL)
    x, y = scene.rows.tensors
    for column in (0, 1):  # at W = 0 a slope depends on the label alone: plus or minus a half
        assert sum(Fraction(v) * (1 - 2 * k) for v, k in zip(x[:, column].tolist(), y.tolist(), strict=True)) == 0


@pytest.mark.long
def test_a_sound_head_is_refuted_no_more_often_than_promised():
    """200 audits of a tight claim at confidence 0.8 in all."""
    wrong = sum(bool(refuted(USUAL, attack(USUAL, seed=k, replicates=1000, confidence=0.8))) for k in range(200))
    assert wrong <= 200 * 0.2 + 3 * sqrt(200 * 0.2 * 0.8)


def test_seeds_repeat_and_the_findings_share_the_chance_of_being_wrong():
    first, again = (attack(USUAL, replicates=500, seed=7, confidence=0.9).findings for _ in range(2))
    assert [f.evidence for f in first] == [f.evidence for f in again]
    assert sum(1 - f.confidence for f in first) == pytest.approx(0.1)


def test_other_mechanisms_are_sent_to_the_attack_that_takes_them():
    with pytest.raises(TypeError, match="see two_worlds"):
        residual_worlds(OutputPerturbation(init_clip=1.0, noise_std=1.0))
    with pytest.raises(TypeError, match="use residual_worlds"):
        two_worlds(USUAL)


@pytest.mark.parametrize(
    ("fields", "name"), [({"replicates": 99}, "replicates"), ({"delta": 0.0}, "delta"), ({"confidence": 1.0}, "conf")]
)
def test_bad_input_is_refused_by_name(fields, name):
    with pytest.raises(ValueError, match=name):
        residual_worlds(USUAL, **fields)
