"""The inverse of the system and the ridge weights, kept up to date row by row, and how well they still solve it.

A W - B is measured once by a product of the sums with W, O(d² outputs). From then on every single row changes it by what a
product of the sums with one vector measures, O(d²): docs/methods/grid_ridge.md. Matrix norms are Frobenius norms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.heads.products import add_product_, solve_lower, times_symmetric, times_vector
from expunge.heads.rows import Rows
from expunge.heads.statistics import (
    SLACK,
    UNIT,
    Scale,
    Solution,
    Sums,
    cholesky,
    judged,
    largest_sure,
    norm,
    product_error,
    system,
    targets_of,
)

__all__ = ["Compiled", "Defect", "Inverse", "Norms", "Step"]

Vector = NDArray[np.float64]
Compiled = Callable[..., bool]
"""`compiled.step`."""

_CHUNK = 1024  # rows of whole numbers beyond 2^53 that are turned into float64 at once


@dataclass(frozen=True, eq=False)
class Defect:
    """A W - B as measured.

    Args:
        matrix: shape (d, outputs), float64.
        error: an upper bound on its distance from A W - B without any rounding.
        size: its norm.
        target: |B|.
    """

    matrix: Tensor
    error: float
    size: float
    target: float


class Norms(NamedTuple):
    """Those that bound the roundings of one row's change: of x, z, p and y as in `Step`, and of what is said below."""

    x: float
    z: float
    missed: float
    y: float
    before: float
    """|W|."""
    after: float
    """|W'|."""
    moved: float
    """|A' z - x|."""
    defect: float
    """|A' W' - B'| as computed."""
    target: float
    """|B'|."""

    def rounding(self, width: int, size: float) -> float:
        """An upper bound on what one row's change adds to the error of the defect; `size` is at least |A'|."""
        terms, change = width + 6, self.z * self.missed
        rounding = terms * size * change  # of A' z
        rounding += 2 * self.x * self.missed  # of x, to float64 and in the difference
        rounding += terms * self.x * (self.before * self.x + self.y)  # of p
        rounding += size * (self.after + 2 * change)  # of W'
        rounding += self.defect + 2 * self.moved * self.missed  # of the new defect
        return SLACK * UNIT * rounding


@dataclass(frozen=True, eq=False)
class Step:
    """How one row x with targets y changed the weights: W' = W ± z pᵀ, z = T' x, p = y - Wᵀ x.

    Args:
        sign: 1 for a row more, -1 for one fewer.
        x: shape (d,), with the steps of the grid, float64, as all arrays here.
        z: shape (d,).
        missed: p, shape (outputs,).
        before: |W|.
        target: |y|.
    """

    sign: int
    x: Vector
    z: Vector
    missed: Vector
    before: float
    target: float


@dataclass(frozen=True, eq=False)
class Inverse:
    """T = A⁻¹ and W, kept up to date by the Woodbury identity; their errors grow with cond(A).

    Args:
        inverse: T, shape (d, d).
        weights: W, shape (d, outputs).
        size: an upper bound on |A|.
        defect: A W - B; None where it was not measured since more than one row changed.
    """

    inverse: Tensor
    weights: Tensor
    size: float
    defect: Defect | None = None

    @classmethod
    def of(cls, sums: Sums, *, ridge: float, scale: Scale | None = None) -> "Inverse":
        """By Cholesky."""
        a, b = system(sums, ridge, scale)
        factor = cholesky(a)
        size = SLACK * (norm(a) + sums.gram_error)
        return cls(torch.cholesky_inverse(factor).T.contiguous(), torch.cholesky_solve(b, factor), size)

    def updated_(self, x: Tensor, targets: Tensor, sign: int) -> "Inverse | None":
        """With k rows more (sign 1) or fewer (sign -1), T in place: O(k d²). None, and T spoilt, where rounding forbids it.

        A' = A ± XᵀX has T' = T ∓ T Xᵀ C⁻¹ X T with C = I ± X T Xᵀ, hence T' Xᵀ = T Xᵀ C⁻¹, and W' = W ± T' Xᵀ (Y - X W).
        A row less makes no eigenvalue of A larger, so |A'| ≤ |A|; more rows add at most |X|².
        """
        image = times_symmetric(self.inverse, x)
        core = torch.eye(len(x), dtype=x.dtype, device=x.device).add_(image @ x.T, alpha=sign)
        factor, info = torch.linalg.cholesky_ex(core)
        if int(info) != 0:
            return None
        root = solve_lower(factor, image)
        missed = solve_lower(factor, targets - x @ self.weights)
        add_product_(self.inverse, root, -sign)
        weights = torch.addmm(self.weights, root.T, missed, alpha=sign)
        size = self.size + (SLACK * float(x.square().sum()) if sign > 0 else 0.0)
        return Inverse(self.inverse, weights, size) if bool(torch.isfinite(weights).all()) else None

    def stepped_(self, x: Tensor, targets: Tensor, sign: int) -> "tuple[Inverse, Step] | None":
        """`updated_` with one row, x of shape (d,) and targets of shape (outputs,), on the CPU: each of few passes over T.

        The new inverse has no defect yet: `followed` gives it one.
        """
        row, weights = x.numpy(), self.weights.numpy()
        image = times_vector(self.inverse, x).numpy()
        core = 1.0 + sign * float(row @ image)
        if not 0.0 < core < np.inf:
            return None
        missed = targets.numpy() - row @ weights
        z = image / core
        image *= core**-0.5
        add_product_(self.inverse, torch.from_numpy(image)[None], -sign)
        changed = np.multiply(z[:, None], sign * missed)
        changed += weights
        if not np.isfinite(np.add.reduce(changed, axis=None)):
            return None
        size = self.size + (SLACK * _size(row) ** 2 if sign > 0 else 0.0)
        after = Inverse(self.inverse, torch.from_numpy(changed), size)
        return after, Step(sign, row, z, missed, _size(weights), _size(targets.numpy()))

    def followed(self, step: Step, defect: Defect, sums: Sums, *, ridge: float, scale: Scale) -> "Inverse":
        """With the defect after a step: that before, `defect`, and what a product of z with the changed, exact sums says.

        A' W' - B' = A W - B ± (A' z - x) pᵀ, and each rounding on the way is bounded.
        """
        x, z, p, steps = step.x, step.z, step.missed, scale.x.numpy()
        moved = times_vector(sums.gram, torch.from_numpy(steps * z)).numpy()
        moved *= steps
        moved += ridge * z
        moved -= x
        matrix = np.multiply(moved[:, None], step.sign * p)
        matrix += defect.matrix.numpy()
        # As `targets_of`, which takes longer than all else here.
        target = _size(sums.moment.numpy() * steps[:, None] * scale.y.numpy())
        weights = _size(self.weights.numpy())
        norms = Norms(
            _size(x), _size(z), _size(p), step.target, step.before, weights, _size(moved), _size(matrix), target
        )
        error = defect.error + norms.rounding(len(x), self.size)
        return replace(self, defect=Defect(torch.from_numpy(matrix), error, norms.defect, norms.target))

    def moved_(
        self, by: Compiled, row: Rows, sums: Sums, sign: int, *, ridge: float, scale: Scale
    ) -> "tuple[Inverse, Sums] | None":
        """`stepped_`, the change of exact sums, whose Gram matrix is changed in place, and `followed`, in one compiled call.

        Args:
            by: `compiled.step`.
            row: one, in whole numbers.
            sums: before, in float64.
            sign: 1 for a row more, -1 for one fewer.
            ridge: γ.
            scale: the grid.

        Returns:
            None, and nothing changed, where sums are too large, or rounding forbids it or could make A indefinite.
        """
        assert self.defect is not None
        held = (self.weights, self.defect.matrix, sums.moment)
        weights, measured, moment = (np.ascontiguousarray(m.numpy()) for m in held)
        changed, followed, norms = np.empty(weights.shape), np.empty(weights.shape), np.empty(len(Norms._fields))
        y, count = row.y.numpy()[0], None
        if row.classes is not None and sums.counts is not None:
            label, y, count = int(y), np.zeros(row.classes), sums.counts.numpy().copy()
            y[label] = 1.0
            count[label] += sign
        summed, bound = np.empty_like(moment), largest_sure(ridge, len(weights))
        if not by(
            sums.gram.numpy(), moment, self.inverse.numpy(), weights, measured, row.x.numpy()[0], y, float(sign),
            scale.x.numpy(), scale.y.numpy(), ridge, bound, summed, changed, followed, norms,
        ):  # fmt: skip
            return None
        counts = None if count is None else torch.from_numpy(count)
        after = Sums(sums.gram, torch.from_numpy(summed), counts, sums.rows + sign, 0.0, 0.0)
        found = Norms(*norms.tolist())
        size = self.size + (SLACK * found.x**2 if sign > 0 else 0.0)
        error = self.defect.error + found.rounding(len(weights), size)
        defect = Defect(torch.from_numpy(followed), error, found.defect, found.target)
        return Inverse(self.inverse, torch.from_numpy(changed), size, defect), after

    def measured(self, sums: Sums, *, ridge: float, scale: Scale | None) -> "Inverse":
        """With its defect measured against the sums; A is not formed."""
        weights = self.weights
        if sums.counts is not None and bool((empty := sums.counts == 0).any()):
            weights = weights.masked_fill(empty.to(weights.device), 0.0)
        b = targets_of(sums, scale)
        if scale is None:
            product = _product(sums.gram, weights)
        else:
            product = scale.x[:, None] * _product(sums.gram, scale.x[:, None] * weights)
        defect, target = product.add_(weights, alpha=ridge).sub_(b), norm(b)
        error = product_error(weights, sums, size=self.size, target=target)
        return replace(self, weights=weights, defect=Defect(defect, error, norm(defect), target))

    def solution(self, sums: Sums, *, ridge: float) -> Solution:
        """The weights, with what their defect says of them."""
        assert self.defect is not None
        total = self.defect.size + self.defect.error
        return judged(self.weights, total, sums, ridge=ridge, target=self.defect.target)


def _product(matrix: Tensor, weights: Tensor) -> Tensor:
    """G W in float64."""
    if matrix.dtype != torch.float64:
        return torch.cat([rows.double() @ weights for rows in matrix.split(_CHUNK)])
    return times_symmetric(matrix, weights.T).T


def _size(array: Vector) -> float:
    return math.sqrt(float(np.add.reduce(np.square(array), axis=None)))
