"""Products of float64 matrices as the exact head needs them: in place, and on the CPU by one BLAS.

torch, numpy and scipy each bring a BLAS, whose threads go on spinning for a while after a call: several rows keep to
scipy's, which alone also works in place. What is done for a single row is bound by memory: torch does it, and on one core
where the matrix is small, as a call waits for its last thread a hundred times longer than it works where other programs keep
the cores busy. Elsewhere than on the CPU torch does it all.
"""

from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

__all__ = ["add_product_", "gram", "solve_lower", "times_symmetric", "times_vector"]

blas: Any = scipy.linalg.blas

_ONE_CORE = 2**20  # entries of a matrix, which such caches hold as several cores share
_PIECE = 2**15 - 1  # entries that torch changes on one core


def gram(x: Tensor) -> Tensor:
    """XᵀX, shape (d, d), of x of shape (n, d): numpy computes one triangle of it alone. +0 where all terms are ±0."""
    if x.device.type != "cpu":
        return (x.T @ x).add_(0.0)
    rows = x.numpy()
    return torch.from_numpy(rows.T @ rows).add_(0.0)


def times_symmetric(matrix: Tensor, rows: Tensor) -> Tensor:
    """`rows` @ `matrix`, shape (k, d), for a symmetric matrix of shape (d, d)."""
    if matrix.device.type != "cpu":
        return rows @ matrix
    if len(rows) == 1:
        return times_vector(matrix, rows[0])[None]
    square, right = matrix.numpy().T, rows.contiguous().numpy()
    return torch.from_numpy(blas.dgemm(1.0, square, right.T).T)


def times_vector(matrix: Tensor, vector: Tensor) -> Tensor:
    """`matrix` @ `vector`, shape (d,), on the CPU."""
    if matrix.numel() > _ONE_CORE:
        return matrix @ vector
    return torch.from_numpy(np.matmul(matrix.numpy()[:, None], vector.numpy())[:, 0])


def add_product_(matrix: Tensor, rows: Tensor, alpha: float) -> None:
    """Add alpha `rows`ᵀ `rows` to a contiguous matrix of shape (d, d), in place; rows of shape (k, d)."""
    if len(rows) == 1:
        row, size = rows[0], matrix.numel()
        length = len(row) if size > _ONE_CORE or matrix.device.type != "cpu" else max(1, _PIECE // len(row))
        for piece, of in zip(matrix.split(length), row.split(length), strict=True):
            piece.addr_(of, row, alpha=alpha)
    elif matrix.device.type != "cpu":
        matrix.addmm_(rows.T, rows, alpha=alpha)
    else:
        assert matrix.is_contiguous()  # of another one scipy would change a copy
        square, left = matrix.numpy().T, rows.contiguous().numpy()
        blas.dgemm(alpha, left.T, left.T, beta=1.0, c=square, trans_b=1, overwrite_c=1)


def solve_lower(factor: Tensor, right: Tensor) -> Tensor:
    """L⁻¹ `right`, shape (k, m), for a lower triangular L of shape (k, k)."""
    if factor.device.type != "cpu":
        return torch.linalg.solve_triangular(factor, right, upper=False)
    # As rows of Fortran: rightᵀ L⁻ᵀ.
    return torch.from_numpy(blas.dtrsm(1.0, factor.contiguous().numpy().T, right.contiguous().numpy().T, side=1).T)
