"""What no certificate may state or hold: other kinds, free text, more than a reader can read."""

import dataclasses
import json

import pytest
import torch

import second_verifier
from expunge import Budget, Certificate, Kind, OutputPerturbation, ScheduledGradientClipping, issue, unlearn, verify
from expunge.accounting import MECHANISMS
from expunge.certificate import claim
from expunge.certificate.format import MOST_BYTES, MOST_COMMAS
from expunge.errors import CertificateError, ClaimRefused, MalformedCertificate, RunError
from patience import patience
from test_vectors import BY_NAME
from vectors import faults, make

OTHER_KINDS = [kind for kind in Kind if kind not in (Kind.EXACT, Kind.EPSILON_DELTA, Kind.NONE)]


def of_kind(kind):
    return type("Other", (OutputPerturbation,), {"kind": kind})(init_clip=1.0, noise_std=2.0)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_issue_refuses_a_kind_that_is_no_proof(kind):
    with pytest.raises((RunError, ValueError, TypeError), match="kind"):
        issue(make.record_of(of_kind(kind)), released=make.RELEASED)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_verify_refuses_a_mechanism_whose_kind_is_no_proof(kind, monkeypatch):
    good = Certificate(BY_NAME["output_perturbation, retrained"]["certificate"])
    verify(good)
    monkeypatch.setattr(OutputPerturbation, "kind", kind)
    with pytest.raises(ClaimRefused, match="proves"):
        verify(good)
    assert MECHANISMS["output_perturbation"].kind is kind


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_verify_refuses_a_claim_of_such_a_kind(kind):
    content = faults.patched(
        BY_NAME["output_perturbation, retrained"]["certificate"], [faults.set_("/claim/kind", str(kind))]
    )
    with pytest.raises(
        (MalformedCertificate, ClaimRefused), match=r"claim\.kind must be one of|claim is of kind 'behavioural'"
    ):
        verify(Certificate(make.redigested(content)))


def test_a_text_longer_than_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_bytes(b"[" * (MOST_BYTES + 1))
    with patience(0.1), pytest.raises(MalformedCertificate, match="at most 8388608 bytes"):
        verify(path)


def test_a_key_given_twice_is_found_at_once_among_hundreds_of_thousands(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text("{" + ",".join(f'"{k}":0' for k in range(300_000)) + ',"299999":1}')
    with patience(0.5), pytest.raises(MalformedCertificate, match="a key is repeated: '299999'"):
        verify(path)


@pytest.mark.parametrize("entry", ["0", "0.1", "[]", '"a"', '["a",1]'])
@pytest.mark.parametrize("path", ["/run/noise/std", "/run/layers", "/profile", "/run/public"])
def test_a_hostile_list_is_refused_in_seconds(path, entry):
    many = min(MOST_COMMAS // (1 + entry.count(",")) - 200, (MOST_BYTES - 20_000) // (len(entry) + 2))
    patch = [faults.set_(path, [json.loads(entry)] * many)]
    text = json.dumps(make.redigested(faults.patched(BY_NAME["retrain, retrained"]["certificate"], patch)))
    assert len(text) < MOST_BYTES
    with patience(1.5), pytest.raises(CertificateError):
        verify(Certificate.from_json(text))


def test_more_values_than_the_limit_are_refused_unread():
    text = '{"schema": [' + "0," * (MOST_COMMAS + 1) + "0]}"
    with pytest.raises(MalformedCertificate, match="at most 400000 commas"):
        Certificate.from_json(text)
    with pytest.raises(second_verifier.Refused, match="commas"):
        second_verifier.verify(text.encode())


def test_the_largest_certificates_verify_in_seconds():
    steps = 100_000
    mechanism = ScheduledGradientClipping(
        init_clip=1.0, grad_clip=1e-3, learning_rate=[0.01 + 1e-9 * t for t in range(steps)], weight_decay=0.5, noise_std=[0.5 + 1e-7 * t for t in range(steps)]
    )  # fmt: skip
    issued = issue(make.record_of(mechanism), released=make.RELEASED)
    text = issued.to_json()
    assert 0.5 * MOST_BYTES < len(text) <= MOST_BYTES
    with patience(1.5):
        verify(Certificate.from_json(text))


@pytest.mark.parametrize("digits", [0.5, 1 / 3])
def test_a_schedule_that_no_certificate_can_hold_is_refused_before_the_run(digits):
    """Of few digits it has too many commas, of many too many bytes."""

    def refuse(*_):
        raise AssertionError("it was run")

    steps = 140_000
    mechanism = ScheduledGradientClipping(
        init_clip=1.0, grad_clip=1e-3, learning_rate=[digits] * steps, weight_decay=0.5, noise_std=[digits] * steps
    )
    with pytest.raises(
        ValueError, match=r"of 140000 steps has schedules of \d+ bytes and 4\d+ commas, and no certificate"
    ):
        unlearn(torch.nn.Linear(2, 1), (torch.zeros(4, 2), torch.zeros(4)), mechanism, loss=refuse)


def test_issue_hands_out_nothing_that_would_not_verify():
    record = make.record_of(make.BASES["gradient_clipping"])
    for changes in (
        {"environment": {"a": "line\nline"}},
        {"buffers": "a poem"},
        {"center": "sha256:zz"},
        {"certified": "sha256:zz"},
    ):
        with pytest.raises(RunError, match="no certificate can be issued that would verify"):
            issue(dataclasses.replace(record, **changes), released=make.RELEASED)
    with pytest.raises(RunError, match=r"recovery must be a text"):
        issue(record, released=make.RELEASED, recovery="a\u202eb")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": ()}, "noise reached 12 of 0"),
        ({"layers": (("a", 6), ("a", 6))}, "a name stands twice"),
        ({"public": ("bias",)}, "a name stands twice"),
        ({"weights_dtype": "float16"}, "no noise is added in float16"),
    ],
)
def test_a_record_that_contradicts_itself_gets_no_certificate(changes, reason):
    with pytest.raises(RunError, match=reason):
        issue(make.record_of(make.BASES["gradient_clipping"], **changes), released=make.RELEASED)


def test_a_budget_of_almost_nothing_is_refused_with_its_reason():
    record = make.record_of(OutputPerturbation(init_clip=1.0, noise_std=2.0))
    with pytest.raises(RunError, match=r"not the 1e-300 asked"):
        issue(record, released=make.RELEASED, asked=Budget(epsilon=1e-300, delta=1e-300))


def test_the_edits_of_case_38_are_refused():
    """Each field carries no number that `verify` would prove, and each was accepted once."""
    good = make.redigested(
        dict(
            issue(
                make.record_of(make.BASES["grid_ridge"]), released=make.RELEASED, asked=Budget(epsilon=1.0, delta=1e-5)
            ).content
        )
    )
    verify(Certificate(good))
    for path, value in {
        "/claim/mu": 1e308, "/asked/delta": 1e308, "/profile/0/delta": 7, "/run/noise/std": ["a"], "/run/layers": [],
        "/run/buffers": "a poem", "/run/noise/generator": "published", "/also_proven/mu": 1.0, "/run/noise/std ": 0,
    }.items():  # fmt: skip
        content = faults.patched(good, [faults.set_(path, value)])
        with pytest.raises((MalformedCertificate, ClaimRefused)):
            verify(Certificate(json.loads(json.dumps(make.redigested(content)))))


def test_claims_are_read_as_they_stand():
    stated = BY_NAME["output_perturbation, retrained"]["certificate"]["claim"]
    assert claim.claim_from_dict("claim", stated).epsilon == stated["epsilon"]


def test_the_keys_of_a_record_stand_in_the_order_of_its_fields():
    names = [field.name for field in dataclasses.fields(make.record_of(make.BASES["retrain"])) if field.name != "start"]
    assert list(make.record_of(make.BASES["retrain"]).to_dict()) == names
