"""What is run for each figure: recipes as functions that return whole configurations.

The paper: Koloskova et al., ICML 2025, arXiv 2506.06985. *As published*: the noise of its code and the claim it makes.
*As proven*: the noise that (1, 1e-5) truly needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, log, sqrt
from typing import Any, Literal

from torch import nn

import expunge as ex
from expunge.accounting import iteration

__all__ = ["BUDGET", "Cell", "Training", "mlp", "mnist_cells", "paper_training", "tuned_retraining", "tuned_training"]

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)


@dataclass(frozen=True)
class Training:
    """A linear one-cycle over the budget of epochs.

    Args:
        name: "paper" or "tuned".
        optimizer: "sgd" or "adamw".
        learning_rate: the peak.
        momentum: of SGD.
        weight_decay: of SGD.
        rescale: whether layers are first brought to their initialisation scale.
    """

    name: str
    learning_rate: float
    momentum: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 5e-4
    rescale: bool = False


@dataclass(frozen=True)
class Cell:
    """One line of a figure.

    Args:
        method: "gradient_clipping", "model_clipping", "output_perturbation" or "retrain".
        reading: "published" or "proven"; "exact" for retraining.
        mechanism: None for retraining.
        claimed: the ε that the published code states for it.
    """

    method: str
    reading: str
    mechanism: ex.Mechanism | None
    claimed: float | None = None

    @property
    def setting(self) -> str:
        """The hyper-parameters that the figures name."""
        m: Any = self.mechanism
        if isinstance(m, ex.GradientClipping):
            return f"C0={m.init_clip:g} C1={m.grad_clip:g} eta={m.learning_rate:g} lambda={m.weight_decay:g}"
        if isinstance(m, ex.ModelClipping):
            return f"C2={m.model_clip:g}"
        return f"C0={m.init_clip:g}" if isinstance(m, ex.OutputPerturbation) else ""


def mlp() -> nn.Module:
    """MNIST: 784-5-10, 3,985 weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 10))


def paper_training() -> Training:
    """After the noise: SGD without momentum, peak 0.1."""
    return Training(name="paper", learning_rate=0.1)


def tuned_training() -> Training:
    """For the mechanisms: the best of `tune.py`, on seeds that no figure uses."""
    return Training(name="tuned", optimizer="adamw", learning_rate=0.012)


def tuned_retraining() -> Training:
    """For retraining, from the same grid and seeds."""
    return Training(name="tuned", learning_rate=0.05, momentum=0.9)


def mnist_cells() -> list[Cell]:
    """Figure 1, MNIST: the settings that its curves use, in both readings, and retraining."""
    cells: list[Cell] = []
    for setting in ((0.01, 10.0, 1e-4, 750.0), (0.01, 100.0, 1e-4, 10.0)):
        cells += _gradient_clipping(*setting)
    for noise_std, radius in ((0.01, 0.001), (0.01, 0.01)):
        cells += _model_clipping(noise_std, radius)
    for radius in (0.01, 0.1, 1.0):
        cells += _output_perturbation(radius)
    return [*cells, Cell("retrain", "exact", None)]


def paper_steps(c0: float, c1: float, eta: float, decay: float) -> int:
    """The paper's rule for the number of noisy steps."""
    by_drift = ceil(c0 / (c1 * eta) - 1e-9)
    by_decay = ceil(log(2 * decay * c0 / c1) / (eta * decay)) if 2 * decay * c0 > c1 else 0
    return min(by_drift, by_decay) if by_decay > 0 else by_drift


def published_gradient_clipping(c0: float, c1: float, eta: float, decay: float) -> ex.GradientClipping:
    """The noise of the published code: shift of sqrt(2) deviations, whatever the steps."""
    steps = paper_steps(c0, c1, eta, decay)
    path = iteration.path(
        distance=2 * c0, drift=[2 * eta * c1] * steps, decay=[eta * decay] * steps, noise_std=[1.0] * steps
    )
    return ex.GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps,
        noise_std=float(path.distance[-1] / path.noise_std[-1]) / sqrt(2),
    )  # fmt: skip


def _gradient_clipping(c0: float, c1: float, eta: float, decay: float) -> list[Cell]:
    published = published_gradient_clipping(c0, c1, eta, decay)
    return [
        Cell("gradient_clipping", "published", published, claimed=1.004),
        Cell("gradient_clipping", "proven", _proven(lambda s: replace(published, noise_std=s))),
    ]


def _model_clipping(noise_std: float, radius: float) -> list[Cell]:
    """Its recursion is right: the published noise proves the claim after the fewest steps that reach it.

    Where the noise is far above the radius one step is enough, and the least noise for one step is the other reading.
    """

    def after(steps: int) -> ex.ModelClipping:
        return ex.ModelClipping(model_clip=radius, learning_rate=1e-3, steps=steps, noise_std=noise_std)

    published = ex.fewest_steps(after, BUDGET)
    return [
        Cell("model_clipping", "published", published, claimed=1.0),
        Cell("model_clipping", "proven", _proven(lambda s: replace(published, noise_std=s))),
    ]


def _output_perturbation(radius: float) -> list[Cell]:
    """Published: the classical formula, sigma = 2 C0 sqrt(2 ln(1.25/delta))/epsilon."""
    classical = 2 * radius * sqrt(2 * log(1.25 / BUDGET.delta)) / BUDGET.epsilon
    return [
        Cell(
            "output_perturbation",
            "published",
            ex.OutputPerturbation(init_clip=radius, noise_std=classical),
            claimed=1.0,
        ),
        Cell("output_perturbation", "proven", _proven(lambda s: ex.OutputPerturbation(init_clip=radius, noise_std=s))),
    ]


def _proven(family: Callable[[float], Any]) -> Any:
    return ex.calibrate(family, BUDGET)
