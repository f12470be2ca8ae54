"""F in the neighbourhood of a point, in float32: Hessian products, and how the gradient changes. Nothing is certified by it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from expunge.heads.blocks import Block
from expunge.heads.objectives import Objective, spread_of

__all__ = ["Near"]

_Row = tuple[Block, Tensor, Tensor, Tensor | None]  # a block, its scores at w, and the curvature of the loss


class Near:
    """F about a point w, and about points w + p that are moved to.

    What it says may err as it likes: the residual of what it leads to is measured in float64. The change of the gradient
    is summed from the changes of the slopes, not subtracted from two sums, so that float32 keeps its digits of it however
    small it is. In memory scores and curvature of each row are kept between products; a stream computes them again.

    Args:
        objective: F.
        w: shape (outputs, D), float64.
        dtype: in which sums over rows are taken.
    """

    def __init__(self, objective: Objective, w: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self._objective, self._w, self._dtype = objective, w, dtype
        self._p: Tensor | None = None
        self.spread: Tensor | None = None  # see Measured, once there was a move
        self._held: list[_Row] | None = list(self._rows()) if objective.blocks.in_memory else None

    def product(self, v: Tensor) -> Tensor:
        """∇²F(w + p) v, for v of shape (outputs, D); float64."""
        cast, total, seen = v.to(self._dtype), torch.zeros(v.shape, dtype=self._dtype), 0
        for block, _, diagonal, outer in self._held if self._held is not None else self._rows():
            x = block.cast(self._dtype)
            u = x @ cast.T
            t = diagonal * u
            if outer is not None:
                t -= outer * (outer * u).sum(1, keepdim=True)
            total += t.T @ x
            seen += len(x)
        return self._whole(total, seen, v)

    def move(self, p: Tensor) -> Tensor:
        """∇F(w + p) - ∇F(w); products are those of w + p from now on."""
        cast, total, seen, held = p.to(self._dtype), torch.zeros(p.shape, dtype=self._dtype), 0, list[_Row]()
        loss, spread = self._objective.loss, torch.zeros(2 * p.shape[:1], dtype=torch.float64)
        for block, scores, _, _ in self._held if self._held is not None else self._rows(curved=False):
            x = block.cast(self._dtype)
            there = scores.double() + x @ cast.T
            change = loss.slope(there, block.y) - loss.slope(scores.double(), block.y)
            total += change.to(self._dtype).T @ x
            diagonal, outer = loss.curvature(there.to(self._dtype), block.y)
            spread += spread_of(diagonal, outer)
            seen += len(x)
            if self._held is not None:
                held.append((block, scores, diagonal, outer))
        self._held, self._p, self.spread = held if self._held is not None else None, p, spread / seen
        return self._whole(total, seen, p)

    def _whole(self, total: Tensor, rows: int, v: Tensor) -> Tensor:
        """The mean over rows, with the parts of F that no row has."""
        result = total.double() / rows + self._objective.regularization * v
        penalty = self._objective.penalty
        return result if penalty is None else result + penalty.product(v)

    def _rows(self, *, curved: bool = True) -> Iterator[_Row]:
        cast, p = self._w.to(self._dtype), None if self._p is None or not curved else self._p.to(self._dtype)
        for block in self._objective.blocks:
            x = block.cast(self._dtype)
            scores = x @ cast.T
            there = scores if p is None else (scores.double() + x @ p.T).to(self._dtype)
            yield block, scores, *self._objective.loss.curvature(there, block.y)
