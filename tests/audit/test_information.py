"""I(output; Z): the number, its bias, the permutation test that every reader repeats, and the file that carries it."""

import itertools
import json
from dataclasses import replace
from math import comb, log
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency, hypergeom, norm

from expunge.audit import Audit, Measurement, Shares, Tables, predicted_information
from expunge.audit.information import (
    _hypergeometric,
    _limits,
    _margins,
    mutual_information,
    permutation_p,
    table_of,
)
from expunge.errors import MalformedAudit

VECTORS = Path(__file__).parents[1] / "vectors" / "audits"
SEEN = Tables(forgotten=(2, 30, 8), others=(40, 41, 39), null_forgotten=(10, 18, 12), null_others=(41, 40, 39))
MEASURED = Measurement(name="information", unit="nats", direction="above: more", confidence=0.9, evidence=SEEN)
TABLES = [[[2, 30, 8], [40, 41, 39]], [[10, 18, 12], [41, 40, 39]], [[5, 0], [0, 5]], [[0, 3, 1], [0, 2, 9]]]


@pytest.mark.parametrize("table", TABLES)
def test_information_is_half_the_likelihood_ratio_statistic_a_row(table: list[list[int]]) -> None:
    some = [[row[k] for k in range(len(row)) if table[0][k] + table[1][k]] for row in table]
    expected = chi2_contingency(some, correction=False, lambda_="log-likelihood").statistic / (2 * np.sum(table))
    assert mutual_information(table) == pytest.approx(expected, rel=1e-12)


def test_it_is_zero_for_proportional_rows_and_the_entropy_of_z_for_separate_labels() -> None:
    assert mutual_information([[2, 4, 6], [3, 6, 9]]) == pytest.approx(0.0, abs=1e-16)
    assert mutual_information([[7, 0], [0, 7]]) == pytest.approx(log(2), rel=1e-14)


def test_values_hold_both_tables_with_bias_and_limits() -> None:
    found = MEASURED.values
    for name, table in (("", TABLES[0]), ("null_", TABLES[1])):
        value = found[name.rstrip("_") or "value"]
        assert value == mutual_information(table)
        assert found[f"{name}bias"] == 2 / (2 * 160)
        assert found[f"{name}p_value"] == permutation_p(table)
        assert found[f"{name}low"] <= value <= found[f"{name}high"]
    assert found["low"] > 0
    assert found["null_low"] == 0
    assert found["p_value"] == 0.001
    assert found["null_p_value"] > 0.2


def test_the_stated_bias_is_that_of_the_plug_in_value_where_nothing_is_told() -> None:
    """Over 4,000 tables of independent labels; labels that never occur have none."""
    rng = np.random.default_rng(0)
    found = [
        mutual_information([rng.multinomial(60, [0.25] * 4), rng.multinomial(140, [0.25] * 4)]) for _ in range(4000)
    ]
    assert np.mean(found) == pytest.approx(3 / (2 * 200), rel=0.05)
    rare = Tables(forgotten=(5, 5, 0), others=(6, 4, 0), null_forgotten=(5, 5, 0), null_others=(6, 4, 0))
    assert rare.values(0.95)["bias"] == 1 / (2 * 20)


def exact_p(table: list[list[int]]) -> float:
    """Over all tables with the same margins, each with its probability."""
    columns, marked = [a + b for a, b in zip(*table, strict=True)], sum(table[0])
    seen, total, reached = mutual_information(table), 0, 0
    for top in itertools.product(*(range(c + 1) for c in columns)):
        if sum(top) == marked:
            ways = np.prod([comb(c, t) for c, t in zip(columns, top, strict=True)], dtype=object)
            total += ways
            drawn = [list(top), [c - t for c, t in zip(columns, top, strict=True)]]
            reached += ways if mutual_information(drawn) >= seen - 1e-12 else 0
    return float(reached / total)


@pytest.mark.parametrize(
    "table", [[[6, 2, 2], [3, 8, 9]], [[4, 4], [5, 5]], [[7, 1], [4, 8]], [[0, 3, 1], [2, 2, 9]], [[1, 0], [3, 16]]]
)
def test_permutations_find_the_exact_p_value(table: list[list[int]]) -> None:
    """Within 4 standard deviations of 999 draws; ties count as reached, so that it is never too small on average."""
    exact = exact_p(table)
    assert permutation_p(table) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 999) ** 0.5 + 1e-3)


def test_drawn_margins_are_hypergeometric() -> None:
    drawn = _margins(np.array([300, 200, 50, 7]), 120)
    assert (drawn.sum(1) == 120).all()
    for k, size in enumerate((300, 200, 50, 7)):
        law = hypergeom(557, size, 120)
        assert drawn[:, k].mean() == pytest.approx(law.mean(), abs=4 * law.std() / 999**0.5)
        assert drawn[:, k].std() == pytest.approx(law.std(), rel=0.1)
    one = _margins(np.array([1]), 1)
    assert (one == 1).all()


def test_inversion_has_the_law_of_each_number_of_marked_rows() -> None:
    """Evenly spaced numbers in the place of coins: shares are the probabilities to a step, whatever stands beside them."""
    marked = np.tile(np.arange(6), 1000)
    found = _hypergeometric(np.repeat((np.arange(1000) + 0.5) / 1000, 6), 5, 3, marked)
    for m in range(6):
        shares = np.bincount(found[marked == m], minlength=4) / 1000
        assert shares == pytest.approx(hypergeom(5, 3, m).pmf(range(4)), abs=2e-3)


def test_the_test_keeps_its_level_where_nothing_is_told() -> None:
    """150 tables of independent labels: p ≤ 0.1 in at most a tenth, to four standard deviations."""
    rng = np.random.default_rng(1)
    tables = [[rng.multinomial(30, [0.5, 0.3, 0.2]), rng.multinomial(70, [0.5, 0.3, 0.2])] for _ in range(150)]
    found = np.array([permutation_p(table) for table in tables])
    assert (found <= 0.1).mean() <= 0.1 + 4 * (0.09 / 150) ** 0.5
    assert (found <= 0.5).mean() >= 0.3


@pytest.mark.parametrize(
    "laws",
    [([0.25] * 4, [0.25] * 4), ([0.4, 0.2, 0.2, 0.2], [0.2, 0.4, 0.2, 0.2]), ([0.9, 0.05, 0.05], [0.05, 0.5, 0.45])],
)
def test_limits_hold_with_their_confidence(laws: tuple[list[float], list[float]]) -> None:
    """100 forgotten and 300 others: the I of the two laws lies within them in nine cases of ten, to four deviations."""
    rng, draws = np.random.default_rng(2), 400
    truth = mutual_information([np.array(laws[0]) * 1e9, np.array(laws[1]) * 3e9])
    held = 0
    for _ in range(draws):
        top, rest = (tuple(rng.multinomial(n, law).tolist()) for n, law in zip((100, 300), laws, strict=True))
        found = Tables(forgotten=top, others=rest, null_forgotten=top, null_others=rest)
        low, high = _limits_of(found)
        held += low <= truth <= high
    assert held / draws >= 0.9 - 4 * (0.09 / draws) ** 0.5


def _limits_of(tables: Tables) -> tuple[float, float]:
    counts = np.array([tables.forgotten, tables.others])
    return _limits(mutual_information(counts), counts, 0.9)


def test_limits_are_those_of_the_large_sample_law() -> None:
    """By hand from the shares; where a chi-square test finds nothing, 0 below."""
    counts = np.array(TABLES[0])
    p = counts / 160
    logs = np.log(p / (p.sum(1, keepdims=True) * p.sum(0)))
    value = float((p * logs).sum())
    width = norm.ppf(0.95) * ((float((p * logs**2).sum()) - value**2) / 160 + 2 / (2 * 160**2)) ** 0.5
    assert _limits(value, counts, 0.9) == pytest.approx((value - 2 / 320 - width, value + width), rel=1e-10)
    assert chi2_contingency(TABLES[1], correction=False).pvalue > 0.05
    assert MEASURED.values["null_low"] == 0.0


def test_large_counts_are_drawn_too_and_small_p_values_end_at_a_thousandth() -> None:
    table = [[5_000] * 10, [10_000] * 9 + [7_000]]
    assert permutation_p(table) == 0.001
    assert permutation_p([[2_000] * 10, [6_000] * 10]) == 1.0


def audit(*measurements: Measurement) -> Audit:
    return Audit(certificate=None, findings=(), details={}, measurements=measurements)


def test_a_stored_file_is_read_for_ever() -> None:
    """One measurement of shares, as every file before had it, and one of tables: the same p-values on any machine."""
    shares, tables = Audit.load(VECTORS / "measurements.json").measurements
    assert shares.evidence == Shares(hits=17, of=20, null_hits=9, null_of=30)
    assert tables == MEASURED
    assert tables.values["null_p_value"] == 0.345


def test_it_survives_the_file_beside_shares(tmp_path) -> None:
    audit(MEASURED).save(tmp_path / "a.json")
    (found,) = Audit.load(tmp_path / "a.json").measurements
    assert found == MEASURED
    assert json.loads((tmp_path / "a.json").read_text())["measurements"][0]["evidence"]["kind"] == "tables"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["values"].update(value=0.5), "follow from the evidence"),
        (lambda m: m["values"].update(p_value=0.002), "follow from the evidence"),
        (lambda m: m["values"].pop("bias"), "follow from the evidence"),
        (lambda m: m["evidence"]["forgotten"].__setitem__(0, 3), "as many rows of either sort"),
        (lambda m: m["evidence"].update(forgotten=[2, 38]), "of the same labels"),
        (lambda m: m["evidence"].update(forgotten=[2, -30, 8]), r"forgotten\[1\] must be a whole number of at least 0"),
        (lambda m: m["evidence"].update(forgotten=[2, 30.0, 8]), r"forgotten\[1\] must be a whole number"),
        (lambda m: m["evidence"].update(forgotten=[0, 0, 0]), "rows of forgotten"),
        (lambda m: m["evidence"].update(forgotten="230"), "one count for each label"),
        (lambda m: m["evidence"].update(others=[10**7, 0, 0]), "at most 1000000"),
        (lambda m: m["evidence"].update(others=[1] * 1001), "at most 1000 labels"),
        (lambda m: m["evidence"].pop("others"), "others"),
        (lambda m: m["evidence"].update(kind=["tables"]), "is not known"),
    ],
)
def test_a_changed_table_is_refused_with_the_whole_file(tmp_path, change, words) -> None:
    content = json.loads(audit(MEASURED).to_json())
    change(content["measurements"][0])
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(MalformedAudit, match=words):
        Audit.load(tmp_path / "a.json")


def test_a_file_that_would_keep_its_reader_busy_is_refused_before_anything_is_computed(tmp_path) -> None:
    large = [1000] * 1000
    fields = MEASURED.to_dict()
    fields["evidence"] |= dict.fromkeys(("forgotten", "others", "null_forgotten", "null_others"), large)
    content = json.loads(audit(MEASURED).to_json()) | {"measurements": [fields] * 20}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(MalformedAudit, match="the numbers of 20 measurements would take about"):
        Audit.load(tmp_path / "a.json")


def test_labels_are_counted_and_measured() -> None:
    released, reference = (np.array([1, 1, 2]), [0, 1, 2, 2]), ([1, 0, 2], [0, 1, 2, 2])
    found = predicted_information(
        released, reference, labels=3, against="held-out rows; reference: retrained", confidence=0.9
    )
    assert found.evidence == Tables(
        forgotten=(0, 2, 1), others=(1, 1, 2), null_forgotten=(1, 1, 1), null_others=(1, 1, 2)
    )
    assert (
        found.name
        == "information of predicted labels on which row was forgotten, beside held-out rows; reference: retrained"
    )
    assert found.value > found.null
    assert replace(found, confidence=0.95).value == found.value


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ([0.0, 1.0], TypeError, "forgotten must hold predicted labels, whole numbers, not float64"),
        ([0, 3], ValueError, "forgotten must hold labels from 0 to 2, not 0 to 3"),
        ([], TypeError, "whole numbers"),
        ([[0, 1]], ValueError, "a label for each row"),
    ],
)
def test_what_is_no_label_is_refused(labels, error, words) -> None:
    with pytest.raises(error, match=words):
        table_of(labels, [0, 1, 2], labels=3)
