"""Means, intervals, and the bound of the null-start control."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.report.curves import Comparison, Curve, interval, null_start_bound
from expunge.report.engineering import control

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729749464 / 3**0.5)  # t quantile with two degrees of freedom, 97.5 %


def test_at_one_and_1e_5_the_mean_accuracy_can_differ_by_0_107_at_most():
    mu = 0.268051123211
    most = max(null_start_bound(p / 1000, mu) - p / 1000 for p in range(1, 1000))
    assert most == pytest.approx(0.106618, abs=1e-5)  # the total variation of the specification


def curve(name: str, value: float, mu: float, **more: object) -> Curve:
    runs = [[0.1, value], [0.1, value + 0.001]]
    return Curve(
        name=name, label=name, kind="none", epsilon=1.0, mu=mu, steps=1, held_out=runs, forget=runs, **more
    )  # type: ignore[arg-type]  # fmt: skip


def null_start(value: float) -> Curve:
    return curve("null start", value, 0.268, null_of="mine")


def retraining() -> Curve:
    return curve("anew", 0.9, 0.0, fresh=True)


@pytest.mark.parametrize(("trained", "refuted"), [(0.55, False), (0.75, True)])
def test_a_gap_beyond_the_bound_refutes_the_certificate_and_a_smaller_one_does_not(trained: float, refuted: bool):
    curves = [curve("mine", trained, 0.268), null_start(0.5), retraining()]
    comparison = Comparison(title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, curves=curves, environment={})
    found = control(comparison, "mine")
    assert found is not None
    assert found["refuted"] is refuted


def test_a_control_that_was_not_run_is_none():
    comparison = Comparison(
        title="t",
        epsilon=1,
        delta=1e-5,
        seeds=2,
        epochs=1,
        curves=[curve("mine", 0.5, 0.1), retraining()],
        environment={},
    )
    assert control(comparison, "mine") is None
    assert control(comparison, "another") is None
    assert control(replace(comparison, curves=[curve("mine", 0.5, 0.1), null_start(0.5)]), "mine") is None


def test_a_curve_of_which_nothing_is_proven_cannot_be_refuted_by_its_control():
    curves = [replace(curve("mine", 0.9, 0.1), mu=None), null_start(0.1), retraining()]
    comparison = Comparison(title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, curves=curves, environment={})
    assert control(comparison, "mine") is None


def test_a_comparison_comes_back_from_its_file_those_of_earlier_versions_too(tmp_path: Path):
    """Of before `fresh`, whose key was "lanes", and of before `null_of`, when there was one null start alone."""
    curves = [curve("retrain", 0.9, 0.0, fresh=True), curve("null_start", 0.5, 0.1, null_of="gradient_clipping")]
    comparison = Comparison(title="t", epsilon=1, delta=1e-5, seeds=2, epochs=1, curves=curves, environment={})
    earlier, first = comparison.to_dict(), comparison.to_dict()
    for old in (earlier, first):
        old["lanes"] = old.pop("curves")
        for row in old["lanes"]:
            del row["fresh"]
    for row in first["lanes"]:
        del row["at"], row["null_of"]
    for plain in (comparison.to_dict(), earlier, first):
        (tmp_path / "c.json").write_text(json.dumps(plain))
        back = Comparison.load(tmp_path / "c.json")
        assert json.dumps(back.to_dict()) == json.dumps(comparison.to_dict())  # lists and tuples alike
        assert back.null_start_of("gradient_clipping") == back.curves[1]
        assert back.null_start_of("model_clipping") is None
        assert back.retraining == back.curves[0]
    demo = Comparison.load(RESULTS / "demo_digits.json")
    assert demo.retraining is not None
    assert demo.null_start_of("gradient_clipping") is not None
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(OutputError, match="is not a comparison"):
        Comparison.load(tmp_path / "c.json")


def test_columns_without_an_epoch_are_refused():
    with pytest.raises(ValueError, match="names 3 epochs for 2 columns"):
        Curve(
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
        Curve(name="x", label="x", kind="none", epsilon=1.0, mu=1.0, steps=1, held_out=[[0, 1]], forget=[[0]])
