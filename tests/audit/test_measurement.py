"""A measurement carries what was counted: its numbers are computed again by whoever reads it, and refute nothing."""

import json
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from expunge import Relation
from expunge.audit import Audit, Counts, Finding, Measurement, Shares
from expunge.errors import MalformedAudit

SEEN = Shares(hits=17, of=20, null_hits=9, null_of=30)
MEASURED = Measurement(
    name="accuracy on rows forgotten", unit="share", direction="higher leaks more", confidence=0.9, evidence=SEEN
)
FOUND = Finding(
    attack="a", relation=Relation.RETRAINED, delta=1e-5, confidence=0.95,
    evidence=Counts(positives=10, true_positives=9, negatives=10, false_positives=1),
)  # fmt: skip


def audit(**fields):
    return Audit(**{"certificate": None, "findings": (FOUND,), "details": {}} | fields)


def test_value_null_and_limits_are_those_of_exact_binomial_intervals():
    own, null = binomtest(17, 20).proportion_ci(0.9), binomtest(9, 30).proportion_ci(0.9)
    expected = {
        "value": 17 / 20, "low": own.low, "high": own.high, "null": 0.3, "null_low": null.low, "null_high": null.high,
    }  # fmt: skip
    assert MEASURED.values == pytest.approx(expected, abs=1e-6)
    assert (MEASURED.value, MEASURED.null) == (17 / 20, 0.3)


def test_at_the_ends_the_limits_are_the_ends():
    ends = Shares(hits=0, of=5, null_hits=5, null_of=5).values(0.95)
    assert (ends["value"], ends["low"], ends["null"], ends["null_high"]) == (0.0, 0.0, 1.0, 1.0)


def test_it_survives_the_file_and_an_audit_without_any_is_written_as_before(tmp_path):
    audit(measurements=(MEASURED,)).save(tmp_path / "with.json")
    assert Audit.load(tmp_path / "with.json").measurements == (MEASURED,)
    assert set(json.loads(audit().to_json())) == {"schema", "certificate", "findings", "details"}
    audit().save(tmp_path / "without.json")
    assert Audit.load(tmp_path / "without.json").measurements == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["values"].update(value=0.5), "follow from the evidence"),
        (lambda m: m["values"].update(null_high=True), "follow from the evidence"),
        (lambda m: m["evidence"].update(hits=16), "follow from the evidence"),
        (lambda m: m["evidence"].update(hits=21), "hits=21 exceeds of=20"),
        (lambda m: m["evidence"].update(of=10**9), "of must be at most"),
        (lambda m: m["evidence"].update(kind="guess"), "kind 'guess' is not known"),
        (lambda m: m.update(confidence=0.2), "confidence"),
        (lambda m: m.update(name=""), "name must be a text"),
        (lambda m: m.update(verdict="sound"), "a measurement has the fields"),
        (lambda m: m.pop("unit"), "a measurement has the fields"),
    ],
)
def test_a_changed_measurement_is_refused_with_the_whole_file(tmp_path, change, words):
    content = json.loads(audit(measurements=(MEASURED,)).to_json())
    change(content["measurements"][0])
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(MalformedAudit, match=words):
        Audit.load(tmp_path / "a.json")


def test_measurements_that_are_no_list_or_too_many_are_refused(tmp_path):
    for wrong in ({}, [MEASURED.to_dict()] * 1001):
        content = json.loads(audit().to_json()) | {"measurements": wrong}
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(MalformedAudit, match="measurements must be a list of at most 1000"):
            Audit.load(tmp_path / "a.json")


def test_a_measurement_makes_no_audit_of_what_was_not_tested():
    """A number beside its null is no finding: without one the audit stays no pass."""
    from expunge import Retrain, guarantee

    empty = replace(audit(measurements=(MEASURED,)), findings=())
    claim = guarantee(Retrain(), delta=1e-5)
    assert empty.refuting(claim) == []
    assert "there is no finding" in empty.untested(claim)


def test_measurements_of_ones_own_follow_those_of_the_audit():
    own = replace(MEASURED, name="by hand")
    assert audit(measurements=(MEASURED,)).with_measurements(own, own).measurements == (MEASURED, own, own)
    with pytest.raises(TypeError, match="an audit takes measurements, not 'accuracy'"):
        audit().with_measurements("accuracy")
    with pytest.raises(ValueError, match="at most 1000 measurements"):
        audit(measurements=(MEASURED,)).with_measurements(*[MEASURED] * 1000)
