"""Exact heads: what is subtracted leaves nothing, in whole numbers (`GridRidge`) as certificates of old said of floats."""

from math import inf

import pytest

from expunge.accounting import ExactRidge, GridRidge, Kind, Relation, delta_at, guarantee

RIDGE = {"ridge": 1.0, "rounding": 1e-9, "provenance": "trained on ImageNet"}
BOTH = [(ExactRidge, RIDGE), (GridRidge, RIDGE | {"grid": 0.25})]


@pytest.mark.parametrize(("family", "fields"), BOTH)
@pytest.mark.parametrize("relation", list(Relation))
def test_an_exact_head_leaks_nothing(family, fields, relation):
    exact = family(**fields)
    proven = guarantee(exact, delta=1e-5, relation=relation)
    assert (proven.epsilon, proven.delta, proven.mu, proven.kind) == (0.0, 0.0, 0.0, Kind.EXACT)
    assert exact.log_delta(0.0, relation) == -inf
    assert delta_at(exact, 0.0, relation) == 0.0


@pytest.mark.parametrize("provenance", ["", " padded", "two\nlines", 7, None])
@pytest.mark.parametrize(("family", "fields"), BOTH)
def test_a_provenance_that_says_nothing_is_refused(family, fields, provenance):
    with pytest.raises((ValueError, TypeError), match="provenance"):
        family(**fields | {"provenance": provenance})
