"""How far unlearned models are from retrained ones. Descriptions, not bounds: nothing here refutes a guarantee.

Every distance comes with its null, the same quantity of retrained models against other retrained models. It is not 0:
it is what chance leaves with so many models. Where the null comes from a split of the retrained models, it has half as
many on each side, so it is not comparable with `value`; `matched` is the value from as many models as the null.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

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
    "Values",
    "agreement",
    "calibration_error",
    "klom",
    "model_outputs",
    "per_example",
    "relearning_time",
]

Values = NDArray[np.float64]
HIGHER, LOWER, NEARER = "higher is closer", "lower is closer", "nearer to the null is closer"

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
    u, r, again = model_outputs(
        2, "unlearned_margins", unlearned_margins, "retrained_margins", retrained_margins, retrained_again
    )

    def divergences(a: Values, b: Values) -> Values:
        return _divergences(np.clip(a, -clip, clip), np.clip(b, -clip, clip), bins)

    return per_example(divergences, _mean, u, r, again, "nats", LOWER)


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


def model_outputs(
    least: int, u_name: str, unlearned: ArrayLike, r_name: str, retrained: ArrayLike, retrained_again: ArrayLike | None
) -> tuple[Values, Values, Values | None]:
    """Outputs of N models on n examples as arrays of one shape, N ≥ least, and 2 least if `retrained` has to be split.

    Raises:
        ValueError: shapes disagree, NaN or infinite, or too few models; under the names given.
    """
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


def per_example(
    compare: Callable[[Values, Values], Values],
    reduce: Callable[[Values, int], float],
    u: Values,
    r: Values,
    again: Values | None,
    unit: str,
    direction: str,
) -> PerExample:
    """Compare u with r, and for the null two sets of retrained models; then reduce (numbers, models) to one value.

    Args:
        compare: of two sets of models, shape (N, n) each, to one number an example, shape (n,).
        reduce: of these numbers and N to the value.
        u: outputs of the unlearned models, shape (N, n), as `model_outputs` gives them.
        r: of retrained models.
        again: of further retrained models for the null; None to split `r`.
        unit: of the value.
        direction: which way is closer to retraining.
    """
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


def _mean(values: Values, _models: int) -> float:
    return float(values.mean())


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
