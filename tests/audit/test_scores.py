"""Rates are those of scikit-learn; counts hold because the threshold was chosen on other samples."""

from math import exp, sqrt

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from expunge.accounting import gaussian
from expunge.audit import scores
from expunge.audit.evidence import Counts
from expunge.audit.scores import auc, finite, gaussian_fit, roc, threshold_counts, tpr_at_fpr
from patience import patience

DELTA = 1e-5


def two_samples(n=300, m=200, decimals=None, seed=0):
    rng = np.random.default_rng(seed)
    p, q = rng.normal(1, 1, n), rng.normal(0, 1, m)
    return (p, q) if decimals is None else (p.round(decimals), q.round(decimals))


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_the_roc_is_scikit_learns_with_ties_as_one_step(decimals):
    p, q = two_samples(decimals=decimals)
    labels, values = np.repeat([1, 0], [len(p), len(q)]), np.concatenate([p, q])
    false, true = roc(p, q)
    theirs = roc_curve(labels, values, drop_intermediate=False)
    assert np.array_equal(false, theirs[0])
    assert np.array_equal(true, theirs[1])
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert auc(p, q) == pytest.approx(roc_auc_score(labels, values), rel=1e-12)
    assert auc(p, q) == pytest.approx(np.trapezoid(true, false), rel=1e-12)


def test_the_auc_of_a_gaussian_shift_is_that_of_its_law():
    p, q = two_samples(20_000, 20_000)
    assert auc(p, q) == pytest.approx(stats.norm.cdf(1 / sqrt(2)), abs=0.01)


def test_a_rising_transform_leaves_all_rates_unchanged_and_a_falling_one_mirrors_them():
    p, q = two_samples(decimals=1)
    assert all(np.array_equal(a, b) for a, b in zip(roc(p, q), roc(np.exp(3 * p), np.exp(3 * q)), strict=True))
    assert auc(-p, -q) == pytest.approx(1 - auc(p, q))
    assert auc(q, p) == pytest.approx(1 - auc(p, q))


def test_scores_that_say_nothing_have_an_auc_of_one_half():
    same = two_samples()[0]
    assert auc(same, same) == 0.5
    assert auc([7.0, 7.0], [7.0]) == 0.5


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.005, 0.1, 0.3, 1.0])
def test_tpr_at_fpr_is_the_best_of_all_thresholds_that_keep_to_it(fpr):
    p, q = two_samples(decimals=1)
    allowed = [(p >= t).mean() for t in [*p, *q, np.inf] if (q >= t).mean() <= fpr]
    assert tpr_at_fpr(p, q, fpr) == max(allowed)


def test_tpr_at_fpr_is_not_interpolated_below_one_false_positive():
    assert tpr_at_fpr([2.0, 3.0, 0.5], [1.0, 2.5, 0.0], 0.3) == pytest.approx(1 / 3)
    assert tpr_at_fpr([1.0], [1.0], 0.999) == 0


def test_all_samples_are_split_once_and_half_of_each_world_is_counted():
    p, q = two_samples(11, 8)
    seen = threshold_counts(p, q, delta=DELTA, confidence=0.95, generator=np.random.default_rng(0))
    assert (seen.positives, seen.negatives) == (6, 4)


def test_samples_that_come_in_order_are_shuffled_before_they_are_split():
    """Unshuffled, the first halves would be 0 .. 49 in both worlds, and the threshold far below the other halves."""
    p, q = np.concatenate([np.arange(50.0), 200 + np.arange(50.0)]), np.arange(100.0)
    yes = [counts(p, q, generator=np.random.default_rng(i)) for i in range(5)]
    assert all(10 < seen.true_positives < 50 and seen.false_positives == 0 for seen in yes)


@pytest.mark.parametrize("sign", [1, -1])
def test_separate_worlds_are_told_apart_whichever_is_larger(sign):
    p, q = sign * np.arange(100.0, 120.0), sign * np.arange(20.0)
    seen = threshold_counts(p, q, delta=DELTA, confidence=0.95, generator=np.random.default_rng(0))
    assert (seen.true_positives, seen.false_positives) == (10, 0)


def test_a_metric_with_two_values_is_split_between_them():
    seen = threshold_counts([1] * 9, [0] * 9, delta=DELTA, confidence=0.95, generator=np.random.default_rng(0))
    assert (seen.true_positives, seen.false_positives) == (5, 0)


def test_constant_scores_show_nothing():
    seen = threshold_counts([3.0] * 9, [3.0] * 9, delta=DELTA, confidence=0.95, generator=np.random.default_rng(0))
    assert seen.epsilon(delta=DELTA, confidence=0.95) == 0
    assert seen.mu(confidence=0.95) == 0


@pytest.mark.parametrize("delta", [0.0, 1e-2])
def test_the_threshold_is_the_clearest_of_all_by_the_bounds_of_counts(delta):
    """Few samples, so that every score is a candidate; the search in `Counts` itself."""
    p, q = (np.sort(x) for x in two_samples(40, 30, seed=5))
    threshold, above = scores._clearest(p, q, delta, 0.1)

    def bound(t, side):
        yes = [int(((x >= t) == side).sum()) for x in (p, q)]
        counts = Counts(positives=40, true_positives=yes[0], negatives=30, false_positives=yes[1])
        return counts.epsilon(delta=delta, confidence=0.8)

    best = max(bound(t, side) for t in [*p, *q] for side in (True, False))
    assert best > 0
    assert bound(threshold, above) == best


def test_where_no_epsilon_shows_the_threshold_has_the_largest_mu():
    """δ = 0.9 leaves no ε to be seen."""
    p, q = (np.sort(x) for x in two_samples(40, 30, seed=5))
    threshold, above = scores._clearest(p, q, 0.9, 0.1)

    def bound(t, side):
        yes = [int(((x >= t) == side).sum()) for x in (p, q)]
        return Counts(positives=40, true_positives=yes[0], negatives=30, false_positives=yes[1]).mu(confidence=0.8)

    assert bound(threshold, above) == max(bound(t, side) for t in [*p, *q] for side in (True, False)) > 0


def refuted(p, q, choose, trials=600):
    """How often a bound of the clearest threshold exceeds 0 with confidence 0.6."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(trials):
        wrong += choose(rng.normal(size=p), rng.normal(size=q), rng).mu(confidence=0.6) > 0
    return wrong / trials


def test_pure_noise_is_refuted_no_more_often_than_promised_though_choosing_on_the_tested_samples_would():
    """The same worlds: any bound above 0 is wrong. The second attack is the mistake that the split avoids."""

    def honest(p, q, rng):
        return threshold_counts(p, q, delta=0.0, confidence=0.6, generator=rng)

    def dishonest(p, q, rng):
        threshold, above = scores._clearest(np.sort(p), np.sort(q), 0.0, 0.2)
        yes = [int(((x >= threshold) == above).sum()) for x in (p, q)]
        return Counts(positives=len(p), true_positives=yes[0], negatives=len(q), false_positives=yes[1])

    assert refuted(200, 200, honest) <= 0.2  # promised: 0.4; two limits must fail together, so it is rarer
    assert refuted(100, 100, dishonest) > 0.8


def best_threshold(mu, n, delta, confidence):
    """The largest bound that "score ≥ t" or its contrary gives at the expected counts of N(mu, 1) against N(0, 1)."""
    bounds = []
    for t in np.linspace(-3, mu + 3, 100):
        for yes in (stats.norm.sf, stats.norm.cdf):
            true, false = (round(n * yes(t - shift)) for shift in (mu, 0))
            counts = Counts(positives=n, true_positives=true, negatives=n, false_positives=false)
            bounds.append(counts.epsilon(delta=delta, confidence=confidence))
    return max(bounds)


@pytest.mark.parametrize(("mu", "delta"), [(1.0, 1e-2), (3.0, 1e-5)])
def test_bounds_of_a_gaussian_shift_stay_below_the_truth_and_near_what_the_best_threshold_can_show(mu, delta):
    rng, truth, bounds, wrong = np.random.default_rng(8), gaussian.epsilon(mu, delta), [], 0
    for _ in range(150):
        p, q = rng.normal(mu, 1, 4000), rng.normal(0, 1, 4000)
        seen = threshold_counts(p, q, delta=delta, confidence=0.8, generator=rng)
        bounds.append(seen.epsilon(delta=delta, confidence=0.8))
        wrong += seen.mu(confidence=0.8) > mu
    limit = 0.2 + 4 * sqrt(0.2 * 0.8 / 150)
    assert np.mean(np.array(bounds) > truth) <= limit
    assert wrong / 150 <= limit
    assert np.median(bounds) > 0.75 * best_threshold(mu, 2000, delta, 0.8)


def test_randomised_response_is_refuted_now_and_then_but_no_more_often_than_promised():
    """Scores 0 or 1 that are exactly (1, 0)-close: no other law is told apart more easily."""
    rng, truth, bounds = np.random.default_rng(10), 1.0, []
    for _ in range(400):
        p, q = (rng.random(1000) < 1 / (1 + exp(-sign * truth)) for sign in (1, -1))
        seen = threshold_counts(1.0 * p, 1.0 * q, delta=0.0, confidence=0.6, generator=rng)
        bounds.append(seen.epsilon(delta=0.0, confidence=0.6))
    assert 0 < np.mean(np.array(bounds) > truth) <= 0.4
    assert np.median(bounds) > 0.85


def test_a_hundred_thousand_samples_take_no_time_of_note():
    rng, mu = np.random.default_rng(9), sqrt(2)
    p, q = rng.normal(mu, 1, 100_000), rng.normal(0, 1, 100_000)
    with patience(0.2):
        seen = threshold_counts(p, q, delta=DELTA, confidence=0.95, generator=rng)
    bound = seen.epsilon(delta=DELTA, confidence=0.95)
    assert 0.75 * best_threshold(mu, 50_000, DELTA, 0.95) < bound < gaussian.epsilon(mu, DELTA)


def test_the_same_generator_gives_the_same_counts():
    p, q = two_samples()
    one, other = (
        threshold_counts(p, q, delta=DELTA, confidence=0.95, generator=np.random.default_rng(3)) for _ in range(2)
    )
    assert one == other


def test_the_gaussian_fit_has_the_means_and_pooled_deviation_of_the_t_test():
    p, q = two_samples(30, 20)
    fit = gaussian_fit(p, q)
    t = stats.ttest_ind(p, q).statistic
    assert (fit.p_mean - fit.q_mean) / (fit.std * sqrt(1 / 30 + 1 / 20)) == pytest.approx(t)
    assert (fit.p_samples, fit.q_samples) == (30, 20)


GOOD = [1.0, 2.0, 3.0, 4.0]


def counts(p, q, **changes):
    settings = {"delta": DELTA, "confidence": 0.95, "generator": np.random.default_rng(0)} | changes
    return threshold_counts(p, q, **settings)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: roc([], GOOD), ValueError, "p_scores has 0 samples, at least 1 is needed"),
        (lambda: auc(GOOD, [GOOD]), ValueError, r"q_scores must have 1 dimension, not shape \(1, 4\)"),
        (lambda: auc([1.0, 2.0, 3.0, np.nan], GOOD), ValueError, "p_scores has NaN at index 3"),
        (lambda: roc(GOOD, [1.0, -np.inf]), ValueError, "q_scores has infinity at index 1"),
        (lambda: auc(["a"], GOOD), TypeError, "p_scores must hold numbers"),
        (lambda: tpr_at_fpr(GOOD, GOOD, 1.1), ValueError, r"fpr must lie in \[0, 1\], not 1.1"),
        (lambda: tpr_at_fpr(GOOD, GOOD, float("nan")), ValueError, "fpr"),
        (
            lambda: counts(GOOD, [1.0]),
            ValueError,
            "q_scores has 1 sample, at least 4 are needed to choose a threshold on one half and test it on the other",
        ),
        (lambda: counts(GOOD[:3], GOOD), ValueError, "p_scores has 3 samples, at least 4"),
        (lambda: counts(GOOD, GOOD, delta=1.0), ValueError, "delta must be a number in"),
        (lambda: counts(GOOD, GOOD, confidence=1.0), ValueError, "confidence"),
        (lambda: counts(GOOD, GOOD, confidence=0.4), ValueError, "confidence must be at least 0.5"),
        (lambda: gaussian_fit([1.0], GOOD), ValueError, "p_scores has 1 sample, at least 2 are needed for a standard"),
        (lambda: gaussian_fit([1.0, 1.0], [2.0, 2.0]), ValueError, r"constant \(1 and 2\)"),
        (lambda: finite("x", np.zeros((2, 0)), dimensions=2), ValueError, "x is empty"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
