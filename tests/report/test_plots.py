"""Plots show all that they are given: names as they are, every curve, epochs where they ended, limits that are none."""

import re
from dataclasses import replace
from typing import Any

import pytest

from expunge.accounting import Relation
from expunge.audit import Counts, Finding, GaussianFit, OneRun
from expunge.report import Comparison, Curve, plots

NAMES = ["$5 to $10 a request", r"lr $\frac$ 2", r"$\undefined{x}$", "a $ b", r"\alpha $$", "50 % & <b>"]


def curve(label: str) -> Curve:
    return Curve(
        name="retrain",
        label=label,
        kind="none",
        epsilon=None,
        mu=None,
        steps=1,
        held_out=[[0.1, 0.5]],
        forget=[[0.1, 0.5]],
    )


def shown(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.parametrize("name", NAMES)
def test_a_curves_name_is_shown_as_it_is(name: str) -> None:
    comparison = Comparison(title="t", epsilon=1.0, delta=1e-5, seeds=1, epochs=1, curves=[curve(name)], environment={})
    assert shown(name) in plots.accuracy_curves(comparison)


@pytest.mark.parametrize("name", NAMES)
def test_a_losss_and_an_attacks_name_are_shown_as_they_are(name: str) -> None:
    worlds = {name: {"p": [1, 2], "q": [2, 1], "edges": [0.0, 1.0, 2.0]}}
    assert shown(name) in plots.world_histograms(worlds)
    curve = {"auc": 0.5, "roc": [[0.0, 0.01, 1.0], [0.0, 0.02, 1.0]]}
    svg = plots.roc_curves({name: {"attack": curve, "null": curve}})
    assert shown(f"{name}: AUC 0.500") in svg


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_an_attack_beside_its_bound_is_shown_as_it_is(name: str) -> None:
    seen = OneRun(canaries=100, guesses=50, correct=30)
    found = Finding(attack=name, relation=Relation.RETRAINED, delta=1e-5, confidence=0.95, evidence=seen)
    assert shown(name) in plots.audit_bounds([found, found], claimed=1.0)


def marks(svg: str) -> set[str]:
    """Looks of the lines that carry points: colour and dashes."""
    return set(
        re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="(fill: none; stroke[^"]*stroke-width: 1\.8[^"]*)"', svg)
    )


def test_every_curve_is_drawn_with_a_look_of_its_own() -> None:
    curves = [replace(curve(f"curve {k}"), name=str(k), held_out=[[0.1, 0.5 + k / 100]]) for k in range(14)]
    svg = plots.accuracy_curves(
        Comparison(title="t", epsilon=1.0, delta=1e-5, seeds=1, epochs=1, curves=curves, environment={})
    )
    assert all(f">curve {k}<" in svg for k in range(14))
    assert len(marks(svg)) == 14


def test_a_membership_attack_beyond_the_sixth_is_drawn_too() -> None:
    curve = {"auc": 0.5, "roc": [[0.0, 0.01, 1.0], [0.0, 0.02, 1.0]]}
    svg = plots.roc_curves({f"attack {k}": {"attack": curve, "null": curve} for k in range(9)})
    assert all(f">attack {k}: AUC 0.500<" in svg for k in range(9))


def test_an_epoch_that_was_not_finished_is_drawn_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def keep(figure: Any, salt: str) -> str:
        seen[salt] = [tuple(line.get_xdata()) for line in figure.axes[0].lines]
        return ""

    monkeypatch.setattr(plots, "_svg", keep)
    partial = replace(curve("r"), held_out=[[0.1] * 5], forget=[[0.1] * 5], at=(0, 1, 2, 3, 3.27))
    whole = replace(curve("w"), name="w", held_out=[[0.1] * 4], forget=[[0.1] * 4])
    plots.accuracy_curves(
        Comparison(title="t", epsilon=1.0, delta=1e-5, seeds=1, epochs=3, curves=[partial, whole], environment={})
    )
    assert seen["accuracy-curves"] == [(0, 1, 2, 3, 3.27), (0, 1, 2, 3)]


def test_what_an_attack_could_show_beyond_the_plot_has_an_arrow_and_no_end() -> None:
    near, far = (
        OneRun(canaries=100, guesses=50, correct=30),
        GaussianFit(p_mean=0.1, q_mean=0.0, std=1.0, p_samples=1000, q_samples=1000),
    )
    common = {"relation": Relation.RETRAINED, "delta": 1e-5, "confidence": 0.95}
    svg = plots.audit_bounds(
        [Finding(attack="limited", evidence=near, **common), Finding(attack="unlimited", evidence=far, **common)], claimed=1.0
    )  # fmt: skip
    assert svg.count(">no limit<") == 1
    alone = plots.audit_bounds([Finding(attack="limited", evidence=near, **common)], claimed=1.0)
    assert "no limit" not in alone


def test_where_nothing_is_claimed_no_finding_exceeds_it_and_no_line_is_drawn():
    near = Counts(positives=1000, true_positives=900, negatives=1000, false_positives=300)
    found = Finding(attack="near", relation=Relation.RETRAINED, delta=1e-5, confidence=0.95, evidence=near)
    nothing, zero = (plots.audit_bounds([found], claimed=claimed) for claimed in (None, 0.0))
    assert found.epsilon > 0
    exceeds = plots._COLOURS[1].lower()
    assert exceeds in zero
    assert exceeds not in nothing
    assert zero.count("<path") > nothing.count("<path")
