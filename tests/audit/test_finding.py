"""A finding carries evidence, not conclusions: bounds are computed again by whoever reads it."""

import json
from math import sqrt

import pytest

from expunge import OutputPerturbation, Relation, Retrain, UndeclaredFeatures, guarantee
from expunge.accounting import BehaviouralClaim
from expunge.audit.evidence import Counts, GaussianFit, JointGuesses, Means, OneRun, OneRunViaCertifier
from expunge.audit.finding import Finding
from expunge.audit.report import Audit
from expunge.errors import ClaimRefused, MalformedAudit, NothingTested
from patience import patience

CLEAR = Counts(positives=1000, true_positives=900, negatives=1000, false_positives=10)
KINDS = [
    CLEAR,
    Means(p_mean=0.9, p_runs=30, q_mean=0.2, q_runs=30),
    GaussianFit(p_mean=2.0, p_samples=100, q_mean=0.0, q_samples=100, std=1.0),
    OneRun(canaries=500, guesses=200, correct=190),
    OneRunViaCertifier(canaries=500, guesses=200, correct=190),
    JointGuesses(candidates=500, weights=(1, 7), guesses=(200, 30), correct=(120, 29), share=0.8),
]


def finding(evidence=CLEAR, **fields):
    held = {"attack": "a", "relation": "retrained", "delta": 1e-5, "confidence": 0.95, "evidence": evidence}
    return Finding(**(held | fields))


def claim(mu, *, delta=1e-5, relation=Relation.RETRAINED):
    return guarantee(OutputPerturbation(init_clip=mu / 2, noise_std=1.0), delta=delta, relation=relation)


def test_a_bound_above_the_claim_refutes_and_one_below_does_not():
    assert finding().refutes(claim(0.3))
    assert not finding().refutes(claim(6.0))
    even = Counts(positives=1000, true_positives=500, negatives=1000, false_positives=500)
    assert not finding(even).refutes(claim(1e-6))


def test_mu_alone_refutes_where_epsilon_does_not_reach():
    """Mean accuracies .95 against .6 over 100 runs: ε is out of reach, the μ of (1, 1e-5) is not."""
    seen = finding(Means(p_mean=0.95, p_runs=100, q_mean=0.6, q_runs=100))
    claimed = claim(0.268)
    assert seen.epsilon < claimed.epsilon
    assert seen.mu > claimed.mu
    assert seen.refutes(claimed)


def test_a_claim_of_another_relation_or_a_larger_delta_is_not_compared():
    with pytest.raises(ValueError, match="about retrained, the claim about center"):
        finding().refutes(claim(0.3, relation=Relation.CENTER))
    with pytest.raises(ValueError, match=r"delta=1e-05, the claim speaks of delta=0\.001"):
        finding().refutes(claim(0.3, delta=1e-3))
    finding().refutes(claim(0.3, delta=1e-6))  # a smaller delta claims more


BEHAVES = BehaviouralClaim(
    predicate="The class is another one.", region="A ball around row 7.", relation=Relation.RETRAINED, theorem="A theorem.",
    assumptions=("An assumption.",),
)  # fmt: skip


@pytest.mark.parametrize(
    "unbound", [guarantee(UndeclaredFeatures(head="exact_ridge"), delta=1e-5), BEHAVES], ids=lambda c: c.kind
)
def test_a_claim_that_bounds_no_law_is_neither_refuted_nor_passed(unbound):
    assert not finding().refutes(unbound)
    with pytest.raises(NothingTested, match=f"a claim of kind '{unbound.kind}' bounds no law"):
        checked((finding(),), unbound)


@pytest.mark.parametrize("evidence", KINDS, ids=lambda e: e.kind)
def test_a_finding_comes_back_from_json_with_all_bounds(evidence):
    before = finding(evidence, null=CLEAR)
    after = Finding.from_dict(json.loads(json.dumps(before.to_dict())))
    assert after == before
    assert after.epsilon > 0


def altered(change):
    fields = json.loads(json.dumps(finding().to_dict()))
    change(fields)
    return fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["bounds"].update(epsilon=0.1), "epsilon follows from the evidence as"),
        (lambda f: f["bounds"].update(epsilon="0.1"), "epsilon follows"),
        (lambda f: f["bounds"].pop("mu"), "mu follows"),
        (lambda f: f.update(bounds=None), "follows from the evidence"),
        (lambda f: f["evidence"].update(true_positives=901), "epsilon follows"),
        (lambda f: f["evidence"].update(true_positives=1001), "true_positives=1001"),
        (lambda f: f["evidence"].update(kind="belief"), "one of the kinds"),
        (lambda f: f["evidence"].pop("negatives"), "negatives"),
        (lambda f: f.update(evidence=3), "evidence must be an object"),
        (lambda f: f.update(delta=2.0), "delta"),
        (lambda f: f.update(confidence=0.2), "confidence"),
        (lambda f: f.update(relation="friend"), "friend"),
        (lambda f: f.pop("null"), "a finding has the fields"),
        (lambda f: f.update(assumes="nothing"), "fixed sentences"),
    ],
)
def test_an_altered_finding_is_refused_with_the_reason(change, message):
    with pytest.raises(MalformedAudit, match=message):
        Finding.from_dict(altered(change))


def test_an_audit_comes_back_from_its_file(tmp_path):
    audit = Audit(certificate="sha256:ab", findings=(finding(), finding(KINDS[2])), details={"curve": [1, 2]})
    audit.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == audit
    assert audit.refuting(claim(0.3)) == list(audit.findings)
    assert audit.refuting(claim(0.3, relation=Relation.CENTER)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not whole JSON"),
        ("[]", "an audit has the fields"),
        ('{"schema": "expunge.audit/2", "certificate": null, "findings": [], "details": {}}', "schema must be"),
        (
            '{"schema": "expunge.audit/1", "certificate": null, "findings": {}, "details": {}}',
            "findings must be a list",
        ),
        ('{"schema": "expunge.audit/1", "certificate": null, "findings": [1], "details": {}}', "a finding has"),
        (
            '{"schema": "expunge.audit/1", "certificate": null, "findings": [], "details": {"x": NaN}}',
            "NaN is not a number of JSON",
        ),
    ],
)
def test_a_file_that_is_no_audit_is_refused(tmp_path, text, message):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(MalformedAudit, match=message):
        Audit.load(tmp_path / "audit.json")


def test_the_gaussian_fit_has_no_ceiling_and_says_so_in_json():
    assert finding(KINDS[2]).to_dict()["bounds"]["ceiling"] == "infinite"
    assert finding(KINDS[2]).epsilon == pytest.approx(finding(KINDS[2]).epsilon)
    assert finding(KINDS[2]).mu < 2.0 + 3 * sqrt(2 / 100)


def written(tmp_path, text):
    (tmp_path / "audit.json").write_text(text)
    return tmp_path / "audit.json"


def test_an_audit_with_a_key_twice_is_refused(tmp_path):
    text = Audit(certificate=None, findings=(finding(),), details={}).to_json()
    for key in ('"schema"', '"delta"', '"true_positives"'):
        twice = text.replace(f"{key}:", f"{key}: 0, {key}:", 1)
        with pytest.raises(MalformedAudit, match="a key is repeated"):
            Audit.load(written(tmp_path, twice))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["evidence"].update(positives=10**300), "positives must be at most"),
        (lambda f: f["evidence"].update(positives=10**8, true_positives=10**8), "positives must be at most"),
        (lambda f: f.update(confidence=1 - 1e-12), "confidence must be at most"),
        (lambda f: f.update(confidence=1.0), "confidence must be a number strictly between 0 and 1"),
        (lambda f: f.update(confidence=0.49), "confidence must be at least 0.5"),
        (lambda f: f.update(confidence="0.95"), "confidence"),
        (lambda f: f.update(attack=3), "attack must be a line of text"),
        (lambda f: f.update(delta=0.0), "delta"),
    ],
)
def test_numbers_that_no_audit_has_are_refused_at_once(change, message):
    with pytest.raises(MalformedAudit, match=message):
        Finding.from_dict(altered(change))


def checked(of, claimed, *, largest=float("inf")):
    return Audit(certificate="sha256:ab", findings=of, details={}).check(
        claimed, certificate="sha256:ab", largest=largest
    )


def test_an_audit_that_could_have_refuted_and_did_not_is_quiet():
    even = Counts(positives=1000, true_positives=500, negatives=1000, false_positives=500)
    checked((finding(even),), claim(0.3))


def test_an_audit_without_findings_or_with_none_that_could_refute_is_no_pass():
    with pytest.raises(NothingTested, match=r"nothing could be tested: there is no finding\. No attack"):
        checked((), claim(0.3))
    few = Counts(positives=10, true_positives=5, negatives=10, false_positives=5)
    with pytest.raises(NothingTested, match=r"can show epsilon >= 0\.8\d* at most, 28\.\d* is claimed"):
        checked((finding(few),), claim(20**0.5))
    left = Audit(certificate=None, findings=(), details={"canaries": {"left_out": "no make_model"}, "seed": 0})
    assert left.untested(claim(0.3)) == "there is no finding. canaries: no make_model"


def joint(guesses):
    return JointGuesses(candidates=10**7, weights=(1,), guesses=(guesses,), correct=(0,))


def fitted(samples, others=10**7):
    return GaussianFit(p_mean=0.0, p_samples=samples, q_mean=0.0, q_samples=others, std=1.0)


@pytest.mark.parametrize(
    "seen",
    [
        *(joint(guesses) for guesses in (0, 1, 10)),
        *(fitted(samples) for samples in (2, 10, 99)),
        *(OneRun(canaries=10**7, guesses=guesses, correct=0) for guesses in (1, 50)),
        *(OneRunViaCertifier(canaries=10**7, guesses=guesses, correct=0) for guesses in (1, 50)),
        Counts(positives=10**7, true_positives=0, negatives=2, false_positives=0),
        Means(p_mean=0.0, p_runs=10**7, q_mean=0.0, q_runs=2),
    ],
    ids=repr,
)
def test_an_audit_that_tried_next_to_nothing_is_no_pass_whatever_size_it_names(seen):
    """What decides is what was tried: not the candidates that it names, nor what an unseen law would let it conclude."""
    with pytest.raises(NothingTested, match="findings of this size can show epsilon"):
        checked((finding(seen),), claim(20**0.5))
    tried = JointGuesses(candidates=100, weights=(1,), guesses=(100,), correct=(50,))
    checked((finding(seen), finding(tried)), claim(20**0.5))


@pytest.mark.parametrize("seen", [fitted(2, 2), OneRun(canaries=10**7, guesses=1, correct=0), joint(4)], ids=repr)
def test_evidence_that_bounds_nothing_however_it_came_out_does_not_even_test_exactness(seen):
    exact = guarantee(Retrain(), delta=1e-5)
    with pytest.raises(NothingTested, match=r"epsilon >= 0 at most, 0 is claimed"):
        checked((finding(seen),), exact)
    checked((finding(fitted(100)),), exact)


@pytest.mark.parametrize("seen", KINDS, ids=lambda e: e.kind)
def test_no_evidence_can_reach_beyond_its_ceiling_and_none_shows_more_than_it_can_reach(seen):
    found = finding(seen)
    assert found.epsilon <= found.reach <= found.ceiling


def test_a_file_that_would_keep_its_reader_busy_is_refused_before_a_bound_is_computed(tmp_path):
    heavy = finding(JointGuesses(candidates=720, weights=(961,), guesses=(720,), correct=(400,))).to_dict()
    heavy["evidence"] |= {"weights": list(range(961, 1025)), "guesses": [11] * 64, "correct": [7] * 64}
    one = finding(OneRun(canaries=10, guesses=10, correct=9)).to_dict()
    one["evidence"] |= {"canaries": 10**6, "guesses": 10**6, "correct": 600_000}
    for fields in (heavy, one):
        content = {"schema": "expunge.audit/1", "certificate": None, "findings": [fields] * 1000, "details": {}}
        with (
            patience(1),
            pytest.raises(MalformedAudit, match=r"the bounds of 1000 findings would take about \d+ seconds"),
        ):
            Audit.load(written(tmp_path, json.dumps(content)))
    with pytest.raises(MalformedAudit, match="an audit has at most 16777216 bytes"):
        Audit.load(written(tmp_path, " " * (2**24 + 1)))


@pytest.mark.parametrize("seen", KINDS, ids=lambda e: e.kind)
def test_what_a_finding_says_of_its_time_is_no_less_than_it_takes(seen):
    """Small evidence takes milliseconds, and says so: a thousand findings of any kind are read."""
    assert finding(seen, null=seen).seconds < 0.03
    with patience(0.1):
        Finding.from_dict(finding(seen).to_dict())


def test_a_bound_of_a_thousand_digits_is_refused_like_any_other_wrong_one():
    fields = finding().to_dict()
    fields["bounds"]["epsilon"] = 10**1000
    with pytest.raises(MalformedAudit, match="epsilon follows from the evidence"):
        Finding.from_dict(fields)


def test_findings_about_another_claim_are_refused_and_not_passed_over():
    even = Counts(positives=1000, true_positives=500, negatives=1000, false_positives=500)
    with pytest.raises(MalformedAudit, match="about relation 'center', the certificate about 'retrained'"):
        checked((finding(even, relation="center"),), claim(0.3))
    with pytest.raises(MalformedAudit, match=r"bounds epsilon at delta=1e-05, the certificate speaks of 0\.001"):
        checked((finding(even),), claim(0.3, delta=1e-3))
    with pytest.raises(MalformedAudit, match="the audit is about sha256:ab, not about this certificate"):
        Audit(certificate="sha256:ab", findings=(), details={}).check(claim(0.3), certificate="sha256:cd")


def test_a_joint_audit_of_more_candidates_than_a_claim_covers_is_refused():
    """Private training for groups of up to 499 says nothing of 500 candidates together."""
    joint = finding(JointGuesses(candidates=500, weights=(1,), guesses=(500,), correct=(250,)))
    with pytest.raises(MalformedAudit, match="500 candidates together, the certificate covers at most 499"):
        checked((joint,), claim(0.3), largest=499)
    checked((joint,), claim(0.3), largest=500)


def test_a_finding_that_refutes_is_named():
    with pytest.raises(ClaimRefused, match="the audit refutes it: 'a' shows epsilon >= "):
        checked((finding(),), claim(0.3))
