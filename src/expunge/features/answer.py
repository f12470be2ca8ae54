"""The answer to a request for features on data: the features become 0, and the other columns cease to tell of them."""

from typing import Any, Self

import torch
from torch import Tensor

from expunge import _validate
from expunge.data import Examples, Request
from expunge.features.barycenter import Barycenter, GaussianBarycenter

__all__ = ["FeatureAnswer"]


class FeatureAnswer:
    """Rows in which features are 0, as a request asks, and the other columns are moved by a barycenter map.

    The values that the features take together are the attribute; to move a row its attribute must be known. Train a model
    anew on the answered rows, and answer the rows that it is asked about in the same way.

    Make one with `fit`.

    Attributes:
        columns: that become 0.
        values: what they held, one row a value of the attribute, shape (values, columns).
        barycenter: the map of the other columns.
    """

    def __init__(self, *, columns: tuple[int, ...], values: Tensor, barycenter: Barycenter) -> None:
        self.columns, self.values, self.barycenter = columns, values, barycenter

    @property
    def promise(self) -> str:
        """What holds of the answered rows, and what does not."""
        return self.barycenter.promise

    @classmethod
    def fit(
        cls, rows: Examples, request: Request, *, by: type[Barycenter] = GaussianBarycenter, **settings: Any
    ) -> Self:
        """Fit the map to rows.

        Args:
            rows: `Examples(x, ...)`, x of shape (n, d) holding real numbers.
            request: `Request.features(columns)`, for all rows.
            by: `GaussianBarycenter` or `QuantileBarycenter`.
            settings: of its `fit`, e.g. ridge.

        Raises:
            TypeError: rows of another form, or that hold no real numbers.
            ValueError: the request asks for something else, or for features of some rows alone; a column beyond d, or no other
                column; features of which no two rows differ; what `by.fit` refuses.
        """
        x = _inputs(rows)
        columns = _asked(request, x.shape[1])
        values, attribute = torch.unique(x[:, list(columns)], dim=0, return_inverse=True)
        if len(values) < 2:
            raise ValueError(f"the features {list(columns)} have one value: nothing can tell of them")
        fit: Any = getattr(by, "fit", None)
        if not isinstance(by, type) or fit is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"by must be a class, GaussianBarycenter or QuantileBarycenter, not {by!r:.80}")
        return cls(columns=columns, values=values, barycenter=fit(_others(x, columns), attribute, **settings))

    def __call__(self, rows: Examples) -> Examples:
        """The answered rows, with the ids, groups and other tensors that they had; x keeps its type if that is a real one.

        Raises:
            TypeError: rows of another form.
            ValueError: another width, NaN or infinity, or features with values that no fitted row had.
        """
        x = _inputs(rows)
        if x.shape[1] != self.barycenter.width + len(self.columns):
            raise ValueError(
                f"x must have {self.barycenter.width + len(self.columns)} columns, as the fitted rows, not {x.shape[1]}"
            )
        same = (x[:, None, list(self.columns)] == self.values).all(2)
        if not bool(same.any(1).all()):
            row = int((~same.any(1)).nonzero()[0])
            raise ValueError(f"the features {list(self.columns)} of row {row} have values that no fitted row had")
        moved = self.barycenter(_others(x, self.columns), same.int().argmax(1))
        found = torch.zeros(x.shape, dtype=x.dtype if x.is_floating_point() else torch.float64)
        found[:, _rest(x, self.columns)] = moved.to(found.dtype)
        return Examples(
            found.to(x.device), *rows.values[1:], ids=rows.ids if rows.named else None, groups=rows.groups
        )  # fmt: skip


def _inputs(rows: Examples) -> Tensor:
    if not isinstance(rows, Examples) or rows.fields or rows.values[0].dim() != 2:
        raise TypeError("rows must be Examples(x, ...) with x of shape (n, d)")
    if (x := rows.values[0]).is_complex() or x.dtype == torch.bool:
        raise TypeError(f"x must hold real numbers, not {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        row, column = (int(k) for k in (~torch.isfinite(x)).nonzero()[0])
        raise ValueError(f"x has NaN or infinity in row {row}, column {column}")
    return x


def _asked(request: Request, width: int) -> tuple[int, ...]:
    if not isinstance(request, Request):
        raise TypeError(f"request must be made by Request.features, not {_validate.shown(request)}")
    if request.kinds != frozenset({"features"}):
        raise ValueError(
            f"a barycenter answers requests for features alone, not for {', '.join(sorted(request.kinds))}"
        )
    if any(ids is not None for _, ids in request.zeroed):
        raise ValueError("a barycenter answers a request for features of all rows: leave out the ids")
    columns = tuple(sorted({column for some, _ in request.zeroed for column in some}))
    if columns[-1] >= width:
        raise ValueError(f"columns must lie below the number of features, {width}, not {columns[-1]}")
    if len(columns) == width:
        raise ValueError("the request names all columns: no other is left to move")
    return columns


def _rest(x: Tensor, columns: tuple[int, ...]) -> list[int]:
    return [column for column in range(x.shape[1]) if column not in columns]


def _others(x: Tensor, columns: tuple[int, ...]) -> Tensor:
    return x[:, _rest(x, columns)]
