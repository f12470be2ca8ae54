"""The public step of a release."""

from math import frexp

import numpy as np
import pytest

from expunge.randomness.grid import grid_of


@pytest.mark.parametrize("std", [1.0, 0.3, 149.7, 7e-7, 1e-200, 1e300, np.nextafter(2.0, 0.0), 2.0])
def test_the_step_is_a_power_of_two_between_2_to_the_minus_13_and_minus_12_of_sigma(std: float) -> None:
    """2^12 ≤ σ/step < 2^13, and nothing but σ decides it."""
    step = grid_of(float(std))
    assert frexp(step)[0] == 0.5
    assert 2**12 <= std / step < 2**13
