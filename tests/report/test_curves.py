"""Means, intervals, and the bound of the null-start control."""

import pytest

from expunge.report.curves import Comparison, Lane, interval, null_start_bound
from expunge.report.page import control


def test_the_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729749464 / 3**0.5)  # t quantile with two degrees of freedom, 97.5 %


def test_at_one_and_1e_5_the_mean_accuracy_can_differ_by_0_107_at_most():
    mu = 0.268051123211
    most = max(null_start_bound(p / 1000, mu) - p / 1000 for p in range(1, 1000))
    assert most == pytest.approx(0.106618, abs=1e-5)  # the total variation of the specification


def lane(name: str, value: float, mu: float) -> Lane:
    runs = [[0.1, value], [0.1, value + 0.001]]
    return Lane(
        name=name, label=name, kind="none", epsilon=1.0, mu=mu, steps=1, held_out=runs, forget=runs
    )  # fmt: skip


@pytest.mark.parametrize(("trained", "refuted"), [(0.55, False), (0.75, True)])
def test_a_gap_beyond_the_bound_refutes_the_certificate_and_a_smaller_one_does_not(trained: float, refuted: bool):
    lanes = [lane("gradient_clipping", trained, 0.268), lane("null_start", 0.5, 0.268), lane("retrain", 0.9, 0.0)]
    comparison = Comparison(title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, lanes=lanes, environment={})
    assert control(comparison)["refuted"] is refuted
