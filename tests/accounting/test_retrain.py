"""Retraining: a function of the retained data alone."""

from math import inf

import pytest

from expunge.accounting import Budget, Kind, Relation, Retrain, delta_at, guarantee, meets


@pytest.mark.parametrize("relation", list(Relation))
def test_retraining_leaks_nothing(relation):
    proven = guarantee(Retrain(), delta=1e-5, relation=relation)
    assert (proven.epsilon, proven.delta, proven.mu, proven.kind) == (0.0, 0.0, 0.0, Kind.EXACT)
    assert Retrain().log_delta(0.0, relation) == -inf
    assert delta_at(Retrain(), 0.0, relation) == 0.0


def test_retraining_meets_every_budget():
    assert meets(Retrain(), Budget(epsilon=1e-9, delta=1e-300))
