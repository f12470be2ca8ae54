"""What the convex head refuses: settings, rows and requests; and that it then stays as it was."""

from typing import Any

import pytest
import torch

from expunge.data import Request
from expunge.errors import NonFinite, RunError
from heads.convex_rows import chunks, data, fitted, head, rows_with


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": lambda z, y: z.sin().sum()}, "loss must be one of logistic, squared, smooth_hinge"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"regularization": 0.0}, "regularization must be"),
        ({"regularization": -1.0}, "regularization must be"),
        ({"residual": 0.0}, "residual must be"),
        ({"noise_std": 0.0}, "noise_std must be"),
        ({"classes": 1}, "classes must be"),
        ({"provenance": " x"}, "provenance must be"),
        ({"provenance": None}, "provenance must be"),
        ({"fairness": 1.0}, "fairness must be"),
        ({"factor_limit": -1}, "factor_limit must be"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], says: str):
    with pytest.raises((ValueError, TypeError), match=says):
        head(**changes)


def bad_rows() -> dict[str, tuple[Any, str]]:
    rows = data()
    x, y = rows.tensors
    hole = x.clone()
    hole[3, 2] = float("nan")
    return {
        "missing": (rows.take(range(399)), "lack 1 of the 350 rows"),
        "unknown": (rows_with(ids=["new", *rows.ids[1:]]), "never learned"),
        "twice": (list(chunks(rows, 400)) + list(chunks(rows.take([399]), 1)), "an id twice"),
        "nan": (rows_with(x=hole), "NaN"),
        "huge": (rows_with(x=1e150 * x), "scale the features"),
        "wide": (rows_with(x=x[:, :4]), "must have 5 features"),
        "label": (rows_with(y=y + 1), "labels from 0 to 2"),
        "floats": (rows_with(y=y.double()), "y must hold whole numbers"),
        "whole x": (rows_with(x=x.to(torch.complex64)), "x must hold real numbers"),
        "one-shot": (chunks(rows, 50), "read once only"),
        "no chunks": ([rows.tensors], "a chunk of rows must be"),
        "number": (7, "rows must be"),
    }


@pytest.mark.parametrize("case", list(bad_rows()))
def test_bad_rows_are_refused_and_the_head_stays_as_it_was(case: str):
    rows = data()
    made = fitted(rows)
    before = dict(vars(made))
    source, says = bad_rows()[case]
    with pytest.raises((ValueError, TypeError, NonFinite), match=says):
        made.unlearn(source, Request.rows(rows.ids[:50]))
    assert dict(vars(made)) == before
    made.unlearn(rows, Request.rows(rows.ids[:50]))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request.rows(["nobody"]), "unknown ids.*'nobody'"),
        (Request.rows(["row 0"]), "forgotten already: 'row 0'"),
        (Request.labels(["row 0"], 1), "forgotten already"),
        (Request.features([1], ["row 0"]), "forgotten already"),
        (Request.labels(["row 5"], 3), "below classes=3"),
        (Request.features([5]), "below the number of features, 5"),
        (Request.groups(["ann"]), "a head knows rows and no owners"),
        (Request.rows([f"row {i}" for i in range(1, 400)]), "leaves no row"),
        ("row 1", "must be made by Request"),
    ],
)
def test_bad_requests_are_refused_and_the_head_stays_as_it_was(request_: Any, says: str):
    rows = data()
    made = fitted(rows, Request.rows(["row 0"]))
    before = dict(vars(made))
    with pytest.raises((ValueError, TypeError), match=says):
        made.unlearn(rows, request_)
    assert dict(vars(made)) == before


def test_a_head_is_fitted_once_and_asked_only_then():
    rows = data()
    made = head()
    with pytest.raises(RunError, match="not fitted"):
        made.unlearn(rows, Request.rows(["row 1"]))
    made.fit(rows)
    with pytest.raises(ValueError, match="fitted already"):
        made.fit(rows)
