"""A batch of rows, checked, in float64."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.data import Examples
from expunge.data.arrays import as_tensor, names_in, numbers, wholes
from expunge.errors import NonFinite

__all__ = ["LARGEST_STEP", "Rows", "alike", "checked_grid", "checked_key", "checked_rows", "given", "real"]

LARGEST_STEP = 2**26  # of an entry on a grid: its square is an exact float64
_AT_ONCE = 2**16  # entries, which stay in the cache of one core
_FEW = 2**21  # entries, which one thread rounds as fast
_MOVED = 0.1  # of the length of the first batch, by rounding to the grid


@dataclass(frozen=True, eq=False)
class Rows:
    """What `checked_rows` returns.

    Args:
        x: shape (n, d), float64; whole numbers of steps where there is a grid.
        y: labels, shape (n,), int64; or targets, shape (n, outputs), float64, whole numbers where there is a grid.
        classes: number of classes, or None.
        names: ids, no two alike.
    """

    x: Tensor
    y: Tensor
    classes: int | None
    names: list[str]

    @property
    def targets(self) -> Tensor:
        """Shape (n, outputs), float64: labels as one-hot rows."""
        if self.classes is None:
            return self.y
        hot = torch.zeros(len(self.y), self.classes, dtype=torch.float64, device=self.y.device)
        return hot.scatter_(1, self.y[:, None], 1.0)


def checked_rows(
    x: object,
    y: object,
    ids: object,
    *,
    classes: int | None,
    grid: Tensor | None,
    target_grid: Tensor | None,
    first: bool = False,
) -> Rows:
    """A batch as `AnalyticHead.learn` takes it.

    Args:
        x: features.
        y: labels or targets.
        ids: a name for each row.
        classes: number of classes, or None.
        grid: steps of the features, see `checked_grid`.
        target_grid: steps of real targets.
        first: refuse values of which the grid would leave little.

    Raises:
        TypeError, ValueError: types, shapes, device, labels, ids; or a grid that is too coarse or too fine.
        NonFinite: NaN or infinity.
    """
    x = real("X", x, 2) if grid is None else numbers("X", x, 2)  # on a grid NaN and infinity are found on the way
    count, width = x.shape  # torch's `len` is slower, and single rows come alone many times
    if count == 0 or width == 0:
        raise ValueError(f"X must hold at least one row and one feature, not shape {tuple(x.shape)}")
    y = real("Y", y, 2) if classes is None else _labels(y, classes)
    if y.shape[0] != count or (y.dim() == 2 and y.shape[1] == 0):
        raise ValueError(f"Y must have a target for each of the {count} rows of X, not shape {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"X and Y must lie on one device, not {x.device} and {y.device}")
    names = names_in(ids)
    if len(names) != count:
        raise ValueError(f"ids must name every row: {len(names)} ids for {count} rows")
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"ids: {twice!r} is given twice")
    targets = y.contiguous() if classes is not None else _in_steps("Y", y, target_grid, first=first)
    return Rows(_in_steps("X", x, grid, first=first), targets, classes, names)


def given(x: Any, y: Any, ids: Any) -> tuple[Any, Any, Any]:
    """Features, labels and ids, given one by one or as `Examples(x, y, ids=...)` in the place of x.

    Raises:
        TypeError: labels or ids are missing, are given twice, or the examples are no Examples(x, y) with ids.
    """
    if not isinstance(x, Examples):
        if y is None or ids is None:
            raise TypeError("give X, Y and ids=, or Examples(x, y, ids=...)")
        return x, y, ids
    if y is not None or ids is not None:
        raise TypeError("Examples hold labels and ids already: give no Y and no ids beside them")
    if len(x.tensors) != 2 or not x.named:
        raise TypeError(
            f"a head takes Examples(x, y, ids=...), not {len(x.tensors)} tensors with{'' if x.named else 'out'} ids"
        )
    return *x.tensors, x.ids


def _in_steps(name: str, values: Tensor, grid: Tensor | None, *, first: bool) -> Tensor:
    """A copy of the values, as whole numbers of steps; without a grid as they are. -0 becomes 0: the two have one digest."""
    if grid is None:
        return values.contiguous() + 0
    option = "grid" if name == "X" else "target_grid"
    if grid.dim() == 1 and len(grid) != values.shape[1]:
        what = "features" if name == "X" else "targets"
        raise ValueError(f"{option} has {len(grid)} steps, {name} has {values.shape[1]} {what}")
    step = grid.to(values.device)
    whole, most = _rounded(values, step)
    if not math.isfinite(most):
        if not bool(torch.isfinite(values).all()):
            raise NonFinite(f"{name} holds NaN or infinity")
        raise NonFinite(f"{name} overflows float64 in steps of the grid: use a coarser {option}")
    if most > LARGEST_STEP:
        raise ValueError(
            f"{name} reaches {most:.9g} steps of the grid, {LARGEST_STEP} at most are summed exactly: use a coarser {option}, "
            "chosen without the rows that may be forgotten"
        )
    if first and (moved := _moved(values, whole, step)) > _MOVED:
        raise ValueError(
            f"rounding {name} to steps of {float(step.max()):g} moves it by {moved:.0%} of its length: scale it up, "
            f"or give a finer {option}, chosen without the rows that may be forgotten"
        )
    return whole


def _rounded(values: Tensor, step: Tensor) -> tuple[Tensor, float]:
    """Values over steps, rounded to whole numbers, and the largest size of one; NaN or infinity where there is any."""
    if values.device.type != "cpu":
        whole = torch.round(values / step).add_(0.0)
        return whole, float(whole.abs().max())
    if values.shape[0] == 1:
        return _one_rounded(values.numpy(), step.numpy())
    given, steps, size = values.numpy(), step.numpy(), max(1, _AT_ONCE // values.shape[1])
    found = np.empty(given.shape)

    def rounded(start: int) -> float:
        part = found[start : start + size]
        with np.errstate(over="ignore", invalid="ignore"):
            np.divide(given[start : start + size], steps, out=part)
            np.rint(part, out=part)
            part += 0.0
            return float(np.maximum(part.max(), -part.min()))  # NaN where there is one

    starts = range(0, len(found), size)
    if found.size < _FEW:
        return torch.from_numpy(found), float(np.maximum.reduce([rounded(start) for start in starts]))
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return torch.from_numpy(found), float(np.max(list(threads.map(rounded, starts))))


def _one_rounded(values: NDArray[np.float64], step: NDArray[np.float64]) -> tuple[Tensor, float]:
    """`_rounded` of one row, which comes alone many times."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.divide(values, step)
    np.rint(found, out=found)
    found += 0.0
    return torch.from_numpy(found), float(np.maximum.reduce(np.abs(found), axis=None))


def _moved(values: Tensor, whole: Tensor, step: Tensor) -> float:
    """How far rounding moves the values, over their length: a bound where that is small enough, else as it is."""
    length = float(torch.linalg.vector_norm(values))
    most = 0.5 * float(torch.linalg.vector_norm(step.expand(values.shape[1]))) * len(values) ** 0.5
    if most <= _MOVED / 2 * length < math.inf:
        return most / length
    largest = float(values.abs().max()) or 1.0  # no square may overflow or vanish
    length = float(torch.linalg.vector_norm(values / largest))
    moved = float(torch.linalg.vector_norm((values - whole * step) / largest))
    return moved / length if length else 0.0


def real(name: str, value: object, dim: int) -> Tensor:
    """`value` in float64, exactly; see `numbers`.

    Raises:
        TypeError, ValueError: see `numbers`.
        NonFinite: NaN or infinity.
    """
    wide = numbers(name, value, dim)
    if not _finite(wide):
        raise NonFinite(f"{name} holds NaN or infinity")
    return wide


def _finite(wide: Tensor) -> bool:
    """Whether all are: of few numpy says it sooner; NaN and infinity survive a sum, which is quicker, but may overflow without them."""
    if wide.device.type == "cpu" and wide.numel() < _AT_ONCE:
        return bool(np.isfinite(wide.numpy()).all())
    return math.isfinite(float(wide.sum())) or bool(torch.isfinite(wide).all())


def checked_grid(name: str, grid: object) -> Tensor:
    """Steps of shape () or (d,), float64, on the CPU; raises unless they are finite and above 0."""
    if isinstance(grid, bool) or not isinstance(grid, (int, float, Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a number or a tensor of one for each column, not {type(grid).__name__}")
    given = torch.tensor(grid, dtype=torch.float64) if isinstance(grid, (int, float)) else as_tensor(name, grid)
    steps = given.detach().cpu().to(torch.float64, copy=True)
    if steps.dim() > 1 or steps.numel() == 0:
        raise ValueError(f"{name} must have shape () or (d,), not {tuple(steps.shape)}")
    if not bool((torch.isfinite(steps) & (steps > 0)).all()):
        raise ValueError(f"{name} must hold finite numbers above 0")
    return steps


def alike(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two grids are the same."""
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


def checked_key(key: bytes) -> bytes:
    """`key` as bytes; raises unless it has at least 32."""
    if not isinstance(key, (bytes, bytearray)):
        raise TypeError(f"key must be bytes, not {type(key).__name__}; use new_commitment_key()")
    if len(key) < 32:
        raise ValueError(f"key must have at least 32 bytes, not {len(key)}; use new_commitment_key()")
    return bytes(key)


def _labels(y: object, classes: int) -> Tensor:
    given = wholes("Y", y, f"labels, whole numbers below classes={classes}")
    size = given.shape[0]
    low, high = (0, 0) if not size else (given.item(),) * 2 if size == 1 else map(int, given.aminmax())
    if not 0 <= low <= high < classes:
        wrong = (given < 0) | (given >= classes)
        raise ValueError(f"Y must hold labels from 0 to {classes - 1}, not {int(given[wrong][0])}")
    return given
