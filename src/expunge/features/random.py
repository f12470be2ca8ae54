"""A fixed random layer: more features, without data."""

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge._fixed import fixed

__all__ = ["RandomFeatures"]

_STEP = 2.0**-12


@fixed("d_in", "d_out", "seed", "keep_inputs")
class RandomFeatures(nn.Module):
    """relu(x P), P of shape (d_in, d_out) with independent entries N(0, 1/d_in), drawn once from a public seed.

    The entries are rounded to multiples of 2^-12. Where the inputs lie on a grid, for example pictures of bytes, every
    product and sum is then exact in float64, so that a row has the same features alone and in any batch. That matters
    where a row is forgotten by its features.

    Args:
        d_in: width of the rows.
        d_out: number of features.
        seed: of a generator of its own, on the CPU; public, chosen without the data.
        keep_inputs: put the d_in numbers of the row, as they are, before the random features.

    Source: the buffer layer of analytic learning, Zhuang et al. 2022, arXiv 2205.14922; Tang et al. 2025, arXiv 2505.12239.
    """

    projection: Tensor

    def __init__(self, d_in: int, d_out: int, *, seed: int, keep_inputs: bool = False) -> None:
        super().__init__()
        _validate.whole(d_in=d_in, d_out=d_out)
        _validate.whole(0, seed=seed)
        if seed >= 2**32:
            raise ValueError(f"seed must be below 2^32, all that the CPU's generator keeps, not {seed}")
        self.d_in, self.d_out, self.seed, self.keep_inputs = d_in, d_out, seed, bool(keep_inputs)
        coins = torch.Generator().manual_seed(seed)
        drawn = torch.randn(d_in, d_out, generator=coins, dtype=torch.float64) / d_in**0.5
        self.register_buffer("projection", torch.round(drawn / _STEP) * _STEP)

    @property
    def width(self) -> int:
        """Features of a row: d_out, and d_in more where the inputs are kept."""
        return self.d_out + self.d_in * self.keep_inputs

    @property
    def provenance(self) -> str:
        """What a certificate may say of this layer; the layers below it need a reason of their own."""
        beside = ", beside its inputs as they are" if self.keep_inputs else ""
        return f"random ReLU layer, {self.d_in} to {self.d_out}, drawn from the public seed {self.seed}{beside}"

    def forward(self, x: Tensor) -> Tensor:
        """Features of shape (n, width), float64, of rows of shape (n, d_in).

        Raises:
            ValueError: another shape.
            TypeError: the layer was cast to another type than float64: its weights would be other ones.
        """
        if self.projection.dtype != torch.float64:
            raise TypeError(f"the random layer must stay float64, it was cast to {self.projection.dtype}")
        if x.dim() != 2 or x.shape[1] != self.d_in:
            raise ValueError(f"x must have shape (n, {self.d_in}), not {tuple(x.shape)}")
        rows = x.to(torch.float64)
        features = torch.relu(rows @ self.projection)
        return torch.cat([rows, features], dim=1) if self.keep_inputs else features

    def extra_repr(self) -> str:
        """Sizes and seed."""
        return f"{self.d_in}, {self.d_out}, seed={self.seed}{', keep_inputs=True' if self.keep_inputs else ''}"
