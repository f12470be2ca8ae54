"""Sums over rows, how far rounding may have moved them, and the ridge weights that follow.

Bounds of rounding are those of Higham (Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1): a sum of k
products, in whatever order and with or without fused operations, is off by at most k u/(1 - k u) times the sum of their
absolute values, with u = 2^-53. Matrix norms are Frobenius norms.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from expunge._progress import track
from expunge.errors import NonFinite, RunError
from expunge.heads.products import add_product_, gram

__all__ = [
    "SLACK",
    "UNIT",
    "Scale",
    "Solution",
    "Sums",
    "add",
    "after",
    "cholesky",
    "judged",
    "largest_sure",
    "moment_error",
    "norm",
    "product_error",
    "shift_",
    "solve",
    "subtract",
    "sums_of",
    "surely_positive",
    "system",
    "targets_of",
]

UNIT = 2.0**-53
LARGEST_SUM = 2.0**62  # of integer sums: one more factor of two fits in int64
LARGEST_WHOLE = 2.0**53  # up to which float64 adds whole numbers exactly

SLACK = 1.01  # terms of second order, and the rounding of the bounds themselves
_CHUNK = 1024  # rows in one product: more, and the bound grows; fewer, and the products are slow
_BAR_FROM = 8  # chunks


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the rows; `shift_` alone changes them in place.

    Args:
        gram: Σ x xᵀ, shape (d, d): float64; whole numbers where the rows are multiples of a grid, then int64 beyond 2^53.
            No entry exceeds the largest on the diagonal (Cauchy-Schwarz), so that one says where float64 is exact.
        moment: Σ x yᵀ, shape (d, outputs), float64, or int64 where the rows are multiples of a grid.
        counts: rows of each class, shape (outputs,), int64, on the CPU; None where targets are real numbers.
        rows: how many.
        gram_error: upper bound on the norm of the rounding errors in `gram`; 0 where there is a grid.
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
        return self.moment.dtype == torch.int64


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
        return cls(*(g.to(sums.gram.device).expand(n).contiguous() for g, n in ((grid, width), (y, outputs))))


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
    if exact and (whole := _whole_sums(x, y, classes)) is not None:
        return whole
    size = _exact_chunk(x, y if classes is None else None) if exact else _CHUNK
    kind = torch.int64 if exact else torch.float64
    total = torch.zeros(x.shape[1], x.shape[1], dtype=kind, device=x.device)
    moment = torch.zeros(x.shape[1], y.shape[1] if classes is None else classes, dtype=kind, device=x.device)
    chunks = math.ceil(len(x) / size)
    pieces: Iterator[tuple[Tensor, Tensor]] = zip(x.split(size), y.split(size), strict=True)
    if chunks >= _BAR_FROM:
        pieces = track(pieces, total=chunks, label="sums over rows")
    square = 0.0
    for rows, part in pieces:
        targets = part if classes is None else F.one_hot(part, classes).to(torch.float64)
        total += (rows.T @ rows).to(kind)
        moment += (rows.T @ targets).to(kind)
        square += float(targets.square().sum())
    counts = None if classes is None else torch.bincount(y, minlength=classes).cpu()
    if exact:
        return Sums(total, moment, counts, len(x), 0.0, 0.0)
    # ‖ |X|ᵀ|X| ‖ ≤ ‖X‖², the trace; ‖ |X|ᵀ|Y| ‖ ≤ ‖X‖ ‖Y‖. Each row passes one product and at most `chunks` additions.
    trace = float(total.diagonal().sum())
    if not (math.isfinite(trace) and math.isfinite(square)):
        raise NonFinite("the sums over the rows overflow float64: scale the features down")
    unit = SLACK * UNIT * (min(size, len(x)) + chunks)
    return Sums(total, moment, counts, len(x), unit * trace, unit * math.sqrt(trace * square))


def _whole_sums(x: Tensor, y: Tensor, classes: int | None) -> Sums | None:
    """Sums of whole numbers in one product, where all of them stay below 2^53 and float64 is exact; else None.

    A sum of squares grows with every term, so that what is computed below 2^53 never was above, and is right.
    """
    if classes is None and not float(y.square().sum(0).max()) < LARGEST_WHOLE:
        return None
    whole = gram(x)
    if not float(whole.diagonal().max()) < LARGEST_WHOLE:
        return None
    counts = None if classes is None else torch.bincount(y, minlength=classes).cpu()
    return Sums(whole, _moment(x, y, classes), counts, len(x), 0.0, 0.0)


def _moment(x: Tensor, y: Tensor, classes: int | None) -> Tensor:
    """Σ x yᵀ in int64, of whole numbers that sum exactly in float64."""
    targets = y if classes is None else torch.zeros(len(x), classes, dtype=x.dtype, device=x.device)
    if classes is not None:
        targets.scatter_(1, y[:, None], 1.0)
    product = torch.from_numpy(x.numpy().T @ targets.numpy()) if x.device.type == "cpu" else x.T @ targets
    return product.to(torch.int64)


def after(sums: Sums, x: Tensor, y: Tensor, *, classes: int | None, sign: int) -> Sums | None:
    """The sums with rows more (sign 1) or fewer (sign -1), all but `gram`, which `shift_` then brings there in place.

    None where that would not be exact in float64. x and y are those of `sums_of`; the errors are those of `add`.
    """
    if not sums.exact or sums.gram.dtype != torch.float64:
        return None
    largest = float((sums.gram.diagonal() + x.square().sum(0)).max()) if sign > 0 else 0.0
    largest = max(largest, 0.0 if classes is not None else float(y.square().sum(0).max()))
    if not largest < LARGEST_WHOLE:
        return None
    if classes is None:
        moment = torch.add(sums.moment, _moment(x, y, classes), alpha=sign)
        _refuse_large(float(moment.abs().max()))
        return Sums(sums.gram, moment, None, sums.rows + sign * len(x), sums.gram_error, sums.moment_error)
    counts = None if sums.counts is None else sums.counts + sign * torch.bincount(y, minlength=classes).cpu()
    if len(x) == 1 and x.device.type == "cpu":  # no entry exceeds a sum of squares
        moment = torch.from_numpy(sums.moment.numpy().copy())
        moment.numpy()[:, int(y)] += sign * x.numpy()[0].astype(np.int64)
    else:
        moment = torch.add(sums.moment, _moment(x, y, classes), alpha=sign)
    return Sums(sums.gram, moment, counts, sums.rows + sign * len(x), sums.gram_error, sums.moment_error)


def shift_(sums: Sums, x: Tensor, sign: int) -> None:
    """Add (sign 1) or subtract (sign -1) Σ x xᵀ in place. On whole numbers below 2^53 it is exact in any order."""
    add_product_(sums.gram, x, sign)


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
    total = torch.add(*_alike(first, second, sign), alpha=sign)
    moment = torch.add(first.moment, second.moment, alpha=sign)
    counts = None
    if first.counts is not None and second.counts is not None:
        counts = first.counts + sign * second.counts
        moment[:, (counts == 0).to(moment.device)] = 0  # the sum over no rows, without what rounding left of it
    rows = first.rows + sign * second.rows
    if first.exact:
        return Sums(total, moment, counts, rows, 0.0, 0.0)
    size, moment_size = norm(total), norm(moment)
    if not math.isfinite(size + moment_size):
        raise NonFinite("the sums over the rows overflow float64: scale the features down")
    gram_error = first.gram_error + second.gram_error + SLACK * UNIT * size
    moment_error = first.moment_error + second.moment_error + SLACK * UNIT * moment_size
    return Sums(total, moment, counts, rows, gram_error, moment_error)


def _alike(first: Sums, second: Sums, sign: int) -> tuple[Tensor, Tensor]:
    """Both Gram matrices in one type; whole numbers in int64 where their sum may pass 2^53."""
    one, other = first.gram, second.gram
    sums = one.diagonal().double() + max(sign, 0) * other.diagonal().double()
    if one.dtype == other.dtype and (not first.exact or float(sums.max()) < LARGEST_WHOLE):
        return one, other
    return one.to(torch.int64), other.to(torch.int64)


def _exact_chunk(*parts: Tensor | None) -> int:
    """Rows whose products sum exactly in float64: |Σ kᵢ kⱼ| ≤ max Σ k² ≤ 2^53, of any part, in any order."""
    held = [part for part in parts if part is not None]
    most = max(int(part.abs().max()) for part in held)
    _refuse_large(max(float(part.square().sum(0).max()) for part in held))
    return max(1, min(_CHUNK, 2**53 // max(1, most) ** 2))


def _refuse_large(total: float) -> None:
    if total >= LARGEST_SUM:
        raise ValueError(f"a sum of products reaches {total:.3g} steps of the grid, beyond 2^62: use a coarser grid")


def solve(sums: Sums, *, ridge: float, scale: Scale | None) -> Solution:
    """The ridge weights by Cholesky, with their measured residual.

    With Ā and B̄ the sums without rounding, Ā (W - W*) = (A W - B) - (A - Ā) W + (B - B̄), and Ā ≥ ridge I, so that
    |W - W*| ≤ (|A W - B| + |A - Ā| |W| + |B - B̄|)/ridge.

    Args:
        sums: over the rows.
        ridge: γ.
        scale: the grid, where the sums are whole numbers.

    Raises:
        RunError: Σ x xᵀ + ridge I is not positive definite to rounding.
    """
    a, b = system(sums, ridge, scale)
    weights = torch.cholesky_solve(b, cholesky(a))
    return _judged(weights, a @ weights - b, sums, ridge=ridge, size=norm(a), target=norm(b))


def _judged(weights: Tensor, defect: Tensor, sums: Sums, *, ridge: float, size: float, target: float) -> Solution:
    """Weights with what A W - B came out as; `size` is at least |A|, `target` is |B|."""
    error = product_error(weights, sums, size=size, target=target)
    return judged(weights, norm(defect) + error, sums, ridge=ridge, target=target)


def product_error(weights: Tensor, sums: Sums, *, size: float, target: float) -> float:
    """An upper bound on the distance of A W - B, as computed, from that without any rounding."""
    # A: whole number, product of two steps, its product, the ridge. `Inverse.measured` rounds as often.
    gram_error = sums.gram_error + SLACK * UNIT * size * (4 if sums.exact else 1)
    rounded = SLACK * UNIT * (len(weights) + 2) * (size * norm(weights) + target)
    return rounded + gram_error * norm(weights) + moment_error(sums, target)


def moment_error(sums: Sums, target: float) -> float:
    """An upper bound on that of B, of norm `target`: whole number, product of two steps, its product."""
    return sums.moment_error + (SLACK * UNIT * target * 3 if sums.exact else 0.0)


def judged(weights: Tensor, total: float, sums: Sums, *, ridge: float, target: float) -> Solution:
    """Weights where |A W - B|, without any rounding, is at most `total`; `target` is |B| as computed."""
    least = target - moment_error(sums, target)
    residual = total / least if least > 0 else 0.0 if total == 0 else math.inf
    return Solution(weights, residual, SLACK * total / ridge)


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


def surely_positive(diagonal: Tensor, gram_error: float, *, ridge: float, scale: Scale | None) -> bool:
    """Whether Cholesky cannot fail (Higham, theorem 10.7): ridge exceeds what rounding can take from an eigenvalue."""
    largest = float((diagonal if scale is None else diagonal * scale.x.square()).max())
    return largest < largest_sure(ridge, len(diagonal), gram_error)


def largest_sure(ridge: float, width: int, gram_error: float = 0.0) -> float:
    """What the diagonal of A - γ I must stay below, for Cholesky to be sure not to fail."""
    return (ridge / SLACK - gram_error) / (UNIT * (4 * width + width * (width + 2))) - ridge


def system(sums: Sums, ridge: float, scale: Scale | None) -> tuple[Tensor, Tensor]:
    """A, with the ridge, and B, in float64."""
    a = sums.gram.clone() if scale is None else torch.outer(scale.x, scale.x).mul_(sums.gram.double())
    a.diagonal().add_(ridge)
    return a, targets_of(sums, scale)


def targets_of(sums: Sums, scale: Scale | None) -> Tensor:
    """B, in float64."""
    return sums.moment if scale is None else sums.moment.double() * torch.outer(scale.x, scale.y)


def norm(matrix: Tensor) -> float:
    """Of Frobenius."""
    return float(torch.linalg.vector_norm(matrix))
