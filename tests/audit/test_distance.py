"""Distances are those of their formulas written out a second time; they grow as models part and have the right null."""

from math import inf, log

import numpy as np
import pytest
from scipy import stats

from audit_outputs import outputs
from expunge.audit.distance import (
    HIGHER,
    LOWER,
    NEARER,
    PerExample,
    agreement,
    calibration_error,
    klom,
    relearning_time,
)
from expunge.audit.forgetting import forgetting_score

DISTANCES = {"forgetting": (forgetting_score, HIGHER, -1), "klom": (klom, LOWER, 1)}


@pytest.mark.parametrize("name", DISTANCES)
def test_the_farther_the_unlearned_models_the_farther_the_distance(name):
    measure, direction, sign = DISTANCES[name]
    found = [measure(outputs(shift, seed=1), outputs(seed=2)) for shift in (0.0, 0.7, 1.5, 3.0)]
    values = [sign * f.value for f in found]
    assert values == sorted(values)
    assert values[-1] - values[0] > 0.1
    assert all(f.direction == direction for f in found)
    matched = [sign * f.matched for f in found]
    assert matched == sorted(matched)


@pytest.mark.parametrize("name", DISTANCES)
def test_retrained_models_in_the_place_of_unlearned_ones_score_as_the_null(name):
    measure, _, sign = DISTANCES[name]
    found = measure(outputs(n=400, seed=1), outputs(n=400, seed=2), retrained_again=outputs(n=400, seed=3))
    worse = measure(outputs(1.0, n=400, seed=1), outputs(n=400, seed=2), retrained_again=outputs(n=400, seed=3))
    assert found.value == pytest.approx(found.null, rel=0.05)
    assert found.matched == found.value
    assert sign * worse.value > sign * found.null * 1.3**sign
    assert worse.null == found.null


@pytest.mark.parametrize("name", DISTANCES)
def test_a_null_from_a_split_is_matched_by_a_value_from_as_many_models(name):
    measure = DISTANCES[name][0]
    u, r = outputs(n=400, seed=1), outputs(n=400, seed=2)
    found = measure(u, r)
    assert (found.models, found.null_models) == (64, 32)
    assert found.matched == pytest.approx(found.null, rel=0.06)
    assert found.null == measure(r[::2], r[1::2], retrained_again=u[:32]).value
    assert isinstance(found, PerExample)
    assert found.percentile_95 == np.percentile(found.examples, 95)


def test_fewer_models_have_a_larger_klom_by_chance_alone_so_that_value_and_split_null_must_not_be_compared():
    found = klom(outputs(n=400, seed=1), outputs(n=400, seed=2))
    assert found.value < 0.75 * found.null


@pytest.mark.parametrize("name", DISTANCES)
def test_a_shift_of_all_outputs_changes_nothing(name):
    measure = DISTANCES[name][0]
    u, r = outputs(0.5, seed=1), outputs(seed=2)
    assert measure(u + 8, r + 8).value == pytest.approx(measure(u, r).value, rel=1e-2)


@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("bins", [5, 20])
def test_klom_is_scipys_entropy_of_numpys_histograms(shift, bins):
    u, r = outputs(shift, seed=1), outputs(seed=2)
    expected = []
    for a, b in zip(np.clip(u, -4, 4).T, np.clip(r, -4, 4).T, strict=True):
        span = (min(a.min(), b.min()), max(a.max(), b.max()))
        p, q = (np.histogram(x, bins, span)[0] / len(x) for x in (a, b))
        expected.append(stats.entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q)))
    found = klom(u, r, bins=bins, clip=4.0)
    assert found.examples == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.unit == "nats"


def test_klom_of_equal_margins_is_zero_and_of_disjoint_ones_the_log_of_the_floor():
    assert klom(outputs(), outputs()).value == 0
    assert klom(np.ones((4, 2)), np.ones((4, 2))).value == 0
    assert klom(np.ones((4, 2)), np.zeros((4, 2))).value == pytest.approx(log(1e5), rel=1e-3)


def test_agreement_is_the_share_over_all_pairs_of_models():
    rng = np.random.default_rng(5)
    u, r = rng.integers(0, 3, (4, 50)), rng.integers(0, 3, (5, 50))
    found = agreement(u, r)
    assert found.value == pytest.approx(np.mean([(a == b).mean() for a in u for b in r]))
    own = [(r[i] == r[j]).mean() for i in range(5) for j in range(i)]
    assert found.null == pytest.approx(np.mean(own))
    assert found.direction == HIGHER


def test_retrained_predictions_agree_with_retrained_ones_as_the_null_and_others_less():
    rng = np.random.default_rng(6)
    chosen = rng.random((60, 2000)) < np.random.default_rng(7).beta(2, 2, 2000)
    retrained, again = chosen[:30].astype(int), chosen[30:].astype(int)
    assert agreement(again, retrained).value == pytest.approx(agreement(again, retrained).null, abs=0.01)
    assert agreement(1 - again, retrained).value < agreement(again, retrained).null - 0.05


def test_one_model_each_has_an_agreement_but_no_null():
    found = agreement([0, 1, 2, 2], [0, 1, 1, 7])
    assert (found.value, found.null) == (0.5, None)


def test_the_calibration_error_is_that_of_a_loop_over_bins():
    rng = np.random.default_rng(8)
    p, y = rng.dirichlet([0.5] * 4, 500), rng.integers(0, 4, 500)
    confidence, right = p.max(1), p.argmax(1) == y
    expected = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(p, y, bins=10).value == pytest.approx(expected)


def test_labels_drawn_from_the_probabilities_are_calibrated_and_sharpened_ones_are_not():
    rng = np.random.default_rng(9)
    p = rng.dirichlet([1.0] * 3, 20_000)
    y = (rng.random((20_000, 1)) > p.cumsum(1)[:, :2]).sum(1)
    sharp = p**4 / (p**4).sum(1, keepdims=True)
    found = calibration_error(sharp, y, retrained=p)
    assert found.null < 0.02
    assert found.value > 0.1
    assert found.direction == NEARER
    assert calibration_error(sharp, y).null is None


def test_the_extremes_of_confidence_lie_in_the_first_and_last_bin():
    assert calibration_error([[1.0, 0.0]], [0]).value == 0
    assert calibration_error([[1.0, 0.0]], [1]).value == 1


def test_the_relearning_time_is_the_first_epoch_that_reaches_the_target():
    found = relearning_time([0.1, 0.7, 0.6, 0.9], 0.7, retrained=[0.1, 0.2, 0.3, 0.7])
    assert (found.value, found.null, found.unit) == (1.0, 3.0, "epochs")
    assert relearning_time([0.9], 0.9).value == 0
    assert relearning_time([0.1, 0.5], 0.9).value == inf
    assert relearning_time([0.1, 0.5], 0.9).null is None


BAD = outputs(models=8)
BAD[3, 1] = np.nan
GOOD = outputs(models=8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: klom(GOOD, BAD), ValueError, r"retrained_margins has NaN at index \(3, 1\)"),
        (lambda: klom(GOOD[:3], GOOD[:3]), ValueError, "retrained_margins has 3 samples, at least 4"),
        (lambda: klom(GOOD, GOOD, bins=1), ValueError, "bins"),
        (lambda: klom(GOOD, GOOD, clip=0.0), ValueError, "clip"),
        (lambda: agreement([0, 1], [0, 1, 1]), ValueError, "unlearned has 2 predictions a model, retrained has 3"),
        (lambda: agreement([0.0, 1.0], [0, 1]), TypeError, "unlearned must hold whole numbers"),
        (lambda: agreement([[[0]]], [0]), ValueError, r"unlearned must have shape \(n,\) or \(models, n\)"),
        (lambda: calibration_error([[0.5, 0.6]], [0]), ValueError, "probabilities must sum to 1"),
        (lambda: calibration_error([[0.5, 0.5]], [2]), ValueError, "labels must lie in"),
        (lambda: calibration_error([[0.5, 0.5]], [1], retrained=[[0.5, 0.2]]), ValueError, "retrained must sum to 1"),
        (lambda: calibration_error([[0.5, 0.5]], [1], bins=0), ValueError, "bins"),
        (lambda: relearning_time([0.5, 1.5], 0.9), ValueError, r"accuracies_by_epoch must lie in \[0, 1\], not 1.5 at"),
        (lambda: relearning_time([0.5, np.nan], 0.9), ValueError, "accuracies_by_epoch has NaN"),
        (lambda: relearning_time([0.5], 0.0), ValueError, r"target must lie in \(0, 1\]"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
