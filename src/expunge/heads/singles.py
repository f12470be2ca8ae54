"""Whether the compiled change of a single row is to be used here: it must find what numpy finds."""

import logging
from functools import cache

import torch
from torch import Tensor

from expunge.heads.inverse import Compiled, Inverse
from expunge.heads.rows import Rows
from expunge.heads.statistics import Scale, Sums, sums_of

__all__ = ["PATIENCE", "agrees", "compiled_step"]

PATIENCE = 64  # rows one by one, from which on it is worth the second that the compiler needs to load
_ALIKE = 1e-12  # relative: sums in another order
_ROWS, _WIDTH, _OUTPUTS, _RIDGE = 4, 39, 3, 0.5  # a width that is no multiple of what vector units hold

_log = logging.getLogger("expunge")


@cache
def compiled_step() -> Compiled | None:
    """`compiled.step`; None where numba is not there, or its code does not find what numpy finds here."""
    try:
        from expunge.heads.compiled import step
    except ImportError:
        return None
    if not agrees(step):
        _log.warning("code compiled by numba does not compute as numpy does on this machine, and is not used")
        return None
    return step


def agrees(step: Compiled) -> bool:
    """Whether it finds what numpy finds for a row fewer and a row more: sums bit for bit, all else up to rounding."""
    x, y = _wholes(_WIDTH), _wholes(_OUTPUTS)
    scale = Scale(torch.linspace(0.5, 2.0, _WIDTH).double() * 2.0**-25, torch.full((_OUTPUTS,), 2.0**-25).double())
    for sign, held in ((-1, slice(0, _ROWS)), (1, slice(1, _ROWS))):
        sums, after = (sums_of(x[of], y[of], classes=None, exact=True) for of in (held, slice(int(sign < 0), _ROWS)))
        if not _one_agrees(step, Rows(x[:1], y[:1], None, [""]), sums, after, sign, scale):
            return False
    return True


def _wholes(width: int) -> Tensor:
    """Large whole numbers without a pattern, shape (_ROWS, width)."""
    scattered = torch.arange(1, _ROWS * width + 1) * 40503 * 2654435761 % 2**32 // 2**6
    return scattered.reshape(_ROWS, width).double() - 2.0**25


def _one_agrees(step: Compiled, row: Rows, sums: Sums, after: Sums, sign: int, scale: Scale) -> bool:
    first, other = (Inverse.of(sums, ridge=_RIDGE, scale=scale).measured(sums, ridge=_RIDGE, scale=scale) for _ in "12")
    moved = first.moved_(step, row, sums, sign, ridge=_RIDGE, scale=scale)
    stepped = other.stepped_((row.x * scale.x)[0], (row.targets * scale.y)[0], sign)
    if moved is None or stepped is None or other.defect is None:
        return False
    (found, summed), wanted = moved, stepped[0].followed(stepped[1], other.defect, after, ridge=_RIDGE, scale=scale)
    assert found.defect is not None
    assert wanted.defect is not None
    pairs = ((found.inverse, wanted.inverse), (found.weights, wanted.weights))
    errors = ((found.defect.error, wanted.defect.error), (found.defect.target, wanted.defect.target))
    return (
        torch.equal(summed.gram, after.gram)
        and torch.equal(summed.moment, after.moment)
        and all(float((one - two).norm()) <= _ALIKE * float(two.norm()) for one, two in pairs)
        and all(abs(one / two - 1) <= _ALIKE for one, two in errors)
        and float((found.defect.matrix - wanted.defect.matrix).norm()) <= found.defect.error + wanted.defect.error
    )
