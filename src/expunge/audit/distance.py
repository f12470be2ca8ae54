"""How far unlearned models are from retrained ones. Descriptions, not bounds: nothing here refutes a guarantee.

Every distance comes with its null, the same quantity of retrained models against other retrained models. It is not 0:
it is what chance leaves with so many models. Where the null comes from a split of the retrained models, it has half as
many on each side, so it is not comparable with `value`; `matched` is the value from as many models as the null.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, log

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from expunge import _validate
from expunge.audit.membership import classified, unit_interval
from expunge.audit.scores import finite

__all__ = [
    "HIGHER",
    "LOWER",
    "NEARER",
    "Distance",
    "PerExample",
    "agreement",
    "calibration_error",
    "challenge_score",
    "forgetting_score",
    "klom",
    "relearning_time",
]

Values = NDArray[np.float64]
HIGHER, LOWER, NEARER = "higher is closer", "lower is closer", "nearer to the null is closer"

_DELTA, _CAP, _PEAKED, _SLACK, _BUCKET = 1e-5, 50.0, 0.01, 2.0, 0.5  # of the challenge
_FLOOR = 1e-5  # of KLOM


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One number, and the same number for retrained models.

    Args:
        value: of the unlearned models.
        null: of retrained models against retrained models; None if there are too few.
        matched: the value from as many models as the null, to be held against it; mostly `value` itself.
        unit: of both.
        direction: which way is closer to retraining.
    """

    value: float
    null: float | None
    matched: float
    unit: str
    direction: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PerExample(Distance):
    """A mean over examples, each compared over many models.

    Args:
        examples: one number an example, of the unlearned models, shape (n,).
        null_examples: of the null, shape (n,).
        percentile_95: of `examples`.
        null_percentile_95: of `null_examples`.
        models: on each side of `value`.
        null_models: on each side of `null` and `matched`.
    """

    examples: Values
    null_examples: Values
    percentile_95: float
    null_percentile_95: float
    models: int
    null_models: int


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
    u, r, again = _models(3, "unlearned", unlearned, "retrained", retrained, retrained_again)
    return _per_example(_epsilons, _points, u, r, again, "score in [0, 1]", HIGHER)


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


def klom(
    unlearned_margins: ArrayLike,
    retrained_margins: ArrayLike,
    *,
    bins: int = 20,
    clip: float = 100.0,
    retrained_again: ArrayLike | None = None,
) -> PerExample:
    """KLOM: for every example, the KL divergence of binned margins, unlearned from retrained.

    Margins are clipped to ±clip and binned between the least and largest of both sets. With shares u and r of the bins,
    r is raised to 1e-5 where only u is not 0, made to sum to 1 again, and KLOM = Σ u log(u/r). With N models on
    each side chance alone gives about (occupied bins)/N: hold `matched` against `null`.

    The authors' code leaves the largest margin out of all bins; here the last bin includes it.

    Args:
        unlearned_margins: of N unlearned models on n examples, shape (N, n): z_y - log Σ_{c≠y} exp z_c, as in
            `membership.logit_confidence_from_logits`.
        retrained_margins: of N retrained models, shape (N, n); the authors use N = 100.
        bins: of the histograms.
        clip: largest absolute margin.
        retrained_again: of N further retrained models, for the null; by default `retrained_margins` is split in two.

    Returns:
        Mean over examples in nats, lower is closer; `examples` are the divergences.

    Raises:
        ValueError: shapes disagree, NaN or infinite, fewer than 2 models (4 without `retrained_again`).

    Source: Georgiev et al. 2024, arXiv 2410.23232, and github.com/RoyRin/data-unlearning-bench.
    """
    _validate.whole(2, bins=bins)
    _validate.positive(clip=clip)
    u, r, again = _models(
        2, "unlearned_margins", unlearned_margins, "retrained_margins", retrained_margins, retrained_again
    )

    def divergences(a: Values, b: Values) -> Values:
        return _divergences(np.clip(a, -clip, clip), np.clip(b, -clip, clip), bins)

    return _per_example(divergences, _mean, u, r, again, "nats", LOWER)


def agreement(unlearned: ArrayLike, retrained: ArrayLike) -> Distance:
    """The share of equal predictions, over all pairs of an unlearned and a retrained model.

    The null is the share over all pairs of two retrained models. Both are unbiased, whatever the number of models.

    Args:
        unlearned: predicted classes, shape (n,) for one model or (N, n).
        retrained: shape (n,) or (M, n); at least 2 models for a null.

    Raises:
        TypeError: predictions are not whole numbers.
        ValueError: empty, or not about the same number of examples.
    """
    u, r = _predictions("unlearned", unlearned), _predictions("retrained", retrained)
    if u.shape[1] != r.shape[1]:
        raise ValueError(f"unlearned has {u.shape[1]} predictions a model, retrained has {r.shape[1]}")
    equal = own = 0
    for kind in np.unique(r):
        votes = (r == kind).sum(0)
        equal += int(((u == kind).sum(0) * votes).sum())
        own += int((votes * (votes - 1)).sum())
    pairs = len(r) * (len(r) - 1)
    value, null = equal / (len(u) * r.size), own / (pairs * r.shape[1]) if pairs else None
    return Distance(value=value, null=null, matched=value, unit="share of predictions", direction=HIGHER)


def calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15, retrained: ArrayLike | None = None
) -> Distance:
    """Expected calibration error: |accuracy - confidence| in bins of confidence, weighted by their share of examples.

    Confidence is the largest probability; bins are equally wide, (0, 1/bins], and so on. A calibrated model has 0, but
    closeness to retraining is closeness to what retrained models have.

    Args:
        probabilities: of one unlearned model, shape (n, classes).
        labels: the true classes, shape (n,).
        bins: how many.
        retrained: of one retrained model on the same examples, shape (n, classes), for the null.

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: not probabilities, or a label out of range.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    _validate.whole(bins=bins)
    null = None if retrained is None else _calibration_error("retrained", retrained, labels, bins)
    value = _calibration_error("probabilities", probabilities, labels, bins)
    return Distance(value=value, null=null, matched=value, unit="share of predictions", direction=NEARER)


def relearning_time(accuracies_by_epoch: ArrayLike, target: float, *, retrained: ArrayLike | None = None) -> Distance:
    """After how many epochs of training on the forgotten examples their accuracy reaches a target; ∞ if it never does.

    A model that relearns faster than a retrained one still knew something.

    Args:
        accuracies_by_epoch: accuracy of an unlearned model on the forgotten examples before the first epoch, after the
            first, and so on, shape (epochs + 1,).
        target: an accuracy in (0, 1].
        retrained: of a retrained model, trained in the same way, for the null.

    Raises:
        ValueError: an accuracy outside [0, 1], or target outside (0, 1].

    Source: Golatkar, Achille & Soatto 2020, arXiv 1911.04933.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target must lie in (0, 1], not {target!r}")
    null = None if retrained is None else _first_epoch("retrained", retrained, target)
    value = _first_epoch("accuracies_by_epoch", accuracies_by_epoch, target)
    return Distance(value=value, null=null, matched=value, unit="epochs", direction=NEARER)


def _models(
    least: int, u_name: str, unlearned: ArrayLike, r_name: str, retrained: ArrayLike, retrained_again: ArrayLike | None
) -> tuple[Values, Values, Values | None]:
    """Outputs of N models on n examples, N ≥ least, and 2 least if `retrained` has to be split."""
    again = None if retrained_again is None else finite("retrained_again", retrained_again, dimensions=2)
    u = finite(u_name, unlearned, dimensions=2, least=least, why="(one a model)")
    least, why = (
        (2 * least, "to split for the null, or else retrained_again") if again is None else (least, "(one a model)")
    )
    r = finite(r_name, retrained, dimensions=2, least=least, why=why)
    for name, array in ((u_name, u), ("retrained_again", again)):
        if array is not None and array.shape != r.shape:
            raise ValueError(f"{name} has shape {array.shape}, {r_name} has {r.shape}: they must be equal")
    return u, r, again


def _per_example(
    compare: Callable[[Values, Values], Values],
    reduce: Callable[[Values, int], float],
    u: Values,
    r: Values,
    again: Values | None,
    unit: str,
    direction: str,
) -> PerExample:
    """Compare u with r, and for the null two sets of retrained models; then reduce (numbers, models) to one value."""
    half = len(r) // 2
    # Without a second set, the two halves of r; the same second half then serves the null and the matched value.
    one, other, fewer = (r[: 2 * half : 2], r[1 : 2 * half : 2], u[:half]) if again is None else (again, r, u)
    examples, null = compare(u, r), compare(one, other)
    return PerExample(
        value=reduce(examples, len(u)),
        null=reduce(null, len(one)),
        unit=unit,
        direction=direction,
        matched=reduce(examples if fewer is u else compare(fewer, other), len(one)),
        examples=examples,
        null_examples=null,
        percentile_95=float(np.percentile(examples, 95)),
        null_percentile_95=float(np.percentile(null, 95)),
        models=len(u),
        null_models=len(one),
    )


def _points(epsilons: Values, models: int) -> float:
    """The mean of H."""
    buckets = ceil(log(models - 1)) / _BUCKET
    bucket = np.floor(epsilons / _BUCKET)
    return float(np.where(bucket < buckets, 0.5**bucket, 0.0).mean())


def _mean(values: Values, _models: int) -> float:
    return float(values.mean())


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


def _divergences(u: Values, r: Values, bins: int) -> Values:
    """Of every column: KL(histogram of u, histogram of r)."""
    low, high = np.minimum(u.min(0), r.min(0)), np.maximum(u.max(0), r.max(0))
    width = np.where(high > low, high - low, 1.0)
    p, q = (_shares((x - low) / width, bins) for x in (u, r))
    q = np.where(p > 0, np.maximum(q, _FLOOR), q)
    return np.asarray(rel_entr(p, q / q.sum(1, keepdims=True)).sum(1), dtype=np.float64)


def _shares(scaled: Values, bins: int) -> Values:
    """Histograms of columns with values in [0, 1], shape (columns, bins)."""
    models, columns = scaled.shape
    cell = np.minimum((scaled * bins).astype(np.intp), bins - 1) + bins * np.arange(columns)
    return np.bincount(cell.ravel(), minlength=bins * columns).reshape(columns, bins) / models


def _predictions(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold whole numbers, the predicted classes, not {array.dtype}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} must have shape (n,) or (models, n), not {array.shape}")
    return np.atleast_2d(array).astype(np.int64)


def _calibration_error(name: str, values: ArrayLike, labels: ArrayLike, bins: int) -> float:
    p, y = classified(name, values, labels)
    confidence = p.max(1)
    cell = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    surplus = np.bincount(cell, (p.argmax(1) == y) - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(y))


def _first_epoch(name: str, accuracies: ArrayLike, target: float) -> float:
    reached = np.flatnonzero(unit_interval(name, accuracies) >= target)
    return float(reached[0]) if len(reached) else inf
