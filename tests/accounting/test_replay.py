"""Replay: nothing of a forgotten record is in any step that is repeated."""

from math import inf

import pytest

from expunge.accounting import Kind, Relation, Replay, delta_at, guarantee


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("relation", list(Relation))
def test_a_replay_leaks_nothing_however_many_shards(shards, relation):
    exact = Replay(shards=shards)
    proven = guarantee(exact, delta=1e-5, relation=relation)
    assert (proven.epsilon, proven.delta, proven.mu, proven.kind) == (0.0, 0.0, 0.0, Kind.EXACT)
    assert exact.log_delta(0.0, relation) == -inf
    assert delta_at(exact, 0.0, relation) == 0.0


@pytest.mark.parametrize(("shards", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_shards_must_be_a_whole_number_of_at_least_one(shards, error):
    with pytest.raises(error, match="shards"):
        Replay(shards=shards)
