"""Composition: exact laws of several releases, the chord construction, what is left of a budget, groups."""

from dataclasses import dataclass, replace
from math import exp, hypot, inf, log, sqrt

import numpy as np
import pytest
from scipy.stats import norm

from expunge.accounting import (
    Budget,
    Kind,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Retrain,
    compose,
    composition,
    gaussian,
    group_epsilon_delta,
    group_mu,
    guarantee,
    remaining,
    requests_left,
)
from expunge.accounting.mechanisms import assumptions

ONCE = OutputPerturbation(init_clip=1.0, noise_std=8.0)
MODEL = ModelClipping(model_clip=0.5, learning_rate=0.1, steps=3, noise_std=0.8)
BUDGET = Budget(epsilon=2.0, delta=1e-5)


@pytest.mark.parametrize("relation", list(Relation))
def test_gaussian_releases_compose_by_the_root_of_the_sum_of_squares(relation):
    parts = [replace(ONCE, noise_std=s) for s in (3.0, 5.0, 9.0)]
    mu = hypot(*(p.mu(relation) for p in parts))
    joint = compose(parts, delta=1e-5, relation=relation)
    assert joint.mu == pytest.approx(mu, rel=1e-9)
    assert joint.epsilon == pytest.approx(gaussian.epsilon(mu, 1e-5), rel=1e-9)
    assert joint.relation is relation


@pytest.mark.parametrize("mechanism", [ONCE, MODEL, replace(MODEL, steps=40, noise_std=0.3)], ids=str)
def test_one_release_composes_to_its_own_guarantee(mechanism):
    assert compose([mechanism], delta=1e-5).epsilon == pytest.approx(guarantee(mechanism, delta=1e-5).epsilon, rel=1e-9)


@pytest.mark.parametrize("times", [1, 2, 3, 10])
@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
def test_the_chord_construction_lies_above_the_exact_composition_and_close(mu, times):
    """On Gaussian profiles, whose composition is known exactly."""

    def profile(epsilon):
        return gaussian.log_delta_upper(epsilon, mu)

    end = composition._end(profile)
    joint = composition._Loss.dominating(profile, end / 1000, 1000).power(times)
    for delta in (1e-2, 1e-5, 1e-10):
        epsilon = gaussian.epsilon(mu * sqrt(times), delta)
        assert log(delta) - 1e-9 <= joint.log_delta(epsilon) < log(delta) + 0.01
    assert float(joint.mass.sum()) + joint.certain == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.5, 3.0])
def test_the_worst_pairs_of_model_clipping_stay_below_their_composition(epsilon):
    """Two releases by the tight two-point adversary, their joint δ summed over the product of both laws."""
    joint = composition._Joint.of([MODEL, MODEL], Relation.RETRAINED)
    c2, sigma = MODEL.model_clip, MODEL.noise_std
    worst = 0.0
    for at in (0.0, 0.2, 0.5):  # thresholds of the adversary
        up, down = 1.0, 0.0
        for _ in range(MODEL.steps - 1):
            p, q = norm.cdf((c2 - at) / sigma), norm.cdf((-c2 - at) / sigma)
            up, down = up * p + (1 - up) * q, down * p + (1 - down) * q
        edges = np.linspace(-c2 - 8 * sigma, c2 + 8 * sigma, 2001)
        cells = np.diff(norm.cdf((edges[:, None] - [c2, -c2]) / sigma), axis=0)
        laws = [cells @ [w, 1 - w] for w in (up, down)]
        products = [np.multiply.outer(law, law) for law in laws]
        worst = max(worst, float(np.maximum(products[0] - exp(epsilon) * products[1], 0).sum()))
    bound = exp(joint.log_delta(epsilon, Relation.RETRAINED))
    assert worst < bound
    assert epsilon > 0.5 or worst > 0.2 * bound  # further out another threshold would be worse


def test_model_clipping_composes_far_below_its_mu():
    joint = compose([MODEL, MODEL], delta=1e-5)
    assert guarantee(MODEL, delta=1e-5).epsilon < joint.epsilon < 0.7 * gaussian.epsilon(joint.mu, 1e-5)


def test_a_mixture_of_kinds_lies_between_its_parts_and_their_sum():
    joint = compose([MODEL, ONCE, Retrain(), ONCE], delta=2e-5)
    parts = [guarantee(MODEL, delta=1e-5).epsilon, compose([ONCE, ONCE], delta=1e-5).epsilon]
    assert max(parts) < joint.epsilon < sum(parts)
    assert joint.kind is Kind.EPSILON_DELTA


def test_what_is_trimmed_is_given_to_the_other_side(monkeypatch):
    """Upper tails become certain loss, lower ones move up: the profile only rises, and no mass is lost."""
    monkeypatch.setattr(composition, "_LOW", -3.0)
    mass = np.exp(-0.5 * np.abs(np.arange(-20, 21)))
    loss = composition._Loss(0.1, -20, 0.99 * mass / mass.sum(), 0.01)
    trimmed = loss._trimmed()
    assert len(trimmed.mass) < len(loss.mass)
    assert trimmed.first > loss.first
    assert trimmed.certain > loss.certain
    assert float(trimmed.mass.sum()) + trimmed.certain == pytest.approx(1, abs=1e-12)
    for epsilon in (-1.95, -1.5, 0.0, 1.0, 1.9, 5.0):
        assert trimmed.log_delta(epsilon) >= loss.log_delta(epsilon)


def test_the_chord_of_a_profile_that_is_not_convex_is_its_convex_minorant():
    """A true profile is convex in e^ε; a bound that is not is still dominated after its dents are filled from below."""

    def dented(epsilon):
        return gaussian.log_delta_upper(epsilon, 1.0) + (0.3 if 1.0 < epsilon < 1.5 else 0.0)

    loss = composition._Loss.dominating(dented, 0.01, 1000)
    for epsilon in (0.5, 1.2, 3.0):
        assert gaussian.log_delta_upper(epsilon, 1.0) <= loss.log_delta(epsilon) <= dented(epsilon) + 1e-3


def test_retraining_alone_is_exact_and_beside_others_adds_nothing():
    alone = compose([Retrain(), Retrain()], delta=1e-5)
    assert (alone.kind, alone.epsilon, alone.delta, alone.mu) == (Kind.EXACT, 0.0, 0.0, 0.0)
    assert compose([ONCE, Retrain()], delta=1e-5).epsilon == compose([ONCE], delta=1e-5).epsilon


def test_the_joint_guarantee_states_independence_and_not_one_release():
    stated = compose([ONCE, MODEL], delta=1e-5).assumptions
    assert assumptions.ONE_RELEASE not in stated
    assert assumptions.INDEPENDENT_RELEASES in stated
    assert len(set(stated)) == len(stated)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("spent", [[], [ONCE] * 3, [MODEL], [MODEL, ONCE]], ids=len)
def test_what_is_left_can_be_spent_and_no_more(spent, relation):
    budget = Budget(epsilon=4.0, delta=1e-5)
    left = remaining(budget, spent, relation=relation)
    assert not left.retrain
    reach = 2 if relation is Relation.RETRAINED else 1
    last = OutputPerturbation(init_clip=1.0, noise_std=reach / left.mu)
    assert compose([*spent, last], delta=1e-5, relation=relation).epsilon <= 4.0 * (1 + 1e-9)
    more = OutputPerturbation(init_clip=1.0, noise_std=reach / (1.001 * left.mu))
    assert compose([*spent, more], delta=1e-5, relation=relation).epsilon > 4.0
    assert left.epsilon == pytest.approx(gaussian.epsilon(left.mu, 1e-5), rel=1e-9)


def test_a_spent_budget_says_retrain():
    left = remaining(BUDGET, [ONCE] * 5)
    assert (left.mu, left.epsilon, left.retrain) == (0.0, 0.0, True)
    assert requests_left(BUDGET, ONCE, spent=[ONCE] * 5) == 0


def test_requests_are_counted_until_the_budget_is_spent():
    budget = Budget(epsilon=4.0, delta=1e-5)
    count = requests_left(budget, ONCE, spent=[MODEL], limit=50)
    assert 1 < count < 50
    assert compose([MODEL, *[ONCE] * count], delta=1e-5).epsilon <= 4.0
    assert compose([MODEL, *[ONCE] * (count + 1)], delta=1e-5).epsilon > 4.0
    assert requests_left(BUDGET, ONCE) == 4
    assert requests_left(BUDGET, ONCE, spent=[ONCE, ONCE]) == 2
    assert requests_left(BUDGET, Retrain(), limit=7) == 7


def test_groups_keep_every_factor():
    assert group_mu(0.5, 3) == pytest.approx(1.5)
    epsilon, delta = group_epsilon_delta(0.2, 1e-8, 5)
    assert epsilon == pytest.approx(1.0)
    assert delta == pytest.approx(1e-8 * sum(exp(0.2 * j) for j in range(5)))  # the lemma, term by term
    assert group_epsilon_delta(0.0, 1e-8, 5)[1] == pytest.approx(5e-8)
    assert group_epsilon_delta(10.0, 1e-5, 100)[1] == 1.0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_group_of_a_gaussian_is_bounded_by_the_lemma_and_met_by_mu(size):
    """The lemma is looser than the exact profile of a group, never tighter."""
    mu, epsilon = 0.4, 0.7
    lemma_epsilon, lemma_delta = group_epsilon_delta(epsilon, exp(gaussian.log_delta_upper(epsilon, mu)), size)
    assert exp(gaussian.log_delta(lemma_epsilon, group_mu(mu, size))) <= lemma_delta


def test_an_iterator_composes_as_what_it_yields():
    """It can be read only once: what was read to check it must not be missing from the sum."""
    assert compose((ONCE for _ in range(3)), delta=1e-5) == compose([ONCE] * 3, delta=1e-5)
    assert remaining(BUDGET, iter([ONCE] * 3)) == remaining(BUDGET, [ONCE] * 3)
    assert remaining(BUDGET, iter([ONCE] * 5)).retrain
    assert requests_left(BUDGET, ONCE, spent=iter([ONCE, ONCE])) == 2
    with pytest.raises(ValueError, match="at least one"):
        compose(iter([]), delta=1e-5)


def test_kinds_that_prove_nothing_do_not_compose():
    @dataclass(frozen=True)
    class Measured(OutputPerturbation):
        kind = Kind.EMPIRICAL

    with pytest.raises(ValueError, match="'empirical', which does not compose"):
        compose([Measured(init_clip=1.0, noise_std=1.0)], delta=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        compose([], delta=1e-5)


@pytest.mark.parametrize(("field", "value"), [("delta", 0.0), ("delta", 1.0), ("delta", float("nan"))])
def test_a_bad_delta_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        compose([ONCE], delta=value)


@pytest.mark.parametrize("size", [0, -1])
def test_a_bad_group_is_refused_by_name(size):
    with pytest.raises(ValueError, match="size"):
        group_mu(1.0, size)
    with pytest.raises(ValueError, match="size"):
        group_epsilon_delta(1.0, 1e-5, size)


def test_a_profile_that_proves_nothing_composes_to_nothing():
    hopeless = replace(MODEL, noise_std=1e-4)
    assert compose([hopeless, hopeless], delta=1e-5).epsilon == inf
