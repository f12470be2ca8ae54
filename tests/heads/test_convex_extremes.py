"""Convex heads at the ends of what they take: huge rows, kinks, regularisation of any size, numpy arrays."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import expunge as ex
from expunge.data import Request
from expunge.errors import RunError
from expunge.heads import ConvexHead
from expunge.heads.objectives import LOSSES, SmoothHinge

KEY = bytes(range(32))


def rows(scale: float = 1.0, *, one: bool = False) -> ex.Examples:
    coins = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=coins, dtype=torch.float64)
    y = torch.randint(3, (64,), generator=coins)
    x[: 1 if one else 64] *= scale
    return ex.Examples(x, y, ids=[f"row {k}" for k in range(64)])


def head(**options: Any) -> ConvexHead:
    settings: dict[str, Any] = {
        "loss": "logistic", "regularization": 1e-2, "classes": 3, "residual": 1e-6, "noise_std": 1.0,
        "provenance": "raw", "key": KEY,
    }  # fmt: skip
    return ConvexHead(**settings | options)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("one", [True, False], ids=["one row", "all rows"])
@pytest.mark.parametrize("scale", [1e14, 1e19, 1e25, 1e39, 1e60, 1e99, 1e200])
def test_rows_too_large_for_float32_are_refused_by_their_norm(scale: float, one: bool, loss: str):
    """Squares of entries beyond 1e19 overflow in float32: factors were infinite, searches failed or never ended."""
    with pytest.raises(
        ValueError, match=r"a row of x has norm .*scale the features so that all norms lie below 1e\+14"
    ):
        head(loss=loss, residual=1e30).fit(rows(scale, one=one))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("one", [True, False], ids=["one row", "all rows"])
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e9, 1e13])
def test_rows_of_any_smaller_norm_are_fitted_to_what_rounding_allows(scale: float, one: bool, loss: str):
    made = head(loss=loss, residual=max(1e-6, scale**2 * 1e-11))
    made.fit(rows(scale, one=one))
    assert made.solution.residual <= max(1e-6, scale**2 * 1e-11)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("regularization", [1e-300, 1e-40, 1e20, 1e39, 1e300])
def test_regularisation_beyond_float32_is_as_good_as_any(regularization: float, loss: str):
    made = head(loss=loss, regularization=regularization)
    made.fit(rows())
    made.unlearn(rows(), Request.rows(["row 3"]))
    assert made.solution.residual <= 1e-6


def test_the_smooth_hinge_bends_at_its_kinks():
    """At the start every margin is 0; without curvature there, the first step was a gradient step of any length."""
    z, y = torch.tensor([[0.0, 1.0, -1.0], [-1e-9, 0.5, -1.0 + 1e-9]]).double(), torch.tensor([0, 1])
    assert SmoothHinge.curvature(z, y)[0].tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def test_a_search_that_stalls_does_not_blame_rounding():
    """Pixels up to 255 under a tiny regularisation: the hinge's pieces are many, and rounding is nine digits away."""
    digits = load_digits()
    data = ex.Examples(torch.tensor(digits.data) * 16, torch.tensor(digits.target))
    with pytest.raises(
        RunError, match=r"the search stalls after \d+ steps.* it is not rounding, which may add"
    ) as found:
        head(loss="smooth_hinge", classes=10, regularization=1e-8, residual=1e-4).fit(data, prepare=False)
    assert "cannot be certified in float64" not in str(found.value)
    assert "larger regularization" in str(found.value)


def test_a_residual_below_rounding_still_blames_rounding():
    with pytest.raises(RunError, match=r"residual=1e-18 cannot be certified in float64.* can be reached on these rows"):
        head(residual=1e-18).fit(rows())


# Numpy arrays


@pytest.mark.parametrize("kind", ["float32", "float64", ">f8", "uint8", "int64", "uint16"])
def test_numpy_arrays_are_what_tensors_of_the_same_numbers_are(kind: str):
    coins = np.random.default_rng(0)
    x, y = coins.integers(0, 9, (90, 4)), np.arange(90) % 3
    ids = np.array([f"row {k}" for k in range(90)])
    names, tensor, labels = ids.tolist(), torch.tensor(x), torch.tensor(y)
    arrays, chunked, tensors = head(), head(), head()
    given = x.astype(kind)
    chunks = [(given[k : k + 30], y[k : k + 30], ids[k : k + 30]) for k in range(0, 90, 30)]
    released = [
        arrays.fit(ex.Examples(given, y, ids=ids), generator=torch.Generator().manual_seed(1)),
        chunked.fit(chunks, generator=torch.Generator().manual_seed(1)),
        tensors.fit(ex.Examples(tensor, labels, ids=names), generator=torch.Generator().manual_seed(1)),
    ]
    request = (
        Request.rows(ids[:5])
        | Request.labels(ids[5:8], np.array([0, 1, 2]))
        | Request.features(np.array([2]), ids[9:12])
    )
    assert request == Request.rows(names[:5]) | Request.labels(names[5:8], [0, 1, 2]) | Request.features(
        [2], names[9:12]
    )
    assert (
        Request.labels(ids[:2], np.int64(1)) == Request.labels(names[:2], 1) == Request.labels(ids[:2], torch.tensor(1))
    )
    assert Request.features(torch.tensor([1, 0])) == Request.features([0, 1])
    released += [
        arrays.unlearn(ex.Examples(given, y, ids=ids), request, generator=torch.Generator().manual_seed(2)),
        chunked.unlearn(chunks, request, generator=torch.Generator().manual_seed(2)),
        tensors.unlearn(ex.Examples(tensor, labels, ids=names), request, generator=torch.Generator().manual_seed(2)),
    ]
    weights = [cast("nn.Linear", done.model).weight for done in released]
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[2])
    assert torch.equal(weights[3], weights[5])
    assert torch.equal(weights[4], weights[5])
    assert ids[0] not in arrays
    assert ids[5] in arrays


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: head().fit([(np.ones((1, 2), dtype=bool), np.array([0]), ["a"])]), "x must hold real numbers.*bool"),
        (lambda: head().fit([(np.ones((1, 2)), np.array([0.0]), ["a"])]), "y must hold whole numbers, not torch.float64"),
        (lambda: head().fit([(np.ones((1, 2)), np.array([0]), np.array([7]))]), "ids must be texts"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_taken_are_refused_by_name(act: Any, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        act()
