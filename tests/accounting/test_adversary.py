"""Lower bounds: below the exact value of the adversary they speak of, close to it, and below every guarantee."""

from math import exp, log

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from expunge.accounting import (
    GradientClipping,
    ModelClipping,
    Relation,
    Retrain,
    ScheduledGradientClipping,
    adversary,
    gaussian,
    guarantee,
    interval,
)

SETTINGS = [
    # (C0, C1, eta, lambda, T, sigma)
    (0.5, 1.0, 0.05, 2.0, 2, 0.9),
    (1.0, 1.0, 0.2, 0.0, 3, 1.5),
    (0.2, 5.0, 0.1, 1.0, 4, 0.8),
    (1.0, 0.01, 0.1, 5.0, 6, 0.7),
]


def mechanism(c0, c1, eta, decay, steps, sigma):
    return GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma
    )


def exact_two_steps(m, epsilon):
    """Log δ(ε) of the best pushing adversary for T = 2, by quadrature: after one step N(±c, σ²), threshold where e^ε."""
    push, sigma, rho = m.learning_rate * m.grad_clip, m.noise_std, 1 - m.decay
    c = rho * m.init_clip + push
    threshold = epsilon * sigma**2 / (2 * c)

    def beyond(mean, a):
        def integrand(x):
            return norm.pdf(x, mean, sigma) * norm.cdf((rho * x + (push if x > threshold else -push) - a) / sigma)

        span = [mean - 9 * sigma, min(threshold, mean + 8 * sigma), mean + 9 * sigma]
        parts = zip(sorted(span)[:-1], sorted(span)[1:], strict=True)
        return sum(quad(integrand, low, high, epsabs=1e-13, epsrel=1e-12)[0] for low, high in parts)

    best = minimize_scalar(
        lambda a: -(beyond(c, a) - exp(epsilon) * beyond(-c, a)), bounds=(0, 6 * sigma), method="bounded",
        options={"xatol": 1e-7},
    )  # fmt: skip
    return log(-best.fun)


def attained(m, epsilon, cells):
    steps = np.ones(m.steps)
    return adversary.log_delta_retrained(
        epsilon=epsilon, radius=m.init_clip, push=steps * m.learning_rate * m.grad_clip, decay=steps * m.decay,
        noise_std=steps * m.noise_std, cells=cells,
    )  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("c0", [0.6, 1.5])
@pytest.mark.parametrize("decay", [0.0, 4.0])
def test_two_steps_come_close_to_quadrature_from_below(c0, decay, epsilon):
    m = mechanism(c0, 1.0, 0.1, decay, 2, 0.8)
    exact = exact_two_steps(m, epsilon)
    coarse, fine = (attained(m, epsilon, cells) for cells in (1 << 11, 1 << 15))
    assert coarse < fine < exact
    assert fine > exact - 0.05


def test_rounding_the_other_way_would_be_no_lower_bound(monkeypatch):
    """The check above has power: with both chains rounded towards more distance the result passes the exact value."""
    m = mechanism(0.3, 1.0, 0.1, 0.0, 2, 0.8)
    original = adversary._round
    monkeypatch.setattr(adversary, "_round", lambda masses, up: original(masses, up=not up))
    assert attained(m, 1.0, 1 << 11) > exact_two_steps(m, 1.0)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("fields", SETTINGS)
def test_the_adversary_never_beats_the_guarantee(fields, epsilon):
    m = mechanism(*fields)
    assert m.log_delta_lower(epsilon) < m.log_delta(epsilon)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 5.0, 30.0])
def test_at_one_step_both_bounds_meet(epsilon, relation):
    m = mechanism(0.5, 1.0, 0.05, 2.0, 1, 0.6)
    lower, upper = m.log_delta_lower(epsilon, relation), m.log_delta(epsilon, relation)
    assert upper - 1e-10 * max(1, -upper) < lower <= upper


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("fields", SETTINGS)
def test_against_the_centre_both_bounds_meet_while_every_step_still_helps(fields, epsilon):
    """Pushed one way, the chain stays Gaussian: nothing is lost up to the best prefix."""
    m = mechanism(*fields)
    if m.mu(Relation.CENTER) < mechanism(*fields[:4], fields[4] - 1, fields[5]).mu(Relation.CENTER):
        lower, upper = m.log_delta_lower(epsilon, Relation.CENTER), m.log_delta(epsilon, Relation.CENTER)
        assert upper - 1e-10 * max(1, -upper) < lower <= upper


def test_against_the_centre_later_steps_are_followed_too():
    """Beyond the best prefix the certifier takes the same steps, and the adversary still attains something below."""
    m = mechanism(0.1, 1.0, 0.1, 0.0, 3, 0.4)
    best = mechanism(0.1, 1.0, 0.1, 0.0, 1, 0.4)
    assert m.mu(Relation.CENTER) == best.mu(Relation.CENTER)
    assert -1e3 < m.log_delta_lower(1.0, Relation.CENTER) < best.log_delta_lower(1.0, Relation.CENTER)


def test_simulation_agrees_with_the_lower_bound():
    """A million runs of the adversary with thresholds at zero (best for ε = 0) against the grid."""
    m, runs = mechanism(0.5, 1.0, 0.2, 1.0, 3, 0.9), 1_000_000
    rng = np.random.default_rng(0)
    x = np.full(runs, m.init_clip)
    for _ in range(m.steps):
        x = (1 - m.decay) * x + 0.2 * np.where(x > 0, 1, -1) + m.noise_std * rng.standard_normal(runs)
    simulated = float((x > 0).mean() - (x < 0).mean())
    assert exp(attained(m, 0.0, 1 << 15)) == pytest.approx(simulated, abs=5e-3)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("ratio", [0.5, 2.0, 6.0])
def test_model_clipping_is_tight_the_two_point_chain_attains_its_recursion(ratio, epsilon):
    """The adversary itself, two points and best thresholds, simulated exactly, attains the bound at every T."""
    c2, sigma, x = 1.0, 2.0 / ratio, 1 / exp(epsilon)
    up, down = 1.0, 0.0  # probabilities of the upper point in the two worlds
    for steps in range(1, 5):
        theta = up - down / x
        shift = 2 * c2 / sigma
        at = np.log(1 + (1 / x - 1) / theta) / shift * sigma  # where the density ratio of N(±c2, σ²) is e^ε~
        p, q = norm.cdf((c2 - at) / sigma), norm.cdf((-c2 - at) / sigma)
        up, down = up * p + (1 - up) * q, down * p + (1 - down) * q
        m = ModelClipping(model_clip=c2, learning_rate=0.1, steps=steps, noise_std=sigma)
        exact = up - down / x
        if exact < 1e-9:
            break
        assert exp(m.log_delta(epsilon)) == pytest.approx(exact, rel=1e-6)
        assert m.log_delta_lower(epsilon) == pytest.approx(m.log_delta(epsilon), rel=1e-9, abs=1e-9)
        assert m.log_delta_lower(epsilon) <= m.log_delta(epsilon)


def test_a_schedule_has_its_adversary_too():
    m = ScheduledGradientClipping(
        init_clip=0.5, grad_clip=1.0, learning_rate=(0.2, 0.1, 0.05), weight_decay=1.0, noise_std=(0.9, 0.7, 0.8)
    )
    constant = mechanism(0.5, 1.0, 0.1, 1.0, 3, 0.8)
    same = ScheduledGradientClipping(
        init_clip=0.5, grad_clip=1.0, learning_rate=(0.1,) * 3, weight_decay=1.0, noise_std=(0.8,) * 3
    )
    assert -20 < m.log_delta_lower(1.0) < m.log_delta(1.0)
    assert same.log_delta_lower(1.0) == pytest.approx(constant.log_delta_lower(1.0), rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1.0, 40.0])
@pytest.mark.parametrize("mu", [1e-300, 1e-4, 0.3, 3.0, 60.0, 1e200])
def test_the_gaussian_profile_lies_between_its_roundings(mu, epsilon):
    lower, upper = gaussian.log_delta_lower(epsilon, mu), gaussian.log_delta_upper(epsilon, mu)
    assert lower <= upper
    if 1e-290 < mu < 1e150:
        assert upper - lower <= 1e-9 * max(1.0, -upper)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_at_one_step_the_interval_closes_to_six_digits(delta, relation):
    low, high = interval(mechanism(0.5, 1.0, 0.05, 2.0, 1, 0.6), delta=delta, relation=relation)
    assert high * (1 - 1e-6) < low <= high


def test_the_interval_of_several_steps_holds_the_guarantee_and_a_lower_end_that_is_attained():
    m = mechanism(0.5, 1.0, 0.05, 2.0, 2, 0.6)
    low, high = interval(m, delta=1e-3, tolerance=1e-4)
    assert high == guarantee(m, delta=1e-3).epsilon
    assert 0.5 * high < low < high
    assert m.log_delta_lower(low) >= log(1e-3) > m.log_delta_lower(low * 1.001)


def test_a_mechanism_without_a_known_adversary_has_a_lower_end_of_zero():
    assert interval(Retrain(), delta=1e-5) == (0.0, 0.0)
    assert interval(mechanism(0.01, 0.1, 0.1, 1.0, 2, 5.0), delta=1e-2)[0] == 0.0
