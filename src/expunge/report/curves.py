"""Accuracies of several procedures over seeds and epochs, as plain numbers."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.special import ndtr, ndtri, stdtrit

from expunge.errors import OutputError
from expunge.report.earlier import as_now

__all__ = ["Comparison", "Curve", "interval", "null_start_bound"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The accuracy of one unlearner, or of a control, by seed and epoch.

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
        at: epochs after which each column was measured, shape (columns,); by default 0, 1, 2, ...
        metrics: name -> what was measured of each seed's release.
        null_of: of a null start, the name of the curve that it is the control of.
        fresh: whether a new model was trained, on the retained data alone.
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
    at: Sequence[float] = ()
    null_of: str | None = None
    fresh: bool = False
    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])

    def __post_init__(self) -> None:
        lengths = {len(run) for run in (*self.held_out, *self.forget)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"held_out and forget of '{self.name}' must have rows of one length, not {sorted(lengths)}"
            )
        if self.at and len(self.at) not in lengths:
            raise ValueError(f"at of '{self.name}' names {len(self.at)} epochs for {lengths.pop()} columns")

    @property
    def epochs(self) -> Sequence[float]:
        """Epochs after which each column was measured."""
        return self.at or range(len(self.held_out[0]))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ways to unlearn run on the same data, and where it happened.

    Args:
        title: for people.
        epsilon: of the budget that they were run for.
        delta: likewise.
        seeds: runs of each.
        epochs: of the longest recovery.
        curves: one an unlearner, and one a control.
        environment: versions and threads.
        metrics: name -> {"unit", "better"} of what was measured beside accuracy.
    """

    title: str
    epsilon: float
    delta: float
    seeds: int
    epochs: int
    curves: Sequence[Curve]
    environment: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready fields."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Comparison":
        """Read a `comparison.json`.

        Raises:
            OutputError: it cannot be read, or is none.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
            now = as_now(plain)
            now["curves"] = [Curve(**curve) for curve in now["curves"]]
            return cls(**now)
        except OSError as error:
            raise OutputError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{os.fspath(path)} is not a comparison.json, as demo makes it") from error

    def to_csv(self) -> str:
        """One line a number: unlearner, seed, metric, value; accuracies are those at the end."""
        lines = ["unlearner,seed,metric,value"]
        for curve in self.curves:
            numbers: dict[str, Sequence[float]] = {
                "held_out_accuracy": [run[-1] for run in curve.held_out], "forget_accuracy": [run[-1] for run in curve.forget],
                "seconds": curve.seconds, **curve.metrics,
            }  # fmt: skip
            name = f'"{curve.name}"' if "," in curve.name else curve.name
            lines += [f"{name},{seed},{what},{x!r}" for what, all_ in numbers.items() for seed, x in enumerate(all_)]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        width = max(len(curve.name) for curve in self.curves)
        units = {name: own.get("unit", "") for name, own in self.metrics.items()}
        extra = [f"{name} [{unit}]" if unit else name for name, unit in units.items()]
        head = [
            f"{'unlearner':{width}}",
            f"{'guarantee':14}",
            f"{'steps':>6}",
            f"{'held out':>15}",
            f"{'forgotten':>15}",
        ]
        lines = ["  ".join([*head, *(f"{name:>15}" for name in extra)])]
        for curve in self.curves:
            proven = f"epsilon={curve.epsilon:.4g}" if curve.kind == "epsilon_delta" else curve.kind
            shown = [_shown([run[-1] for run in runs]) for runs in (curve.held_out, curve.forget)]
            shown += [_shown(curve.metrics.get(name, ())) for name in self.metrics]
            cells = [f"{curve.name:{width}}", f"{proven:14}", f"{curve.steps:>6}", *(f"{cell:>15}" for cell in shown)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([self.title, *lines])

    def curve(self, name: str) -> Curve | None:
        """The curve of that name, if it was run."""
        return next((curve for curve in self.curves if curve.name == name), None)

    def null_start_of(self, name: str) -> Curve | None:
        """The null start that is the control of a curve, if it was run."""
        return next((curve for curve in self.curves if curve.null_of == name), None)

    @property
    def retraining(self) -> Curve | None:
        """The first that trained a new model, if one was run."""
        return next((curve for curve in self.curves if curve.fresh), None)


def _shown(values: Sequence[float]) -> str:
    """Mean and half-width of its interval; one run has no spread that is known."""
    if not values:
        return ""
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}" if len(values) > 1 else f"{mean:.3f}"


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
