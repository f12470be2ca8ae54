"""Shifted interpolation for any schedule: its optimality, its reductions, its rounding."""

import itertools
from math import inf, nan, sqrt

import mpmath
import numpy as np
import pytest

from expunge.accounting import schedules

SCHEDULES = [
    # (steps, largest drift, largest decay, smallest noise)
    (1, 0.1, 0.0, 0.5),
    (2, 0.5, 0.5, 0.1),
    (7, 0.05, 0.2, 0.01),
    (30, 0.1, 0.05, 0.001),
    (60, 0.0, 0.1, 0.05),
    (40, 0.02, 1.0, 0.2),
]


def schedule(case, seed):
    steps, drift, decay, noise = case
    rng = np.random.default_rng(seed)
    return {
        "drift": rng.uniform(0, drift, steps),
        "decay": rng.uniform(0, decay, steps),
        "noise_std": np.exp(rng.uniform(np.log(noise), 0, steps)),
    }


def weights(rho, k):
    """w_t, the product of ρ_{t+1} ... ρ_k, for t = 1..k."""
    return np.array([np.prod(rho[t:k]) for t in range(1, k + 1)])


def cheapest_to(k, distance, drift, decay, noise_std):
    """The convex problem for a chain that ends at k, solved another way: the lower convex hull of (V_t, C_t).

    With B_t = Σ w_i a_i the constraint z_t ≥ 0 reads B_t ≤ C_t; the cheapest rising path below those points from the
    origin to the last one is a string pulled tight.
    """
    rho = 1 - decay
    w = weights(rho, k)
    points = [(0.0, 0.0)]
    whole = distance * np.prod(rho[:k]) + np.cumsum(w * drift[:k])
    for x, y in zip(np.cumsum((w * noise_std[:k]) ** 2), whole, strict=True):
        while len(points) > 1 and (points[-1][1] - points[-2][1]) * (x - points[-2][0]) >= (y - points[-2][1]) * (
            points[-1][0] - points[-2][0]
        ):
            points.pop()
        points.append((x, y))
    return sum((b[1] - a[1]) ** 2 / (b[0] - a[0]) for a, b in itertools.pairwise(points) if b[0] > a[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", SCHEDULES)
def test_no_strategy_is_cheaper_than_the_closed_form(case, seed):
    """The positivity constraint never binds at the best prefix: the hull solution of every k agrees with the closed form."""
    s = schedule(case, seed)
    mu, _ = schedules.scheduled(distance=1.0, **s)
    hulls = [cheapest_to(k, 1.0, **s) for k in range(1, case[0] + 1)]
    assert mu == pytest.approx(sqrt(min(hulls)), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", [c for c in SCHEDULES if c[2] < 1])
def test_the_optimal_shifts_are_feasible_and_cost_what_is_stated(case, seed):
    """A certificate of optimality: the shifts of the proof keep z ≥ 0, end at 0 and cost μ²; Cauchy-Schwarz does the rest."""
    s = schedule(case, seed)
    mu, k = schedules.scheduled(distance=1.0, **s)
    rho = 1 - s["decay"]
    w = weights(rho, k)
    end = np.prod(rho[:k]) + float(w @ s["drift"][:k])
    shifts = end / float((w * s["noise_std"][:k]) @ (w * s["noise_std"][:k])) * w * s["noise_std"][:k] ** 2
    z = 1.0
    for t in range(k):
        z = rho[t] * z + s["drift"][t] - shifts[t]
        assert z > -1e-12
    assert z == pytest.approx(0, abs=1e-10)
    assert sqrt(float(np.sum((shifts / s["noise_std"][:k]) ** 2))) == pytest.approx(mu, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_random_strategies_are_never_cheaper(seed):
    rng = np.random.default_rng(seed)
    s = schedule((12, 0.2, 0.3, 0.05), seed)
    mu, _ = schedules.scheduled(distance=1.0, **s)
    for _ in range(200):
        z, cost = 1.0, 0.0
        for t in range(12):
            z = (1 - s["decay"][t]) * z + s["drift"][t]
            shift = z if rng.random() < 0.1 or t == 11 else z * rng.random()
            z, cost = z - shift, cost + (shift / s["noise_std"][t]) ** 2
            if z == 0:
                break
        assert sqrt(cost) >= mu * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", [*SCHEDULES, (700, 0.01, 0.02, 0.001)])
def test_the_bound_lies_above_fifty_digits_and_close_to_them(case, seed):
    s = schedule(case, seed)
    with mpmath.workdps(50):
        c, u, best = mpmath.mpf(1), mpmath.mpf(0), mpmath.inf
        for drift, decay, noise in zip(*(map(mpmath.mpf, map(float, s[n])) for n in s), strict=True):
            c, u = (1 - decay) * c + drift, (1 - decay) ** 2 * u + noise**2
            best = min(best, c / mpmath.sqrt(u))
        mu, _ = schedules.scheduled(distance=1.0, **s)
        assert best <= mu <= best * (1 + 1e-12 * len(s["drift"]) + 1e-14)


def test_one_step_is_the_gaussian_mechanism():
    mu, k = schedules.scheduled(distance=2.0, drift=[0.5], decay=[0.25], noise_std=[4.0])
    assert (mu, k) == (pytest.approx((0.75 * 2 + 0.5) / 4, rel=1e-14), 1)


def test_a_step_of_decay_one_forgets_what_came_before():
    mu, k = schedules.scheduled(distance=1e9, drift=[0.1, 0.2, 0.3], decay=[0.0, 1.0, 0.0], noise_std=[1.0, 0.5, 1e-3])
    assert (mu, k) == (pytest.approx(0.4, rel=1e-12), 2)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_bound_does_not_depend_on_the_unit_of_length(scale):
    s = schedule((50, 0.1, 0.1, 0.1), 1)
    mu, k = schedules.scheduled(distance=1.0, **s)
    scaled = {"drift": s["drift"] * scale, "decay": s["decay"], "noise_std": s["noise_std"] * scale}
    assert schedules.scheduled(distance=scale, **scaled) == (pytest.approx(mu, rel=1e-11), k)


def test_a_distance_beyond_floating_point_proves_nothing():
    assert schedules.scheduled(distance=1e308, drift=[1e308] * 9, decay=[0.0] * 9, noise_std=[1e-300] * 9)[0] == inf


# --- projection ----------------------------------------------------------------------------------------------------


def brute_force_with_projection(distance, diameter, drift, decay, noise_std):
    best = inf
    for start in range(len(drift)):
        c, u = (distance if start == 0 else diameter[start - 1]), 0.0
        for t in range(start, len(drift)):
            c, u = (1 - decay[t]) * c + drift[t], (1 - decay[t]) ** 2 * u + noise_std[t] ** 2
            best = min(best, c / sqrt(u))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_projection_starts_the_iteration_again_where_that_is_cheaper(seed):
    s = schedule((25, 0.3, 0.1, 0.2), seed)
    rng = np.random.default_rng(seed)
    diameter = np.where(rng.random(25) < 0.5, rng.uniform(0.05, 2.0, 25), inf)
    mu, _ = schedules.scheduled(distance=1.0, diameter=diameter, **s)
    assert mu == pytest.approx(brute_force_with_projection(1.0, diameter, **s), rel=1e-12)
    assert mu <= schedules.scheduled(distance=1.0, **s)[0]


@pytest.mark.parametrize("seed", range(20))
def test_random_strategies_with_projection_are_never_cheaper(seed):
    rng = np.random.default_rng(100 + seed)
    s = schedule((12, 0.2, 0.3, 0.05), seed)
    diameter = np.where(rng.random(12) < 0.5, rng.uniform(0.05, 1.0, 12), inf)
    mu, _ = schedules.scheduled(distance=1.0, diameter=diameter, **s)
    for _ in range(200):
        z, cost = 1.0, 0.0
        for t in range(12):
            z = (1 - s["decay"][t]) * z + s["drift"][t]
            shift = z if t == 11 else z * (rng.random() if rng.random() < 0.6 else 0.0)
            z, cost = min(z - shift, diameter[t]), cost + (shift / s["noise_std"][t]) ** 2
        assert sqrt(cost) >= mu * (1 - 1e-9)


def test_skipping_starts_on_long_schedules_only_raises_the_bound(monkeypatch):
    s = schedule((60, 0.3, 0.1, 0.2), 3)
    every = schedules.scheduled(distance=1.0, diameter=[0.4] * 60, **s)[0]
    monkeypatch.setattr(schedules, "_MOST_WORK", 200)
    some = schedules.scheduled(distance=1.0, diameter=[0.4] * 60, **s)[0]
    assert every <= some <= schedules.scheduled(distance=1.0, **s)[0]


# --- bad input -----------------------------------------------------------------------------------------------------

GOOD = {"distance": 1.0, "drift": [0.1, 0.1], "decay": [0.5, 0.5], "noise_std": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("drift", [0.1], r"same length.*'drift': 1"),
        ("decay", [0.5, 1.5], r"decay\[1\].*1\.5"),
        ("decay", [-0.1, 0.5], r"decay\[0\].*-0\.1"),
        ("noise_std", [1.0, 0.0], r"noise_std\[1\].*above 0.*0\.0"),
        ("noise_std", [1.0, inf], r"noise_std\[1\].*inf"),
        ("noise_std", [nan, 1.0], r"noise_std\[0\].*nan"),
        ("drift", [0.1, nan], r"drift\[1\].*nan"),
        ("drift", [0.1, -1.0], r"drift\[1\].*-1"),
        ("drift", [], r"drift must hold"),
        ("drift", [[0.1, 0.1]], r"drift must hold"),
        ("distance", nan, r"distance"),
        ("distance", -1.0, r"distance"),
        ("diameter", [1.0], r"same length.*'diameter': 1"),
        ("diameter", [1.0, nan], r"diameter\[1\].*nan"),
        ("diameter", [-1.0, 1.0], r"diameter\[0\].*-1"),
    ],
)
def test_bad_schedules_are_refused_by_name_step_and_value(field, value, message):
    with pytest.raises(ValueError, match=message):
        schedules.scheduled(**GOOD | {field: value})


@pytest.mark.parametrize("value", [["a", "b"], [None, 1.0], [True, True]])
def test_schedules_of_other_things_than_numbers_are_a_type_error(value):
    with pytest.raises(TypeError, match="drift must be a sequence of numbers"):
        schedules.scheduled(**GOOD | {"drift": value})
