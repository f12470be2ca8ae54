"""The claim in a certificate: each kind is written in its own way, and read back as what it was."""

from dataclasses import replace

import pytest

import forging
from expunge import Certificate, OutputPerturbation, Retrain, UndeclaredFeatures, guarantee, issue, verify
from expunge.accounting import Budget, ExactClaim, Kind, NoClaim, Prune, Relation
from expunge.certificate import digest
from expunge.certificate.claim import claim_from_dict, claim_to_dict
from expunge.certificate.issuing import _refuse_empty
from expunge.errors import CertificateError, ClaimRefused, MalformedCertificate, RunError
from test_vectors import BY_NAME

VALID = {name: Certificate(v["certificate"]) for name, v in BY_NAME.items() if v["result"] == "valid"}
PATCHES = Prune(layers=("linear", "relu", "linear"), input_shape=(4,), lowest=0.0, highest=1.0, patches=2, margin=0.1)
MECHANISMS = {
    Kind.EXACT: Retrain(),
    Kind.EPSILON_DELTA: OutputPerturbation(init_clip=1.0, noise_std=8.0),
    Kind.NONE: UndeclaredFeatures(head="exact_ridge"),
    Kind.BEHAVIOURAL: PATCHES,
}
NUMBERS = ("epsilon", "delta", "mu")


def fields_of(kind):
    mechanism = MECHANISMS[kind]
    return claim_to_dict(mechanism, guarantee(mechanism, delta=1e-5))


@pytest.mark.parametrize("name", sorted(VALID))
def test_a_claim_that_is_read_and_written_again_leaves_every_byte_and_the_digest_as_they_were(name):
    content = dict(VALID[name].content)
    claim = claim_from_dict("claim", content["claim"])
    if content["schema"].endswith("/2"):
        again = claim_to_dict(VALID[name].mechanism, claim)
        assert list(again) == list(content["claim"])
        content["claim"] = again
    else:  # its words are frozen, its numbers are written as ever
        again = claim_to_dict(VALID[name].mechanism, claim)
        content["claim"] = content["claim"] | {number: again[number] for number in NUMBERS}
    assert digest({key: value for key, value in content.items() if key != "digest"}) == content["digest"]


def test_the_numbers_of_an_exact_claim_and_of_none_are_written_as_they_always_were():
    assert [fields_of(Kind.EXACT)[name] for name in NUMBERS] == [0.0, 0.0, 0.0]
    assert [fields_of(Kind.NONE)[name] for name in NUMBERS] == [0.0, 1.0, None]


@pytest.mark.parametrize("kind", MECHANISMS, ids=str)
def test_a_claim_comes_back_as_the_kind_that_it_is(kind):
    assert claim_from_dict("claim", fields_of(kind)) == guarantee(MECHANISMS[kind], delta=1e-5)


@pytest.mark.parametrize(
    ("kind", "change", "error", "reason"),
    [
        (Kind.EXACT, {"epsilon": 1e-9}, ClaimRefused, "an exact guarantee has epsilon = delta = mu = 0"),
        (Kind.EXACT, {"mu": None}, MalformedCertificate, "claim.mu"),
        (Kind.NONE, {"delta": 0.0}, ClaimRefused, "which is nothing"),
        (Kind.NONE, {"epsilon": None}, ClaimRefused, "which is nothing"),
        (Kind.NONE, {"mu": 0.0}, ClaimRefused, "which is nothing"),
        (Kind.EPSILON_DELTA, {"delta": 1.0}, MalformedCertificate, "claim.delta"),
        (Kind.EPSILON_DELTA, {"mu": None}, MalformedCertificate, "claim.mu"),
        (Kind.EPSILON_DELTA, {"epsilon": float("nan")}, MalformedCertificate, "claim.epsilon"),
        (Kind.EPSILON_DELTA, {"kind": "behavioural"}, MalformedCertificate, "lacks .'predicate', 'region'"),
        (Kind.BEHAVIOURAL, {"epsilon": 1.0}, ClaimRefused, "which is nothing"),
        (Kind.BEHAVIOURAL, {"predicate": ""}, MalformedCertificate, "predicate"),
        (Kind.EPSILON_DELTA, {"kind": "empirical"}, MalformedCertificate, "empirical"),
    ],
)
def test_fields_that_contradict_their_kind_are_no_claim(kind, change, error, reason):
    with pytest.raises(error, match=reason):
        claim_from_dict("claim", fields_of(kind) | change)


@pytest.mark.parametrize("to", [ExactClaim, NoClaim])
def test_no_kind_is_forged_into_another(to):
    made = forging.certificate_of(MECHANISMS[Kind.EPSILON_DELTA])

    def change(content):
        numbers = {"epsilon": 0.0, "delta": 0.0, "mu": 0.0} if to is ExactClaim else fields_of(Kind.NONE)
        content["claim"] |= {"kind": str(to.kind)} | {name: numbers[name] for name in NUMBERS}

    with pytest.raises(ClaimRefused, match=f"is of kind '{to.kind}', but 'output_perturbation' proves"):
        verify(forging.forged(made, change))


def test_a_certificate_that_proves_nothing_meets_no_budget_however_wide():
    record = forging.record_of(MECHANISMS[Kind.NONE])
    with pytest.raises(RunError, match="nothing is proven"):
        issue(record, released=record.certified, asked=Budget(epsilon=1e9, delta=0.99))
    made = issue(record, released=record.certified)
    asked = forging.forged(made, lambda content: content.update(asked={"epsilon": 1e9, "delta": 0.99}))
    with pytest.raises(ClaimRefused, match="does not meet what was asked"):
        verify(asked)


def test_a_behavioural_claim_answers_no_budget_and_another_mechanism_cannot_make_it():
    claim = guarantee(PATCHES, delta=1e-5)
    with pytest.raises(RunError, match="no law is bounded, epsilon=1 was asked"):
        _refuse_empty(claim, replace(claim, relation=Relation.CENTER), Budget(1.0, 1e-5))
    made = forging.certificate_of(Retrain())
    words = {"kind": "behavioural", "predicate": claim.predicate, "region": claim.region}
    with pytest.raises(CertificateError):
        verify(forging.forged(made, lambda content: content["claim"].update(words)))
