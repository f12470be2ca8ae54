"""F(W) = mean loss(W x, y) + penalty(W) + (λ/2)|W|²: value, and gradient with a proven rounding bound.

The bound. u = 2⁻⁵³, γ(n) = n u/(1 - n u). A sum of n products in float64, in any order, with or without fused
operations, errs by at most γ(n) Σ |a||b| (Higham 2002, section 3.1). With r = ∂loss/∂scores of a row x:

- scores W x, summed in slices of s = 128 columns, err by at most γ(S)|x||W| in L2, S = min(D, s) + ⌈D/s⌉ - 1, as each
  product passes through at most S roundings; hence r by L γ(S)|x||W|, L the Lipschitz constant of r in the scores;
- evaluating r errs by at most e(r), in L2 (`slope_error` of each loss);
- Σ r xᵀ over tiles of b rows, C tiles and the division by n err by at most γ(b + C + 1) mean |x||r|;
- λ W, the penalty and three additions err by at most γ(4) of the norms of the terms, and the penalty by its own bound.

Together: |error| ≤ mean |x|(L γ(S)|x||W| + e(r)) + γ(b + C + 1) mean |x||r| + γ(4)(...) + penalty's. The bound is
computed in float64 from at most 2²⁹ rows, all terms positive, so a factor 1 + 1e-6 covers its own rounding. Rows have
norms below 1e14, so that what is lost to underflow (2⁻¹⁰²² an operation) is below 1e-190. The proof needs conventional
matrix products (no Strassen), and an exponential within 4 units in the last place.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.errors import NonFinite
from expunge.heads.blocks import BLOCK, TILE, Blocks
from expunge.heads.fairness import EqualScores, Moments, Penalty, gamma
from expunge.heads.products import gram

__all__ = ["LOSSES", "ConvexLoss", "Measured", "Objective", "spread_of"]

_U = 2.0**-53
_OWN_ROUNDING = 1 + 1e-6
_UNDERFLOW = 1e-190
_MOST_ROWS = 2**29
_SLICE = 128  # columns of which scores are summed by themselves: the rounding bound grows with it

Curvature = tuple[Tensor, Tensor | None]


class ConvexLoss(Protocol):
    """A convex function of the scores z, shape (b, outputs), and labels y, shape (b,)."""

    lipschitz: ClassVar[float]
    """L: |r(z) - r(z')| ≤ L |z - z'|, in L2."""

    @staticmethod
    def value(z: Tensor, y: Tensor) -> Tensor:
        """Losses, shape (b,)."""
        ...

    @staticmethod
    def slope(z: Tensor, y: Tensor) -> Tensor:
        """The derivative r = ∂loss/∂z, shape (b, outputs)."""
        ...

    @staticmethod
    def slope_error(r: Tensor) -> Tensor:
        """Bounds on the L2 error of evaluating r in float64, shape (b,)."""
        ...

    @staticmethod
    def curvature(z: Tensor, y: Tensor) -> Curvature:
        """∂²loss/∂z² = diag(first) - second secondᵀ, each of shape (b, outputs); second None means 0."""
        ...


class Logistic:
    """log Σ exp(z) - z_y, multinomial. Convex: its Hessian diag(p) - p pᵀ is a covariance.

    L = 1/2: the spectral norm of that covariance is at most max 2 p(1 - p), by Gershgorin's circles.
    Evaluation: t = z - max z errs by u|t|, exp by 4 units in the last place, the sum by γ(k), the quotient by u, so that
    |error| ≤ u Σ p (|t| + Σ p|t| + 2 k + 20) + u ≤ u (2 log k + 2 k + 21), since Σ p|t| is at most the entropy.
    """

    lipschitz: ClassVar[float] = 0.5

    @staticmethod
    def value(z: Tensor, y: Tensor) -> Tensor:
        """Losses, shape (b,)."""
        return torch.logsumexp(z, 1) - z.gather(1, y[:, None])[:, 0]

    @staticmethod
    def slope(z: Tensor, y: Tensor) -> Tensor:
        """Probabilities less onehot(y), with the operations that the bound counts."""
        p = (z - z.amax(1, keepdim=True)).exp_()
        p /= p.sum(1, keepdim=True)
        p[torch.arange(len(y)), y] -= 1.0
        return p

    @staticmethod
    def slope_error(r: Tensor) -> Tensor:
        """4 (k + 6) u a row, above the bound of the class."""
        return torch.full((len(r),), 4 * (r.shape[1] + 6) * _U, dtype=torch.float64)

    @staticmethod
    def curvature(z: Tensor, y: Tensor) -> Curvature:  # noqa: ARG004
        """diag(p) - p pᵀ."""
        p = torch.softmax(z, 1)
        return p, p


class Squared:
    """|z - onehot(y)|²/2. L = 1; the subtraction errs by u|r|."""

    lipschitz: ClassVar[float] = 1.0

    @staticmethod
    def value(z: Tensor, y: Tensor) -> Tensor:
        """Losses, shape (b,)."""
        return 0.5 * Squared.slope(z, y).square().sum(1)

    @staticmethod
    def slope(z: Tensor, y: Tensor) -> Tensor:
        """The difference z - onehot(y)."""
        return z - F.one_hot(y, z.shape[1])

    @staticmethod
    def slope_error(r: Tensor) -> Tensor:
        """For each row u |r|."""
        return 1.0001 * _U * torch.linalg.vector_norm(r, dim=1)

    @staticmethod
    def curvature(z: Tensor, y: Tensor) -> Curvature:  # noqa: ARG004
        """The identity."""
        return torch.ones_like(z), None


class SmoothHinge:
    """Σ over classes of h(±z), + for the true one; h(m) = 1/2 - m below 0, (1 - m)²/2 up to 1, 0 above.

    h is convex with a 1-Lipschitz derivative (Rennie & Srebro 2005); L = 1. Evaluation: one subtraction, error at most u
    an entry where the result is not cut off. The curvature is that of the piece.
    """

    lipschitz: ClassVar[float] = 1.0

    @staticmethod
    def _margins(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        sign = 2.0 * F.one_hot(y, z.shape[1]).to(z.dtype) - 1.0
        return sign, sign * z

    @staticmethod
    def value(z: Tensor, y: Tensor) -> Tensor:
        """Losses, shape (b,)."""
        short = 1.0 - SmoothHinge._margins(z, y)[1]
        inside = short.clamp(0.0, 1.0)
        return (0.5 * inside.square() + (short - 1.0).clamp(min=0.0)).sum(1)

    @staticmethod
    def slope(z: Tensor, y: Tensor) -> Tensor:
        """∓clip(1 - margin, 0, 1)."""
        sign, margin = SmoothHinge._margins(z, y)
        return -sign * (1.0 - margin).clamp(0.0, 1.0)

    @staticmethod
    def slope_error(r: Tensor) -> Tensor:
        """For each row u √k."""
        return torch.full((len(r),), 1.0001 * _U * r.shape[1] ** 0.5, dtype=torch.float64)

    @staticmethod
    def curvature(z: Tensor, y: Tensor) -> Curvature:
        """1 where the margin lies between 0 and 1, ends included: all start at 0, where a kink has either value."""
        margin = SmoothHinge._margins(z, y)[1]
        return ((margin >= 0) & (margin <= 1)).to(z.dtype), None


LOSSES: MappingProxyType[str, ConvexLoss] = MappingProxyType(
    {"logistic": Logistic(), "squared": Squared(), "smooth_hinge": SmoothHinge()}
)


@dataclass(frozen=True, eq=False)
class Measured:
    """F at a point.

    Args:
        value: F(W), without a bound.
        gradient: shape (outputs, D).
        norm: of the gradient as computed.
        bound: on what rounding can add to it.
        spread: mean Hessian of the loss in the scores, shape (outputs, outputs); for preconditioning.
    """

    value: float
    gradient: Tensor
    norm: float
    bound: float
    spread: Tensor

    @property
    def certified(self) -> float:
        """An upper bound on the norm of the exact gradient."""
        return (self.norm + self.bound) * _OWN_ROUNDING


class Objective:
    """F over the rows of `blocks`; λ-strongly convex, all coordinates (the bias among them) being regularised.

    Args:
        blocks: retained, corrected rows.
        loss: one of `LOSSES`.
        regularization: λ.
        outputs: rows of W.
        width: D, columns of W.
        fairness: an optional convex penalty.
    """

    def __init__(
        self,
        blocks: Blocks,
        loss: ConvexLoss,
        *,
        regularization: float,
        outputs: int,
        width: int,
        fairness: EqualScores | None = None,
    ) -> None:
        self.blocks, self.loss, self.regularization = blocks, loss, regularization
        self.shape = (outputs, width)
        self.penalty = self._penalty_of(fairness)
        self._last: tuple[Tensor, Measured] | None = None

    def _penalty_of(self, fairness: EqualScores | None) -> Penalty | None:
        if fairness is None:
            return None
        moments, count, rows = Moments(self.shape[0], fairness.groups, self.shape[1]), 0, 0
        for block in self.blocks:
            moments.add(block)
            count, rows = count + 1, rows + len(block.y)
        return moments.penalty(fairness.weight, gamma(min(rows, BLOCK) + count + 2))

    def measure(self, w: Tensor) -> Measured:
        """One pass over the rows: value, gradient and its bound; none at the very tensor that was measured last.

        Raises:
            NonFinite: the scores are not finite.
            ValueError: more rows than the bound allows for.
        """
        if self._last is None or self._last[0] is not w:
            self._last = (w, self._measured(w))
        return self._last[1]

    def _measured(self, w: Tensor) -> Measured:
        gradient, spread = torch.zeros(self.shape, dtype=torch.float64), torch.zeros(2 * self.shape[:1]).double()
        value, rows, count, slopes, moved = 0.0, 0, 0, 0.0, 0.0
        size, across = float(w.norm()), self.loss.lipschitz * gamma(_terms(self.shape[1]))
        for block in self.blocks:
            norms = block.norms
            for place in block.tiles:
                x, y, size_of = block.cast(torch.float64, place), block.y[place], norms[place]
                z = _scores(x, w)
                r = self.loss.slope(z, y)
                # Never addmm_, which may pass the sum so far through as many roundings as there are rows.
                gradient += r.T @ x
                value += float(self.loss.value(z, y).sum())
                slopes += float(size_of @ torch.linalg.vector_norm(r, dim=1))
                moved += float(size_of @ (across * size * size_of + self.loss.slope_error(r)))
                spread += spread_of(*self.loss.curvature(z.float(), y))  # no certified number: float32 is enough
                rows, count = rows + len(y), count + 1
        if rows > _MOST_ROWS:
            raise ValueError(f"the rounding bound holds for at most {_MOST_ROWS} rows, not {rows}")
        terms = [gradient / rows, self.regularization * w]
        error = (moved + gamma(min(rows, TILE) + count + 1) * slopes) / rows
        value = value / rows + 0.5 * self.regularization * size**2
        if self.penalty is not None:
            terms.append(self.penalty.product(w))
            error += self.penalty.error(w)
            value += self.penalty.value(w)
        total = sum(terms[1:], terms[0])
        if not bool(torch.isfinite(total).all()):
            raise NonFinite("the gradient holds NaN or infinity: scale the features, or regularise more")
        error += gamma(4) * sum(float(term.norm()) for term in terms)
        norm = float(torch.linalg.vector_norm(total))
        bound = error * _OWN_ROUNDING + gamma(total.numel() + 2) * norm + _UNDERFLOW
        return Measured(value, total, norm, bound, spread / rows)

    def gram(self) -> Tensor:
        """Mean x xᵀ, shape (D, D), float64, summed in float32."""
        total, rows = torch.zeros(self.shape[1], self.shape[1]), 0
        for block in self.blocks:
            total += gram(block.single)
            rows += len(block.y)
        return total.double() / rows

    def gaps(self) -> Tensor:
        """√weight times the gaps of the penalty, shape (pairs, D): the penalty's Hessian is their Gram matrix."""
        if self.penalty is None:
            return torch.zeros(0, self.shape[1], dtype=torch.float64)
        return self.penalty.weight**0.5 * self.penalty.gaps


def spread_of(diagonal: Tensor, outer: Tensor | None) -> Tensor:
    """The sum over rows of ∂²loss/∂z², shape (outputs, outputs); see `ConvexLoss.curvature`."""
    return torch.diag(diagonal.sum(0)) - (0.0 if outer is None else outer.T @ outer)


def _scores(x: Tensor, w: Tensor) -> Tensor:
    """Scores x wᵀ, shape (b, outputs), summed slice of columns by slice: no entry passes through more than `_terms` additions."""
    total = w[:, :_SLICE] @ x[:, :_SLICE].T
    for start in range(_SLICE, x.shape[1], _SLICE):
        total += w[:, start : start + _SLICE] @ x[:, start : start + _SLICE].T  # not addmm_, see `measure`
    return total.T.contiguous()


def _terms(width: int) -> int:
    """The n for which `_scores` errs by at most γ(n)|x||W|: products of a slice, and sums of slices (Higham 2002, section 4.2)."""
    return min(width, _SLICE) + max(0, -(-width // _SLICE) - 1)
