"""Sums over rows, how far rounding may have moved them, and the ridge weights that follow.

Bounds of rounding are those of Higham (Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1): a sum of k
products, in whatever order and with or without fused operations, is off by at most k u/(1 - k u) times the sum of their
absolute values, with u = 2^-53. Matrix norms are Frobenius norms.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge._progress import track
from expunge.errors import NonFinite, RunError

__all__ = [
    "Inverse",
    "Scale",
    "Solution",
    "Sums",
    "add",
    "cholesky",
    "solve",
    "subtract",
    "sums_of",
    "surely_positive",
    "system",
]

UNIT = 2.0**-53
LARGEST_SUM = 2.0**62  # of integer sums: one more factor of two fits in int64

_SLACK = 1.01  # terms of second order, and the rounding of the bounds themselves
_CHUNK = 1024  # rows in one product: more, and the bound grows; fewer, and the products are slow
_BAR_FROM = 8  # chunks


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the rows; never changed in place.

    Args:
        gram: Σ x xᵀ, shape (d, d): float64, or int64 where the rows are whole multiples of a grid.
        moment: Σ x yᵀ, shape (d, outputs), of the same type.
        counts: rows of each class, shape (outputs,), int64, on the CPU; None where targets are real numbers.
        rows: how many.
        gram_error: upper bound on the norm of the rounding errors in `gram`; 0 where it is int64.
        moment_error: the same of `moment`.
    """

    gram: Tensor
    moment: Tensor
    counts: Tensor | None
    rows: int
    gram_error: float
    moment_error: float

    @property
    def exact(self) -> bool:
        """Whether the sums are whole numbers, without rounding."""
        return self.gram.dtype == torch.int64


@dataclass(frozen=True, eq=False)
class Scale:
    """The steps that whole numbers count.

    Args:
        x: shape (d,), float64.
        y: shape (outputs,), float64; ones for labels.
    """

    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, sums: Sums, grid: Tensor, target_grid: Tensor | None) -> "Scale":
        """Steps of shape () or (d,) and () or (outputs,), spread to the shape and on the device of the sums."""
        width, outputs = sums.moment.shape
        y = torch.ones((), dtype=torch.float64) if target_grid is None else target_grid
        return cls(*(g.to(sums.gram.device).expand(n) for g, n in ((grid, width), (y, outputs))))


@dataclass(frozen=True, eq=False)
class Solution:
    """Ridge weights and how close they are.

    Args:
        weights: W, shape (d, outputs), float64.
        residual: upper bound on |A W - B|/|B| for A and B without rounding errors.
        distance: upper bound on the norm of W - W*, where W* is ridge regression on the same rows in real arithmetic.
    """

    weights: Tensor
    residual: float
    distance: float


def sums_of(x: Tensor, y: Tensor, *, classes: int | None, exact: bool) -> Sums:
    """The sums over a batch.

    Args:
        x: shape (n, d), float64; whole numbers up to `LARGEST_STEP` where `exact`.
        y: labels of shape (n,) where there are classes, else targets of shape (n, outputs), as x.
        classes: number of classes, or None.
        exact: sum whole numbers without rounding.

    Raises:
        ValueError: the entries are too large for exact sums.
        NonFinite: the sums overflow float64.
    """
    size = _exact_chunk(x, y if classes is None else None) if exact else _CHUNK
    outputs = y.shape[1] if classes is None else classes
    kind = torch.int64 if exact else torch.float64
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=kind, device=x.device)
    moment = torch.zeros(x.shape[1], outputs, dtype=kind, device=x.device)
    chunks = math.ceil(len(x) / size)
    pieces: Iterator[tuple[Tensor, Tensor]] = zip(x.split(size), y.split(size), strict=True)
    if chunks >= _BAR_FROM:
        pieces = track(pieces, total=chunks, label="sums over rows")
    square = 0.0
    for rows, part in pieces:
        targets = part if classes is None else F.one_hot(part, classes).to(torch.float64)
        gram += (rows.T @ rows).to(kind)
        moment += (rows.T @ targets).to(kind)
        square += float(targets.square().sum())
    counts = None if classes is None else torch.bincount(y, minlength=classes).cpu()
    if exact:
        return Sums(gram, moment, counts, len(x), 0.0, 0.0)
    # ‖ |X|ᵀ|X| ‖ ≤ ‖X‖², the trace; ‖ |X|ᵀ|Y| ‖ ≤ ‖X‖ ‖Y‖. Each row passes one product and at most `chunks` additions.
    trace = float(gram.diagonal().sum())
    if not (math.isfinite(trace) and math.isfinite(square)):
        raise NonFinite("the sums over the rows overflow float64: scale the features down")
    unit = _SLACK * UNIT * (min(size, len(x)) + chunks)
    return Sums(gram, moment, counts, len(x), unit * trace, unit * math.sqrt(trace * square))


def add(first: Sums, second: Sums) -> Sums:
    """The sums over the rows of both.

    Raises:
        ValueError: whole numbers beyond 2^62.
        NonFinite: the sums overflow float64.
    """
    return _combine(first, second, 1)


def subtract(first: Sums, second: Sums) -> Sums:
    """The sums over the rows of `first` without those of `second`, which are among them; the errors of `add`."""
    return _combine(first, second, -1)


def _combine(first: Sums, second: Sums, sign: int) -> Sums:
    if first.exact:
        # Those of the squares bound all others in the Gram matrix, and those with labels (Cauchy-Schwarz, |k| <= k^2).
        for one, other in ((first.gram.diagonal(), second.gram.diagonal()), (first.moment, second.moment)):
            _refuse_large(float((one.double() + sign * other.double()).abs().max()))
    gram = torch.add(first.gram, second.gram, alpha=sign)
    moment = torch.add(first.moment, second.moment, alpha=sign)
    counts = None
    if first.counts is not None and second.counts is not None:
        counts = first.counts + sign * second.counts
        moment[:, (counts == 0).to(moment.device)] = 0  # the sum over no rows, without what rounding left of it
    rows = first.rows + sign * second.rows
    if first.exact:
        return Sums(gram, moment, counts, rows, 0.0, 0.0)
    size, moment_size = _norm(gram), _norm(moment)
    if not math.isfinite(size + moment_size):
        raise NonFinite("the sums over the rows overflow float64: scale the features down")
    gram_error = first.gram_error + second.gram_error + _SLACK * UNIT * size
    moment_error = first.moment_error + second.moment_error + _SLACK * UNIT * moment_size
    return Sums(gram, moment, counts, rows, gram_error, moment_error)


def _exact_chunk(*parts: Tensor | None) -> int:
    """Rows whose products sum exactly in float64: |Σ kᵢ kⱼ| ≤ max Σ k² ≤ 2^53, of any part, in any order."""
    held = [part for part in parts if part is not None]
    most = max(int(part.abs().max()) for part in held)
    _refuse_large(max(float(part.square().sum(0).max()) for part in held))
    return max(1, min(_CHUNK, 2**53 // max(1, most) ** 2))


def _refuse_large(total: float) -> None:
    if total >= LARGEST_SUM:
        raise ValueError(f"a sum of products reaches {total:.3g} steps of the grid, beyond 2^62: use a coarser grid")


def solve(sums: Sums, *, ridge: float, scale: Scale | None, inverse: "Inverse | None" = None) -> Solution:
    """The ridge weights by Cholesky, or those of `inverse`, with their measured residual.

    With Ā and B̄ the sums without rounding, Ā (W - W*) = (A W - B) - (A - Ā) W + (B - B̄), and Ā ≥ ridge I, so that
    |W - W*| ≤ (|A W - B| + |A - Ā| |W| + |B - B̄|)/ridge.

    Args:
        sums: over the rows.
        ridge: γ.
        scale: the grid, where the sums are whole numbers.
        inverse: weights to measure instead.

    Raises:
        RunError: Σ x xᵀ + ridge I is not positive definite to rounding.
    """
    a, b = system(sums, ridge, scale)
    weights = torch.cholesky_solve(b, cholesky(a)) if inverse is None else inverse.weights
    if inverse is not None and sums.counts is not None:
        weights = weights.clone()
        weights[:, (sums.counts == 0).to(weights.device)] = 0
    size, target, norm = _norm(a), _norm(b), _norm(weights)
    # A: whole number, product of two steps, its product, the ridge. B likewise, without a ridge.
    gram_error = sums.gram_error + _SLACK * UNIT * size * (4 if sums.exact else 1)
    moment_error = sums.moment_error + (_SLACK * UNIT * target * 3 if sums.exact else 0.0)
    measured = _norm(a @ weights - b) + _SLACK * UNIT * (len(a) + 2) * (size * norm + target)
    defect = measured + gram_error * norm + moment_error
    least = target - moment_error
    residual = defect / least if least > 0 else 0.0 if defect == 0 else math.inf
    return Solution(weights, residual, _SLACK * defect / ridge)


def cholesky(a: Tensor) -> Tensor:
    """The lower factor.

    Raises:
        RunError: the matrix is not positive definite.
    """
    factor, info = torch.linalg.cholesky_ex(a)
    if int(info) != 0:
        raise RunError(
            f"A = Σ x xᵀ + ridge I, shape {tuple(a.shape)}, is not positive definite to rounding: its pivot {int(info)} is "
            "not above 0. Use a larger ridge, or a grid, whose sums have no rounding"
        )
    return factor


def surely_positive(sums: Sums, *, ridge: float, scale: Scale | None) -> bool:
    """Whether Cholesky cannot fail (Higham, theorem 10.7): ridge exceeds what rounding can take from an eigenvalue."""
    diagonal = sums.gram.diagonal().double()
    largest = float((diagonal if scale is None else diagonal * scale.x.square()).max()) + ridge
    d = len(diagonal)
    return ridge > _SLACK * (sums.gram_error + UNIT * (4 * d + d * (d + 2)) * largest)


def system(sums: Sums, ridge: float, scale: Scale | None) -> tuple[Tensor, Tensor]:
    """A, with the ridge, and B, in float64."""
    if scale is None:
        a, b = sums.gram.clone(), sums.moment
    else:
        a = sums.gram.double() * torch.outer(scale.x, scale.x)
        b = sums.moment.double() * torch.outer(scale.x, scale.y)
    a.diagonal().add_(ridge)
    return a, b


@dataclass(frozen=True, eq=False)
class Inverse:
    """T = A⁻¹ and W, kept up to date by the Woodbury identity; their errors grow with cond(A).

    Args:
        inverse: T, shape (d, d).
        weights: W, shape (d, outputs).
    """

    inverse: Tensor
    weights: Tensor

    @classmethod
    def of(cls, sums: Sums, *, ridge: float, scale: Scale | None = None) -> "Inverse":
        """By Cholesky."""
        a, b = system(sums, ridge, scale)
        factor = cholesky(a)
        return cls(torch.cholesky_inverse(factor), torch.cholesky_solve(b, factor))

    def update(self, x: Tensor, targets: Tensor, sign: int) -> "Inverse | None":
        """With k rows more (sign 1) or fewer (sign -1); O(k d²), None where rounding does not allow it.

        A' = A ± XᵀX has T' = T ∓ T Xᵀ (I ± X T Xᵀ)⁻¹ X T and W' = W ± T' Xᵀ (Y - X W).
        """
        image = x @ self.inverse
        core = torch.eye(len(x), dtype=x.dtype, device=x.device).add_(image @ x.T, alpha=sign)
        factor, info = torch.linalg.cholesky_ex(core)
        if int(info) != 0:
            return None
        root = torch.linalg.solve_triangular(factor, image, upper=False)
        inverse = torch.addmm(self.inverse, root.T, root, alpha=-sign)
        weights = self.weights + sign * (inverse @ (x.T @ (targets - x @ self.weights)))
        return Inverse(inverse, weights) if bool(torch.isfinite(weights).all()) else None


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix))
