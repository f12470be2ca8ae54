"""Barycenter maps: what holds of the moved rows to rounding, that no map of this sort moves less, and what is refused."""

import numpy as np
import pytest
import torch

import expunge as ex
from expunge.features import FeatureAnswer, GaussianBarycenter, QuantileBarycenter

Array = np.ndarray


def gaussian_rows(levels: int, d: int, seed: int = 0) -> tuple[Array, Array]:
    """Rows whose mean, covariance and number depend on z."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(size=(60 + 40 * k, d)) @ (rng.normal(size=(d, d)) + 2 * np.eye(d)) + rng.normal(size=d)
        for k in range(levels)
    ]
    return np.concatenate(parts), np.repeat(np.arange(levels), [len(part) for part in parts])


def moments(x: Array, z: Array) -> list[tuple[Array, Array]]:
    return [(x[z == k].mean(0), np.cov(x[z == k], rowvar=False, bias=True)) for k in np.unique(z)]


def way(x: Array, moved: Array) -> float:
    return float(((x - moved) ** 2).sum(1).mean())


@pytest.mark.parametrize(("levels", "d"), [(2, 1), (2, 5), (4, 3), (3, 20)])
def test_every_value_has_the_same_mean_and_covariance(levels: int, d: int) -> None:
    """To rounding: 16 units times d and the condition of the worst covariance, by which its inverse root enlarges an error."""
    x, z = gaussian_rows(levels, d)
    found = GaussianBarycenter.fit(x, z)
    moved = found(x, z).numpy()
    condition = max(np.linalg.cond(np.atleast_2d(c)) for _, c in moments(x, z))
    allowed = 16 * np.finfo(float).eps * d * condition
    scale = np.linalg.norm(found.covariance, 2)
    for mean, covariance in moments(moved, z):
        assert np.abs(mean - found.mean).max() <= allowed * max(1.0, np.abs(x).max())
        assert np.abs(covariance - found.covariance).max() <= allowed * scale
    assert allowed < 1e-9
    assert found.residual < 1e-13 * condition
    before = moments(x, z)
    assert np.abs(before[0][1] - before[1][1]).max() > 0.1


def test_two_covariances_have_the_middle_of_their_geodesic() -> None:
    """Closed form of McCann: ((1 - t) I + t T) S_0 ((1 - t) I + t T), T the map from one to the other; diagonal ones by hand."""
    x, z = gaussian_rows(2, 4)
    found = GaussianBarycenter.fit(x, z)
    (_, first), (_, second) = moments(x, z)

    def root(m: Array, power: float = 0.5) -> Array:
        values, vectors = np.linalg.eigh(m)
        return (vectors * values**power) @ vectors.T

    there = root(first, -0.5) @ root(root(first) @ second @ root(first)) @ root(first, -0.5)
    t = found.shares[1]
    middle = (1 - t) * np.eye(4) + t * there
    assert np.allclose(found.covariance, middle @ first @ middle, rtol=1e-11, atol=1e-12)
    assert np.allclose(found.maps[0], middle, rtol=1e-10, atol=1e-11)

    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    both = np.concatenate([corners * [1, 2], corners * [3, 8]])
    plain = GaussianBarycenter.fit(both, np.repeat([0, 1], 4))
    assert np.allclose(plain.covariance, np.diag([4.0, 25.0]), rtol=1e-14, atol=1e-14)


def test_the_map_is_the_identity_where_the_values_agree_already() -> None:
    x, _ = gaussian_rows(1, 4)
    both, z = np.concatenate([x, x[::-1]]), np.repeat([3, 7], len(x))
    assert np.allclose(GaussianBarycenter.fit(both, z)(both, z).numpy(), both, rtol=0, atol=1e-12)
    assert np.allclose(QuantileBarycenter.fit(both, z)(both, z).numpy(), both, rtol=4e-16, atol=0)


def test_no_single_value_could_be_the_meeting_point_with_less_movement() -> None:
    """The way of the map, counted on the rows, against that of carrying all rows to the law of one value; and it is Σ w W²."""
    x, z = gaussian_rows(3, 4)
    found = GaussianBarycenter.fit(x, z)
    own = way(x, found(x, z).numpy())

    def root(m: Array) -> Array:
        values, vectors = np.linalg.eigh(m)
        return (vectors * values**0.5) @ vectors.T

    def total(mean: Array, covariance: Array) -> float:
        return sum(
            w * (((m - mean) ** 2).sum() + np.trace(c + covariance - 2 * root(root(c) @ covariance @ root(c))))
            for w, (m, c) in zip(found.shares, moments(x, z), strict=True)
        )

    assert own == pytest.approx(total(found.mean, found.covariance), rel=1e-10)
    assert all(own < total(*one) for one in moments(x, z))
    shaken = found.covariance + 0.01 * np.diag([1.0, -1.0, 1.0, -1.0])
    assert own < total(found.mean, shaken)
    assert own < total(found.mean + 0.01, found.covariance)


def test_quantiles_give_every_value_the_same_numbers() -> None:
    """Where sizes match: bit for bit, each the average of the sorted columns; ranks stay."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(50, 2)), rng.exponential(size=(50, 2)), 3 + rng.uniform(size=(50, 2))]
    x, z = np.concatenate(parts), np.repeat([0, 1, 2], 50)
    moved = QuantileBarycenter.fit(x, z)(x, z).numpy()
    for column in range(2):
        sorted_ones = [np.sort(moved[z == k, column]) for k in range(3)]
        assert np.array_equal(sorted_ones[0], sorted_ones[1])
        assert np.array_equal(sorted_ones[0], sorted_ones[2])
        assert np.allclose(sorted_ones[0], np.mean([np.sort(part[:, column]) for part in parts], axis=0), rtol=1e-14)
        assert all(np.array_equal(np.argsort(moved[z == k, column]), np.argsort(x[z == k, column])) for k in range(3))
    for other in parts:  # everything onto one value's law: farther, column by column
        onto = np.concatenate(
            [np.sort(other, axis=0)[np.argsort(np.argsort(part, axis=0), axis=0), [0, 1]] for part in parts]
        )
        assert way(x, moved) < way(x, onto)


def test_quantiles_of_unequal_sizes_are_within_a_step_of_either() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(400, 1)), 2 + 3 * rng.normal(size=(250, 1))])
    z = np.repeat([0, 1], [400, 250])
    moved = QuantileBarycenter.fit(x, z)(x, z).numpy()[:, 0]
    grid = np.sort(moved)
    apart = np.abs(
        np.searchsorted(np.sort(moved[z == 0]), grid, "right") / 400
        - np.searchsorted(np.sort(moved[z == 1]), grid, "right") / 250
    )
    assert apart.max() <= 1 / 400 + 1 / 250


def test_values_weigh_by_their_rows() -> None:
    """One row at 0 and three at 1 meet at 3/4, where the way of all four is least."""
    x, z = np.array([[0.0], [1.0], [1.0], [1.0]]), np.array([0, 1, 1, 1])
    assert QuantileBarycenter.fit(x, z)(x, z).tolist() == [[0.75]] * 4


def test_equal_numbers_are_parted_so_that_none_tells_the_value() -> None:
    """A column of 0 and 1: both values have the same numbers, bit for bit, each the barycenter's share of times."""
    x = np.repeat([0.0, 1.0, 0.0, 1.0], [30, 10, 10, 30])[:, None]
    z = np.repeat([0, 1], 40)
    found = QuantileBarycenter.fit(x, z)
    moved = found(x, z).numpy()[:, 0]
    for k in (0, 1):
        assert np.array_equal(np.unique(moved[z == k], return_counts=True), [[0.0, 0.5, 1.0], [10, 20, 10]])
    again = QuantileBarycenter.fit(x, z)(x, z).numpy()[:, 0]
    assert np.array_equal(moved, again)
    other = QuantileBarycenter.fit(x, z, seed=1)(x, z).numpy()[:, 0]
    assert not np.array_equal(moved, other)
    alone = np.array([float(found(x[:1], z[:1])[0, 0]) for _ in range(300)])
    assert set(alone) == {0.0, 0.5}
    assert (alone == 0.0).mean() == pytest.approx(1 / 3, abs=0.11)  # 10 of 30 steps, to four deviations


def test_a_row_is_moved_alike_alone_and_among_others_and_new_rows_are_taken() -> None:
    x, z = gaussian_rows(2, 3)
    for found in (GaussianBarycenter.fit(x, z), QuantileBarycenter.fit(x, z)):  # no column has equal numbers
        assert torch.allclose(found(x[7:8], z[7:8]), found(x, z)[7:8], rtol=1e-13)
        assert found(x[:2] + 100, z[:2]).shape == (2, 3)


def test_a_ridge_lets_a_constant_column_pass_and_says_what_it_costs() -> None:
    """Covariances differ then, by r times the squares of the maps."""
    x, z = gaussian_rows(2, 3)
    x[z == 1, 2] = 4.0
    with pytest.raises(ValueError, match=r"rows with z = 1 is singular.*give a ridge"):
        GaussianBarycenter.fit(x, z)
    found = GaussianBarycenter.fit(x, z, ridge=0.1)
    for k, (mean, covariance) in enumerate(moments(found(x, z).numpy(), z)):
        assert np.allclose(mean, found.mean, rtol=0, atol=1e-12)
        assert np.allclose(covariance + 0.1 * found.maps[k] @ found.maps[k], found.covariance, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", [GaussianBarycenter, QuantileBarycenter])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, z: (x, np.zeros_like(z)), ValueError, "z has one value, 0"),
        (lambda x, z: (np.where(x == x[5, 1], np.nan, x), z), ValueError, "NaN or infinity in row 5, column 1"),
        (lambda x, z: (x.astype(str), z), TypeError, "x must hold real numbers"),
        (lambda x, z: (x, z + 0.5), TypeError, "z must hold the attribute's values, whole numbers"),
        (lambda x, z: (x[:, 0], z), ValueError, "x must have 2 axes"),
        (lambda x, z: (x, z[:-1]), ValueError, "a row each"),
        (lambda x, z: (x.tolist(), z), TypeError, "x must be a tensor or a numpy array"),
    ],
)
def test_rows_that_cannot_be_taken_are_refused_by_name(kind, change, error, words) -> None:
    with pytest.raises(error, match=words):
        kind.fit(*change(*gaussian_rows(2, 3)))


def test_calls_that_do_not_fit_the_fitted_rows_are_refused() -> None:
    x, z = gaussian_rows(2, 3)
    for found in (GaussianBarycenter.fit(x, z), QuantileBarycenter.fit(x, z)):
        with pytest.raises(ValueError, match=r"z = 2 is not among the fitted values \[0, 1\]"):
            found(x, z + 1)
        with pytest.raises(ValueError, match="x must have 3 columns, as the fitted rows, not 2"):
            found(x[:, :2], z)
        assert "nothing of (epsilon, delta)" in found.promise
    with pytest.raises(ValueError, match="z = 5 has 1 rows, at least 2 are needed"):
        GaussianBarycenter.fit(x, np.where(np.arange(len(z)) == 0, 5, z))
    with pytest.raises(ValueError, match="ridge"):
        GaussianBarycenter.fit(x, z, ridge=-1.0)


def examples(dtype: torch.dtype = torch.float64) -> ex.Examples:
    x, z = gaussian_rows(2, 4)
    held = np.concatenate([x[:, :2], 1.0 - z[:, None], x[:, 2:], z[:, None]], axis=1)  # one-hot in columns 2 and 5
    return ex.Examples(torch.tensor(held, dtype=dtype), torch.tensor(z), ids=[f"r{k}" for k in range(len(z))])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_request_is_answered_on_data(dtype: torch.dtype) -> None:
    """Its columns become 0, the others have the moments of no value in particular, ids, labels and type stay."""
    rows = examples(dtype)
    answer = FeatureAnswer.fit(rows, ex.Request.features([2]) | ex.Request.features([5]))
    found = answer(rows)
    x, z = found.tensors[0].double().numpy(), rows.tensors[1].numpy()
    assert found.tensors[0].dtype == dtype
    assert not x[:, [2, 5]].any()
    (mean, covariance), (other_mean, other_covariance) = moments(x[:, [0, 1, 3, 4]], z)
    allowed = 1e-11 if dtype == torch.float64 else 1e-5
    assert np.abs(mean - other_mean).max() < allowed
    assert np.abs(covariance - other_covariance).max() < allowed * np.abs(covariance).max()
    assert (found.ids, found.tensors[1].tolist()) == (rows.ids, rows.tensors[1].tolist())
    assert torch.equal(answer(rows.take([3])).tensors[0][0, [2, 5]], torch.zeros(2, dtype=dtype))
    assert answer.promise == GaussianBarycenter.promise
    by_rank = FeatureAnswer.fit(rows, ex.Request.features([2, 5]), by=QuantileBarycenter)(rows)
    assert not torch.equal(by_rank.tensors[0], found.tensors[0])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ex.Request.rows(["r1"]), "features alone, not for rows"),
        (ex.Request.features([2]) | ex.Request.rows(["r1"]), "features alone, not for features, rows"),
        (ex.Request.features([2], ["r1"]), "leave out the ids"),
        (ex.Request.features([6]), "below the number of features, 6, not 6"),
        (ex.Request.features(range(6)), "all columns"),
    ],
)
def test_other_requests_are_refused_by_name(request_: ex.Request, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FeatureAnswer.fit(examples(), request_)


def test_rows_that_a_request_cannot_be_answered_on_are_refused() -> None:
    rows, request_ = examples(), ex.Request.features([2, 5])
    x, y = rows.tensors
    with pytest.raises(ValueError, match=r"the features \[2, 5\] have one value"):
        FeatureAnswer.fit(rows.take(y == 0), request_)
    with pytest.raises(TypeError, match="Examples"):
        FeatureAnswer.fit(ex.Examples(x=x, labels=y), request_)
    answer = FeatureAnswer.fit(rows, request_)
    for changed, words in (
        (x.index_fill(1, torch.tensor([5]), 0.5), r"features \[2, 5\] of row 0 have values that no fitted row had"),
        (x[:, :5], "x must have 6 columns"),
        (x.masked_fill(x == x[4, 0], float("nan")), "NaN or infinity in row 4, column 0"),
    ):
        with pytest.raises(ValueError, match=words):
            answer(ex.Examples(changed, y))
