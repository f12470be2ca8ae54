"""Products of float64 matrices as the exact head needs them: in place, and on the CPU by one BLAS.

torch, numpy and scipy each bring a BLAS, whose threads go on spinning for a while after a call: what is done for every row
that is forgotten keeps to scipy's, which alone also works in place. Elsewhere than on the CPU torch does it all.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import scipy.linalg
import torch
from torch import Tensor

__all__ = ["add_product_", "gram", "serial", "solve_lower", "times_symmetric"]

blas: Any = scipy.linalg.blas


def gram(x: Tensor) -> Tensor:
    """XᵀX, shape (d, d), of x of shape (n, d): numpy computes one triangle of it alone. +0 where all terms are ±0."""
    if x.device.type != "cpu":
        return (x.T @ x).add_(0.0)
    rows = x.numpy()
    return torch.from_numpy(rows.T @ rows).add_(0.0)


def times_symmetric(matrix: Tensor, rows: Tensor, *, upper: bool = False) -> Tensor:
    """`rows` @ `matrix`, shape (k, d), for a symmetric matrix of shape (d, d); `upper`: of which only this triangle is right."""
    if matrix.device.type != "cpu":
        return rows @ matrix
    square, right = matrix.numpy().T, rows.contiguous().numpy()
    if len(right) == 1:
        product = blas.dsymv(1.0, square, right[0], lower=1) if upper else blas.dgemv(1.0, square, right[0])
        return torch.from_numpy(product[None])
    product = blas.dsymm(1.0, square, right.T, lower=1) if upper else blas.dgemm(1.0, square, right.T)
    return torch.from_numpy(product.T)


def add_product_(matrix: Tensor, rows: Tensor, alpha: float, *, upper: bool = False) -> None:
    """Add alpha `rows`ᵀ `rows` to a contiguous matrix of shape (d, d), in place; rows of shape (k, d).

    Args:
        matrix: symmetric.
        rows: shape (k, d).
        alpha: of the product.
        upper: only the upper triangle need be right afterwards, which reads and writes half of the memory.
    """
    if matrix.device.type != "cpu":
        matrix.addmm_(rows.T, rows, alpha=alpha)
        return
    assert matrix.is_contiguous()  # of another one scipy would change a copy
    square, left = matrix.numpy().T, rows.contiguous().numpy()
    if len(left) == 1 and upper:
        blas.dsyr(alpha, left[0], lower=1, a=square, overwrite_a=1)
    elif len(left) == 1:
        blas.dger(alpha, left[0], left[0], a=square, overwrite_a=1)
    elif upper:
        blas.dsyrk(alpha, left.T, beta=1.0, c=square, lower=1, overwrite_c=1)
    else:
        blas.dgemm(alpha, left.T, left.T, beta=1.0, c=square, trans_b=1, overwrite_c=1)


@contextmanager
def serial() -> Generator[None]:
    """Keep torch to one thread: what is done for every row is short, and its threads would wait for those of scipy's BLAS."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def solve_lower(factor: Tensor, right: Tensor) -> Tensor:
    """L⁻¹ `right`, shape (k, m), for a lower triangular L of shape (k, k)."""
    if factor.device.type != "cpu":
        return torch.linalg.solve_triangular(factor, right, upper=False)
    # As rows of Fortran: rightᵀ L⁻ᵀ.
    return torch.from_numpy(blas.dtrsm(1.0, factor.contiguous().numpy().T, right.contiguous().numpy().T, side=1).T)
