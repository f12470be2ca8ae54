"""What is run for each figure: recipes as functions that return whole configurations.

The paper: Koloskova et al., ICML 2025, arXiv 2506.06985. *As published*: the noise of its code and the claim it makes.
*As proven*: the noise that a true (ε, 1e-5) needs.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import ceil, log, sqrt
from typing import Any, Literal

import expunge as ex
from expunge.accounting import schedules

__all__ = [
    "DELTA", "Cell", "Job", "Training", "dp_training", "gradient_clipping", "model_clipping", "output_perturbation",
    "paper_steps", "published_gradient_clipping", "retraining",
]  # fmt: skip

DELTA = 1e-5


@dataclass(frozen=True)
class Training:
    """A linear one-cycle over all epochs of a job.

    Args:
        name: "paper" or "tuned".
        learning_rate: the peak.
        momentum: of SGD.
        optimizer: "sgd" or "adamw".
        weight_decay: of either.
        rescale: whether layers are first brought to their initialisation scale.
        max_grad_norm: of a step's gradient; None: any.
    """

    name: str
    learning_rate: float
    momentum: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4
    rescale: bool = False
    max_grad_norm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready fields, those that are None left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Cell:
    """One line of a figure.

    Args:
        method: "gradient_clipping", "model_clipping", "output_perturbation", "dp_training" or "retrain".
        reading: "published" or "proven"; "exact" for retraining.
        mechanism: None for retraining.
        target: the ε aimed at: what is claimed where published, what is proven where proven.
        claimed: the ε that the published code states for it.
    """

    method: str
    reading: str
    mechanism: ex.accounting.Mechanism | None
    target: float = 1.0
    claimed: float | None = None

    @property
    def setting(self) -> str:
        """The hyper-parameters that the figures name."""
        m: Any = self.mechanism
        if isinstance(m, ex.accounting.GradientClipping):
            return f"C0={m.init_clip:g} C1={m.grad_clip:g} eta={m.learning_rate:g} lambda={m.weight_decay:g}"
        if isinstance(m, ex.accounting.ModelClipping):
            return f"C2={m.model_clip:g}"
        if isinstance(m, ex.accounting.DPTraining):
            return f"q={m.sampling_rate:g} T={m.steps}"
        return f"C0={m.init_clip:g}" if isinstance(m, ex.accounting.OutputPerturbation) else ""


@dataclass(frozen=True)
class Job:
    """A cell, how it is trained after the noise, and when it is measured.

    Args:
        cell: what is run.
        training: after the noise, or from scratch.
        epochs: the length of the one-cycle.
        measured: after these epochs; the last is `epochs`.
    """

    cell: Cell
    training: Training
    epochs: int
    measured: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        cell = self.cell
        target = "" if cell.mechanism is None else f"eps={cell.target:g}"
        parts = (
            cell.method,
            cell.reading,
            target,
            cell.setting.replace(" ", "-"),
            self.training.name,
            str(self.epochs),
        )
        return "-".join(filter(None, parts))


def retraining() -> Cell:
    """From scratch, on the retained rows."""
    return Cell("retrain", "exact", None)


def gradient_clipping(c0: float, c1: float, eta: float, decay: float, *, target: float = 1.0) -> list[Cell]:
    """Both readings."""
    published = published_gradient_clipping(c0, c1, eta, decay, claimed=target)
    return [
        # What its code states: the claim, and what the conversion adds to it.
        Cell("gradient_clipping", "published", published, target, claimed=target + 0.004),
        Cell("gradient_clipping", "proven", _proven(lambda s: replace(published, noise_std=s), target), target),
    ]


def published_gradient_clipping(
    c0: float, c1: float, eta: float, decay: float, *, claimed: float = 1.0
) -> ex.accounting.GradientClipping:
    """The noise of the published code: a shift of sqrt(2 claimed) deviations, whatever the steps."""
    steps = paper_steps(c0, c1, eta, decay)
    path = schedules.path(
        distance=2 * c0, drift=[2 * eta * c1] * steps, decay=[eta * decay] * steps, noise_std=[1.0] * steps
    )
    return ex.accounting.GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps,
        noise_std=float(path.distance[-1] / path.noise_std[-1]) / sqrt(2 * claimed),
    )  # fmt: skip


def paper_steps(c0: float, c1: float, eta: float, decay: float) -> int:
    """The paper's rule for the number of noisy steps."""
    by_drift = ceil(c0 / (c1 * eta) - 1e-9)
    by_decay = ceil(log(2 * decay * c0 / c1) / (eta * decay)) if 2 * decay * c0 > c1 else 0
    return min(by_drift, by_decay) if by_decay > 0 else by_drift


def model_clipping(noise_std: float, radius: float) -> list[Cell]:
    """Its recursion is right: the published noise proves the claim after the fewest steps that reach it.

    Where the noise is far above the radius one step is enough, and the least noise for one step is the other reading.
    """

    def after(steps: int) -> ex.accounting.ModelClipping:
        return ex.accounting.ModelClipping(model_clip=radius, learning_rate=1e-3, steps=steps, noise_std=noise_std)

    published = ex.accounting.fewest_steps(after, ex.Budget(epsilon=1.0, delta=DELTA))
    return [
        Cell("model_clipping", "published", published, claimed=1.0),
        Cell("model_clipping", "proven", _proven(lambda s: replace(published, noise_std=s))),
    ]


def output_perturbation(radius: float) -> list[Cell]:
    """Published: the classical formula, sigma = 2 C0 sqrt(2 ln(1.25/delta))/epsilon."""
    classical = ex.accounting.OutputPerturbation(init_clip=radius, noise_std=2 * radius * sqrt(2 * log(1.25 / DELTA)))
    return [
        Cell("output_perturbation", "published", classical, claimed=1.0),
        Cell("output_perturbation", "proven", _proven(lambda s: replace(classical, noise_std=s))),
    ]


def dp_training(*, sampling_rate: float, steps: int, group_size: int, target: float) -> Cell:
    """Private training, its noise for a group of the paper's size at the paper's ε."""

    def with_noise(multiplier: float) -> ex.accounting.DPTraining:
        return ex.accounting.DPTraining(
            sample_clip=1.0,
            noise_multiplier=multiplier,
            sampling_rate=sampling_rate,
            steps=steps,
            group_size=group_size,
        )

    return Cell("dp_training", "proven", _proven(with_noise, target), target)


def _proven(family: Callable[[float], Any], target: float = 1.0) -> Any:
    return ex.accounting.calibrate(family, ex.Budget(epsilon=target, delta=DELTA))
