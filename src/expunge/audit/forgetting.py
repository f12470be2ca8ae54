"""The forgetting quality and the final score of the NeurIPS 2023 unlearning challenge, with their nulls.

Source: Triantafillou et al. 2024, arXiv 2406.09073, and github.com/google-deepmind/unlearning_evaluation.
"""

from math import ceil, inf, log

import numpy as np
from numpy.typing import ArrayLike

from expunge.audit.distance import HIGHER, Distance, PerExample, Values, model_outputs, per_example
from expunge.audit.membership import unit_interval

__all__ = ["challenge_score", "forgetting_score"]

_DELTA, _CAP, _PEAKED, _SLACK, _BUCKET = 1e-5, 50.0, 0.01, 2.0, 0.5


def forgetting_score(
    unlearned: ArrayLike, retrained: ArrayLike, *, retrained_again: ArrayLike | None = None
) -> PerExample:
    """The forgetting quality of the NeurIPS 2023 challenge: 1 if no attack tells the models apart, 0 if all do.

    For every example, unlearned and retrained outputs are told apart by two families of tests. One threshold: the
    outputs with the larger median are positive, a test says yes at "output ≥ t", for all t. Two thresholds: the outputs
    with the smaller range w are positive, a test says yes in [l, r], for all r within 2 of their largest and r - l
    within 2 of w. Each test has a false positive rate FPR and a false negative rate FNR:

        ε = ∞ where both are 0; not counted where one of them is 0; otherwise
        ε = max(log((1 - δ - FPR)/FNR), log((1 - δ - FNR)/FPR), 0),    δ = 1e-5.

    The example's ε is the largest, at most 50, and 50 outright where one range is under 1 % of the other. The score is
    the mean over examples of

        H(ε) = 2/2^n for ε in the n-th bucket [(n - 1)/2, n/2), and 0 from ⌈log(N - 1)⌉ on.

    N models cannot show more than log(N - 1). Tests are chosen on the outputs they are counted on, so this ε is no
    bound but an estimate, and too large: retrained models score about 0.2 against retrained ones, not 1. Look at the
    null. A score depends on N (512 in the challenge).

    This follows the organisers' code, but for its grid of thresholds, 100 to the unit: here none is missed.

    Args:
        unlearned: logit confidences of N unlearned models on the forgotten examples, shape (N, n).
        retrained: of N retrained models, shape (N, n).
        retrained_again: of N further retrained models, for the null; by default `retrained` is split in two.

    Returns:
        Score in [0, 1], higher is closer; `examples` are the ε.

    Raises:
        ValueError: shapes disagree, NaN or infinite, fewer than 3 models (6 without `retrained_again`).

    Source: Triantafillou et al. 2024, arXiv 2406.09073, and github.com/google-deepmind/unlearning_evaluation.
    """
    u, r, again = model_outputs(3, "unlearned", unlearned, "retrained", retrained, retrained_again)
    return per_example(_epsilons, _points, u, r, again, "score in [0, 1]", HIGHER)


def challenge_score(
    forgetting: PerExample,
    *,
    unlearned_retain: ArrayLike,
    retrained_retain: ArrayLike,
    unlearned_test: ArrayLike,
    retrained_test: ArrayLike,
) -> Distance:
    """The final score of the NeurIPS 2023 challenge: forgetting quality, scaled by what became of the accuracy.

    forgetting × (retain accuracy, unlearned over retrained) × (test accuracy, unlearned over retrained), each accuracy
    a mean over models. In the null both ratios are 1.

    Args:
        forgetting: of `forgetting_score`.
        unlearned_retain: accuracy of each unlearned model on the retained examples, in [0, 1], shape (N,).
        retrained_retain: of each retrained model.
        unlearned_test: accuracy of each unlearned model on test examples.
        retrained_test: of each retrained model.

    Raises:
        ValueError: an accuracy outside [0, 1], or retrained models whose mean accuracy is 0.

    Source: Triantafillou et al. 2024, arXiv 2406.09073.
    """
    retain = _ratio("unlearned_retain", unlearned_retain, "retrained_retain", retrained_retain)
    test = _ratio("unlearned_test", unlearned_test, "retrained_test", retrained_test)
    value, matched = (score * retain * test for score in (forgetting.value, forgetting.matched))
    return Distance(value=value, null=forgetting.null, matched=matched, unit="score", direction=HIGHER)


def _points(epsilons: Values, models: int) -> float:
    """The mean of H."""
    buckets = ceil(log(models - 1)) / _BUCKET
    bucket = np.floor(epsilons / _BUCKET)
    return float(np.where(bucket < buckets, 0.5**bucket, 0.0).mean())


def _epsilons(u: Values, r: Values) -> Values:
    return np.array([_epsilon(u[:, i], r[:, i]) for i in range(u.shape[1])])


def _epsilon(u: Values, r: Values) -> float:
    """The challenge's ε of one example."""
    ranges = sorted((float(np.ptp(u)), float(np.ptp(r))))
    if ranges[1] == 0 and u[0] == r[0]:
        return 0.0
    if ranges[0] < _PEAKED * ranges[1]:
        return _CAP
    negative, positive = (u, r) if np.median(r) > np.median(u) else (r, u)
    narrow, wide = (r, u) if np.ptp(r) <= np.ptp(u) else (u, r)
    best = max(_largest(*_one_threshold(positive, negative)), _largest(*_two_thresholds(narrow, wide)))
    return min(best, _CAP)


def _one_threshold(positive: Values, negative: Values) -> tuple[Values, Values]:
    """(FPR, FNR) of "output ≥ t"."""
    thresholds = np.concatenate([positive, negative])
    missed, spared = (np.searchsorted(np.sort(x), thresholds, "left") / len(x) for x in (positive, negative))
    return 1 - spared, missed


def _two_thresholds(narrow: Values, wide: Values) -> tuple[Values, Values]:
    """(FPR, FNR) of "l ≤ output ≤ r", with the narrower outputs as positive; every content that such intervals have."""
    top, width = narrow.max(), np.ptp(narrow)
    ends = np.unique(np.concatenate([narrow, wide]))
    before, after = np.append(-inf, ends[:-1]), np.append(ends[1:], inf)
    # An interval from ends[i] to ends[j] stands for all with l in (before[i], ends[i]] and r in [ends[j], after[j]).
    low, high = np.maximum(ends, top - _SLACK), np.minimum(after, top + _SLACK)
    right = np.flatnonzero(low < high)
    allowed = low[right] - ends[:, None] <= width + _SLACK
    allowed &= high[right] - before[:, None] >= width - _SLACK
    allowed &= ends[right] >= ends[:, None]
    i, j = np.nonzero(allowed)

    def inside(x: Values) -> Values:
        return (np.searchsorted(x, ends, "right")[right[j]] - np.searchsorted(x, ends, "left")[i]) / len(x)

    return inside(np.sort(wide)), 1 - inside(np.sort(narrow))


def _largest(fpr: Values, fnr: Values) -> float:
    """The largest ε of tests with these rates, at least 0."""
    if ((fpr == 0) & (fnr == 0)).any():
        return inf
    counted = (fpr > 0) & (fnr > 0)
    if not counted.any():
        return 0.0
    fpr, fnr = fpr[counted], fnr[counted]
    ratios = np.concatenate([(1 - _DELTA - fpr) / fnr, (1 - _DELTA - fnr) / fpr])
    return float(np.log(max(ratios.max(), 1.0)))


def _ratio(u_name: str, unlearned: ArrayLike, r_name: str, retrained: ArrayLike) -> float:
    below = float(unit_interval(r_name, retrained).mean())
    if below == 0:
        raise ValueError(f"{r_name} is 0 for every model: there is no ratio to it")
    return float(unit_interval(u_name, unlearned).mean()) / below
