"""Products of float64 matrices as the exact head needs them: in place, and on the CPU by one BLAS.

torch, numpy and scipy each bring a BLAS, whose threads go on spinning for a while after a call, and where other programs
keep the cores busy a call of OpenBLAS waits for its last thread a hundred times longer than it works. What is done for a
single row is bound by memory and left to torch; for several rows scipy's BLAS alone works in place. Elsewhere than on the
CPU torch does it all.
"""

from typing import Any

import scipy.linalg
import torch
from torch import Tensor

__all__ = ["add_product_", "gram", "solve_lower", "times_symmetric"]

blas: Any = scipy.linalg.blas


def gram(x: Tensor) -> Tensor:
    """XᵀX, shape (d, d), of x of shape (n, d): numpy computes one triangle of it alone. +0 where all terms are ±0."""
    if x.device.type != "cpu":
        return (x.T @ x).add_(0.0)
    rows = x.numpy()
    return torch.from_numpy(rows.T @ rows).add_(0.0)


def times_symmetric(matrix: Tensor, rows: Tensor) -> Tensor:
    """`rows` @ `matrix`, shape (k, d), for a symmetric matrix of shape (d, d)."""
    if matrix.device.type != "cpu" or len(rows) == 1:
        return rows @ matrix
    square, right = matrix.numpy().T, rows.contiguous().numpy()
    return torch.from_numpy(blas.dgemm(1.0, square, right.T).T)


def add_product_(matrix: Tensor, rows: Tensor, alpha: float) -> None:
    """Add alpha `rows`ᵀ `rows` to a contiguous matrix of shape (d, d), in place; rows of shape (k, d)."""
    if len(rows) == 1:
        matrix.addr_(rows[0], rows[0], alpha=alpha)
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
