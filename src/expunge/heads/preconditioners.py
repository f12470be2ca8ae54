"""Approximate inverses of the Hessian, for conjugate gradients: how good they are costs products, never correctness."""

from collections.abc import Callable

import torch
from torch import Tensor

from expunge.heads.objectives import Measured, Objective
from expunge.heads.products import gram

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
        blocks, whole = torch.zeros(outputs + 1, width, width), torch.zeros(width, width)
        light, rows, self._centred = torch.zeros(outputs), 0, False
        for block in objective.blocks:
            x = block.single
            diagonal, outer = objective.loss.curvature(x @ w.float().T, block.y)
            weights = diagonal if outer is None else diagonal - outer.square()
            self._centred = outer is not None
            whole += gram(x)
            for k in range(outputs):
                weight = weights[:, k]
                used = torch.nonzero(weight > _LIGHT)[:, 0]
                blocks[k] += gram(x[used] * weight[used].sqrt()[:, None])
                light[k] += weight.sum() - weight[used].sum()
            rows += len(x)
        gaps = objective.gaps().float()
        blocks /= rows
        for k in range(outputs):
            blocks[k] += (light[k].clamp(min=0.0) / rows) * (whole / rows)
        blocks += gaps.T @ gaps
        shift = 1e-6 * float(blocks.diagonal(dim1=1, dim2=2).max()) or objective.regularization
        for block in blocks:
            block.copy_(_inverse(block, objective.regularization, shift))
        self._inverses = blocks

    def at(self, here: Measured) -> Callable[[Tensor], Tensor]:  # noqa: ARG002
        """The same at every point."""
        own, common = self._inverses[:-1], self._inverses[-1]

        def inverse(r: Tensor) -> Tensor:
            if not self._centred:
                return torch.bmm(own, r.float()[:, :, None])[:, :, 0].double()
            mean = r.mean(0)
            apart = torch.bmm(own, (r - mean).float()[:, :, None])[:, :, 0].double()
            return apart - apart.mean(0) + (common @ mean.float()).double()

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
