"""A claim is of one kind, and nothing reads one kind as another."""

import copy
import pickle
from dataclasses import asdict, replace
from math import inf, nan
from typing import get_args

import pytest

from expunge.accounting import (
    BehaviouralClaim,
    Bound,
    Budget,
    Claim,
    EpsilonDeltaClaim,
    ExactClaim,
    Kind,
    NoClaim,
    OutputPerturbation,
    Relation,
    Retrain,
    UndeclaredFeatures,
    guarantee,
    meets,
    numbers_of,
)

TOLD = {"relation": Relation.RETRAINED, "theorem": "A theorem.", "assumptions": ("An assumption.",)}
CLAIMS = {
    Kind.EXACT: ExactClaim(**TOLD),
    Kind.EPSILON_DELTA: EpsilonDeltaClaim(epsilon=1.0, delta=1e-5, mu=0.3, **TOLD),
    Kind.BEHAVIOURAL: BehaviouralClaim(predicate="The class is another one.", region="A ball around row 7.", **TOLD),
    Kind.NONE: NoClaim(**TOLD),
}
UNBOUND = [CLAIMS[Kind.BEHAVIOURAL], CLAIMS[Kind.NONE]]
WIDEST = Budget(epsilon=1e300, delta=1 - 1e-16)


def test_each_kind_has_one_class_and_each_class_one_kind():
    assert {kind: type(claim) for kind, claim in CLAIMS.items()} == {c.kind: c for c in get_args(Claim)}
    assert set(CLAIMS) == set(Kind)


@pytest.mark.parametrize("claim", UNBOUND, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", ["epsilon", "delta", "mu"])
def test_what_bounds_no_law_has_no_numbers(claim, name):
    with pytest.raises(AttributeError, match=f"of kind '{claim.kind}' bounds no law: it has no {name}"):
        getattr(claim, name)
    assert numbers_of(claim)[name] is None
    assert not isinstance(claim, Bound)


@pytest.mark.parametrize("claim", UNBOUND, ids=lambda c: c.kind)
def test_what_bounds_no_law_meets_no_budget(claim):
    assert not claim.meets(WIDEST)


def test_an_exact_claim_meets_every_budget_and_its_numbers_are_zero():
    exact = CLAIMS[Kind.EXACT]
    assert exact.meets(Budget(epsilon=0.0, delta=1e-300))
    assert numbers_of(exact) == {"epsilon": 0.0, "delta": 0.0, "mu": 0.0}
    with pytest.raises(TypeError):
        ExactClaim(epsilon=1.0, **TOLD)


@pytest.mark.parametrize(("epsilon", "delta", "met"), [(1.0, 1e-5, True), (0.99, 1e-5, False), (1.0, 9e-6, False)])
def test_an_epsilon_and_delta_meet_a_budget_that_is_no_smaller_in_either(epsilon, delta, met):
    assert CLAIMS[Kind.EPSILON_DELTA].meets(Budget(epsilon=epsilon, delta=delta)) is met


def test_an_infinite_epsilon_meets_no_budget():
    assert not replace(CLAIMS[Kind.EPSILON_DELTA], epsilon=inf).meets(WIDEST)


@pytest.mark.parametrize(
    "wrong",
    [{"epsilon": nan}, {"epsilon": -1e-9}, {"mu": nan}, {"mu": -1.0}, {"delta": 0.0}, {"delta": 1.0}, {"delta": nan}],
    ids=str,
)
def test_numbers_that_bound_nothing_make_no_claim(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CLAIMS[Kind.EPSILON_DELTA], **wrong)


@pytest.mark.parametrize("wrong", [{"predicate": ""}, {"region": ""}], ids=str)
def test_a_behaviour_that_is_not_named_is_no_claim(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CLAIMS[Kind.BEHAVIOURAL], **wrong)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda c: c.kind)
def test_a_claim_is_copied_and_stored_as_a_value(claim):
    assert copy.deepcopy(claim) == pickle.loads(pickle.dumps(claim)) == claim
    assert claim not in [other for other in CLAIMS.values() if other is not claim]
    with pytest.raises(AttributeError, match="has no attribute 'guess'"):
        claim.guess  # noqa: B018


def test_the_claim_of_a_mechanism_is_of_its_kind():
    ways = [Retrain(), OutputPerturbation(init_clip=1.0, noise_std=8.0), UndeclaredFeatures(head="exact_ridge")]
    for mechanism in ways:
        claim = guarantee(mechanism, delta=1e-5)
        assert claim.kind is mechanism.kind
        assert (claim.theorem, claim.assumptions) == (mechanism.theorem, mechanism.assumptions)
    assert "epsilon" not in asdict(guarantee(ways[2], delta=1e-5))


def test_a_mechanism_that_proves_nothing_meets_no_budget():
    assert not meets(UndeclaredFeatures(head="exact_ridge"), WIDEST)
    assert meets(Retrain(), Budget(epsilon=0.0, delta=1e-300))
