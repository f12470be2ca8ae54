"""Membership inference: from what models say of examples to one score an example, higher for a likelier member.

Arrays only. Whoever has models evaluates them on the examples and hands over losses, logits or probabilities.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, logsumexp

from expunge import _validate
from expunge.audit.scores import finite

__all__ = [
    "classified",
    "likelihood_ratio",
    "likelihood_ratio_offline",
    "logit_confidence",
    "logit_confidence_from_logits",
    "loss_scores",
    "rmia",
    "unit_interval",
]

Values = NDArray[np.float64]
_SUM_TOLERANCE = 1e-3  # of probabilities that came in half precision


def classified(name: str, probabilities: ArrayLike, labels: ArrayLike) -> tuple[Values, NDArray[np.int64]]:
    """Probabilities of classes, and the true ones, checked.

    Args:
        name: of the probabilities, for messages.
        probabilities: shape (n, classes), at least 2 classes; rows sum to 1 within 1e-3.
        labels: shape (n,).

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: not probabilities, or a label out of range.
    """
    p = unit_interval(name, probabilities, dimensions=2)
    sums = p.sum(1)
    wrong = np.flatnonzero(np.abs(sums - 1) > _SUM_TOLERANCE)
    if len(wrong):
        raise ValueError(f"{name} must sum to 1 in every row, not to {sums[wrong[0]]:g} in row {wrong[0]}")
    return p, _labels(labels, p.shape)


def unit_interval(name: str, values: ArrayLike, *, dimensions: int = 1, missing: bool = False) -> Values:
    """The values, all in [0, 1]: accuracies or probabilities.

    Args:
        name: of the argument, for messages.
        values: numbers.
        dimensions: of the array.
        missing: whether NaN stands for a value that is not there.

    Raises:
        TypeError: not numbers.
        ValueError: another shape, empty, infinite, NaN, or outside [0, 1]; the message gives the index.
    """
    array = finite(name, values, dimensions=dimensions, missing=missing)
    wrong = np.argwhere((array < 0) | (array > 1))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        at = index[0] if dimensions == 1 else index
        raise ValueError(f"{name} must lie in [0, 1], not {array[index]:g} at index {at}")
    return array


def loss_scores(losses: ArrayLike) -> Values:
    """Minus the loss: members have smaller losses.

    Args:
        losses: shape (n,).

    Raises:
        ValueError: empty, not one-dimensional, NaN or infinite.

    Source: Yeom et al. 2018, arXiv 1709.01604.
    """
    return -finite("losses", losses)


def logit_confidence(probabilities: ArrayLike, labels: ArrayLike) -> Values:
    """Logit of the true class, log p_y - log(1 - p_y), nearly Gaussian over models.

    1 - p_y is summed from the other classes. `logit_confidence_from_logits` also covers p_y that round to 1.

    Args:
        probabilities: shape (n, classes), rows sum to 1.
        labels: the true classes, shape (n,).

    Returns:
        Shape (n,).

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: not probabilities, a label out of range, or p_y is 0 or 1, where the logit is infinite.

    Source: Carlini et al. 2022, arXiv 2112.03570.
    """
    p, y = classified("probabilities", probabilities, labels)
    true, rest = _split(p, y)
    wrong = rest.sum(1)
    extreme = np.flatnonzero((true <= 0) | (wrong <= 0))
    if len(extreme):
        at = int(extreme[0])
        raise ValueError(
            f"probabilities gives the label of example {at} probability {true[at]:g}, whose logit is infinite; "
            "use logit_confidence_from_logits"
        )
    return np.log(true) - np.log(wrong)


def logit_confidence_from_logits(logits: ArrayLike, labels: ArrayLike) -> Values:
    """The same from logits: z_y - log Σ_{c≠y} exp z_c. Nothing overflows or cancels.

    It is also the margin of Georgiev et al. 2024, arXiv 2410.23232.

    Args:
        logits: shape (n, classes), at least 2 classes.
        labels: the true classes, shape (n,).

    Returns:
        Shape (n,).

    Raises:
        TypeError: labels are not whole numbers.
        ValueError: NaN or infinite logits, or a label out of range.

    Source: Carlini et al. 2022, arXiv 2112.03570.
    """
    z = finite("logits", logits, dimensions=2)
    true, rest = _split(z, _labels(labels, z.shape))
    return true - np.asarray(logsumexp(rest, axis=1), dtype=np.float64)


def likelihood_ratio(
    observed: ArrayLike, in_shadows: ArrayLike, out_shadows: ArrayLike, *, shared_variance: bool
) -> Values:
    """LiRA: the log ratio of two Gaussian densities, fitted to what shadow models say of each example.

    log N(observed; mean_in, var_in) - log N(observed; mean_out, var_out). For membership, "in" are shadow models
    trained with the example, "out" without it. For unlearning (U-LiRA, Hayes et al. 2024, arXiv 2403.01218), "in" are
    models that were trained with the example and then unlearned it, "out" are models retrained without it, and observed
    comes from the unlearned model under audit.

    Means and variances are those of each example, with the divisor k - 1. With few shadow models (fewer than about 64
    in all) `shared_variance` pools the squared deviations from each example's own mean over all examples, one variance
    for "in" and one for "out". The authors' code differs: medians for means, and a pooled variance about the overall
    mean.

    Args:
        observed: logit confidences of the model under attack, shape (n,).
        in_shadows: of the shadow models, shape (k_in, n); NaN where a model has no value for that example.
        out_shadows: shape (k_out, n), likewise.
        shared_variance: one variance for all examples.

    Returns:
        Shape (n,).

    Raises:
        ValueError: shapes disagree, infinite values, fewer than 2 values for an example (1 with a shared variance), or
            values without variance.

    Source: Carlini et al. 2022, arXiv 2112.03570, algorithm 1.
    """
    x = finite("observed", observed)
    above = _log_density(x, "in_shadows", in_shadows, shared_variance)
    return above - _log_density(x, "out_shadows", out_shadows, shared_variance)


def likelihood_ratio_offline(observed: ArrayLike, out_shadows: ArrayLike, *, shared_variance: bool = False) -> Values:
    """LiRA without "in" models: log Φ((observed - mean_out)/std_out), the one-sided test against "not a member".

    Args:
        observed: logit confidences of the model under attack, shape (n,).
        out_shadows: of shadow models trained without the example, shape (k_out, n); NaN where a model has no value.
        shared_variance: as in `likelihood_ratio`.

    Returns:
        Shape (n,), at most 0.

    Raises:
        ValueError: as in `likelihood_ratio`.

    Source: Carlini et al. 2022, arXiv 2112.03570.
    """
    x = finite("observed", observed)
    mean, variance = _moments(len(x), "out_shadows", out_shadows, shared_variance)
    return np.asarray(log_ndtr((x - mean) / np.sqrt(variance)), dtype=np.float64)


def rmia(
    observed: ArrayLike,
    reference: ArrayLike,
    population_observed: ArrayLike,
    population_reference: ArrayLike,
    *,
    gamma: float = 1.0,
    offline_a: float | None = None,
) -> Values:
    """RMIA: the share of population examples z that x outdoes, (p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ.

    p(x) is the mean over reference models, half of them trained with x. Offline, none is, and
    p(x) = ((1 + a) mean_out(x) + (1 - a))/2, for z as well; a = 1 trusts mean_out as it is.

    Args:
        observed: probability of the true label under the model under attack, shape (n,).
        reference: the same under reference models, shape (k, n); NaN where a model has no value for that example.
        population_observed: of examples that are no members, shape (m,).
        population_reference: shape (k', m).
        gamma: γ; the authors use 1 or 2.
        offline_a: a, in [0, 1]; None where half of the reference models know x.

    Returns:
        Shape (n,), in [0, 1].

    Raises:
        ValueError: not probabilities, shapes disagree, an example without reference or with p = 0 in all of them;
            gamma or offline_a out of range.

    Source: Zarifzadeh et al. 2024, arXiv 2312.03262.
    """
    _validate.positive(gamma=gamma)
    if offline_a is not None and not 0 <= offline_a <= 1:
        raise ValueError(f"offline_a must lie in [0, 1], not {offline_a!r}")
    x = _relative("observed", observed, "reference", reference, offline_a)
    z = _relative("population_observed", population_observed, "population_reference", population_reference, offline_a)
    return np.searchsorted(np.sort(gamma * z), x, "right") / len(z)


def _labels(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    count, classes = shape
    if classes < 2:
        raise ValueError(f"there must be at least 2 classes, not an array of shape {shape}")
    y = np.asarray(labels)
    if y.dtype.kind not in "iu":
        raise TypeError(f"labels must be whole numbers, not {y.dtype}")
    if y.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each example, not {y.shape}")
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        raise ValueError(f"labels must lie in 0 .. {classes - 1}, not {y[wrong[0]]} at index {wrong[0]}")
    return y.astype(np.int64)


def _split(values: Values, labels: NDArray[np.int64]) -> tuple[Values, Values]:
    """The value of the true class, shape (n,), and those of the others, shape (n, classes - 1)."""
    others = np.ones(values.shape, dtype=bool)
    rows = np.arange(len(values))
    others[rows, labels] = False
    return values[rows, labels], values[others].reshape(len(values), -1)


def _shadows(count: int, name: str, values: ArrayLike, least: int, why: str) -> tuple[Values, NDArray[np.int_], Values]:
    """The values, how many there are for each example, and their means."""
    shadows = finite(name, values, dimensions=2, missing=True)
    if shadows.shape[1] != count:
        raise ValueError(f"{name} must have shape (k, {count}), a column for each example, not {shadows.shape}")
    there = np.asarray((~np.isnan(shadows)).sum(0))
    few = np.flatnonzero(there < least)
    if len(few):
        at = int(few[0])
        values_word = "value" if there[at] == 1 else "values"
        raise ValueError(f"{name} has {there[at]} {values_word} for example {at}, at least {least} needed {why}")
    return shadows, there, np.nansum(shadows, 0) / there


def _moments(count: int, name: str, values: ArrayLike, shared: bool) -> tuple[Values, Values]:
    why = "for a mean" if shared else "for a variance (1 with shared_variance=True)"
    shadows, there, mean = _shadows(count, name, values, 1 if shared else 2, why)
    squares = np.nansum((shadows - mean) ** 2, 0)
    if shared:
        degrees = int((there - 1).sum())
        if degrees == 0:
            raise ValueError(f"{name} has 1 value for every example, at least 2 needed for some, for a variance")
        variance = np.full(count, squares.sum() / degrees)
    else:
        variance = squares / (there - 1)
    same = np.flatnonzero(np.nanmax(shadows, 0) == np.nanmin(shadows, 0))
    if len(same) and (not shared or len(same) == count):
        remedy = "" if shared else "; use shared_variance=True"
        raise ValueError(f"{name} is constant for example {same[0]}: there is no variance to measure by{remedy}")
    return mean, variance


def _log_density(x: Values, name: str, shadows: ArrayLike, shared: bool) -> Values:
    """The Gaussian log density, but for the constant that cancels."""
    mean, variance = _moments(len(x), name, shadows, shared)
    return -((x - mean) ** 2) / (2 * variance) - np.log(variance) / 2


def _relative(name: str, observed: ArrayLike, reference_name: str, reference: ArrayLike, a: float | None) -> Values:
    """p(x|θ)/p(x)."""
    p = unit_interval(name, observed)
    reference = unit_interval(reference_name, reference, dimensions=2, missing=True)
    _, _, mean = _shadows(len(p), reference_name, reference, 1, "for a mean")
    marginal = mean if a is None else ((1 + a) * mean + (1 - a)) / 2
    zero = np.flatnonzero(marginal <= 0)
    if len(zero):
        raise ValueError(
            f"{reference_name} gives example {zero[0]} probability 0 in every model: the ratio is undefined"
        )
    return p / marginal
