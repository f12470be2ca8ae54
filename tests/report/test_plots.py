"""Names in plots are shown as they are: a dollar is a dollar, a backslash a backslash."""

import pytest

from expunge.accounting import Relation
from expunge.audit import Finding, OneRun
from expunge.report import Comparison, Lane, plots

NAMES = ["$5 to $10 a request", r"lr $\frac$ 2", r"$\undefined{x}$", "a $ b", r"\alpha $$", "50 % & <b>"]


def lane(label: str) -> Lane:
    return Lane(
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
def test_a_lanes_name_is_shown_as_it_is(name: str) -> None:
    comparison = Comparison(title="t", epsilon=1.0, delta=1e-5, seeds=1, epochs=1, lanes=[lane(name)], environment={})
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
