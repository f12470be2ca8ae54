"""Means, intervals, and the bound of the null-start control."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.report.curves import Comparison, Lane, interval, null_start_bound
from expunge.report.engineering import control


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
    found = control(comparison)
    assert found is not None
    assert found["refuted"] is refuted


def test_a_control_that_was_not_run_is_none():
    comparison = Comparison(
        title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, lanes=[lane("gradient_clipping", 0.5, 0.1)], environment={}
    )
    assert control(comparison) is None
    assert control(comparison, "model_clipping") is None


def test_a_lane_of_which_nothing_is_proven_cannot_be_refuted_by_its_control():
    lanes = [
        replace(lane("gradient_clipping", 0.9, 0.1), mu=None),
        lane("null_start", 0.1, 0.1),
        lane("retrain", 0.9, 0.0),
    ]
    comparison = Comparison(title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, lanes=lanes, environment={})
    assert control(comparison) is None


def test_a_comparison_comes_back_from_its_file_those_of_earlier_versions_too(tmp_path: Path):
    lanes = [lane("retrain", 0.9, 0.0), lane("null_start", 0.5, 0.1)]
    comparison = Comparison(title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, lanes=lanes, environment={})
    old = comparison.to_dict()
    for plain in old["lanes"]:
        del plain["at"], plain["null_of"]
    for plain in (comparison.to_dict(), old):
        (tmp_path / "c.json").write_text(json.dumps(plain))
        back = Comparison.load(tmp_path / "c.json")
        assert json.dumps(back.to_dict()) == json.dumps(comparison.to_dict())  # lists and tuples alike
        assert back.null_start_of("gradient_clipping") == back.lanes[1]  # the only one there was then
        assert back.null_start_of("model_clipping") is None
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(OutputError, match="is not a comparison"):
        Comparison.load(tmp_path / "c.json")


def test_columns_without_an_epoch_are_refused():
    with pytest.raises(ValueError, match="names 3 epochs for 2 columns"):
        Lane(
            name="x",
            label="x",
            kind="none",
            epsilon=1.0,
            mu=1.0,
            steps=1,
            held_out=[[0, 1]],
            forget=[[0, 1]],
            at=(0, 1, 2),
        )
    with pytest.raises(ValueError, match="rows of one length"):
        Lane(name="x", label="x", kind="none", epsilon=1.0, mu=1.0, steps=1, held_out=[[0, 1]], forget=[[0]])
