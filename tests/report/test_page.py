"""A page by its content: for each kind of claim the rows that say something, and none that says nothing."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import expunge as ex
from expunge.audit import Audit, Counts, Finding, OneRun
from expunge.audit.measurement import Measurement, Shares
from expunge.errors import ClaimRefused, OutputError
from expunge.report import Comparison, Curve, render, save
from test_vectors import BY_NAME

OLD = sorted((Path(__file__).parent.parent / "certificates" / "v1").glob("*.json"))
VALID = {name: ex.Certificate(v["certificate"]) for name, v in BY_NAME.items() if v["result"] == "valid"}
SLOW = {
    "dp_training, one example, center",
    "dp_training, center",
}  # the numbers of their retrained readings, computed anew
ALL = {name: c for name, c in VALID.items() if name not in SLOW} | {
    f"old {path.stem}": ex.Certificate.load(path) for path in OLD
}
NOISY, EXACT, NONE = "gradient_clipping, retrained", "replay, retrained", "undeclared_features, retrained"


@cache
def page_of(name: str) -> str:
    return render(ALL[name])


def rows(page: str) -> dict[str, str]:
    return dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page, re.DOTALL))


def table(page: str, title: str) -> str:
    return page.split(f"<h3>{title}</h3>")[1].split("</section>")[0]


def curve(name: str, value: float, **more: object) -> Curve:
    runs = [[0.1, value], [0.1, value]]
    return Curve(name=name, label=name, kind="none", epsilon=1.0, mu=0.268, steps=1, held_out=runs, forget=runs, **more)  # type: ignore[arg-type]


def comparison(*curves: Curve) -> Comparison:
    return Comparison(title="Some runs", epsilon=1, delta=1e-5, seeds=2, epochs=1, curves=curves, environment={})


def finding(certificate: ex.Certificate, attack: str) -> Finding:
    seen = Counts(positives=1000, true_positives=10, negatives=1000, false_positives=10)
    return Finding(attack=attack, relation=certificate.claim.relation, delta=0.5, confidence=0.95, evidence=seen)


def audit(certificate: ex.Certificate, *attacks: str) -> Audit:
    found = tuple(finding(certificate, attack) for attack in attacks)
    return Audit(certificate=certificate.content["digest"], findings=found, details={})


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_page_is_whole_and_needs_nothing_from_elsewhere(name: str):
    page = page_of(name)
    assert not re.search(
        r"<script|<link|<img|<iframe|@import|url\((?!#)|src=|href=\"(?!#)", page.replace('xlink:href="#', "")
    )
    assert not re.search(r"<t[dh][^>]*>\s*</t[dh]>", page.replace('not measured</td><td class="n"></td>', ""))
    assert not {"", "None", "nan", "inf", "[]", "{}", "()"} & set(rows(page).values())
    assert page.index("What this does not mean") < page.index("For engineers") < page.index("<h3>The claim</h3>")
    for heading in ("The run", "Settings", "Digests"):
        assert f"<h3>{heading}</h3>" in page
    assert not re.search(r"\bsign", page.lower())  # there is no signature yet


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_page_has_the_rows_of_its_kind_alone(name: str):
    certificate = ALL[name]
    page, held = page_of(name), rows(page_of(name))
    limited = certificate.claim.kind is ex.Kind.EPSILON_DELTA
    drawn = certificate.record.noise.count > 0
    assert ("<b>ε = " in page) is limited
    assert ("Asked: ε" in page or "No budget was named" in page) is limited
    assert ("Privacy profile" in page) is limited
    assert ("Someone who is shown either" in page) is (certificate.claim.kind is not ex.Kind.NONE)
    assert ("No limit is proven" in page) is (certificate.claim.kind is ex.Kind.NONE)
    assert ('class="warn verdict"' in page) is (certificate.claim.kind is ex.Kind.NONE)
    for row in ("noise vectors drawn", "noise, self-test", "noise, generator", "noise, stream", "centre of the noise"):
        assert (row in held) is drawn
    assert ("gradient steps under the claim" in held) is (certificate.record.steps_done > 0)
    assert ("buffers" in held) is (certificate.record.buffers != "none")
    assert held["mechanism"] == certificate.mechanism.name


def test_an_exact_page_does_not_speak_of_the_budget_that_was_asked():
    asked = next(c for c in ALL.values() if c.claim.kind is ex.Kind.EXACT and c.content["asked"])
    assert "1e-05" not in render(asked)


def test_what_the_caller_tells_are_rows_and_what_is_not_told_is_not_there():
    certificate = VALID[NOISY]
    names = {"Organisation", "Model", "Request", "Request received", "Carried out"}
    assert not names & rows(render(certificate)).keys()
    held = rows(render(certificate, organisation="Us <b>", model="m 2", reference="R/7", received="2026-11-20"))
    assert (held["Organisation"], held["Model"], held["Request"]) == ("Us &lt;b&gt;", "m 2", "R/7")
    assert held["Request received"] == "2026-11-20"
    issued = certificate.content["issued"]
    assert issued.startswith("2026-11-26")
    assert held["Certificate issued"] == f"2026-11-26, {issued[11:16]} UTC, 6 days later"
    assert rows(render(certificate, received="2026-11-26"))["Certificate issued"].endswith("UTC, the same day")
    assert "Carried out" not in held


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"organisation": "two\nlines"}, "organisation must be one line"),
        ({"model": " "}, "model must be one line"),
        ({"received": "20261120"}, "received must be a day such as '2026-11-24', not '20261120'"),
        ({"received": "2026-02-30"}, "received must be a day"),
        ({"received": "2026-11-27"}, "received='2026-11-27' lies after 2026-11-26"),
    ],
)
def test_what_is_no_line_or_no_day_is_refused_and_nothing_written(told: dict[str, str], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(message)):
        save(VALID[NOISY], tmp_path / "page.html", **told)
    assert not list(tmp_path.iterdir())


def summary(of: ex.Certificate, /, **changes: object) -> dict[str, object]:
    accuracy = {"original": {"held_out": 0.9, "forget": 1.0}, "released": {"held_out": 0.8, "forget": 0.7}}
    plain = {"certificate": of.content["digest"], "accuracy": accuracy, "seconds": 12.5}
    return plain | {"started": "2026-11-26T08:00:00+00:00"} | changes


def test_a_summary_beside_the_certificate_is_shown(tmp_path: Path):
    certificate = VALID[NOISY]
    certificate.save(tmp_path / "certificate.json")
    assert "after: the released model" not in render(tmp_path / "certificate.json")
    (tmp_path / "summary.json").write_text(json.dumps(summary(certificate)))
    page = render(tmp_path / "certificate.json")
    accuracy = table(page, "Accuracy")
    for shown in ("0.900", "1.000", "0.800", "0.700", "before: the trained model", "do not publish"):
        assert shown in accuracy
    assert accuracy.count("not measured") == 2  # null start, retraining
    assert rows(page)["seconds, as measured"] == "12.5"
    assert rows(page)["Carried out"] == "2026-11-26, 08:00 UTC"
    assert "after: the released model" not in render(certificate)  # of no file: nothing lies beside it


def test_a_noisy_page_says_that_its_controls_were_not_measured_and_an_exact_one_has_none():
    assert table(page_of(NOISY), "Accuracy").count("not measured") == 2
    assert table(page_of("dp_training, retrained"), "Accuracy").count("not measured") == 1  # it has no null start
    for name in (EXACT, NONE):
        assert "<h3>Accuracy</h3>" not in page_of(name)
        assert "seconds, as measured" not in rows(page_of(name))


def test_a_page_of_what_may_be_published_carries_no_warning():
    certificate = VALID[NOISY]
    page = render(certificate, summary=summary(certificate, accuracy={"released": {"held_out": 0.8}}))
    assert "0.800" in table(page, "Accuracy")
    assert "do not publish" not in page
    assert "before" not in table(page, "Accuracy").replace("before recovery", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certificate": "sha256:00"}, "tells of 'sha256:00', not of this certificate"),
        (
            {"accuracy": {"released": {"held_out": 1.5}}},
            "accuracy.released.held_out must be a finite number from 0 to 1",
        ),
        ({"accuracy": {"released": {"held_out": True}}}, "accuracy.released.held_out must be"),
        ({"accuracy": []}, "accuracy must be an object"),
        ({"seconds": -1}, "seconds must be a finite number"),
        ({"started": "now"}, "started must be a moment"),
    ],
)
def test_a_summary_of_another_certificate_or_out_of_range_is_refused(changes: dict[str, object], message: str):
    with pytest.raises(OutputError, match=re.escape(message)):
        render(VALID[NOISY], summary=summary(VALID[NOISY], **changes))


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_a_summary_that_is_no_whole_object_is_refused(text: str, tmp_path: Path):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(OutputError, match=r"s\.json is not"):
        render(VALID[NOISY], summary=tmp_path / "s.json")


def test_null_start_and_retraining_are_those_of_the_certificates_own_method():
    certificate = VALID[NOISY]
    both = comparison(
        curve("gradient_clipping", 0.55),
        curve("null_start", 0.5, null_of="gradient_clipping"),
        curve("retrain", 0.9, fresh=True),
    )
    page = render(certificate, both)
    shown = table(page, "Accuracy")
    assert "0.500 ± 0.000" in shown
    assert "0.900 ± 0.000" in shown
    assert "not measured" not in shown
    assert "it is not refuted" in page
    other = render(VALID["model_clipping, retrained"], both)  # whose null start was not run
    assert table(other, "Accuracy").count("not measured") == 1
    assert "would refute the certificate" not in other


def test_a_comparison_needs_no_method_by_name():
    page = render(VALID[NOISY], comparison(curve("mine", 0.7)))
    assert "<td>mine</td>" in page
    assert table(page, "Accuracy").count("not measured") == 2


def test_one_run_shows_no_spread():
    one = Curve(
        name="mine",
        label="mine",
        kind="exact",
        epsilon=0.0,
        mu=0.0,
        steps=1,
        held_out=[[0.1, 0.7]],
        forget=[[0.1, 0.6]],
    )
    page = render(VALID[NOISY], comparison(one))
    assert '<td class="n">0.700</td>' in page
    assert "0.700 ±" not in page


def test_an_audit_explains_each_attack_once_and_says_what_came_of_it():
    certificate = VALID[NOISY]
    attacks = ("two worlds, a flat loss: output, threshold", "two worlds, a flat loss: density ratio", "by hand")
    page = render(certificate, audit=audit(certificate, *attacks))
    assert page.count("From the released weights the attack guesses the start.") == 1
    assert page.index("3 attacks tried to refute the claim, and none did.") < page.index("For engineers")
    alone = render(certificate, audit=audit(certificate, "by hand"))
    assert "One attack tried to refute the claim and did not." in alone
    assert "attacks tried" not in render(certificate)
    nothing = render(certificate, audit=Audit(certificate=certificate.content["digest"], findings=(), details={}))
    assert "so they say nothing" in nothing
    assert "Nothing could be tested." in nothing


def test_measurements_are_a_table_of_the_engineers_and_leave_no_trace_where_there_are_none():
    certificate = VALID[NOISY]
    measured = Measurement(
        name="accuracy on rows learned and forgotten, beside rows never seen", unit="share of right answers",
        direction="above its null: more was kept", confidence=0.9,
        evidence=Shares(hits=30, of=40, null_hits=20, null_of=40),
    )  # fmt: skip
    without = audit(certificate, "by hand")
    page = render(certificate, audit=replace(without, measurements=(measured, replace(measured, name="by hand"))))
    assert page.index("For engineers") < page.index(measured.name)
    row, other = (page.split(f"<td>{name}")[1].split("</tr>")[0] for name in (measured.name, "by hand <"))
    low, high = measured.values["low"], measured.values["high"]
    assert f"0.750 ({low:.3f} to {high:.3f})" in row
    assert 0.6 < low < 0.75 < high < 0.9
    assert f"0.500 ({measured.values['null_low']:.3f} to " in row
    for words in (
        "gives the right label to rows that were learned",
        "share of right answers",
        "Above its null: more was kept.",
        ">0.9<",
    ):
        assert words in row
    assert "right label" not in other
    assert "Measured beside the attacks" not in render(certificate, audit=without)


@pytest.mark.parametrize(
    "name", ["answers about alias 7, k=4 in context", "nearest class means of class 3, k=1 rows a class"]
)
def test_what_context_gives_back_is_told_with_whose_fault_it_is_and_changes_no_verdict(name: str):
    certificate = VALID[NOISY]
    measured = Measurement(
        name=name, unit="share of right answers", direction="above its null: the excess was left", confidence=0.95,
        evidence=Shares(hits=40, of=40, null_hits=40, null_of=40),
    )  # fmt: skip
    before = audit(certificate, "by hand")
    page = render(certificate, audit=before.with_measurements(measured))
    row = page.split(f"<td>{name}")[1].split("</tr>")[0]
    for words in ("a model that never saw the concept", "was left by the unlearner", "neither breaks a certificate"):
        assert words in row
    told = "One attack tried to refute the claim and did not."
    assert (told in page) is (told in render(certificate, audit=before)) is True
    alone = replace(before, findings=()).with_measurements(measured)
    assert "Nothing could be tested." in render(certificate, audit=alone)


def test_an_audit_that_can_show_nothing_of_a_claim_of_nothing_is_drawn():
    certificate = VALID[EXACT]
    few = OneRun(canaries=1000, guesses=1, correct=1)
    found = Finding(attack="few", relation=certificate.claim.relation, delta=0.5, confidence=0.95, evidence=few)
    assert found.ceiling == 0
    done = Audit(certificate=certificate.content["digest"], findings=(found,), details={})
    assert "Nothing could be tested." in render(certificate, audit=done)


def test_a_refuted_certificate_has_no_page():
    certificate = VALID[EXACT]
    seen = OneRun(canaries=1000, guesses=1000, correct=1000)
    found = Finding(attack="x", relation=certificate.claim.relation, delta=1e-5, confidence=0.95, evidence=seen)
    with pytest.raises(ClaimRefused):
        render(certificate, audit=Audit(certificate=certificate.content["digest"], findings=(found,), details={}))


def test_noise_beside_what_survives_comes_with_a_verdict_and_is_left_out_where_nothing_is_hidden():
    page = render(VALID[NOISY])
    layers = table(page, "How much of the training is left")
    assert re.search(
        r'<td class="n">[0-9.,]+</td><td>(noise|mostly noise|may hold more of the training than noise)</td>', layers
    )
    assert "e+" not in layers
    for name in (EXACT, NONE, "measured_residual, retrained", "dp_training, retrained"):
        assert "How much of the training is left" not in render(VALID[name])


def test_a_long_schedule_is_shown_by_its_ends():
    steps = VALID["scheduled_gradient_clipping, retrained"].mechanism
    held = rows(render(VALID["scheduled_gradient_clipping, retrained"]))
    assert held["noise_std"] == ", ".join(f"{s:.9g}" for s in steps.noise_std)  # type: ignore[union-attr]
    from expunge.report.engineering import _shown

    assert _shown(tuple(float(k) for k in range(100))) == "0, 1, …, 99 (100 values)"


def test_a_page_is_written_to_a_new_file_from_files(tmp_path: Path):
    certificate = VALID[NOISY]
    certificate.save(tmp_path / "c.json")
    audit(certificate, "by hand").save(tmp_path / "a.json")
    (tmp_path / "curves.json").write_text(json.dumps(comparison(curve("retrain", 0.9, fresh=True)).to_dict()))
    told = {"audit": tmp_path / "a.json", "comparison": tmp_path / "curves.json", "organisation": "Us"}
    path = ex.report.save(tmp_path / "c.json", tmp_path / "page.html", **told)
    assert path.read_text(encoding="utf-8") == render(
        certificate, comparison(curve("retrain", 0.9, fresh=True)), audit(certificate, "by hand"), organisation="Us"
    )
    with pytest.raises(OutputError, match="exists already"):
        ex.report.save(certificate, path)
