"""The challenge's scores are those of its rules, written out a second time."""

from math import ceil, inf, log

import numpy as np
import pytest

from audit_outputs import outputs
from expunge.audit.distance import HIGHER
from expunge.audit.forgetting import challenge_score, forgetting_score


def epsilon_by_the_grid(u, r, delta=1e-5):
    """The challenge's ε of one example, test by test on a grid of thresholds, 100 to the unit, 25 for intervals."""
    if min(np.ptp(u), np.ptp(r)) / max(np.ptp(u), np.ptp(r)) < 0.01:
        return 50.0
    positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
    narrow, wide = (r, u) if np.ptp(r) < np.ptp(u) else (u, r)
    t = np.arange(min(u.min(), r.min()), max(u.max(), r.max()), 0.01)
    tests = [(positive[:, None] >= t, negative[:, None] >= t)]
    steps, width = np.arange(-2, 2, 0.04), np.ptp(narrow)
    for right in narrow.max() + steps:
        left = right - width + steps
        tests.append([(left <= x[:, None]) & (x[:, None] <= right) for x in (narrow, wide)])
    best = 0.0
    for yes_positive, yes_negative in tests:
        for fnr, fpr in zip(1 - yes_positive.mean(0), yes_negative.mean(0), strict=True):
            if fnr == fpr == 0:
                best = inf
            elif fnr > 0 and fpr > 0:
                ratios = (1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr
                best = max(best, *(log(x) for x in ratios if x > 0))
    return min(best, 50.0)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (-2.0, 1.0), (0.5, 3.0), (0.5, 0.2), (9.0, 1.0), (0.1, 1e-3)])
def test_epsilons_are_the_largest_over_all_tests_by_the_rules_of_the_challenge(shift, scale):
    """None is below that of the coarser search, and nearly all are equal to it."""
    u, r = outputs(shift, scale, models=12, n=8, seed=1), outputs(scale=2.0, models=12, n=8, seed=2)
    grid = np.array([epsilon_by_the_grid(a, b) for a, b in zip(u.T, r.T, strict=True)])
    found = forgetting_score(u, r).examples
    assert (found >= grid - 1e-9).all()
    assert np.isclose(found, grid).mean() >= 0.75


@pytest.mark.parametrize("shift", [1.0, -1.0, 2.0, -2.0])
def test_which_side_is_called_unlearned_does_not_matter(shift):
    u, r = outputs(shift, seed=1), outputs(seed=2)
    assert forgetting_score(u, r).examples == pytest.approx(forgetting_score(r, u).examples, rel=1e-9)


def test_the_score_halves_with_every_half_of_epsilon_and_is_zero_beyond_what_the_models_can_show():
    found = forgetting_score(outputs(1.0, seed=1), outputs(seed=2))
    points = [2 / 2 ** ceil((e + 1e-12) / 0.5) if e < ceil(log(63)) else 0.0 for e in found.examples]
    assert found.value == pytest.approx(np.mean(points))
    assert set(points) - {0.0} <= {2.0**-k for k in range(10)}
    assert 0 < found.value < 1


def test_models_that_agree_exactly_score_one():
    r = outputs()
    assert forgetting_score(r, r).value == 1
    assert forgetting_score(r, r).percentile_95 < 0.5
    constant = np.ones((6, 3))
    assert forgetting_score(constant, constant).value == 1


@pytest.mark.parametrize("u", [outputs(20.0, seed=1), outputs(-20.0, seed=1), outputs(0.0, 1e-4, seed=1)])
def test_models_that_are_always_told_apart_score_zero_even_where_only_their_spread_differs(u):
    found = forgetting_score(u, outputs(seed=2))
    assert found.value == 0
    assert (found.examples == 50).all()


def test_constant_outputs_of_different_values_are_told_apart():
    assert forgetting_score(np.ones((6, 2)), np.zeros((6, 2))).value == 0


def test_the_challenge_score_is_scaled_by_what_became_of_the_accuracy():
    forgetting = forgetting_score(outputs(1.0, seed=1), outputs(seed=2))
    found = challenge_score(
        forgetting,
        unlearned_retain=[0.8, 0.9],
        retrained_retain=[1.0, 1.0],
        unlearned_test=[0.6],
        retrained_test=[0.8, 0.8],
    )
    assert found.value == pytest.approx(forgetting.value * 0.85 * 0.75)
    assert found.matched == pytest.approx(forgetting.matched * 0.85 * 0.75)
    assert found.null == forgetting.null
    assert found.direction == HIGHER


BAD = outputs(models=8)
BAD[3, 1] = np.nan
GOOD = outputs(models=8)
SCORE = forgetting_score(GOOD, GOOD)
RATES = {"unlearned_retain": [0.5], "retrained_retain": [0.5], "unlearned_test": [0.5], "retrained_test": [0.5]}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: forgetting_score(BAD, GOOD), ValueError, r"unlearned has NaN at index \(3, 1\)"),
        (lambda: forgetting_score(GOOD, BAD), ValueError, r"retrained has NaN at index \(3, 1\)"),
        (lambda: forgetting_score(GOOD[0], GOOD[0]), ValueError, "unlearned must have 2 dimensions"),
        (
            lambda: forgetting_score(GOOD, GOOD[:7]),
            ValueError,
            r"unlearned has shape \(8, 40\), retrained has \(7, 40\)",
        ),
        (lambda: forgetting_score(GOOD[:2], GOOD[:2]), ValueError, "unlearned has 2 samples, at least 3 are needed"),
        (
            lambda: forgetting_score(GOOD[:5], GOOD[:5]),
            ValueError,
            "retrained has 5 samples, at least 6 .* to split for the null",
        ),
        (lambda: forgetting_score(GOOD, GOOD, retrained_again=GOOD[:3]), ValueError, "retrained_again has shape"),
        (lambda: challenge_score(SCORE, **RATES | {"unlearned_test": [1.5]}), ValueError, "unlearned_test must lie in"),
        (
            lambda: challenge_score(SCORE, **RATES | {"retrained_test": [0.0]}),
            ValueError,
            "retrained_test is 0 for every",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
