"""From scores to what an attack saw: how well one number tells two worlds apart.

P is the world where the score is expected to be larger (members, the trained start), Q the other.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

from expunge import _validate
from expunge.audit.evidence import Counts, GaussianFit

__all__ = ["auc", "finite", "gaussian_fit", "roc", "threshold_counts", "tpr_at_fpr"]

Values = NDArray[np.float64]
_UNIFORM, _TAIL = 64, 48  # candidate thresholds of each world: at even quantiles, and towards each of its two ends


def finite(
    name: str, values: ArrayLike, *, dimensions: int = 1, least: int = 1, why: str = "", missing: bool = False
) -> Values:
    """The values as floats, at least `least` of them along the first axis and one along every other.

    Args:
        name: of the argument, for messages.
        values: numbers.
        dimensions: of the array.
        least: entries along the first axis.
        why: what they are needed for, e.g. "to choose a threshold"; ends the message.
        missing: whether NaN stands for a value that is not there.

    Raises:
        TypeError: not numbers.
        ValueError: another shape, too few, infinite, or NaN; the message gives the index.
    """
    raw = np.asarray(values)
    if raw.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold numbers, not {raw.dtype}")
    if raw.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension{'s' * (dimensions > 1)}, not shape {raw.shape}")
    if len(raw) < least:
        count = f"{len(raw)} sample{'s' * (len(raw) != 1)}"
        raise ValueError(f"{name} has {count}, at least {least} {'is' if least == 1 else 'are'} needed {why}".rstrip())
    if raw.size == 0:
        raise ValueError(f"{name} is empty: shape {raw.shape}")
    array = np.asarray(raw, dtype=np.float64)
    wrong = np.argwhere(np.isinf(array) if missing else ~np.isfinite(array))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        what = "NaN" if np.isnan(array[index]) else "infinity"
        raise ValueError(f"{name} has {what} at index {index[0] if dimensions == 1 else index}")
    return array


def roc(p_scores: ArrayLike, q_scores: ArrayLike) -> tuple[Values, Values]:
    """Rates of "score ≥ t" over all thresholds t, from none to all; equal scores are one step.

    Args:
        p_scores: shape (n,).
        q_scores: shape (m,).

    Returns:
        (false positive rates, true positive rates), both rising from 0 to 1, shape (distinct scores + 1,).

    Raises:
        ValueError: empty, not one-dimensional, NaN or infinite.
    """
    p, q = np.sort(finite("p_scores", p_scores)), np.sort(finite("q_scores", q_scores))
    thresholds = np.unique(np.concatenate([p, q]))[::-1]
    return _rates(q, thresholds), _rates(p, thresholds)


def auc(p_scores: ArrayLike, q_scores: ArrayLike) -> float:
    """The probability that a score of P exceeds one of Q; ties count half.

    Args:
        p_scores: shape (n,).
        q_scores: shape (m,).

    Returns:
        The area under `roc`: 1/2 where scores say nothing.

    Raises:
        ValueError: empty, not one-dimensional, NaN or infinite.

    Source: Mann & Whitney 1947.
    """
    p, q = finite("p_scores", p_scores), np.sort(finite("q_scores", q_scores))
    twice = int(np.searchsorted(q, p, "left").sum()) + int(np.searchsorted(q, p, "right").sum())
    return twice / (2 * len(p) * len(q))


def tpr_at_fpr(p_scores: ArrayLike, q_scores: ArrayLike, fpr: float) -> float:
    """The largest true positive rate among thresholds whose false positive rate is at most `fpr`; no interpolation.

    With fewer than 1/fpr samples of Q no false positive is allowed at all.

    Args:
        p_scores: shape (n,).
        q_scores: shape (m,).
        fpr: in [0, 1].

    Raises:
        ValueError: empty, not one-dimensional, NaN or infinite; fpr outside [0, 1].

    Source: Carlini et al. 2022, arXiv 2112.03570, who ask for it at low fpr.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr must lie in [0, 1], not {fpr!r}")
    false, true = roc(p_scores, q_scores)
    return float(true[false <= fpr][-1])


def threshold_counts(
    p_scores: ArrayLike, q_scores: ArrayLike, *, delta: float, confidence: float, generator: np.random.Generator
) -> Counts:
    """A threshold chosen on one half of the samples, and its counts on the other half.

    Choosing and counting on the same samples would void the limits of `Counts`: among hundreds of thresholds, one
    looks good by chance. On the first half, the threshold t and the side ("score ≥ t" or "score < t") are those with
    the largest `Counts.epsilon`, or where that is 0 for all, the largest Φ⁻¹(p_low) - Φ⁻¹(q_high). Candidates lie
    between neighbouring scores, a few hundred of them, densest towards the ends of both worlds.

    Args:
        p_scores: shape (n,), independent, n ≥ 4.
        q_scores: shape (m,), independent, m ≥ 4.
        delta: δ at which ε is to be bounded, in [0, 1).
        confidence: of the bound, in [0.5, 1).
        generator: splits the samples.

    Returns:
        Counts of "the test says yes", n - n//2 samples of P and m - m//2 of Q.

    Raises:
        ValueError: fewer than 4 samples, not one-dimensional, NaN or infinite; delta or confidence out of range.
    """
    why = "to choose a threshold on one half and test it on the other"
    p = generator.permutation(finite("p_scores", p_scores, least=4, why=why))
    q = generator.permutation(finite("q_scores", q_scores, least=4, why=why))
    _validate.open_unit_interval(confidence=confidence)
    if confidence < 0.5:
        raise ValueError(f"confidence must be at least 0.5, not {confidence!r}")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be a number in [0, 1), not {delta!r}")
    half_p, half_q = len(p) // 2, len(q) // 2
    threshold, above = _clearest(np.sort(p[:half_p]), np.sort(q[:half_q]), delta, (1 - confidence) / 2)
    true, false = (int(((x >= threshold) == above).sum()) for x in (p[half_p:], q[half_q:]))
    return Counts(positives=len(p) - half_p, true_positives=true, negatives=len(q) - half_q, false_positives=false)


def gaussian_fit(p_scores: ArrayLike, q_scores: ArrayLike) -> GaussianFit:
    """Means of both worlds and their pooled standard deviation.

    Args:
        p_scores: shape (n,), independent and Gaussian, n ≥ 2.
        q_scores: shape (m,), independent and Gaussian with the same standard deviation, m ≥ 2.

    Raises:
        ValueError: fewer than 2 samples, not one-dimensional, NaN or infinite; both worlds constant.
    """
    why = "for a standard deviation"
    p, q = finite("p_scores", p_scores, least=2, why=why), finite("q_scores", q_scores, least=2, why=why)
    if np.ptp(p) == 0 and np.ptp(q) == 0:
        raise ValueError(
            f"p_scores and q_scores are constant ({p[0]:g} and {q[0]:g}): there is no standard deviation to measure by"
        )
    squares = float(((p - p.mean()) ** 2).sum() + ((q - q.mean()) ** 2).sum())
    return GaussianFit(
        p_mean=float(p.mean()),
        p_samples=len(p),
        q_mean=float(q.mean()),
        q_samples=len(q),
        std=float(np.sqrt(squares / (len(p) + len(q) - 2))),
    )


def _rates(ordered: Values, thresholds: Values) -> Values:
    """The share of scores ≥ t, after a 0 for the threshold above all."""
    at_least = len(ordered) - np.searchsorted(ordered, thresholds, "left")
    return np.concatenate([[0.0], at_least / len(ordered)])


def _clearest(p: Values, q: Values, delta: float, alpha: float) -> tuple[float, bool]:
    """Of sorted scores: the threshold, and whether "score ≥ threshold" is the test rather than its contrary."""
    thresholds = _candidates(p, q)
    yes_p, yes_q = (len(x) - np.searchsorted(x, thresholds, "left") for x in (p, q))
    true, false = np.concatenate([yes_p, len(p) - yes_p]), np.concatenate([yes_q, len(q) - yes_q])
    low, high = 1 - _upper(len(p) - true, len(p), alpha), _upper(false, len(q), alpha)
    with np.errstate(divide="ignore"):
        epsilon = np.maximum(_log_ratio(low - delta, high), _log_ratio(1 - high - delta, 1 - low))
        mu = np.nan_to_num(ndtri(low) - ndtri(high), nan=-np.inf)
    best = int(np.argmax(epsilon)) if epsilon.max() > 0 else int(np.argmax(mu))
    return float(thresholds[best % len(thresholds)]), best < len(thresholds)


def _candidates(p: Values, q: Values) -> Values:
    """Thresholds between a score and the next lower one, of either world; the lowest says yes to everything."""
    pooled = np.unique(np.concatenate([p, q]))
    chosen = np.unique(np.concatenate([x[_ranks(len(x))] for x in (p, q)] + [pooled[[0, -1]]]))
    at = np.searchsorted(pooled, chosen)
    below = pooled[np.maximum(at - 1, 0)]
    middle = chosen / 2 + below / 2
    return np.where(middle > below, middle, chosen)


def _ranks(count: int) -> NDArray[np.intp]:
    """At most _UNIFORM + 2 _TAIL of the ranks 0 .. count - 1; all of them if there are few."""
    even = np.linspace(0, count - 1, _UNIFORM)
    tail = np.geomspace(1, count, _TAIL) - 1
    return np.unique(np.rint(np.concatenate([even, tail, count - 1 - tail])).astype(np.intp))


def _upper(successes: NDArray[np.int_], trials: int, alpha: float) -> Values:
    """Clopper-Pearson upper limits, as in `Counts`."""
    limits = cast("Any", betaincinv)(successes + 1, np.maximum(trials - successes, 1), 1 - alpha) * (1 + 1e-10)
    return np.where(successes == trials, 1.0, np.minimum(limits, 1.0))


def _log_ratio(above: Values, below: Values) -> Values:
    """log(above/below), or -∞ where above is not positive."""
    positive = above > 0
    return np.where(positive, np.log(np.where(positive, above, 1.0) / below), -np.inf)
