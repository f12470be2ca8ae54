"""The null-start audit: a bounded metric of the trained start against the null start, over many seeds."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.accounting import Relation
from expunge.audit.evidence import Evidence, Means
from expunge.audit.finding import Finding
from expunge.audit.scores import threshold_counts

__all__ = ["null_start"]

Values = NDArray[np.float64]


def null_start(
    trained: Sequence[float],
    null: Sequence[float],
    *,
    delta: float,
    generator: np.random.Generator,
    confidence: float = 0.95,
    metric: str = "accuracy",
) -> list[Finding]:
    """Whether a metric tells the trained start from the null start better than the certificate allows.

    The certificate holds for every start in the ball, the null start (the centre) among them. A metric with values in
    [0, 1] is a randomised test, so its mean can rise by a bounded amount only: from a to Φ(Φ⁻¹(a) + μ) at most. So is
    "the metric exceeds a threshold", which is clearer where runs vary little.

    Args:
        trained: the metric of every run from the trained start, in [0, 1], at least 4.
        null: of every run from the null start, the same procedure, seeds of its own.
        delta: δ at which ε is bounded.
        generator: splits the runs into those that choose the threshold and those that test it.
        confidence: of both findings together.
        metric: its name.

    Returns:
        By the threshold (exact binomial limits), and by the mean, larger expected from the trained start (Hoeffding).

    Raises:
        ValueError: too few runs, NaN, or a value outside [0, 1].
    """
    p, q = _metric("trained", trained, metric), _metric("null", null, metric)
    shuffled = generator.permutation(q)
    one, other = shuffled[::2], shuffled[1::2]
    each = 1 - (1 - confidence) / 2

    def counted(a: Values, b: Values) -> Evidence:
        return threshold_counts(a, b, delta=delta, confidence=each, generator=generator)

    kinds: dict[str, Callable[[Values, Values], Evidence]] = {"beyond a threshold": counted, "mean": _means}
    return [
        Finding(
            attack=f"null start: {metric}, {kind}",
            relation=Relation.RETRAINED,
            delta=delta,
            confidence=each,
            evidence=see(p, q),
            null=see(one, other) if min(len(one), len(other)) >= 4 else None,
        )
        for kind, see in kinds.items()
    ]


def _metric(name: str, values: Sequence[float], metric: str) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 4:
        raise ValueError(f"{name} must hold the {metric} of at least 4 runs, not an array of shape {array.shape}")
    wrong = np.flatnonzero(~((array >= 0) & (array <= 1)))
    if len(wrong):
        raise ValueError(f"{name} must lie in [0, 1], not {array[wrong[0]]} at index {wrong[0]}")
    return array


def _means(p: Values, q: Values) -> Evidence:
    return Means(p_mean=float(p.mean()), p_runs=len(p), q_mean=float(q.mean()), q_runs=len(q))
