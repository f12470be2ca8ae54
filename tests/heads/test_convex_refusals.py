"""What the convex head refuses: settings, rows and requests; and that it then stays as it was."""

from typing import Any

import pytest
import torch

from expunge.errors import NonFinite, RunError
from expunge.heads.requests import Forget
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
        made.unlearn(source, Forget.rows(rows.ids[:50]))
    assert dict(vars(made)) == before
    made.unlearn(rows, Forget.rows(rows.ids[:50]))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Forget.rows(["nobody"]), "unknown ids.*'nobody'"),
        (Forget.rows(["row 0"]), "forgotten already: 'row 0'"),
        (Forget.labels(["row 0"], 1), "forgotten already"),
        (Forget.features([1], ["row 0"]), "forgotten already"),
        (Forget.labels(["row 5"], 3), "below classes=3"),
        (Forget.features([5]), "below the number of features, 5"),
        (Forget(), "asks for nothing"),
        (Forget.rows([f"row {i}" for i in range(1, 400)]), "leaves no row"),
        ("row 1", "must be made by Forget"),
    ],
)
def test_bad_requests_are_refused_and_the_head_stays_as_it_was(request_: Any, says: str):
    rows = data()
    made = fitted(rows, Forget.rows(["row 0"]))
    before = dict(vars(made))
    with pytest.raises((ValueError, TypeError), match=says):
        made.unlearn(rows, request_)
    assert dict(vars(made)) == before


def test_requests_that_contradict_themselves_are_refused():
    for make, says in [
        (lambda: Forget.rows("row 1"), "single text"),
        (lambda: Forget.rows([1]), "must be texts"),
        (lambda: Forget.rows([]), "at least one row"),
        (lambda: Forget.rows(["a", "a"]), "named twice"),
        (lambda: Forget.labels(["a"], [1, 2]), "2 labels for 1 ids"),
        (lambda: Forget.labels(["a"], [-1]), "0 or above"),
        (lambda: Forget.features([]), "at least one feature"),
        (lambda: Forget.features([-1]), "0 or above"),
        (lambda: Forget.labels(["a"], 1) | Forget.labels(["a"], 2), "two labels are asked for 'a'"),
        (lambda: Forget.labels(["a"], 1) | Forget.rows(["a"]), "deletion and a new label are asked for 'a'"),
    ]:
        with pytest.raises((ValueError, TypeError), match=says):
            make()


def test_a_head_is_fitted_once_and_asked_only_then():
    rows = data()
    made = head()
    with pytest.raises(RunError, match="not fitted"):
        made.unlearn(rows, Forget.rows(["row 1"]))
    made.fit(rows)
    with pytest.raises(ValueError, match="fitted already"):
        made.fit(rows)
