"""From sums to weights: what is released, and what predicts between releases. Kept until the sums change."""

import logging
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from expunge.errors import RunError
from expunge.heads.inverse import Defect, Inverse, Step
from expunge.heads.rows import Rows
from expunge.heads.singles import PATIENCE, compiled_step
from expunge.heads.statistics import Scale, Solution, Sums, cholesky, solve, surely_positive, system

__all__ = ["Method", "Solver", "Updated", "few"]

Method = Literal["statistics", "woodbury"]

_WOODBURY_UP_TO = 8  # d/8 rows: beyond, a new factorisation is as fast

_ONE_CORE = 2**23  # entries of a matrix; of larger ones several cores read more than one

_log = logging.getLogger("expunge")


class Updated(NamedTuple):
    """An inverse of changed sums, where there is one; and of a single row the step, with the defect before it."""

    inverse: Inverse | None
    step: Step | None = None
    defect: Defect | None = None


class Solver:
    """Ridge weights of sums.

    Args:
        ridge: γ.
        rounding: the largest relative residual.
        method: see `AnalyticHead`.
        grid: of features, shape () or (d,); None where the sums are in floating point.
        target_grid: of targets.
    """

    def __init__(
        self, *, ridge: float, rounding: float, method: Method, grid: Tensor | None, target_grid: Tensor | None
    ) -> None:
        self._ridge, self._rounding, self._method = ridge, rounding, method
        self._grid, self._target_grid = grid, target_grid
        self._scale: Scale | None = None
        self._singles = 0  # rows that came or went one by one
        self.restart(None)

    def restart(self, inverse: Inverse | None) -> None:
        """Forget what was solved; `inverse` is of the new sums."""
        self.inverse = inverse
        self._released: Solution | None = None
        self._predicting: Solution | None = None

    def released(self, sums: Sums | None) -> Solution:
        """On a grid a function of the whole-number sums alone.

        Raises:
            RunError: there are no sums, A is not positive definite to rounding, or the residual is above `rounding`.
        """
        if self._released is None:
            held = _some(sums)
            solution = solve(held, ridge=self._ridge, scale=self.scale(held))
            if not solution.residual <= self._rounding:
                raise RunError(
                    f"the relative residual |A W - B|/|B| may reach {solution.residual:.3g}, above "
                    f"rounding={self._rounding:g}: use a larger ridge, features of like scale, or a grid; or set rounding "
                    "higher beforehand"
                )
            self._released = solution
        return self._released

    def predicting(self, sums: Sums | None) -> Solution:
        """Of the updated inverse, where one is kept and its residual allows; else what is released. The errors of that."""
        if self._method != "woodbury":
            return self.released(sums)
        if self._predicting is None:
            held = _some(sums)
            updated = self._updated_solution(held)
            if updated is None:
                self.inverse = Inverse.of(held, ridge=self._ridge, scale=self.scale(held))
            self._predicting = updated or self.released(held)
        return self._predicting

    def _updated_solution(self, sums: Sums) -> Solution | None:
        """By the defect as it was followed, else as it is measured now; None where that is too large."""
        if (inverse := self.inverse) is None:
            return None
        scale, ridge = self.scale(sums), self._ridge
        followed = inverse.defect is not None
        held = inverse if followed else inverse.measured(sums, ridge=ridge, scale=scale)
        updated = held.solution(sums, ridge=ridge)
        if followed and not updated.residual <= self._rounding:  # it grows by each rounding on the way
            held = inverse.measured(sums, ridge=ridge, scale=scale)
            updated = held.solution(sums, ridge=ridge)
        if updated.residual <= self._rounding:
            self.inverse = held
            return updated
        _log.warning("residual %.3g of the updated inverse is too large: factorised anew", updated.residual)
        return None

    def updated_(self, rows: Rows, sums: Sums | None, sign: int) -> Updated:
        """The inverse with these rows more or fewer, by Woodbury, where there is one and the batch is small.

        It is changed in place: the one from before is gone.
        """
        inverse, self.inverse = self.inverse, None
        if sums is None or inverse is None or not few(rows):
            return Updated(None)
        scale = self.scale(sums)
        x, targets = (rows.x, rows.targets) if scale is None else (rows.x * scale.x, rows.targets * scale.y)
        if len(x) > 1 or x.device.type != "cpu":
            return Updated(inverse.updated_(x, targets, sign))
        stepped = inverse.stepped_(x[0], targets[0], sign)
        return Updated(None) if stepped is None else Updated(*stepped, inverse.defect)

    def moved_(self, rows: Rows, sums: Sums, sign: int) -> Sums | None:
        """`updated_`, the change of the sums, whose Gram matrix is changed in place, and `follow` at once, for a single row.

        None, and nothing changed, where it cannot be, or too few rows have come one by one to load a compiler for.
        """
        inverse, scale, gram = self.inverse, self.scale(sums), sums.gram
        if inverse is None or inverse.defect is None or scale is None or len(rows.names) > 1:
            return None
        self._singles += 1
        if self._singles < PATIENCE or not _for_one_core(gram) or (step := compiled_step()) is None:
            return None
        moved = inverse.moved_(step, rows, sums, sign, ridge=self._ridge, scale=scale)
        if moved is None:
            return None
        self.restart(moved[0])
        return moved[1]

    def follow(self, updated: Updated, sums: Sums) -> None:
        """Measure what an update of one row did to the defect; `sums` are those after it, exact."""
        scale = self.scale(sums)
        if updated.inverse is None or updated.step is None or updated.defect is None or scale is None:
            return
        if sums.gram.dtype == torch.float64:
            self.inverse = updated.inverse.followed(updated.step, updated.defect, sums, ridge=self._ridge, scale=scale)

    def refuse_indefinite(self, sums: Sums) -> None:
        """Factorise where a cheap bound cannot rule out that this fails, so that a batch is refused as it comes."""
        if not self.surely_positive(sums.gram.diagonal().double(), sums):
            cholesky(system(sums, self._ridge, self.scale(sums))[0])

    def surely_positive(self, diagonal: Tensor, sums: Sums) -> bool:
        """Whether Cholesky cannot fail for a Gram matrix of this diagonal, shape (d,), and otherwise the sums as they are."""
        return surely_positive(diagonal, sums.gram_error, ridge=self._ridge, scale=self.scale(sums))

    def scale(self, sums: Sums) -> Scale | None:
        """The steps that the sums count."""
        if self._grid is None:
            return None
        shape, device = sums.moment.shape, sums.moment.device
        if self._scale is None or (self._scale.x.shape + self._scale.y.shape, self._scale.x.device) != (shape, device):
            self._scale = Scale.of(sums, self._grid, self._target_grid)
        return self._scale


def _for_one_core(gram: Tensor) -> bool:
    """Whether compiled loops can work on this matrix, and no slower than several cores do."""
    near = gram.device.type == "cpu" and gram.numel() <= _ONE_CORE
    return near and gram.dtype == torch.float64 and gram.is_contiguous()


def few(rows: Rows) -> bool:
    """Whether so few that an update costs less than a new factorisation."""
    return _WOODBURY_UP_TO * len(rows.x) <= rows.x.shape[1]


def _some(sums: Sums | None) -> Sums:
    if sums is None:
        raise RunError("no row is learned: there are no weights")
    return sums
