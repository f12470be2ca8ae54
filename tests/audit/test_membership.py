"""Scores are those of their formulas, written out a second time; members score higher."""

import numpy as np
import pytest
from scipy import special, stats

from expunge.audit.membership import (
    classified,
    likelihood_ratio,
    likelihood_ratio_offline,
    logit_confidence,
    logit_confidence_from_logits,
    loss_scores,
    rmia,
)
from expunge.audit.scores import auc

RNG = np.random.default_rng


def test_a_smaller_loss_scores_higher():
    assert np.array_equal(loss_scores([0.1, 2.0]), [-0.1, -2.0])


def logits(n=50, classes=4, scale=3.0, seed=0):
    rng = RNG(seed)
    return rng.normal(0, scale, (n, classes)), rng.integers(0, classes, n)


def test_logit_confidence_is_the_logit_of_the_true_class():
    z, y = logits()
    p = special.softmax(z, 1)
    expected = special.logit(p[np.arange(50), y])
    assert logit_confidence(p, y) == pytest.approx(expected, rel=1e-9)
    assert logit_confidence_from_logits(z, y) == pytest.approx(expected, rel=1e-9)


def test_of_two_classes_it_is_the_difference_of_the_logits():
    z, y = logits(classes=2)
    assert logit_confidence_from_logits(z, y) == pytest.approx((2 * y - 1) * (z[:, 1] - z[:, 0]), rel=1e-12)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e300])
def test_from_logits_nothing_overflows_or_cancels(size):
    z = np.array([[size, 0.0, 0.0], [0.0, size, 0.0]])
    assert logit_confidence_from_logits(z, [0, 0]) == pytest.approx([size - np.log(2), -size], rel=1e-12)


def test_a_shift_of_all_logits_changes_nothing():
    z, y = logits()
    assert logit_confidence_from_logits(z + 7, y) == pytest.approx(logit_confidence_from_logits(z, y), rel=1e-9)


def shadows(n=40, k=12, shift=2.0, seed=1):
    """Example i has its own difficulty; "in" models are more confident by `shift`. Each value is missing for some."""
    rng = RNG(seed)
    difficulty, spread = rng.normal(0, 3, n), rng.uniform(0.5, 2, n)
    ins, outs = (difficulty + gap + spread * rng.normal(size=(k, n)) for gap in (shift, 0.0))
    ins[rng.random((k, n)) < 0.3] = np.nan
    outs[rng.random((k, n)) < 0.3] = np.nan
    observed = difficulty + shift * (np.arange(n) % 2) + spread * rng.normal(size=n)
    return observed, ins, outs


def test_the_likelihood_ratio_is_that_of_scipys_densities_example_by_example():
    observed, ins, outs = shadows()
    expected = []
    for i, x in enumerate(observed):
        a, b = (s[:, i][~np.isnan(s[:, i])] for s in (ins, outs))
        expected.append(stats.norm.logpdf(x, a.mean(), a.std(ddof=1)) - stats.norm.logpdf(x, b.mean(), b.std(ddof=1)))
    assert likelihood_ratio(observed, ins, outs, shared_variance=False) == pytest.approx(expected, rel=1e-9)


def test_a_shared_variance_is_pooled_about_the_mean_of_each_example():
    observed, ins, outs = shadows()

    def pooled(s):
        columns = [c[~np.isnan(c)] for c in s.T]
        squares = sum(((c - c.mean()) ** 2).sum() for c in columns)
        return np.sqrt(squares / sum(len(c) - 1 for c in columns))

    expected = stats.norm.logpdf(observed, np.nanmean(ins, 0), pooled(ins)) - stats.norm.logpdf(
        observed, np.nanmean(outs, 0), pooled(outs)
    )
    assert likelihood_ratio(observed, ins, outs, shared_variance=True) == pytest.approx(expected, rel=1e-9)


def test_offline_it_is_the_probability_of_a_smaller_score_without_the_example():
    observed, _, outs = shadows()
    expected = stats.norm.logcdf(observed, np.nanmean(outs, 0), np.nanstd(outs, 0, ddof=1))
    assert likelihood_ratio_offline(observed, outs) == pytest.approx(expected, rel=1e-9)
    shared = likelihood_ratio_offline(observed, outs, shared_variance=True)
    assert (shared <= 0).all()
    assert np.corrcoef(shared, expected)[0, 1] > 0.9


def test_members_are_found_by_each_score_and_better_where_examples_are_told_apart():
    observed, ins, outs = shadows(n=2000, k=32)
    member = np.arange(2000) % 2 == 1

    def found(scores):
        return auc(scores[member], scores[~member])

    online = found(likelihood_ratio(observed, ins, outs, shared_variance=False))
    offline = found(likelihood_ratio_offline(observed, outs))
    plain = found(observed)  # the confidence alone, which mixes up easy examples and members
    assert plain + 0.1 < offline <= online + 0.02
    assert online > 0.85


@pytest.mark.parametrize("shared", [True, False])
def test_where_in_and_out_are_the_same_models_the_ratio_is_zero(shared):
    observed, ins, _ = shadows()
    assert likelihood_ratio(observed, ins, ins, shared_variance=shared) == pytest.approx(np.zeros(40), abs=1e-12)


def test_unlearning_that_worked_leaves_the_ratio_blind():
    """U-LiRA: "in" are unlearned models; from one law, half of the observed models are called forgotten."""
    rng = RNG(2)
    ins, outs, observed = rng.normal(size=(30, 4000)), rng.normal(size=(30, 4000)), rng.normal(size=4000)
    ratio = likelihood_ratio(observed, ins, outs, shared_variance=True)
    assert auc(ratio[::2], ratio[1::2]) == pytest.approx(0.5, abs=0.04)


def test_scores_are_the_same_on_any_scale_of_the_confidences():
    observed, ins, outs = shadows()
    for shared in (True, False):
        once = likelihood_ratio(observed, ins, outs, shared_variance=shared)
        again = likelihood_ratio(5 * observed + 1, 5 * ins + 1, 5 * outs + 1, shared_variance=shared)
        assert again == pytest.approx(once, rel=1e-9)


def probabilities(n=30, m=50, k=6, seed=3):
    rng = RNG(seed)
    return rng.uniform(0.05, 1, n), rng.uniform(0.05, 1, (k, n)), rng.uniform(0.05, 1, m), rng.uniform(0.05, 1, (k, m))


@pytest.mark.parametrize("a", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_counts_the_population_examples_that_are_outdone(a, gamma):
    x, x_reference, z, z_reference = probabilities()

    def marginal(reference):
        mean = reference.mean(0)
        return mean if a is None else ((1 + a) * mean + (1 - a)) / 2

    ratio_x, ratio_z = x / marginal(x_reference), z / marginal(z_reference)
    expected = (ratio_x[:, None] / ratio_z >= gamma).mean(1)
    scores = rmia(x, x_reference, z, z_reference, gamma=gamma, offline_a=a)
    assert scores == pytest.approx(expected, abs=1e-12)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_rmia_of_examples_from_the_population_is_uniform():
    rng = RNG(4)
    p, reference = rng.uniform(0.1, 1, 4000), rng.uniform(0.1, 1, (3, 4000))
    scores = rmia(p[:2000], reference[:, :2000], p[2000:], reference[:, 2000:])
    assert stats.kstest(scores, "uniform").statistic < 0.05


def test_rmia_rises_with_the_probability_and_falls_with_gamma():
    x, x_reference, z, z_reference = probabilities()
    low, high = (rmia(f * x, x_reference, z, z_reference) for f in (0.5, 1.0))
    assert (low <= high).all()
    assert low.mean() < high.mean()
    assert (rmia(x, x_reference, z, z_reference, gamma=2.0) <= high).all()


def test_offline_with_a_of_one_rmia_trusts_the_mean_as_it_is():
    arrays = probabilities()
    assert np.array_equal(rmia(*arrays, offline_a=1.0), rmia(*arrays))


def test_rmia_counts_a_draw_as_outdone():
    assert np.array_equal(rmia([0.5, 0.25], [[0.5, 0.5]], [0.5, 0.25, 0.125], [[0.5] * 3]), [1, 2 / 3])


def test_rmia_leaves_out_reference_models_without_a_value():
    x, x_reference, z, z_reference = probabilities()
    masked = np.concatenate([x_reference, np.full((2, 30), np.nan)])
    assert np.array_equal(rmia(x, masked, z, z_reference), rmia(x, x_reference, z, z_reference))


P = np.array([[0.2, 0.8], [0.5, 0.5]])
NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: loss_scores([0.1, NAN]), ValueError, "losses has NaN at index 1"),
        (lambda: logit_confidence(P, [0]), ValueError, r"labels must have shape \(2,\)"),
        (lambda: logit_confidence(P, [0, 2]), ValueError, r"labels must lie in 0 .. 1, not 2 at index 1"),
        (lambda: logit_confidence(P, [0.0, 1.0]), TypeError, "labels must be whole numbers"),
        (lambda: logit_confidence(2 * P, [0, 1]), ValueError, r"probabilities must lie in \[0, 1\], not 1.6 at index"),
        (lambda: logit_confidence(P / 2, [0, 1]), ValueError, "probabilities must sum to 1 in every row, not to 0.5"),
        (
            lambda: logit_confidence([[1.0, 0.0]], [0]),
            ValueError,
            "probability 1, whose logit is infinite; use logit_c",
        ),
        (lambda: logit_confidence([[1.0, 0.0]], [1]), ValueError, "probability 0, whose logit is infinite"),
        (lambda: logit_confidence_from_logits([[1.0]], [0]), ValueError, "at least 2 classes"),
        (lambda: logit_confidence_from_logits([[1.0, NAN]], [0]), ValueError, r"logits has NaN at index \(0, 1\)"),
        (lambda: classified("retrained", [[0.5, 0.6]], [0]), ValueError, "retrained must sum to 1"),
        (
            lambda: likelihood_ratio([1.0], [[1.0, 2.0]], [[1.0]], shared_variance=True),
            ValueError,
            r"in_shadows must have shape \(k, 1\), a column for each example, not \(1, 2\)",
        ),
        (
            lambda: likelihood_ratio([1.0, 2.0], [[1.0, NAN], [2.0, 3.0]], [[1.0, 2.0]] * 2, shared_variance=False),
            ValueError,
            r"in_shadows has 1 value for example 1, at least 2 needed for a variance \(1 with shared_variance=True\)",
        ),
        (
            lambda: likelihood_ratio([1.0], [[NAN]], [[1.0], [2.0]], shared_variance=True),
            ValueError,
            "in_shadows has 0 values for example 0, at least 1 needed",
        ),
        (
            lambda: likelihood_ratio([1.0], [[1.0]], [[1.0], [2.0]], shared_variance=True),
            ValueError,
            "in_shadows has 1 value for every example",
        ),
        (
            lambda: likelihood_ratio_offline([1.0], [[2.0], [2.0]]),
            ValueError,
            "out_shadows is constant for example 0: .* use shared_variance=True",
        ),
        (
            lambda: likelihood_ratio_offline([1.0], [[2.0], [2.0]], shared_variance=True),
            ValueError,
            "out_shadows is constant",
        ),
        (lambda: likelihood_ratio_offline([NAN], [[2.0], [3.0]]), ValueError, "observed has NaN at index 0"),
        (lambda: likelihood_ratio_offline([1.0], [[2.0], [np.inf]]), ValueError, "out_shadows has infinity"),
        (lambda: rmia([1.2], [[0.5]], [0.5], [[0.5]]), ValueError, r"observed must lie in \[0, 1\], not 1.2"),
        (lambda: rmia([0.5], [[-1.0]], [0.5], [[0.5]]), ValueError, r"reference must lie in \[0, 1\]"),
        (
            lambda: rmia([0.5], [[0.5]], [0.5], [[0.0]]),
            ValueError,
            "population_reference gives example 0 probability 0",
        ),
        (
            lambda: rmia([0.5], [[0.5]], [0.5], [[0.5, 0.5]]),
            ValueError,
            r"population_reference must have shape \(k, 1\)",
        ),
        (lambda: rmia([0.5], [[0.5]], [0.5], [[0.5]], gamma=0.0), ValueError, "gamma"),
        (lambda: rmia([0.5], [[0.5]], [0.5], [[0.5]], offline_a=1.5), ValueError, r"offline_a must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
