"""Two worlds: a mechanism run from two starts, thousands of times, and the best guess which start it was."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from expunge import _validate
from expunge.accounting import Mechanism
from expunge.attacks.attacked import Attacked
from expunge.attacks.gradient_oracles import Oracle, oracles
from expunge.attacks.samples import Samples, Scores, guesses
from expunge.randomness.generators import secret_generator
from expunge.training.noise import Noise
from expunge.unlearners.executors import EXECUTORS

__all__ = ["two_worlds"]

Executor = Callable[..., Iterator[int]]
_FAR = 1e6  # a start this far out in radii is clipped to the sphere


def two_worlds(
    mechanism: Mechanism,
    *,
    executor: Executor | None = None,
    noise: Callable[..., Any] = Noise,
    replicates: int = 100_000,
    delta: float = 1e-5,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> Attacked:
    """Attack a mechanism with worst-case losses: one weight, starts at the two ends of the ball, `replicates` runs of each.

    One weight is enough: in more, a worst-case loss uses only the line through the two starts. The loss is the attacker's
    as well, since the theorems hold for every loss; see `oracles`. Which start a run had is guessed from its
    output: by the output itself, and by a ratio of densities learned on other runs.

    Args:
        mechanism: a finished one; what it claims is not looked at.
        executor: runs it; by default our own. Anyone's of the same form can be attacked.
        noise: makes the source of noise from (std, generator); by default our own.
        replicates: runs of each world, and as many of the null.
        delta: δ at which ε is bounded.
        confidence: of all findings together.
        generator: of all coins, on a CPU; by default a fresh one.

    Returns:
        Findings, each with its null: both worlds from one start; details: for each loss a histogram of both worlds.

    Raises:
        TypeError: there is no executor for this mechanism.
        ValueError: the mechanism is of more than one weight (see `Steps.on_one_weight`), fewer than 100 replicates, or delta or confidence out of range.
    """
    _validate.whole(100, replicates=replicates)
    _validate.open_unit_interval(delta=delta, confidence=confidence)
    run = executor or EXECUTORS.get(type(mechanism))
    if run is None:
        raise TypeError(
            f"two_worlds cannot run {mechanism!r}: give its executor; known: {[m.name for m in EXECUTORS]}. A measured "
            "residual has no executor: use residual_worlds"
        )
    coins = secret_generator() if generator is None else generator
    worlds = [_samples(mechanism, run, noise, oracle, replicates, coins) for oracle in oracles(mechanism)]
    return guesses(worlds, delta=delta, confidence=confidence, coins=coins)


def _samples(
    mechanism: Mechanism,
    executor: Executor,
    noise: Callable[..., Any],
    oracle: Oracle,
    replicates: int,
    coins: torch.Generator,
) -> Samples:
    """Outputs under one oracle: from one end of the ball, from the other, and from the first again."""
    radius = mechanism.start_radius
    far = _FAR * (radius if radius < float("inf") else 1.0)
    p, q, null = (
        _outputs(mechanism, executor, noise, oracle, torch.full((replicates, 1), start), coins)
        for start in (far, -far, -far)
    )
    return Samples(oracle.name, p, q, null, gaussian=oracle.gaussian, unit="the weight at the end")


def _outputs(
    mechanism: Mechanism,
    executor: Executor,
    noise: Callable[..., Any],
    oracle: Oracle,
    theta: Tensor,
    coins: torch.Generator,
) -> Scores:
    """The weight of every run at the end, shape (replicates,)."""
    theta = theta.double()
    for _ in executor(mechanism, theta, oracle.gradient, itertools.count(), noise(mechanism.noise_std, coins)):
        pass
    return theta[:, 0].numpy()
