"""The Gaussian profile against printed vectors, 80-digit arithmetic and an independent library."""

import functools
from math import exp, log, sqrt

import mpmath
import pytest
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from scipy.special import roots_legendre

from expunge.accounting import gaussian

MUS = (1e-4, 3e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, 4.9, 5.1, 9.9, 10.1, 20.0, 35.0, 50.0)
# u = epsilon/mu - mu/2: log delta is near -u^2/2, so u = 446 reaches -1e5.
US = (
    -24.9, -15.0, -9.9, -5.01, -4.99, -2.0, -0.5, -1e-3, 0.0, 1e-3, 0.3, 1.0, 2.49, 2.51, 3.0, 7.0, 12.0, 20.0, 37.5, 60.0,
    150.0, 300.0, 446.0,
)  # fmt: skip


@functools.cache
def true_log_delta(epsilon, mu):
    """Log delta from the two-term definition, in 80 digits more than it cancels."""
    with mpmath.workdps(100):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)

        def upper_tail(x):
            return mpmath.erfc(x / mpmath.sqrt(2)) / 2

        return mpmath.log(upper_tail(e / m - m / 2) - mpmath.exp(e) * upper_tail(e / m + m / 2))


def grid():
    for mu in MUS:
        yield 0.0, mu
        for u in US:
            epsilon = mu * (u + mu / 2)
            if epsilon > 0:
                yield epsilon, mu


@pytest.mark.parametrize(
    ("epsilon", "mu", "digits"),
    [
        (0.1, 0.0325207840562, 12),
        (0.5, 0.142210558669, 12),
        (1, 0.268051123211, 12),
        (2, 0.501551689, 9),
        (10, 2.000445620, 10),
        (100, 10.563019, 8),
    ],
)
def test_mu_at_delta_1e_5_matches_the_printed_vectors(epsilon, mu, digits):
    assert float(f"{gaussian.mu(epsilon, 1e-5):.{digits}g}") == pytest.approx(mu, rel=2 * 10.0 ** (1 - digits), abs=0)


@pytest.mark.parametrize(
    ("mu", "epsilon"), [(sqrt(2), 6.572970), (2, 9.997256), (0.8, 3.386933), (sqrt(20), 28.373474)]
)
def test_epsilon_at_delta_1e_5_matches_the_printed_vectors(mu, epsilon):
    assert gaussian.epsilon(mu, 1e-5) == pytest.approx(epsilon, abs=6e-7)


def test_total_variation_matches_the_printed_vector():
    assert gaussian.total_variation(gaussian.mu(1, 1e-5)) == pytest.approx(0.106618, abs=6e-7)


@pytest.mark.parametrize("mu", MUS)
def test_log_delta_agrees_with_high_precision_arithmetic_to_a_relative_1e_12(mu):
    for epsilon, m in grid():
        if m == mu:
            truth = true_log_delta(epsilon, mu)
            error = abs(mpmath.mpf(gaussian.log_delta(epsilon, mu)) - truth)
            assert error <= 1e-12 * max(1, abs(truth)), (epsilon, mu, truth)


@pytest.mark.parametrize("x", [-5.0, -1.0, 0.0, 1.0, 2.0, 2.49, 2.5, 2.51, 3.0, 4.0, 6.0, 9.0, 12.0, 20.0, 60.0, 400.0])
def test_the_mills_ratio_and_its_slope_agree_with_sixty_digits(x):
    with mpmath.workdps(60 + int(x)):
        z = mpmath.mpf(x)
        mills = mpmath.sqrt(mpmath.pi / 2) * mpmath.exp(z * z / 2) * mpmath.erfc(z / mpmath.sqrt(2))
        assert abs(gaussian._mills(x) / mills - 1) < 2e-15
        if x >= 0:
            assert abs(gaussian._slope(x) / (1 - z * mills) - 1) < 2e-14


def test_the_nodes_of_the_quadrature_are_those_of_another_library():
    nodes, weights = roots_legendre(12)
    rule = sorted(gaussian._RULE)
    assert [at for at, _ in rule] == pytest.approx(((1 + nodes) / 2).tolist(), rel=1e-14, abs=1e-16)
    assert [weight for _, weight in rule] == pytest.approx((weights / 2).tolist(), rel=1e-14)


def test_the_grid_reaches_log_delta_of_minus_99000():
    assert min(true_log_delta(epsilon, mu) for epsilon, mu in grid()) < -99_000


@pytest.mark.parametrize("mu", MUS)
def test_log_delta_upper_is_never_below_the_truth(mu):
    for epsilon, m in grid():
        if m == mu:
            assert mpmath.mpf(gaussian.log_delta_upper(epsilon, mu)) >= true_log_delta(epsilon, mu), (epsilon, mu)


@pytest.mark.parametrize("mu", MUS)
def test_log_delta_upper_is_close_to_the_truth(mu):
    for epsilon, m in grid():
        if m == mu:
            truth = true_log_delta(epsilon, mu)
            assert gaussian.log_delta_upper(epsilon, mu) - truth <= 1e-9 * max(1, abs(truth)), (epsilon, mu)


@pytest.mark.parametrize("mu", [0.05, 0.268, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 3.0, 8.0])
def test_delta_agrees_with_dp_accounting(epsilon, mu):
    theirs = GaussianPrivacyLoss(standard_deviation=1.0, sensitivity=mu).get_delta_for_epsilon(epsilon)
    assert exp(gaussian.log_delta(epsilon, mu)) == pytest.approx(theirs, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-12, 1e-100])
def test_mu_is_rounded_down_and_epsilon_up(epsilon, delta):
    mu = gaussian.mu(epsilon, delta)
    assert true_log_delta(epsilon, mu) <= log(delta)
    assert true_log_delta(epsilon, mu * (1 + 1e-9)) > log(delta)
    back = gaussian.epsilon(mu, delta)
    assert true_log_delta(back, mu) <= log(delta)
    assert back == pytest.approx(epsilon, rel=1e-9)


def test_epsilon_is_zero_where_the_total_variation_already_meets_delta():
    assert gaussian.epsilon(1e-7, 1e-5) == 0.0


@pytest.mark.parametrize(
    "mu",
    [
        1e6,
        1e100,
        *(
            pytest.param(
                mu,
            )
            for mu in (2e150, 1e200, 1e305)
        ),
    ],
)
def test_an_enormous_shift_hides_nothing_at_epsilon_one(mu):
    assert gaussian.log_delta_upper(1.0, mu) >= -1e-12


@pytest.mark.parametrize(("call", "error"), [
    (lambda: gaussian.mu(-1.0, 1e-5), ValueError),
    (lambda: gaussian.mu(float("nan"), 1e-5), ValueError),
    (lambda: gaussian.mu(1.0, 0.0), ValueError),
    (lambda: gaussian.mu(1.0, 1.0), ValueError),
    (lambda: gaussian.epsilon(0.0, 1e-5), ValueError),
    (lambda: gaussian.epsilon(float("inf"), 1e-5), ValueError),
    (lambda: gaussian.epsilon(True, 1e-5), TypeError),
])  # fmt: skip
def test_arguments_outside_the_domain_are_refused(call, error):
    with pytest.raises(error, match="must be"):
        call()


@pytest.mark.parametrize("mu", [1e-60, 1e-72, 1e-78, 1e-100, 1e-140, 1e-149])
def test_the_profile_of_almost_no_shift_has_bounds_on_both_sides(mu):
    """There the difference of Mills ratios underflows; log δ is -u²/2 but for thousands."""
    with mpmath.workdps(60):
        true = -((1 / mpmath.mpf(mu)) ** 2) / 2
    low, high = gaussian.log_delta_lower(1.0, mu), gaussian.log_delta_upper(1.0, mu)
    assert low <= true <= high
    assert high == pytest.approx(float(true), rel=1e-12)
    assert low == pytest.approx(float(true), rel=1e-12)
