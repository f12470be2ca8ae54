"""Gradient clipping: its vectors, its reductions, and the closed form summed term by term in 50 digits."""

import itertools

import mpmath
import pytest

from clipped_steps import SETTINGS, gradient_clipping
from expunge.accounting import Relation, gaussian, guarantee, iteration


def brute_force_mu(mechanism, reach=2):
    """The minimum over k of the closed form, summed term by term in 50 digits."""
    with mpmath.workdps(50):
        rho = 1 - mpmath.mpf(mechanism.learning_rate * mechanism.weight_decay)
        drift = reach * mpmath.mpf(mechanism.learning_rate) * mpmath.mpf(mechanism.grad_clip)
        distance = reach * mpmath.mpf(mechanism.init_clip)
        power, powers, squares, best = mpmath.mpf(1), mpmath.mpf(0), mpmath.mpf(0), mpmath.inf
        for _ in range(mechanism.steps):
            powers, squares, power = powers + power, squares + power**2, power * rho
            best = min(best, (power * distance + drift * powers) / mpmath.sqrt(squares))
        return best / mpmath.mpf(mechanism.noise_std)


@pytest.mark.parametrize(
    ("fields", "mu", "epsilon"),
    [
        ((0.1, 10, 0.001, 50, 10, 0.0772563), 1.41421349, 6.572970),
        ((20, 10, 0.01, 50, 11, 0.2567898), 1.41421356, 6.572970),
        ((1, 1, 0.01, 0, 100, 0.5), 0.8, 3.386933),
        ((0.5, 1, 0.01, 20, 50, 0.25), 0.24003083, 0.885917),
    ],
)
def test_gradient_clipping_matches_the_printed_vectors(fields, mu, epsilon):
    proven = guarantee(gradient_clipping(*fields), delta=1e-5)
    assert proven.mu == pytest.approx(mu, abs=6e-9)
    assert proven.epsilon == pytest.approx(epsilon, abs=6e-7)


@pytest.mark.parametrize("fields", [(1.0, 2.0, 0.1, 3.0, 0.7), (0.3, 1.0, 0.01, 0.0, 1.0), (2.0, 1.0, 0.5, 2.0, 0.9)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_one_step_of_gradient_clipping_is_the_gaussian_mechanism_with_shift_rho_d_plus_s(fields, epsilon):
    c0, c1, eta, decay, sigma = fields
    mechanism = gradient_clipping(c0, c1, eta, decay, 1, sigma)
    shift = ((1 - eta * decay) * 2 * c0 + 2 * eta * c1) / sigma
    assert mechanism.mu() == pytest.approx(shift, rel=1e-13)
    assert mechanism.log_delta(epsilon) == pytest.approx(gaussian.log_delta(epsilon, shift), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("relation", "reach"), [(Relation.RETRAINED, 2), (Relation.CENTER, 1)])
def test_gradient_clipping_mu_is_the_brute_force_minimum_over_prefixes_rounded_up(setting, relation, reach):
    mechanism = gradient_clipping(*setting, 0.37)
    truth = brute_force_mu(mechanism, reach)
    assert truth <= mpmath.mpf(mechanism.mu(relation)) <= truth * (1 + mpmath.mpf("1e-12"))


def test_more_steps_never_prove_less():
    mus = [gradient_clipping(1.0, 1.0, 0.05, 0.5, steps, 0.5).mu() for steps in range(1, 120)]
    assert all(later <= earlier * (1 + 1e-13) for earlier, later in itertools.pairwise(mus))


def test_without_decay_the_best_prefix_is_c0_over_eta_c1():
    assert iteration.best_prefix(distance=2.0, drift=0.02, decay=0.0, steps=1000) == 100


@pytest.mark.parametrize("setting", SETTINGS)
def test_center_has_half_the_mu_of_retrained_for_gradient_clipping(setting):
    mechanism = gradient_clipping(*setting, 0.37)
    assert mechanism.mu(Relation.CENTER) == pytest.approx(mechanism.mu(Relation.RETRAINED) / 2, rel=1e-14)
