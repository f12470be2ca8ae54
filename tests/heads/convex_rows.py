"""Heads and rows that the tests of the convex head share."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import expunge as ex
from expunge.data import Request
from expunge.heads.convex import ConvexHead

CLASSES, WIDTH, LAM, BETA = 3, 5, 1e-2, 1e-10
SETTINGS: dict[str, Any] = {
    "loss": "logistic", "regularization": LAM, "classes": CLASSES, "residual": BETA, "noise_std": 1e-3,
    "provenance": "made of coins",
}  # fmt: skip


def head(**changes: Any) -> ConvexHead:
    return ConvexHead(**(SETTINGS | changes))


def data(n: int = 400, seed: int = 0, width: int = WIDTH) -> ex.Examples:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=g)
    x = torch.randn(n, width, generator=g, dtype=torch.float64) + torch.eye(CLASSES, width)[y]
    return ex.Examples(x, y, ids=[f"row {i}" for i in range(n)])


def coins(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chunks(rows: ex.Examples, size: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    for start in range(0, len(rows), size):
        x, y = (t[start : start + size] for t in rows.tensors)
        yield x, y, rows.ids[start : start + size]


def fitted(rows: ex.Examples, request: Request | None = None, **changes: Any) -> ConvexHead:
    made = head(**changes)
    made.fit(rows)
    if request is not None:
        made.unlearn(rows, request)
    return made


def rows_with(x: Any = None, y: Any = None, ids: Any = None) -> ex.Examples:
    rows = data()
    return ex.Examples(
        rows.tensors[0] if x is None else x, rows.tensors[1] if y is None else y, ids=rows.ids if ids is None else ids
    )
