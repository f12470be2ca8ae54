"""Block-wise noise: the sum of squares, the leak through blocks not yet noised, and what is attained."""

from dataclasses import replace
from math import exp, hypot, sqrt

import pytest
from scipy.stats import norm

from expunge.accounting import BlockwiseGradientClipping, GradientClipping, Relation, delta_at, gaussian, guarantee
from patience import patience

FIELDS = {
    "block_sizes": (10, 20, 30), "block_clips": (0.3, 0.2, 0.1), "grad_clip": 1.0, "learning_rate": 0.01,
    "weight_decay": 5.0, "steps": 6, "noise_std": 0.5, "blind": True,
}  # fmt: skip
BLIND = BlockwiseGradientClipping(**FIELDS)
SEEING = replace(BLIND, blind=False)


def alone(m, clip):
    return GradientClipping(
        init_clip=clip, grad_clip=m.grad_clip, learning_rate=m.learning_rate, weight_decay=m.weight_decay,
        steps=m.steps, noise_std=m.noise_std,
    )  # fmt: skip


@pytest.mark.parametrize("relation", list(Relation))
def test_blind_blocks_add_up_as_squares(relation):
    assert BLIND.mu(relation) == pytest.approx(
        hypot(*(alone(BLIND, c).mu(relation) for c in BLIND.block_clips)), rel=1e-12
    )


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("blind", [True, False])
def test_one_block_is_gradient_clipping(blind, relation):
    m = replace(BLIND, block_sizes=(60,), block_clips=(0.3,), blind=blind)
    assert m.mu(relation) == pytest.approx(alone(m, 0.3).mu(relation), rel=1e-12)


def test_equal_blocks_of_one_noisy_step_without_drift_retain_the_budget_of_one_ball():
    """C_b = C0/sqrt(B): with the drift gone the blocks prove what the whole ball proves."""
    m = replace(BLIND, block_clips=(0.5 / sqrt(3),) * 3, grad_clip=1e-12, steps=1)
    assert m.mu() == pytest.approx(alone(m, 0.5).mu(), rel=1e-9)


def test_the_vector_of_the_page():
    """ρ = 0.9, c_2 = 0.81 D + 1.9 s, u_2 = 1.81 σ²; D = 0.8, 0.4; s = 0.02."""
    m = replace(
        BLIND, block_sizes=(5, 5), block_clips=(0.4, 0.2), weight_decay=10.0, steps=2, noise_std=1.0, blind=False
    )
    parts = [(0.81 * d + 1.9 * 0.02) / sqrt(1.81) for d in (0.8, 0.4)]
    assert m.block_mu() == pytest.approx(parts, rel=1e-12)
    assert m.mu() == pytest.approx(0.576539, abs=1e-6)


@pytest.mark.parametrize("relation", list(Relation))
def test_a_gradient_that_sees_other_blocks_costs_the_drift_to_the_last_step(relation):
    """Past the best prefix a blind block proves no less; a block that sees others proves less with every step."""
    long = replace(SEEING, weight_decay=0.0, steps=100)
    assert long.block_mu(relation)[0] > 1.15 * replace(long, blind=True).block_mu(relation)[0]
    assert long.block_mu(relation)[-1] == replace(long, blind=True).block_mu(relation)[-1]


def test_counting_a_seeing_run_as_blind_is_refuted():
    """Two blocks, a loss that moves the first by what the second says: exactly Gaussian, and beyond the blind bound."""
    m = replace(SEEING, block_sizes=(1, 1), block_clips=(0.05, 0.05), weight_decay=0.0, steps=100)
    shift = (2 * 0.05 + 2 * 0.01 * 100) / (0.5 * sqrt(100))  # both worlds pushed apart at every step
    attained = norm.cdf(shift / 2 - 1 / shift) - exp(1) * norm.cdf(-shift / 2 - 1 / shift)
    assert delta_at(replace(m, blind=True), 1.0) < attained < delta_at(m, 1.0)
    assert m.block_mu()[0] == pytest.approx(shift, rel=1e-12)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("m", [BLIND, SEEING, replace(BLIND, steps=1), replace(SEEING, steps=1)], ids=str)
def test_what_is_attained_lies_below_and_meets_the_bound_at_one_step(m, epsilon, relation):
    lower, upper = m.log_delta_lower(epsilon, relation), m.log_delta(epsilon, relation)
    assert lower <= upper
    if m.steps == 1 or relation is Relation.CENTER:
        assert lower == pytest.approx(upper, rel=1e-8)
    if not m.blind:
        assert lower >= gaussian.log_delta_lower(epsilon, hypot(*m.block_mu(relation)[:-1]) * (1 - 1e-9))


def test_what_is_stated_of_the_output():
    assert BLIND.output_noise_std == pytest.approx(0.5 * sqrt(sum(0.95 ** (2 * j) for j in range(6))), rel=1e-12)
    assert BLIND.surviving_norm == pytest.approx(0.95**6 * hypot(0.3, 0.2, 0.1), rel=1e-12)
    assert BLIND.gradient_steps == BLIND.noise_draws == 18


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("block_clips", (0.3, 0.2), r"one entry for each block.*3 and 2"),
        ("block_sizes", (), r"at least one"),
        ("block_sizes", (10, 0, 30), r"block_sizes\[1\].*0"),
        ("block_clips", (0.3, -1.0, 0.1), r"block_clips\[1\].*-1"),
        ("block_clips", (0.3, float("nan"), 0.1), r"block_clips\[1\].*nan"),
    ],
)
def test_bad_blocks_are_refused_by_name_and_value(field, value, message):
    with pytest.raises(ValueError, match=message):
        BlockwiseGradientClipping(**FIELDS | {field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("block_sizes", "10"), ("block_clips", 0.3), ("blind", 1), ("blind", "x")]
)
def test_fields_of_the_wrong_type_are_refused_by_name(field, value):
    with pytest.raises(TypeError, match=field):
        BlockwiseGradientClipping(**FIELDS | {field: value})


@pytest.mark.parametrize("blind", [True, False])
def test_from_another_model_every_block_costs_exactly_twice_what_it_costs_from_the_centre(blind):
    m = replace(BLIND, blind=blind)
    assert m.block_mu() == tuple(2 * mu for mu in m.block_mu(Relation.CENTER))
    assert m.mu() == hypot(*m.block_mu()) * (1 + 1e-15)
    assert m.mu(Relation.CENTER) == hypot(*m.block_mu(Relation.CENTER)) * (1 + 1e-15)


@pytest.mark.parametrize("different", [1, 200_000])
def test_the_numbers_of_very_many_blocks_are_there_in_seconds(different):
    """2,000 blocks took seven seconds to verify."""
    clips = tuple(0.5 + (b % different) / different for b in range(200_000))
    with patience(1.5):
        m = replace(BLIND, block_sizes=(1,) * 200_000, block_clips=clips)
        assert all(delta_at(m, float(epsilon)) > 0 for epsilon in range(10))
        assert guarantee(m, delta=1e-5, relation=Relation.CENTER).epsilon > 0


@pytest.mark.parametrize(
    ("sizes", "clips", "named"),
    [((1, 0), (1.0, 1.0), r"block_sizes\[1\]"), ((1, 1), (1.0, 1), ""), ((1, True), (1.0, 1.0), r"block_sizes\[1\]")],
)
def test_a_block_that_repeats_another_in_value_but_not_in_kind_is_checked_itself(sizes, clips, named):
    if not named:
        assert replace(BLIND, block_sizes=sizes, block_clips=clips).block_clips == clips
        return
    with pytest.raises((ValueError, TypeError), match=named):
        replace(BLIND, block_sizes=sizes, block_clips=clips)
