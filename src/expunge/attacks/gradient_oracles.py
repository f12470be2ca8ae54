"""Worst-case losses on one weight: gradient oracles that the theorems must survive."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from expunge.accounting import Mechanism

__all__ = ["LinearSteps", "Oracle", "oracles"]

_STEEP = 1e9  # every gradient is clipped, or thrown to the end of the ball


@dataclass(frozen=True)
class Oracle:
    """A loss, as its gradient (theta, step) -> shape of theta.

    Args:
        name: what it does.
        gradient: the step is what the batches are.
        gaussian: whether outputs are Gaussian under it.
    """

    name: str
    gradient: Callable[[Tensor, int], Tensor]
    gaussian: bool


@runtime_checkable
class LinearSteps(Protocol):
    """A mechanism all of whose steps are θ ← ρ θ - η g + noise once the start is in its ball: Gaussian where g is 0."""

    @property
    def kept_each_step(self) -> float:
        """ρ."""
        ...

    @property
    def init_clip(self) -> float:
        """Radius of the ball."""
        ...

    @property
    def learning_rate(self) -> float:
        """η."""
        ...

    @property
    def steps(self) -> int:
        """How many."""
        ...


def oracles(mechanism: Mechanism) -> list[Oracle]:
    """The losses worth trying.

    *Apart* drives a weight away from zero: for one step it attains the bound, for more it keeps the worlds apart as long as
    the sign survives the noise. *Still* does nothing. *Cancel* bets that the last noise repeats the ones before, which its
    gradient then takes back; sound noise laughs at it.
    """
    steps = mechanism.gradient_steps
    if steps == 0:
        return [Oracle("no loss", _still, gaussian=True)]
    found = [Oracle("a loss that drives apart", _apart, gaussian=steps == 1)]
    linear = isinstance(mechanism, LinearSteps)
    if steps > 1 and mechanism.start_radius < inf:
        found.append(Oracle("a flat loss", _still, gaussian=linear))
    if steps > 1 and linear:
        found.append(Oracle("a loss that cancels repeated noise", _cancelling(mechanism), gaussian=False))
    return found


def _still(theta: Tensor, _step: Any) -> Tensor:
    return torch.zeros_like(theta)


def _apart(theta: Tensor, _step: Any) -> Tensor:
    return torch.where(theta >= 0, -_STEEP, _STEEP).to(theta.dtype)


def _cancelling(m: LinearSteps) -> Callable[[Tensor, int], Tensor]:
    """Were every noise the same n, a run from C0 without gradients would be at ρ^k C0 + (1 + ρ + ... + ρ^(k-1)) n.

    So before the last step n can be read off, and the gradient takes the weight to ρ^T C0 exactly, if the clip lets it.
    """
    rho, last = m.kept_each_step, m.steps - 1
    passed = sum(rho**k for k in range(last))

    def gradient(theta: Tensor, step: int) -> Tensor:
        if step < last:
            return torch.zeros_like(theta)
        noise = (theta - rho**last * m.init_clip) / passed
        return (rho * theta + noise - rho**m.steps * m.init_clip) / m.learning_rate

    return gradient
