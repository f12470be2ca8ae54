"""Two worlds: a mechanism run from two starts, thousands of times, and the best guess which start it was."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate
from expunge.accounting import BlockwiseGradientClipping, Mechanism, Relation
from expunge.attacks.attacked import Attacked
from expunge.attacks.oracles import Oracle, oracles
from expunge.audit.evidence import Evidence
from expunge.audit.finding import Finding
from expunge.audit.scores import gaussian_fit, threshold_counts
from expunge.methods import EXECUTORS, Noise, secret_generator

__all__ = ["two_worlds"]

Executor = Callable[..., Iterator[int]]
Scores = NDArray[np.float64]
_IN_A_BIN = 50  # runs: few, so that a value that many runs share gets bins of its own
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
        ValueError: fewer than 100 replicates, or delta or confidence out of range.
    """
    _validate.whole(100, replicates=replicates)
    _validate.open_unit_interval(delta=delta, confidence=confidence)
    run = executor or EXECUTORS.get(type(mechanism))
    if run is None:
        raise TypeError(f"two_worlds cannot run {mechanism!r}; known: {[m.name for m in EXECUTORS]}")
    if isinstance(mechanism, BlockwiseGradientClipping) and mechanism.block_sizes != (1,):
        raise TypeError("two_worlds attacks one weight; of block-wise noise it can attack a single block of size 1")
    coins = secret_generator() if generator is None else generator
    worlds = [_Worlds(mechanism, run, noise, oracle, replicates, coins) for oracle in oracles(mechanism)]
    attacks = [(world, attack) for world in worlds for attack in world.attacks]
    each = 1 - (1 - confidence) / len(attacks)
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=coins)))
    return Attacked(
        findings=tuple(world.finding(attack, delta, each, rng) for world, attack in attacks),
        details={world.oracle.name: world.histogram() for world in worlds},
    )


class _Worlds:
    """Outputs under one oracle: from one end of the ball, from the other, and from the first again."""

    def __init__(
        self,
        mechanism: Mechanism,
        executor: Executor,
        noise: Callable[..., Any],
        oracle: Oracle,
        replicates: int,
        coins: torch.Generator,
    ) -> None:
        self.oracle = oracle
        radius = mechanism.start_radius
        far = _FAR * (radius if radius < float("inf") else 1.0)
        self.p, self.q, self.null = (
            _outputs(mechanism, executor, noise, oracle, torch.full((replicates, 1), start), coins)
            for start in (far, -far, -far)
        )
        self.attacks: dict[str, Callable[..., Evidence]] = {
            "output, threshold": _by_threshold,
            "density ratio": _by_ratio,
        }
        if oracle.gaussian and min(np.ptp(self.p), np.ptp(self.q)) > 0:  # without noise there is nothing to fit
            self.attacks["output, Gaussian fit"] = _by_fit

    def finding(self, attack: str, delta: float, confidence: float, rng: np.random.Generator) -> Finding:
        """What one attack makes of the outputs."""
        see = self.attacks[attack]
        return Finding(
            attack=f"two worlds, {self.oracle.name}: {attack}",
            relation=Relation.RETRAINED,
            delta=delta,
            confidence=confidence,
            evidence=see(self.p, self.q, delta, confidence, rng),
            null=see(self.null, self.q, delta, confidence, rng),
        )

    def histogram(self, bins: int = 80) -> dict[str, Any]:
        """Counts of the outputs of both worlds in common bins."""
        edges = np.histogram_bin_edges(np.concatenate([self.p, self.q]), bins)
        p, q = (np.histogram(x, edges)[0].tolist() for x in (self.p, self.q))
        return {"edges": edges.tolist(), "p": p, "q": q, "unit": "the weight at the end"}


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


def _by_threshold(p: Scores, q: Scores, delta: float, confidence: float, rng: np.random.Generator) -> Evidence:
    return threshold_counts(p, q, delta=delta, confidence=confidence, generator=rng)


def _by_fit(p: Scores, q: Scores, _delta: float, _confidence: float, _rng: np.random.Generator) -> Evidence:
    return gaussian_fit(p, q)


def _by_ratio(p: Scores, q: Scores, delta: float, confidence: float, rng: np.random.Generator) -> Evidence:
    """Half of the runs teach a histogram of log density ratios; it scores the others."""
    half_p, half_q = len(p) // 2, len(q) // 2
    bins = max((half_p + half_q) // _IN_A_BIN, 4)
    edges = np.unique(np.quantile(np.concatenate([p[:half_p], q[:half_q]]), np.linspace(0, 1, bins)[1:-1]))
    in_p, in_q = (np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (p[:half_p], q[:half_q]))
    ratio = np.log(in_p + 0.5) - np.log(in_q + 0.5)
    scored = (ratio[np.searchsorted(edges, x)] for x in (p[half_p:], q[half_q:]))
    return threshold_counts(*scored, delta=delta, confidence=confidence, generator=rng)
