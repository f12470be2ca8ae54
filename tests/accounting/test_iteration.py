"""Shifted interpolation for equal steps agrees with the recursion for any."""

import pytest

from expunge.accounting import iteration, schedules


@pytest.mark.parametrize("case", [(1, 0.2, 0.1), (20, 0.02, 0.0), (200, 0.02, 0.2), (300, 0.01, 1.0), (50, 0.0, 0.1)])
def test_a_constant_schedule_reduces_to_the_closed_form(case):
    steps, drift, decay = case
    mu, k = schedules.scheduled(distance=1.0, drift=[drift] * steps, decay=[decay] * steps, noise_std=[0.5] * steps)
    fields = {"distance": 1.0, "drift": drift, "decay": decay, "steps": steps}
    assert mu == pytest.approx(iteration.shifted_interpolation(noise_std=0.5, **fields), rel=1e-11)
    if drift > 0 and 0 < decay < 0.2:  # where the minimum is not flat
        assert k == iteration.best_prefix(**fields)
