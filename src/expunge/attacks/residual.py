"""Two worlds for a measured residual: the search that stops as far from the minimiser as it may, and the minimiser.

The theorem compares W + N(0, σ² I), |∇F_R(W)| ≤ β, with W* + N(0, σ² I). The attacker chooses rows and the start of
the search. Rows and W* are known in closed form, so world Q is the certifier itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import frexp, inf, ldexp, sqrt
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from expunge import _validate
from expunge.attacks.attacked import Attacked
from expunge.attacks.samples import Samples, Scores, guesses
from expunge.data import Examples
from expunge.errors import NonFinite, RunError
from expunge.heads.blocks import BLOCK, Blocks, ids_of
from expunge.heads.corrections import Corrections
from expunge.heads.newton import minimise
from expunge.heads.objectives import LOSSES, Objective
from expunge.heads.preconditioners import Kronecker
from expunge.randomness.generators import secret_generator
from expunge.training.noise import Noise

__all__ = ["Residual", "residual_worlds"]

_KEY = bytes(32)  # of digests of ids that the attacker made up: nothing to hide
_UNSEEN, _LOST = "a feature that no row has", "a gradient that rounding loses"
_TRIES = 40  # starts: to 1e-9 of β/λ
_FAR = 1000.0  # β/λ: a search that stays there stays anywhere
_WISHED = 3.0  # β/λ: how far the start whose gradient is lost lies from the minimiser,
_WORTH = 1.2  # and how far it must lie at least to be worth an attack
_ROOM = 0.9  # of the margin within which the lost gradient's objective is quadratic
_SMALLEST = 1e-13  # β: above the rounding of what is not meant to be lost


@runtime_checkable
class Residual(Protocol):
    """What is claimed of a search and its noise, as `expunge.MeasuredResidual` does: β, λ, σ, and β/λ."""

    @property
    def residual(self) -> float:
        """β."""
        ...

    @property
    def strong_convexity(self) -> float:
        """λ."""
        ...

    @property
    def noise_std(self) -> float:
        """σ."""
        ...

    @property
    def surviving_norm(self) -> float:
        """β/λ."""
        ...


def residual_worlds(
    mechanism: Residual,
    *,
    objective: Callable[..., Objective] = Objective,
    solver: Callable[..., Any] = minimise,
    noise: Callable[..., Any] = Noise,
    replicates: int = 100_000,
    delta: float = 1e-5,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> Attacked:
    """Attack the search, its measured residual and its noise with rows and a start made for the purpose.

    *A feature that no row has*: there the objective is (λ/2) w², so the theorem is tight; the start is moved out along it
    as far as the search still takes it for finished. *A gradient that rounding loses*: in double precision the terms
    of two rows of opposite sign swallow that of a third, so that the computed gradient is 0 away from the minimiser; a
    residual that counts rounding in is refused there, and then nothing is released.

    Args:
        mechanism: what is claimed of β, λ and σ; its μ is not looked at.
        objective: measures the residual; by default our own. Anyone's of the same form can be attacked.
        solver: the search, as `heads.newton.minimise`; likewise.
        noise: makes the source of noise from (std, generator); likewise.
        replicates: releases of each world, and as many of the null.
        delta: δ at which ε is bounded.
        confidence: of all findings together.
        generator: of all coins, on a CPU; by default a fresh one.

    Returns:
        Findings, each with its null: the certifier twice. Details by start: a histogram of both worlds along the line
        through W and W*; `distance` |W - W*| and `allowed`, β/λ; or why it was left out.

    Raises:
        TypeError: another mechanism.
        ValueError: fewer than 100 replicates, or delta or confidence out of range.
    """
    if not isinstance(mechanism, Residual):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"residual_worlds attacks a measured residual, not {type(mechanism).__name__}; see two_worlds")
    _validate.whole(100, replicates=replicates)
    _validate.open_unit_interval(delta=delta, confidence=confidence)
    coins = secret_generator() if generator is None else generator
    worlds: list[Samples] = []
    details: dict[str, Any] = {_LOST: {"left_out": "no rows do that for so large a residual"}}
    for scene in filter(None, (_unseen_feature(mechanism), _lost_gradient(mechanism))):
        try:
            reached = scene.farthest(mechanism, objective, solver)
        except (RunError, NonFinite) as refusal:
            details[scene.name] = {"left_out": f"the search refuses, so that nothing is released: {refusal}"}
            continue
        worlds.append(_samples(scene, reached, mechanism, noise, replicates, coins))
        details[scene.name] = {"distance": scene.distance(reached), "allowed": mechanism.surviving_norm}
    found = guesses(worlds, delta=delta, confidence=confidence, coins=coins)
    return Attacked(
        findings=found.findings,
        details={name: held | found.details.get(name, {}) for name, held in details.items()},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """Rows whose minimiser is known, and the line on which the search starts.

    Args:
        name: what the attacker does.
        loss: of the table.
        rows: features, labels.
        minimiser: W*, shape (2, 2).
        start: W, shape (2, 2).
        direction: from the start outwards, of norm 1; None where the start stays.
    """

    name: str
    loss: Literal["logistic", "smooth_hinge"]
    rows: Examples
    minimiser: Tensor
    start: Tensor
    direction: Tensor | None

    def farthest(self, mechanism: Residual, objective: Callable[..., Objective], solver: Callable[..., Any]) -> Tensor:
        """Where the search ends, from the start on the line for which that is farthest from the minimiser."""
        learned, width = ids_of(self.rows, key=_KEY)
        corrections = Corrections(key=_KEY, learned=learned)
        blocks = Blocks(self.rows, corrections, classes=2, width=width, bias=False, groups=0)
        own = objective(blocks, LOSSES[self.loss], regularization=mechanism.strong_convexity, outputs=2, width=width)
        preconditioner = Kronecker(own)

        def end(start: Tensor) -> Tensor:
            return solver(own, start, residual=mechanism.residual, preconditioner=preconditioner).weights

        if self.direction is None:
            return end(self.start)
        return self._search(end, self.direction, mechanism.surviving_norm)

    def _search(self, end: Callable[[Tensor], Tensor], direction: Tensor, unit: float) -> Tensor:
        """Twice as far out while the search stays where it is put, then half-way between staying and moving."""
        best, low, high, length = self.minimiser, 0.0, inf, unit / 2
        for _ in range(_TRIES):
            start = self.start + length * direction
            found = end(start)
            if self.distance(found) > self.distance(best):
                best = found
            low, high = (length, high) if torch.equal(found, start) else (low, length)
            if high == inf and length > _FAR * unit:
                break
            length = 2 * length if high == inf else (low + high) / 2
        return best

    def distance(self, w: Tensor) -> float:
        """|W - W*|."""
        return float((w - self.minimiser).norm())


def _unseen_feature(mechanism: Residual) -> _Scene:
    """Rows (±c, 0), each with either label, and a start on the second feature.

    At W = 0 the slopes of the loss depend on the label alone, so the gradients of the four rows cancel, and W* = 0. The
    small c keeps the rounding bound far below β.
    """
    c = min(1.0, 1e5 * mechanism.residual)
    x = torch.tensor([[c, 0.0], [-c, 0.0], [c, 0.0], [-c, 0.0]], dtype=torch.float64)
    zero, direction = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    direction[0, 1] = 1.0
    return _Scene(
        name=_UNSEEN, loss="logistic", rows=Examples(x, torch.tensor([0, 0, 1, 1])), minimiser=zero, start=zero,
        direction=direction,
    )  # fmt: skip


def _lost_gradient(mechanism: Residual) -> _Scene | None:
    """Rows whose computed gradient is 0 at a distance of `_WISHED` β/λ from the minimiser; None where there are none.

    n rows: (M, 1), (s, 1) and, in another block, (-M, 1) with label 1, and a = n - 3 rows (0, 1) with label 0. The smooth
    hinge is linear below a margin of 0, so that near W = [[w, v], [-w, -v]], v > M|w|, the three rows pull with slope ±1:
    on w by (M + s - M)/n, on v by 3/n, while the others pull by -(1 - v) a/n. Hence v* = (a - 3)/(a + n λ) and
    w* = -s/(n λ). In double precision M + s is M where s ≤ M/2⁵⁴, and the gradient on w at w = 0 comes out as 0.
    The distance is √2 s/(n λ); M|w*| < v* must hold for the formula, which bounds β²/λ.
    """
    beta, lam, n = mechanism.residual, mechanism.strong_convexity, BLOCK + 1
    a = n - 3
    v = (a - 3) / (a + n * lam)
    # M = 2^54 s up to a factor of 2 for the power of two.
    most = sqrt(_ROOM * v * n * lam / 2.0**55) * sqrt(2) / (n * beta)
    times = min(_WISHED, most)
    if times < _WORTH or beta < _SMALLEST:
        return None
    s = times * beta * n / sqrt(2)
    big = ldexp(1.0, frexp(s)[1] + 54)
    x = torch.zeros(n, 2, dtype=torch.float64)
    x[:, 1] = 1.0
    x[0, 0], x[1, 0], x[-1, 0] = big, s, -big
    y = torch.zeros(n, dtype=torch.int64)
    y[[0, 1, -1]] = 1
    w = s / (n * lam)
    return _Scene(
        name=_LOST, loss="smooth_hinge", rows=Examples(x, y), direction=None,
        start=torch.tensor([[0.0, v], [0.0, -v]], dtype=torch.float64),
        minimiser=torch.tensor([[-w, v], [w, -v]], dtype=torch.float64),
    )  # fmt: skip


def _samples(
    scene: _Scene,
    reached: Tensor,
    mechanism: Residual,
    noise: Callable[..., Any],
    replicates: int,
    coins: torch.Generator,
) -> Samples:
    """Releases about W, about W*, and about W* again, along the line from W* to W."""
    line = reached - scene.minimiser
    line = (line / line.norm() if float(line.norm()) > 0 else torch.ones_like(line) / 2).reshape(-1)

    def released(centre: Tensor) -> Scores:
        theta = centre.reshape(1, -1).repeat(replicates, 1)
        noise(mechanism.noise_std, coins).add_(theta)
        return ((theta - scene.minimiser.reshape(1, -1)) @ line).numpy()

    p, q, null = (released(centre) for centre in (reached, scene.minimiser, scene.minimiser))
    return Samples(scene.name, p, q, null, gaussian=True, unit="distance along the line from the minimiser to W")
