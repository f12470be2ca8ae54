"""Behaviour cloning, and energy-based distribution matching as losses without any memory."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge import _validate
from expunge.errors import TaskError
from expunge.policies.scores import action_scores, action_scores_of, demonstrated, refuse_mixing

__all__ = ["PADDING", "EnergyMatching", "Langevin", "cloning", "energy", "occupancy_gap", "within"]

PADDING = -1
"""The action of a step that is none: a trajectory's rows behind its end, see `by_demonstrator`."""


def cloning(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of the demonstrated actions, behaviour cloning: mean over rows of the mean over a row's steps.

    Args:
        model: from states to scores of actions.
        batch: (states, actions) or fields of these names; actions of shape (n,), or (n, steps) where a row is a demonstrator,
            with `PADDING` for no step.

    Raises:
        ModelRefused: the model gives no scores for actions.
        TaskError: the batch is none of demonstrations.
    """
    states, actions = demonstrated(batch)
    scores = action_scores_of(model, states, tuple(actions.shape))
    return _cross_entropy(scores, actions)


def energy(model: nn.Module, states: Tensor) -> Tensor:
    """E(s) = -logsumexp f(s), shape (n,): the policy's scores read as a model of the states that it visits, ρ(s) ∝ exp(-E(s)).

    Raises:
        ModelRefused: the model gives no scores for actions.
    """
    return -action_scores(model, states).logsumexp(1)


def occupancy_gap(model: nn.Module, states: Tensor, sampled: Tensor) -> Tensor:
    """L = mean logsumexp f(sampled s) - mean logsumexp f(demonstrated s), a scalar.

    With samples of ρ, held fixed, its gradient is that of -mean log ρ(demonstrated s).

    Args:
        model: from states to scores of actions.
        states: demonstrated ones, shape (n, ...).
        sampled: shape (m, ...).

    Raises:
        ModelRefused: the model gives no scores for actions.
    """
    return energy(model, states).mean() - energy(model, sampled).mean()


@dataclass(frozen=True, kw_only=True)
class Langevin:
    """s ← s - rate ∇E(s) + noise N(0, I), so many times.

    The defaults are the published code's. A sampler of ρ would have noise² = 2 rate: with these, samples lie near its modes.

    Args:
        steps: how many.
        rate: of a step along the gradient.
        noise: standard deviation of what a step adds.
    """

    steps: int = 20
    rate: float = 0.01
    noise: float = 0.01

    def __post_init__(self) -> None:
        _validate.whole(steps=self.steps)
        _validate.positive(rate=self.rate)
        _validate.non_negative(noise=self.noise)

    def moved(self, model: nn.Module, states: Tensor) -> Tensor:
        """States after all steps, of the shape of `states`, without a gradient; coins are torch's global ones."""
        states = states.detach()
        for _ in range(self.steps):
            downhill = _downhill(model, states)
            states = states + self.rate * downhill + self.noise * torch.randn_like(states)
        return states


@dataclass(frozen=True, kw_only=True)
class EnergyMatching:
    """Energy-based distribution matching (Jarrett et al. 2020, arXiv 2006.14154) as a loss: `cloning` + L + L², L of `occupancy_gap`.

    The square is the published code's; L + L² = (L + 1/2)² - 1/4 is bounded below, and pulls L to -1/2.

    Samples are drawn anew for every batch, from a first state within the range of the batch's states, by coins of the run.
    So it is a function of weights, batch and coins as every loss is, with no buffer in it that could be carried over.
    `PersistentEnergyMatching` has one, and draws it anew each time.

    Args:
        langevin: how samples move.
    """

    langevin: Langevin = field(default_factory=Langevin)

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The scalar loss of a batch; arguments and errors as of `cloning`.

        Raises:
            ModelRefused: a layer mixes the rows of a batch, or the model gives no scores for actions.
        """
        refuse_mixing(model)
        states, _ = demonstrated(batch)
        gap = occupancy_gap(model, states, self.langevin.moved(model, within(states, len(states))))
        return cloning(model, batch) + gap + gap**2


def within(states: Tensor, number: int) -> Tensor:
    """So many states, each number of them uniform over its range among `states`, from torch's global coins.

    Raises:
        TaskError: states are no real numbers, so that energies have no gradient in them.
    """
    if not states.is_floating_point():
        raise TaskError(f"states must be real numbers, which Langevin steps can move, not {states.dtype}; see cloning")
    low, high = states.amin(0), states.amax(0)
    drawn = torch.rand(number, *states.shape[1:], dtype=states.dtype, device=states.device)
    return low + (high - low) * drawn


def _downhill(model: nn.Module, states: Tensor) -> Tensor:
    """-∇E(s), of the shape of `states`, without a gradient of its own."""
    if isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            return torch.autograd.grad(-energy(model, leaf).sum(), leaf)[0]

    def negative(at: Tensor) -> Tensor:
        return -energy(model, at).sum()

    with torch.no_grad():  # one of a stack of runs, a function: slower, and the only way within `vmap`
        return torch.func.grad(negative)(states)


def _cross_entropy(scores: Tensor, actions: Tensor) -> Tensor:
    if actions.dim() == 1:
        return F.cross_entropy(scores, actions)
    each = F.cross_entropy(scores.flatten(0, -2), actions.flatten(), ignore_index=PADDING, reduction="none")
    steps = (actions != PADDING).sum(1).clamp(min=1)
    return (each.reshape(actions.shape).sum(1) / steps).mean()
