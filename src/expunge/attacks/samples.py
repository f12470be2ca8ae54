"""Outputs of two worlds, and what the best guesses about them show."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.accounting import Relation
from expunge.attacks.attacked import Attacked
from expunge.audit.evidence import Evidence
from expunge.audit.finding import Finding
from expunge.audit.scores import gaussian_fit, threshold_counts

__all__ = ["Samples", "Scores", "guesses"]

Scores = NDArray[np.float64]
_IN_A_BIN = 50  # runs: few, so that a value that many runs share gets bins of its own


class Samples:
    """Outputs of world P, of world Q, and of Q again: the null.

    Args:
        name: of what the attacker chose.
        p: one number a run, shape (runs,).
        q: likewise.
        null: likewise.
        gaussian: whether outputs are Gaussian with one deviation in both worlds.
        unit: of the numbers.
    """

    def __init__(self, name: str, p: Scores, q: Scores, null: Scores, *, gaussian: bool, unit: str) -> None:
        self.name, self.p, self.q, self.null, self._unit = name, p, q, null, unit
        self.attacks: dict[str, Callable[..., Evidence]] = {
            "output, threshold": _by_threshold,
            "density ratio": _by_ratio,
        }
        if gaussian and min(np.ptp(p), np.ptp(q)) > 0:  # without noise there is nothing to fit
            self.attacks["output, Gaussian fit"] = _by_fit

    def finding(self, attack: str, delta: float, confidence: float, rng: np.random.Generator) -> Finding:
        """What one attack makes of the outputs."""
        see = self.attacks[attack]
        return Finding(
            attack=f"two worlds, {self.name}: {attack}",
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
        return {"edges": edges.tolist(), "p": p, "q": q, "unit": self._unit}


def guesses(worlds: Sequence[Samples], *, delta: float, confidence: float, coins: torch.Generator) -> Attacked:
    """Every attack on every pair of worlds; the findings share the chance of being wrong."""
    attacks = [(world, attack) for world in worlds for attack in world.attacks]
    each = 1 - (1 - confidence) / max(len(attacks), 1)
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=coins)))
    return Attacked(
        findings=tuple(world.finding(attack, delta, each, rng) for world, attack in attacks),
        details={world.name: world.histogram() for world in worlds},
    )


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
