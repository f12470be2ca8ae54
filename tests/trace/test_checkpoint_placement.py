"""Where checkpoints pay, against closed forms, enumeration and simulation."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from expunge.trace import Schedule, best_checkpoints, expected_shard_steps, expected_steps, first_uses


def brute_force(steps, weights, checkpoints, records):
    """The expectation by enumeration of all first uses, in rational numbers."""
    law, start = {}, 0
    for m, w in zip(steps, weights, strict=True):
        for step in range(start, start + m):
            law[step] = Fraction(w, sum(weights)) / m
        start += m
    total = Fraction(0)
    for uses in product(law, repeat=records):
        chance = Fraction(1)
        for use in uses:
            chance *= law[use]
        total += chance * (start - max([c for c in checkpoints if c <= min(uses)], default=0))
    return float(total)


@pytest.mark.parametrize("records", [1, 2, 3])
@pytest.mark.parametrize("checkpoints", [(), (2,), (1, 4, 7)])
def test_expected_steps_is_the_sum_over_all_first_uses(checkpoints, records):
    steps, weights = (4, 3, 2), (5, 0, 2)
    found = expected_steps(first_uses(steps, weights), checkpoints, records=records)
    assert found == pytest.approx(brute_force(steps, weights, checkpoints, records), rel=1e-12)


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.parametrize("weights", [(1, 0, 0), (6, 0, 1), (1, 1, 1), (0, 0, 3)])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_no_other_placement_of_as_many_checkpoints_is_better(weights, count, records):
    uses = first_uses((5, 4, 3), weights)
    found = best_checkpoints(uses, count, records=records)
    assert len(found) <= count
    least = min(expected_steps(uses, places, records=records) for places in combinations(range(1, 12), count))
    assert expected_steps(uses, found, records=records) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 4, 20])
def test_where_all_records_take_part_from_the_start_a_rewind_costs_nearly_all_of_a_training(epochs):
    """K evenly spaced checkpoints in the first epoch: the fraction is 1 - K/(2 E (K + 1)), and no K goes below 1 - 1/(2 E)."""
    steps = (120,) * epochs
    uses = first_uses(steps, (1,) + (0,) * (epochs - 1))
    for count in (1, 2, 3, 5):
        places = best_checkpoints(uses, count)
        assert places == tuple(120 * k // (count + 1) for k in range(1, count + 1))
        fraction = expected_steps(uses, places) / sum(steps)
        assert fraction == pytest.approx(1 - count / (2 * epochs * (count + 1)), rel=1e-12)
    all_of_them = expected_steps(uses, range(1, sum(steps))) / sum(steps)
    assert all_of_them == pytest.approx(1 - (1 - 1 / 120) / (2 * epochs), rel=1e-12)


def test_late_records_bring_the_cost_down_to_what_is_left_of_the_training():
    """All from epoch f of E on: 1 - f/E - K/(2 E (K + 1)), with the first checkpoint where the stretch begins."""
    steps, late = (60,) * 10, 8
    uses = first_uses(steps, (0,) * late + (1, 0))
    places = best_checkpoints(uses, 4)
    assert places == (480, 495, 510, 525)
    assert expected_steps(uses, places) / 600 == pytest.approx(1 - 0.8 - 3 / (2 * 10 * 4), rel=1e-12)


def test_expected_steps_is_what_random_keys_give_on_average():
    coins = np.random.default_rng(0)
    steps, places = (20, 20), (5, 10, 15, 20, 30)
    uses = first_uses(steps, (3, 1))  # a record starts late with probability 1/4
    costs = []
    for _ in range(4000):
        schedule = Schedule(coins.bytes(32), steps)
        first = min(schedule.step_of(f"r{i}", int(coins.random() < 0.25)) for i in range(2))
        costs.append(40 - max([c for c in places if c <= first], default=0))
    error = np.std(costs) / np.sqrt(len(costs))
    assert np.mean(costs) == pytest.approx(expected_steps(uses, places, records=2), abs=4 * error)
    assert np.mean(costs) != pytest.approx(expected_steps(uses, places, records=1), abs=4 * error)


def test_a_long_training_is_placed_over_a_grid_close_to_the_best():
    uses = first_uses((5000,) * 3, (1, 0, 0))
    places = best_checkpoints(uses, 7)
    best = 15000 - 5000 * 7 / (2 * 8)
    assert best <= expected_steps(uses, places) <= best + 5


@pytest.mark.parametrize("records", [1, 2, 3])
def test_the_cost_of_shards_is_the_average_over_all_cells(records):
    """All (shards * slices) ** records placements, each as likely as another, in rational numbers."""
    shards, stage_steps = 3, (2, 3, 7)
    slices, total = len(stage_steps), Fraction(0)
    cells = list(product(range(shards), range(slices)))
    for placed in product(cells, repeat=records):
        for shard in range(shards):
            hit = [r for s, r in placed if s == shard]
            total += sum(stage_steps[min(hit) :]) if hit else 0
    assert expected_shard_steps(stage_steps, shards=shards, records=records) == pytest.approx(
        float(total / len(cells) ** records), rel=1e-12
    )


def test_one_slice_and_one_shard_is_retraining():
    assert expected_shard_steps((10,), shards=1, records=1) == 10
    assert expected_shard_steps((10,), shards=5, records=1) == pytest.approx(10, rel=1e-15)
    assert expected_shard_steps((10,), shards=5, records=10_000) == pytest.approx(50)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: first_uses((3,), (1, 1)), "one number for each of 1 epochs"),
        (lambda: first_uses((3,), (0,)), "sum of weights"),
        (lambda: first_uses((3, 3), (2, -1)), "weights must be"),
        (lambda: best_checkpoints(first_uses((3,), (1,)), -1), "count must be"),
        (lambda: expected_steps(first_uses((3,), (1,)), (), records=0), "records must be"),
        (lambda: expected_shard_steps((), shards=1, records=1), "at least one"),
    ],
)
def test_a_bad_argument_is_refused_by_name(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
