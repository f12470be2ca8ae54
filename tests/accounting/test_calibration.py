"""Calibration lands on the safe side of the budget, and close to it."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from expunge.accounting import (
    Budget,
    GradientClipping,
    ModelClipping,
    OutputPerturbation,
    Relation,
    calibrate,
    fewest_steps,
    guarantee,
    meets,
)
from expunge.errors import BudgetUnreachable

exhaustive = settings(derandomize=True, max_examples=100, deadline=None, database=None)
radii = st.floats(-5, 5).map(lambda x: 10.0**x)
budgets = st.builds(
    lambda e, d: Budget(epsilon=10.0**e, delta=10.0**d), st.floats(-2, 2), st.floats(-12, -2)
)  # fmt: skip
relations = st.sampled_from(list(Relation))


def assert_met_and_nearly_tight(mechanism, budget, relation):
    proven = guarantee(mechanism, delta=budget.delta, relation=relation)
    assert proven.epsilon <= budget.epsilon
    assert proven.delta == budget.delta
    assert not meets(replace(mechanism, noise_std=mechanism.noise_std * 0.999), budget, relation)


@exhaustive
@given(init_clip=radii, budget=budgets, relation=relations)
def test_calibrated_output_perturbation_meets_its_budget_with_hardly_more_noise_than_needed(
    init_clip, budget, relation
):
    mechanism = calibrate(lambda s: OutputPerturbation(init_clip=init_clip, noise_std=s), budget, relation=relation)
    assert_met_and_nearly_tight(mechanism, budget, relation)


@exhaustive
@given(
    init_clip=radii,
    grad_clip=st.floats(-2, 2).map(lambda x: 10.0**x),
    learning_rate=st.floats(-4, 0).map(lambda x: 10.0**x),
    decay=st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-8, 1)),
    steps=st.integers(1, 1000),
    budget=budgets,
    relation=relations,
)
def test_calibrated_gradient_clipping_meets_its_budget_with_hardly_more_noise_than_needed(
    init_clip, grad_clip, learning_rate, decay, steps, budget, relation
):
    mechanism = calibrate(
        lambda s: GradientClipping(
            init_clip=init_clip,
            grad_clip=grad_clip,
            learning_rate=learning_rate,
            weight_decay=decay / learning_rate * (1 - 1e-15),
            steps=steps,
            noise_std=s,
        ),
        budget,
        relation=relation,
    )
    assert_met_and_nearly_tight(mechanism, budget, relation)


@exhaustive
@given(model_clip=radii, steps=st.integers(1, 60), budget=budgets, relation=relations)
def test_calibrated_model_clipping_meets_its_budget_with_hardly_more_noise_than_needed(
    model_clip, steps, budget, relation
):
    mechanism = calibrate(
        lambda s: ModelClipping(model_clip=model_clip, learning_rate=0.1, steps=steps, noise_std=s),
        budget,
        relation=relation,
    )
    assert_met_and_nearly_tight(mechanism, budget, relation)


@exhaustive
@given(noise=st.floats(0.45, 3.0), budget=budgets)
def test_fewest_steps_of_model_clipping_meet_the_budget_and_one_less_misses(noise, budget):
    mechanism = fewest_steps(
        lambda n: ModelClipping(model_clip=1.0, learning_rate=0.1, steps=n, noise_std=noise), budget
    )
    assert meets(mechanism, budget)
    assert mechanism.steps == 1 or not meets(replace(mechanism, steps=mechanism.steps - 1), budget)


@pytest.mark.parametrize(("decay", "noise"), [(0.0, 0.5), (20.0, 0.1), (1.0, 0.4)])
def test_fewest_steps_of_gradient_clipping_meet_the_budget_and_one_less_misses(decay, noise):
    budget = Budget(epsilon=4.0, delta=1e-5)
    mechanism = fewest_steps(
        lambda n: GradientClipping(
            init_clip=1.0, grad_clip=1.0, learning_rate=0.01, weight_decay=decay, steps=n, noise_std=noise
        ),
        budget,
    )
    assert mechanism.steps > 1
    assert meets(mechanism, budget)
    assert not meets(replace(mechanism, steps=mechanism.steps - 1), budget)


def test_a_budget_that_no_parameter_meets_is_unreachable():
    with pytest.raises(BudgetUnreachable, match="no setting meets"):
        calibrate(lambda _: OutputPerturbation(init_clip=1.0, noise_std=1.0), Budget(epsilon=0.1, delta=1e-5))


def test_a_family_that_meets_the_budget_whatever_its_parameter_is_a_callers_mistake():
    with pytest.raises(ValueError, match="does not depend on it"):
        calibrate(lambda _: OutputPerturbation(init_clip=1.0, noise_std=100.0), Budget(epsilon=1.0, delta=1e-5))


def test_a_budget_that_more_steps_do_not_reach_is_unreachable():
    with pytest.raises(BudgetUnreachable, match="steps and fewer"):
        fewest_steps(
            lambda n: GradientClipping(
                init_clip=1.0, grad_clip=1.0, learning_rate=0.01, weight_decay=0.0, steps=n, noise_std=0.01
            ),
            Budget(epsilon=1.0, delta=1e-5),
        )


def test_the_limit_of_fewest_steps_is_kept():
    budget = Budget(epsilon=1.0, delta=1e-5)

    def family(n):
        return ModelClipping(model_clip=1.0, learning_rate=0.1, steps=n, noise_std=0.6)

    needed = fewest_steps(family, budget).steps
    assert fewest_steps(family, budget, limit=needed).steps == needed
    with pytest.raises(BudgetUnreachable):
        fewest_steps(family, budget, limit=needed - 1)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_the_limit_must_be_a_whole_number(limit, error):
    with pytest.raises(error, match="limit"):
        fewest_steps(lambda n: None, Budget(epsilon=1.0, delta=1e-5), limit=limit)


@pytest.mark.parametrize("bad", [{"epsilon": -1.0}, {"epsilon": float("nan")}, {"delta": 0.0}, {"delta": 1.0}])
def test_a_budget_outside_its_domain_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Budget(**{"epsilon": 1.0, "delta": 1e-5} | bad)


@exhaustive
@given(
    log_epsilon=st.one_of(st.none(), st.floats(-14, 4)),
    log_delta=st.floats(-100, -1e-3),
    log_radius=st.floats(-5, 5),
    steps=st.integers(1, 60),
    family=st.sampled_from(["output", "model", "gradient"]),
    relation=relations,
)
@example(log_epsilon=-11.8606, log_delta=-1.7875, log_radius=0.0, steps=7, family="model", relation=Relation.CENTER)
def test_however_small_or_large_the_budget_what_is_published_lies_within_it(
    log_epsilon, log_delta, log_radius, steps, family, relation
):
    """Below ε = 1e-6 the aim and the ε that is found again once differed by more than the rounding."""
    budget = Budget(epsilon=0.0 if log_epsilon is None else 10.0**log_epsilon, delta=10.0**log_delta)
    radius = 10.0**log_radius

    def make(s):
        if family == "output":
            return OutputPerturbation(init_clip=radius, noise_std=s)
        if family == "model":
            return ModelClipping(model_clip=radius, learning_rate=0.1, steps=steps, noise_std=s)
        return GradientClipping(
            init_clip=radius, grad_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=steps, noise_std=s
        )

    assert_met_and_nearly_tight(calibrate(make, budget, relation=relation), budget, relation)


@pytest.mark.parametrize("epsilon", [3.901916680220441e-11, 2.4663472722712537e-13, 9.760732017724503e-13])
@pytest.mark.parametrize("delta", [1.6231884267509831e-06, 0.0051997101902864235, 0.14910683434736216])
def test_budgets_that_were_missed_by_more_than_1e_10_are_met(epsilon, delta):
    budget = Budget(epsilon=epsilon, delta=delta)
    for radius in (0.001, 1.0, 7.3, 1e4):
        found = calibrate(lambda s, r=radius: OutputPerturbation(init_clip=r, noise_std=s), budget)
        assert guarantee(found, delta=delta).epsilon <= epsilon
