"""A batch of rows, checked, in float64, with keyed digests of its ids and contents."""

import hmac
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.errors import NonFinite
from expunge.progress import track

__all__ = ["DIGEST", "Rows", "checked_grid", "checked_key", "checked_rows", "name_of", "real"]

DIGEST = 16  # bytes: among 10^9 rows two collide with odds below 10^-20

_LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *_LABELS[:-1])  # exact in float64
_BAR_FROM = 20_000  # rows


@dataclass(frozen=True, eq=False)
class Rows:
    """What `checked_rows` returns.

    Args:
        x: shape (n, d), float64; whole numbers of steps where there is a grid.
        y: labels, shape (n,), int64; or targets, shape (n, outputs), float64.
        classes: number of classes, or None.
        digests: (of the id, of id and content) of each row.
    """

    x: Tensor
    y: Tensor
    classes: int | None
    digests: list[tuple[bytes, bytes]]

    @property
    def targets(self) -> Tensor:
        """Shape (n, outputs), float64: labels as one-hot rows."""
        return self.y if self.classes is None else F.one_hot(self.y, self.classes).to(torch.float64)


def checked_rows(
    x: Tensor, y: Tensor, ids: Sequence[str], *, key: bytes, classes: int | None, grid: Tensor | None
) -> Rows:
    """A batch as `AnalyticHead.learn` takes it.

    Raises:
        TypeError, ValueError: types, shapes, device, labels, ids.
        NonFinite: NaN or infinity.
    """
    x = real("X", x, 2)
    if len(x) == 0 or x.shape[1] == 0:
        raise ValueError(f"X must hold at least one row and one feature, not shape {tuple(x.shape)}")
    y = real("Y", y, 2) if classes is None else _labels(y, classes)
    if len(y) != len(x) or (y.dim() == 2 and y.shape[1] == 0):
        raise ValueError(f"Y must have a target for each of the {len(x)} rows of X, not shape {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"X and Y must lie on one device, not {x.device} and {y.device}")
    if isinstance(ids, str):
        raise TypeError(f"ids must be a sequence of texts, not the single text {ids!r}")
    names = list(ids)
    if len(names) != len(x):
        raise ValueError(f"ids must name every row: {len(names)} ids for {len(x)} rows")
    if grid is not None:
        if grid.dim() == 1 and len(grid) != x.shape[1]:
            raise ValueError(f"grid has {len(grid)} steps, X has {x.shape[1]} features")
        x = torch.round(x / grid.to(x.device))
        if not bool(torch.isfinite(x).all()):
            raise NonFinite("X overflows float64 in steps of the grid: use a coarser grid")
    x, y = x + 0, y + 0  # copies; -0 becomes 0, as the two must have one digest
    digests = _digests(key, names, x, y)
    if len({name for name, _ in digests}) < len(digests):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise ValueError(f"ids: {twice!r} is given twice")
    return Rows(x, y, classes, digests)


def name_of(row_id: str, key: bytes) -> bytes:
    """The keyed digest of an id: HMAC-SHA256, cut to 16 bytes."""
    if not isinstance(row_id, str):
        raise TypeError(f"ids must be texts, not {row_id!r} of type {type(row_id).__name__}")
    return hmac.digest(key, b"expunge.row.id" + row_id.encode(), "sha256")[:DIGEST]


def real(name: str, value: Tensor, dim: int) -> Tensor:
    """`value` in float64, exactly.

    Raises:
        TypeError: not a tensor, or of a type that float64 does not hold exactly.
        ValueError: another number of axes.
        NonFinite: NaN or infinity.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
    if value.dtype not in _NUMBERS:
        raise TypeError(f"{name} must hold real numbers that float64 holds exactly, not {value.dtype}")
    if value.dim() != dim:
        raise ValueError(f"{name} must have {dim} axes, not shape {tuple(value.shape)}")
    wide = value.detach().to(torch.float64)
    # NaN and infinity survive a sum, which is quicker; a sum may overflow without them.
    if not math.isfinite(float(wide.sum())) and not bool(torch.isfinite(wide).all()):
        raise NonFinite(f"{name} holds NaN or infinity")
    return wide


def checked_grid(grid: float | Tensor) -> Tensor:
    """Steps of shape () or (d,), float64, on the CPU; raises unless they are finite and above 0."""
    if isinstance(grid, bool) or not isinstance(grid, (int, float, Tensor)):
        raise TypeError(f"grid must be a number or a tensor of one for each feature, not {type(grid).__name__}")
    given = grid if isinstance(grid, Tensor) else torch.tensor(grid, dtype=torch.float64)
    steps = given.detach().cpu().to(torch.float64, copy=True)
    if steps.dim() > 1 or steps.numel() == 0:
        raise ValueError(f"grid must have shape () or (d,), not {tuple(steps.shape)}")
    if not bool((torch.isfinite(steps) & (steps > 0)).all()):
        raise ValueError("grid must hold finite numbers above 0")
    return steps


def checked_key(key: bytes) -> bytes:
    """`key` as bytes; raises unless it has at least 32."""
    if not isinstance(key, (bytes, bytearray)):
        raise TypeError(f"key must be bytes, not {type(key).__name__}; use new_commitment_key()")
    if len(key) < 32:
        raise ValueError(f"key must have at least 32 bytes, not {len(key)}; use new_commitment_key()")
    return bytes(key)


def _labels(y: Tensor, classes: int) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"Y must be a tensor, not {type(y).__name__}")
    if y.dtype not in _LABELS:
        raise TypeError(f"Y must hold labels, whole numbers below classes={classes}, not {y.dtype}")
    if y.dim() != 1:
        raise ValueError(f"Y must hold one label for each row, shape (n,), not shape {tuple(y.shape)}")
    wrong = (y < 0) | (y >= classes)
    if bool(wrong.any()):
        raise ValueError(f"Y must hold labels from 0 to {classes - 1}, not {int(y[wrong][0])}")
    return y.to(torch.int64)


def _digests(key: bytes, ids: list[str], x: Tensor, y: Tensor) -> list[tuple[bytes, bytes]]:
    """HMAC-SHA256, cut to 16 bytes, of each id, and of id, x and y together."""
    features, targets = x.cpu().numpy(), y.cpu().numpy()
    steps = iter(range(len(ids)))
    if len(ids) >= _BAR_FROM:
        steps = track(steps, total=len(ids), label="digests of rows")

    def each(steps: Iterator[int]) -> Iterator[tuple[bytes, bytes]]:
        for k in steps:
            name = name_of(ids[k], key)
            row = b"expunge.row.content" + name + features[k].tobytes() + targets[k].tobytes()
            yield name, hmac.digest(key, row, "sha256")[:DIGEST]

    return list(each(steps))
