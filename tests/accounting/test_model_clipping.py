"""Model clipping: its vectors, its reductions, and the recursion written down once more."""

import mpmath
import pytest

from expunge.accounting import ModelClipping, Relation, delta_at, gaussian, guarantee


def test_model_clipping_matches_the_recursion_vector_at_r_2_and_epsilon_1():
    vector = [0.5098616600546702, 0.21603089417307073, 0.06485736719503979, 0.00954783916840509, 2.483030404745209e-4,
              2.6534110553665703e-8]  # fmt: skip
    for steps, delta in enumerate(vector, start=1):
        mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=1.0)
        assert delta_at(mechanism, 1.0) == pytest.approx(delta, rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("steps", "ratio", "unit"),
    [(1, 7.46, 0.01), (2, 2.33, 0.01), (3, 1.54, 0.01), (5, 1.06, 0.01), (10, 0.749, 0.001), (20, 0.592, 0.001),
     (50, 0.475, 0.001), (100, 0.420, 0.001), (300, 0.360, 0.001)],
)  # fmt: skip
def test_model_clipping_needs_the_printed_noise_for_epsilon_1_delta_1e_5(steps, ratio, unit):
    def proven(sigma):
        mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=sigma)
        return guarantee(mechanism, delta=1e-5).epsilon

    assert proven(ratio + unit / 2) <= 1.0 < proven(ratio - unit / 2)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_one_step_of_model_clipping_is_the_gaussian_mechanism_at_the_diameter(epsilon):
    mechanism = ModelClipping(model_clip=0.7, learning_rate=0.1, steps=1, noise_std=0.9)
    assert mechanism.log_delta(epsilon) == pytest.approx(gaussian.log_delta(epsilon, 1.4 / 0.9), rel=1e-11)


def plain_recursion(steps, epsilon, shift):
    log_delta = 0.0
    for _ in range(steps):
        ratio = mpmath.expm1(epsilon) / mpmath.exp(log_delta)
        log_delta += gaussian.log_delta(float(mpmath.log1p(ratio)), shift)
    return log_delta


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
def test_model_clipping_center_is_the_smaller_of_recursion_and_last_step(steps, epsilon):
    mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=1.3)
    recursion, last = plain_recursion(steps, epsilon, 2 / 1.3), gaussian.log_delta(epsilon, 1 / 1.3)
    assert mechanism.log_delta(epsilon) == pytest.approx(recursion, rel=1e-10)
    assert mechanism.log_delta(epsilon, Relation.CENTER) == pytest.approx(min(recursion, last), rel=1e-10)


def test_model_clipping_center_takes_each_branch_somewhere():
    one, many = (ModelClipping(model_clip=1.0, learning_rate=0.1, steps=t, noise_std=1.3) for t in (1, 6))
    assert one.log_delta(1.0, Relation.CENTER) < one.log_delta(1.0)
    assert many.log_delta(1.0, Relation.CENTER) == many.log_delta(1.0)


def test_the_mu_of_model_clipping_bounds_its_whole_profile():
    mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=4, noise_std=1.3)
    for relation in Relation:
        for epsilon in (0.0, 0.1, 1.0, 5.0, 20.0):
            bound = gaussian.log_delta_upper(epsilon, mechanism.mu(relation))
            assert mechanism.log_delta(epsilon, relation) <= bound
