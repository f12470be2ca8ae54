"""Approximate inverses of the Hessian, for conjugate gradients: how good they are costs products, never correctness."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from expunge.heads.objectives import Measured, Objective

__all__ = ["ClassBlocks", "Dense", "Kronecker", "Plain"]

_LIGHT = 1e-3  # a row's weight in a block, of at most 1/4, below which it enters by the mean of all rows


class Plain:
    """None: for more features than a Gram matrix is worth."""

    def at(self, here: Measured) -> Callable[[Tensor], Tensor]:  # noqa: ARG002
        """The identity."""
        return lambda r: r.clone()


class Kronecker:
    """(spread ⊗ mean x xᵀ + λ I)⁻¹, spread the mean Hessian of the loss in the scores: exact for the squared loss.

    Made from one Gram matrix, which may come from other rows: an old one serves later requests.
    """

    def __init__(self, objective: Objective) -> None:
        self._regularization = objective.regularization
        values, self._vectors = torch.linalg.eigh(objective.gram())
        self._values = values.clamp(min=0.0)

    def at(self, here: Measured) -> Callable[[Tensor], Tensor]:
        """With the spread of this point."""
        spread, mixed = torch.linalg.eigh(here.spread)
        scale = 1.0 / (spread.clamp(min=0.0)[:, None] * self._values[None, :] + self._regularization)

        def inverse(r: Tensor) -> Tensor:
            return mixed @ ((mixed.T @ r @ self._vectors) * scale) @ self._vectors.T

        return inverse


class ClassBlocks:
    """The inverses of the Hessian's diagonal blocks, one a class, at one point: 4 (outputs + 1) D² bytes in float32.

    Block k is mean v_k x xᵀ + λ I + the penalty's, v_k the curvature of the loss in score k: p_k (1 - p_k) for the
    logistic loss. That one does not see what all classes have in common, on which only λ and the penalty act: a direction
    is centred over the classes before and after the blocks, and its mean goes through a block of its own. What couples two
    classes is left out. Kept from `fit`, the blocks serve later requests.
    """

    def __init__(self, objective: Objective, w: Tensor) -> None:
        outputs, width = objective.shape
        blocks, whole = np.zeros((outputs + 1, width, width), dtype=np.float32), np.zeros((width, width), np.float32)
        light, rows, self._centred = np.zeros(outputs), 0, False
        for block in objective.blocks:
            diagonal, outer = objective.loss.curvature(block.single @ w.float().T, block.y)
            self._centred = outer is not None
            x, weights = block.single.numpy(), (diagonal if outer is None else diagonal - outer.square()).numpy()
            whole += x.T @ x
            for k in range(outputs):  # by numpy, which computes one triangle of a matrix times its transpose
                used = np.flatnonzero(weights[:, k] > _LIGHT)
                heavy = x[used] * np.sqrt(weights[used, k])[:, None]
                blocks[k] += heavy.T @ heavy
                light[k] += float(weights[:, k].sum() - weights[used, k].sum())
            rows += len(x)
        blocks /= rows
        for k in range(outputs):
            blocks[k] += max(light[k], 0.0) / rows**2 * whole
        self._inverses = torch.from_numpy(blocks)
        gaps = objective.gaps().float()
        self._inverses += gaps.T @ gaps
        shift = 1e-6 * float(self._inverses.diagonal(dim1=1, dim2=2).max()) or objective.regularization
        for block in self._inverses:
            block.copy_(_inverse(block, objective.regularization, shift))

    def at(self, here: Measured) -> Callable[[Tensor], Tensor]:  # noqa: ARG002
        """The same at every point."""
        *own, common = self._inverses

        def each(r: Tensor) -> Tensor:
            parts = zip(own, r.float(), strict=True)
            return torch.stack([torch.mv(block, part) for block, part in parts]).double()  # quicker than torch.bmm

        def inverse(r: Tensor) -> Tensor:
            if not self._centred:
                return each(r)
            mean = r.mean(0)
            apart = each(r - mean)
            return apart - apart.mean(0) + torch.mv(common, mean.float()).double()

        return inverse


class Dense:
    """The inverse of the whole Hessian in float32, as heads of earlier versions kept it; read from their files."""

    def __init__(self, inverse: Tensor) -> None:
        self._inverse = inverse

    def at(self, here: Measured) -> Callable[[Tensor], Tensor]:
        """The same at every point."""
        shape = here.gradient.shape

        def inverse(r: Tensor) -> Tensor:
            return (self._inverse @ r.float().reshape(-1)).view(shape).double()

        return inverse


def _inverse(matrix: Tensor, regularization: float, shift: float) -> Tensor:
    """(matrix + λ I)⁻¹ in float32, which keeps 7 digits: with a shift that makes it positive definite."""
    matrix.diagonal().add_(regularization + shift)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    while bool(failed > 0):
        shift *= 10
        matrix.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_inverse(factor)
