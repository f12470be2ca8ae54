"""The best use of a budget: Pareto lists against brute force over steps and schedules."""

from dataclasses import replace

import numpy as np
import pytest

from expunge.accounting import (
    Budget,
    GradientClipping,
    Relation,
    ScheduledGradientClipping,
    best_schedule,
    best_steps,
    calibrate,
    frontier,
    gaussian,
    meets,
)
from expunge.errors import BudgetUnreachable

BUDGET = Budget(epsilon=1.0, delta=1e-5)
SETTINGS = [
    {"init_clip": 0.5, "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 20.0},
    {"init_clip": 0.5, "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 0.0},
    {"init_clip": 0.05, "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 5.0},
    {"init_clip": 0.001, "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 1.0},
]


def at(steps, fields):
    return calibrate(lambda s: GradientClipping(**fields, steps=steps, noise_std=s), BUDGET)


@pytest.mark.parametrize("fields", SETTINGS)
def test_the_frontier_meets_the_budget_and_nothing_on_it_is_beaten(fields):
    points = frontier(**fields, budget=BUDGET, most_steps=200, points=12)
    assert all(meets(m, BUDGET) for m in points)
    steps, noise = [m.steps for m in points], [m.noise_std for m in points]
    assert steps == sorted(set(steps))
    assert noise == sorted(noise, reverse=True)
    for other in (at(t, fields) for t in range(1, 120, 7)):
        beaten = [m for m in points if other.steps <= m.steps and other.noise_std < m.noise_std * (1 - 1.1e-3)]
        assert not beaten


@pytest.mark.parametrize("least", ["noise_std", "output_noise_std"])
@pytest.mark.parametrize("fields", SETTINGS)
def test_best_steps_are_those_of_brute_force(fields, least):
    found = best_steps(**fields, budget=BUDGET, least=least, most_steps=80)
    assert meets(found, BUDGET)
    best = min(getattr(at(t, fields), least) for t in range(1, 81))
    assert best * (1 - 1e-9) <= getattr(found, least) <= best * 1.0011


@pytest.mark.parametrize("fields", SETTINGS)
def test_the_noise_in_the_output_is_the_noiseless_distance_over_mu_whatever_the_shape(fields):
    """Front-loaded or back-loaded, a schedule that meets the budget at its end leaves the same noise in the output."""
    rng = np.random.default_rng(0)
    steps, mu, ends_meeting = 6, gaussian.mu(1.0, 1e-5), 0
    for _ in range(20):
        shape = rng.uniform(0.1, 1, steps)
        m = calibrate(
            lambda s, shape=shape: ScheduledGradientClipping(
                init_clip=fields["init_clip"], grad_clip=fields["grad_clip"], weight_decay=fields["weight_decay"],
                learning_rate=(fields["learning_rate"],) * steps, noise_std=tuple(s * shape),
            ),
            BUDGET,
        )  # fmt: skip
        distance = 2 * fields["init_clip"]
        for _ in range(steps):
            rho = 1 - fields["learning_rate"] * fields["weight_decay"]
            distance = rho * distance + 2 * fields["learning_rate"] * fields["grad_clip"]
        assert m.mu() == pytest.approx(mu, rel=1e-9)
        if m.prefix_mu()[-1] == m.mu():
            ends_meeting += 1
            assert m.output_noise_std == pytest.approx(distance / mu, rel=1e-6)
        else:  # met before the end, and noisier than the end needs
            assert m.output_noise_std < distance / mu
    assert ends_meeting > 5 or fields["init_clip"] < 0.1


RATES = tuple(0.01 * (1 + np.cos(np.pi * np.arange(60) / 60)) / 2 + 1e-4)


def test_no_noise_schedule_under_the_ceiling_needs_fewer_steps():
    fields = {"init_clip": 0.5, "grad_clip": 1.0, "weight_decay": 20.0}
    found = best_schedule(**fields, learning_rate=RATES, budget=BUDGET, most_noise=0.8)
    assert meets(found, BUDGET)
    assert max(found.noise_std) <= 0.8 * (1 + 1e-9)
    fewer = found.steps - 1
    assert fewer > 3
    rng = np.random.default_rng(1)
    for _ in range(50):
        noise = tuple(rng.uniform(0.5, 1, fewer) * 0.8)
        assert not meets(ScheduledGradientClipping(**fields, learning_rate=RATES[:fewer], noise_std=noise), BUDGET)
    ceiling = replace(found, learning_rate=RATES[:fewer], noise_std=(0.8,) * fewer)
    assert not meets(ceiling, BUDGET)


def test_certifying_early_leaves_no_more_noise_after_the_same_number_of_steps():
    """ρ^(T-k) c_k ≤ c_T: k noisy steps and then noise-free ones against T noisy steps."""
    fields = SETTINGS[0]
    late = at(20, fields)
    for k in (1, 5, 19):
        early = at(k, fields)
        decayed = (1 - early.decay) ** (20 - k) * early.output_noise_std
        assert decayed <= late.output_noise_std


def test_a_ceiling_that_is_too_low_is_refused_with_the_remedy():
    with pytest.raises(BudgetUnreachable, match=r"noise_std up to 0\.01 .*60 steps.*smaller init_clip"):
        best_schedule(
            init_clip=0.5, grad_clip=1.0, weight_decay=20.0, learning_rate=RATES, budget=BUDGET, most_noise=0.01
        )


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="least must be"):
        best_steps(**SETTINGS[0], budget=BUDGET, least="steps")  # pyright: ignore


@pytest.mark.parametrize("relation", list(Relation))
def test_the_relation_is_passed_on(relation):
    points = frontier(**SETTINGS[0], budget=BUDGET, relation=relation, points=2)
    expected = gaussian.mu(1.0, 1e-5)
    assert all(m.mu(relation) == pytest.approx(expected, rel=1e-9) for m in points)
