"""Accuracies of several procedures over seeds and epochs, as plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from scipy.special import ndtr, ndtri, stdtrit

__all__ = ["Comparison", "Lane", "interval", "null_start_bound"]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One procedure.

    Args:
        name: e.g. "gradient_clipping".
        label: for people.
        kind: of its guarantee.
        epsilon: of its guarantee; infinite is written as None.
        mu: of its guarantee.
        steps: gradient steps of all kinds together.
        held_out: accuracy on held-out data, shape (seeds, epochs + 1); the first column is before any recovery.
        forget: accuracy on the forgotten data, same shape.
        seconds: of the unlearning and recovery of each seed, measuring left out.
    """

    name: str
    label: str
    kind: str
    epsilon: float | None
    mu: float | None
    steps: int
    held_out: Sequence[Sequence[float]]
    forget: Sequence[Sequence[float]]
    seconds: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Lanes run on the same data, and where it happened."""

    title: str
    epsilon: float
    delta: float
    seeds: int
    epochs: int
    lanes: Sequence[Lane]
    environment: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        return asdict(self)

    def lane(self, name: str) -> Lane:
        """The lane of that name."""
        return next(lane for lane in self.lanes if lane.name == name)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t); the half-width of one value is 0."""
    if len(values) < 2:
        return fmean(values), 0.0
    return fmean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values))


def null_start_bound(null_accuracy: float, mu: float) -> float:
    """The most that the mean of a quantity in [0, 1] can be from a trained start, given its mean from the null start.

    The trade-off curve of a μ-GDP mechanism, Φ(Φ⁻¹(p) + μ), holds for every test, randomised ones among them, and a
    mean in [0, 1] is the power of such a test (Dong, Roth & Su 2019, arXiv 1905.02383).
    """
    return float(ndtr(ndtri(null_accuracy) + mu))
