"""A certificate that was issued verifies; anything else is refused with its reason."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from expunge import (
    BlockwiseGradientClipping,
    Budget,
    Certificate,
    ExactRidge,
    GradientClipping,
    GridRidge,
    Kind,
    MeasuredResidual,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Replay,
    Retrain,
    RunRecord,
    ScheduledGradientClipping,
    UndeclaredFeatures,
    issue,
    verify,
)
from expunge.accounting import Unproven, delta_at
from expunge.certificate import _digest
from expunge.certificate.digests import weights_digest
from expunge.certificate.record import NO_NOISE, NoiseRecord
from expunge.errors import CertificateError, ClaimRefused, MalformedCertificate, OutputError, RunError, WeightsMismatch
from expunge.randomness.grid import grid_of

CERTIFIED = "sha256:" + "a" * 64
RELEASED = "sha256:" + "b" * 64
COMMITMENT = "hmac-sha256:" + "c" * 64
MECHANISMS = {
    "gradient_clipping": GradientClipping(
        init_clip=1.0, grad_clip=1.0, learning_rate=0.01, weight_decay=0.5, steps=100, noise_std=0.5
    ),
    "model_clipping": ModelClipping(model_clip=1.0, learning_rate=0.01, steps=5, noise_std=1.0),
    "output_perturbation": OutputPerturbation(init_clip=1.0, noise_std=2.0),
    "scheduled_gradient_clipping": ScheduledGradientClipping(
        init_clip=1.0, grad_clip=1.0, learning_rate=(0.02, 0.01), weight_decay=0.5, noise_std=(0.5, 0.6)
    ),
    "blockwise_gradient_clipping": BlockwiseGradientClipping(
        block_sizes=(5, 7),
        block_clips=(1.0, 0.5),
        grad_clip=1.0,
        learning_rate=0.01,
        weight_decay=0.5,
        steps=3,
        noise_std=0.9,
        blind=True,
    ),
    "retrain": Retrain(),
    "replay": Replay(shards=4),
    "grid_ridge": GridRidge(ridge=1.0, grid=2.0**-12, rounding=1e-9, provenance="trained on ImageNet"),
    "measured_residual": MeasuredResidual(
        residual=1e-9, strong_convexity=1e-4, noise_std=1e-4, provenance="trained on ImageNet"
    ),
    "undeclared_features": UndeclaredFeatures(head="exact_ridge"),
    "unproven": Unproven(method="scrub"),
}


def record_of(mechanism, **changes):
    noise = NO_NOISE
    if mechanism.noise_draws:
        last = mechanism.noise_std[-1] if isinstance(mechanism.noise_std, tuple) else mechanism.noise_std
        noise = NoiseRecord(
            count=mechanism.noise_draws,
            std=mechanism.noise_std,
            dimension=12,
            self_test="passed",
            generator="secret",
            stream="aes-256-ctr/1",
            grid=grid_of(last),
        )
    fields = {
        "mechanism": mechanism,
        "steps_done": mechanism.gradient_steps,
        "noise": noise,
        "layers": (("weight", 8), ("bias", 4)),
        "weights_dtype": "float32",
        "center": "zero",
        "buffers": "none",
        "public": (),
        "certified": CERTIFIED,
        "environment": {"expunge": "test"},
        "coverage": "ids and content",
    }
    return RunRecord(**fields | changes)


@pytest.fixture
def record():
    return record_of(MECHANISMS["gradient_clipping"])


@pytest.fixture
def certificate(record):
    return issue(record, released=RELEASED, asked=Budget(epsilon=10.0, delta=1e-5))


def forged(certificate, *path, value=None, change=None):
    """A certificate with one field altered and the content digest computed anew."""
    content = copy.deepcopy(dict(certificate.content))
    *parents, last = path
    place = content
    for step in parents:
        place = place[step]
    place[last] = change(place[last]) if change else value
    content["digest"] = _digest({key: field for key, field in content.items() if key != "digest"})
    return Certificate(content)


def leaves(node, path=()):
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from leaves(child, (*path, key))
    elif isinstance(node, list) and node:
        for index, child in enumerate(node):
            yield from leaves(child, (*path, index))
    else:
        yield path


@pytest.mark.parametrize("name", list(MECHANISMS))
@pytest.mark.parametrize("relation", list(Relation))
def test_what_is_issued_saved_and_loaded_verifies(tmp_path, name, relation):
    path = tmp_path / "certificate.json"
    issued = issue(record_of(MECHANISMS[name]), released=RELEASED, relation=relation)
    verify(issued)  # in memory, before any file
    issued.save(path)
    loaded = Certificate.load(path)
    assert loaded.content == issued.content
    assert loaded == issued
    assert loaded.claim.relation is relation
    assert loaded.mechanism == MECHANISMS[name]
    assert loaded.record == record_of(MECHANISMS[name])
    assert verify(loaded) is None
    assert verify(path, weights=RELEASED, certified_weights=CERTIFIED) is None


def test_recovery_is_stated_as_none_exactly_where_the_weights_are_unchanged(record):
    assert issue(record, released=CERTIFIED).content["recovery"].startswith("none")
    assert issue(record, released=RELEASED).content["recovery"].startswith("declared")
    assert issue(record, released=RELEASED, recovery="SGD").content["recovery"] == "SGD"


def test_layout_of_the_file_does_not_matter(certificate):
    shuffled = json.dumps(dict(reversed(list(certificate.content.items()))))
    verify(Certificate.from_json(shuffled))


def test_any_field_altered_without_a_new_digest_is_refused(certificate):
    paths = list(leaves(certificate.content))
    assert len(paths) > 50
    for path in paths:
        content = copy.deepcopy(dict(certificate.content))
        place = content
        for step in path[:-1]:
            place = place[step]
        old = place[path[-1]]
        place[path[-1]] = old + 1 if isinstance(old, (int, float)) else f"{old}?"
        with pytest.raises(MalformedCertificate, match=r"digest does not match|unknown schema"):
            verify(Certificate(content))


def test_any_top_level_field_missing_is_refused(certificate):
    for key in certificate.content:
        content = {name: value for name, value in certificate.content.items() if name != key}
        with pytest.raises(MalformedCertificate, match=r"lacks|unknown schema|digest does not match"):
            verify(Certificate(content))


@pytest.mark.parametrize(
    ("path", "change", "error", "reason"),
    [
        (("claim", "epsilon"), lambda e: e * (1 - 1e-9), ClaimRefused, "prove only epsilon"),
        (("claim", "epsilon"), lambda e: e / 2, ClaimRefused, "prove only epsilon"),
        (("claim", "delta"), lambda d: d / 2, ClaimRefused, "prove only epsilon"),
        (("claim", "mu"), lambda m: m * (1 - 1e-9), ClaimRefused, "proves only mu"),
        (("also_proven", "epsilon"), lambda e: e / 2, ClaimRefused, "also_proven states epsilon"),
        (("also_proven", "mu"), lambda m: m / 2, ClaimRefused, "also_proven states mu"),
        (("profile", 0, "delta"), lambda d: d * (1 - 1e-9), ClaimRefused, "profile claims"),
        (("profile", 8, "delta"), lambda d: d * (1 - 1e-9), ClaimRefused, "profile claims"),
        (("profile", 4, "epsilon"), lambda e: e / 2, ClaimRefused, "profile must state epsilon=1 here"),
        (("claim", "relation"), lambda _: "center", ClaimRefused, "relation|certifier|states"),
        (("also_proven", "relation"), lambda _: "retrained", ClaimRefused, "prove only epsilon"),
        (("claim", "kind"), lambda _: "exact", ClaimRefused, "of kind 'exact'"),
        (("claim", "kind"), lambda _: "empirical", MalformedCertificate, "claim.kind must be one of"),
        (("claim", "kind"), lambda _: "perfect", MalformedCertificate, "perfect"),
        (("claim", "delta"), lambda _: 0.0, MalformedCertificate, "claim.delta"),
        (("claim", "epsilon"), lambda _: -1.0, MalformedCertificate, "claim.epsilon"),
        (("claim", "epsilon"), lambda _: True, MalformedCertificate, "claim.epsilon"),
        (("claim", "assumptions"), lambda a: a[1:], ClaimRefused, "theorem or assumptions"),
        (("claim", "assumptions"), lambda _: [], MalformedCertificate, "assumptions must hold at least 1"),
        (("claim", "theorem"), lambda _: "Trust me.", ClaimRefused, "theorem or assumptions"),
        (("claim", "certifier"), lambda _: "retraining", ClaimRefused, "certifier or statement"),
        (("claim", "proves"), lambda _: "The data are gone.", ClaimRefused, "certifier or statement"),
        (("does_not_prove",), lambda lines: lines[1:], ClaimRefused, "does_not_prove was changed"),
        (("does_not_prove",), lambda _: [], MalformedCertificate, "does_not_prove must hold at least 1"),
        (("run", "mechanism", "name"), lambda _: "wishful", MalformedCertificate, "unknown mechanism 'wishful'"),
        (("run", "mechanism", "noise_std"), lambda s: s * 2, ClaimRefused, "drew noise of scale"),
        (("run", "mechanism", "noise_std"), lambda _: -1.0, MalformedCertificate, "noise_std must be"),
        (("run", "mechanism", "steps"), lambda n: n + 1, ClaimRefused, "took 100 of 101 steps"),
        (("schema",), lambda _: "expunge.certificate/3", MalformedCertificate, "unknown schema"),
        (("run", "steps_done"), lambda n: n - 1, ClaimRefused, "took 99 of 100 steps"),
        (("run", "noise", "count"), lambda n: n - 1, ClaimRefused, "drew 99 of 100 noise vectors"),
        (("run", "noise", "std"), lambda s: s * 0.99, ClaimRefused, "drew noise of scale"),
        (("run", "noise", "dimension"), lambda d: d - 1, ClaimRefused, "noise reached 11 of 12 weights"),
        (("run", "noise", "self_test"), lambda _: "none", ClaimRefused, "self-test"),
        (
            ("run", "layers"),
            lambda _: [["a", 13], ["b", -1]],
            MalformedCertificate,
            r"layers\[1\]\[1\] must be a whole number of at least 1",
        ),
        (("run", "layers", 0), lambda _: ["a"], MalformedCertificate, "pair"),
        (("run", "layers"), lambda _: "ab", MalformedCertificate, "run.layers must be a list"),
        (("run", "certified"), lambda _: RELEASED, ClaimRefused, "weights.certified"),
        (("weights", "certified"), lambda _: "sha256:" + "c" * 64, ClaimRefused, "weights.certified"),
        (("weights", "released"), lambda _: 7, MalformedCertificate, "weights.released must be a digest"),
        (("asked", "epsilon"), lambda _: 0.1, ClaimRefused, "does not meet what was asked"),
        (("asked", "delta"), lambda _: 1e-6, ClaimRefused, "does not meet what was asked"),
        (("claim",), lambda _: None, MalformedCertificate, "claim must be an object"),
        (("run",), lambda _: [], MalformedCertificate, "run must be an object"),
        (("profile",), lambda _: None, MalformedCertificate, "profile must be a list"),
    ],
)
def test_a_forgery_with_a_fresh_digest_is_refused_with_its_reason(certificate, path, change, error, reason):
    with pytest.raises(error, match=reason):
        verify(forged(certificate, *path, change=change))


def test_a_weaker_claim_than_proven_needs_its_sentence_to_match(certificate):
    with pytest.raises(ClaimRefused, match="certifier or statement"):
        verify(forged(certificate, "claim", "epsilon", change=lambda e: e * 2))


def test_claim_and_also_proven_must_state_different_relations(certificate):
    with pytest.raises(ClaimRefused, match="same relation"):
        verify(forged(certificate, "also_proven", value=certificate.content["claim"]))


def test_a_noisy_run_relabelled_as_retraining_is_refused(certificate):
    with pytest.raises(ClaimRefused, match="does not match its mechanism 'retrain'"):
        verify(forged(certificate, "run", "mechanism", value={"name": "retrain"}))


def test_an_exact_claim_must_be_zero():
    exact = issue(record_of(Retrain()), released=CERTIFIED)
    with pytest.raises(ClaimRefused, match="epsilon = delta = mu = 0"):
        verify(forged(exact, "claim", "epsilon", value=1.0))


def test_a_mechanism_with_a_foreign_or_missing_field_is_refused(certificate):
    fields = certificate.content["run"]["mechanism"]
    with pytest.raises(MalformedCertificate, match="unknown"):
        verify(forged(certificate, "run", "mechanism", value=fields | {"bonus": 1}))
    with pytest.raises(MalformedCertificate, match="lacks"):
        verify(forged(certificate, "run", "mechanism", value={k: v for k, v in fields.items() if k != "steps"}))


@pytest.fixture
def weights_files(tmp_path):
    generator = np.random.default_rng(0)
    tensors = {"weight": generator.normal(size=(2, 4)).astype(np.float32), "bias": np.zeros(4, np.float32)}
    other = tensors | {"bias": np.array([0, 0, 0, 1e-7], np.float32)}
    save_file(tensors, tmp_path / "released.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    save_file(dict(reversed(tensors.items())), tmp_path / "again.safetensors", metadata={"note": "same weights"})
    return tmp_path / "released.safetensors", tmp_path / "other.safetensors", tmp_path / "again.safetensors"


def test_the_weights_of_the_certificate_are_accepted_and_others_refused(record, weights_files):
    released, other, again = weights_files
    certificate = issue(record, released=released)
    assert certificate.content["weights"]["released"] == weights_digest(released)
    verify(certificate, weights=released)
    verify(certificate, weights=str(released))
    with pytest.raises(WeightsMismatch, match=r"metadata .* which no digest covers"):
        verify(certificate, weights=again)
    with pytest.raises(WeightsMismatch, match="these are not the released weights"):
        verify(certificate, weights=other)
    with pytest.raises(WeightsMismatch, match="these are not the certified weights"):
        verify(certificate, certified_weights=released)


def test_weights_that_are_missing_or_truncated_are_refused(record, weights_files, tmp_path):
    released, *_ = weights_files
    certificate = issue(record, released=released)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(released.read_bytes()[:-1])
    with pytest.raises(WeightsMismatch, match="not a whole safetensors file"):
        verify(certificate, weights=cut)
    with pytest.raises(WeightsMismatch, match="cannot read the weights"):
        verify(certificate, weights=tmp_path / "absent.safetensors")


def test_weights_of_an_unknown_type_are_a_type_error(certificate):
    with pytest.raises(TypeError, match="weights must be"):
        verify(certificate, weights=3)


def test_a_truncated_file_is_refused_at_every_length(certificate, tmp_path):
    whole = certificate.to_json().rstrip().encode()
    path = tmp_path / "certificate.json"
    for length in [0, 1, 2, 3, *range(10, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(MalformedCertificate, match=r"not a whole JSON document|cannot read"):
            verify(path)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_no_number_is_refused(certificate, constant):
    text = re.sub(r'"epsilon": [0-9.e+-]+', f'"epsilon": {constant}', certificate.to_json(), count=1)
    with pytest.raises(MalformedCertificate, match=f"{constant} is not a number"):
        Certificate.from_json(text)


def test_a_number_too_large_for_a_float_is_refused(certificate):
    text = re.sub(r'"epsilon": [0-9.e+-]+', '"epsilon": 1e999', certificate.to_json(), count=1)
    with pytest.raises(MalformedCertificate):
        verify(Certificate.from_json(text))


def test_a_duplicate_key_is_refused(certificate):
    text = certificate.to_json().replace('"issued":', '"asked": null,\n  "issued":')
    with pytest.raises(MalformedCertificate, match="a key is repeated: 'asked'"):
        Certificate.from_json(text)


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null"])
def test_json_that_is_no_object_is_refused(text):
    with pytest.raises(MalformedCertificate, match="JSON object"):
        Certificate.from_json(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(
            ("run", "mechanism", "name"),
            ["gradient_clipping"],
        ),
        pytest.param(
            ("run", "mechanism", "name"),
            {},
        ),
        (("claim", "kind"), []),
        (("claim", "relation"), {}),
        (("claim", "theorem"), []),
        (("run", "environment"), []),
        (("weights",), []),
        (("asked",), 3),
        (("profile",), [3]),
        (("digest",), 3),
        (("schema",), []),
    ],
)
def test_a_field_of_an_unexpected_type_is_never_more_than_a_certificate_error(certificate, path, value):
    altered = forged(certificate, *path, value=value)
    if path == ("digest",):
        altered = Certificate(dict(certificate.content) | {"digest": value})
    with pytest.raises(CertificateError):
        verify(altered)


def test_an_integer_of_thousands_of_digits_is_refused_as_malformed(certificate):
    text = re.sub(r'"epsilon": [0-9.e+-]+', '"epsilon": ' + "9" * 5000, certificate.to_json(), count=1)
    with pytest.raises(MalformedCertificate):
        Certificate.from_json(text)


def test_nesting_beyond_the_interpreters_depth_is_refused_as_malformed(certificate):
    for depth in (300, 900, 5000, 100_000):
        text = certificate.to_json().replace('"recovery": "', '"recovery": ' + "[" * depth + "]" * depth + ', "x": "')
        text = text.replace('"x": "', '"commitment": "')
        with pytest.raises(MalformedCertificate):
            verify(Certificate.from_json(text))
        deep = certificate.to_json().replace('"commitments": {}', '"commitments": ' + "[" * depth + "]" * depth)
        with pytest.raises(MalformedCertificate):
            verify(Certificate.from_json(deep))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MalformedCertificate, match="cannot read"):
        verify(tmp_path / "absent.json")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(MalformedCertificate, match="it is not text in UTF-8"):
        verify(path)


def test_an_existing_file_is_not_overwritten(certificate, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        certificate.save(path)
    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["certificate.json"]


def test_a_missing_folder_is_an_output_error(certificate, tmp_path):
    with pytest.raises(OutputError, match="nothing was written"):
        certificate.save(tmp_path / "absent" / "certificate.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps_done": 99}, "took 99 of 100 steps"),
        ({"steps_done": 101}, "took 101 of 100 steps"),
        ({"layers": (("weight", 8),)}, "noise reached 12 of 8 weights"),
        ({"noise": {"count": 99}}, "drew 99 of 100 noise vectors"),
        ({"noise": {"count": 0}}, "drew 0 of 100 noise vectors"),
        ({"noise": {"std": 0.4}}, "drew noise of scale 0.4"),
        ({"noise": {"dimension": 8}}, "noise reached 8 of 12 weights"),
        ({"noise": {"self_test": "none"}}, "noise self-test that says 'none'"),
    ],
)
def test_issue_refuses_a_record_that_does_not_match_its_mechanism(record, changes, reason):
    if "noise" in changes:
        changes = {"noise": dataclasses.replace(record.noise, **changes["noise"])}
    with pytest.raises(RunError, match=reason):
        issue(dataclasses.replace(record, **changes), released=RELEASED)


def test_issue_refuses_a_run_that_does_not_meet_what_was_asked(record):
    with pytest.raises(RunError, match=r"proves epsilon=.* at delta=1e-05, not the 0\.5 asked"):
        issue(record, released=RELEASED, asked=Budget(epsilon=0.5, delta=1e-5))


def test_issue_claims_at_the_delta_that_was_asked(record):
    issued = issue(record, released=RELEASED, delta=1e-3, asked=Budget(epsilon=50.0, delta=1e-9))
    assert issued.claim.delta == 1e-9


def test_the_profile_against_the_centre_is_of_the_certifier_that_proves_the_claim():
    """Model clipping has two; the least of both at each ε is the profile of neither."""
    mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=12, noise_std=0.4)
    by_noise = OutputPerturbation(init_clip=1.0, noise_std=0.4)
    mixed = 0
    for delta in (0.4, 1e-5):
        issued = issue(record_of(mechanism), released=RELEASED, delta=delta, relation=Relation.CENTER)
        verify(issued)
        stated = [(point["epsilon"], point["delta"]) for point in issued.content["profile"]]
        curves = [
            [delta_at(by_noise, e, Relation.CENTER) for e, _ in stated],
            [delta_at(mechanism, e, Relation.RETRAINED) for e, _ in stated],
        ]
        assert [d for _, d in stated] in curves
        mixed += [d for _, d in stated] != [min(pair) for pair in zip(*curves, strict=True)]
    assert mixed


def test_issue_refuses_commitments_that_are_not_keyed(record):
    with pytest.raises(ValueError, match=r"commitments\['forget'\]"):
        issue(record, released=RELEASED, commitments={"forget": "sha256:00"})
    kept = issue(record, released=RELEASED, commitments={"forget": COMMITMENT})
    verify(kept)
    assert kept.content["commitments"] == {"forget": COMMITMENT}


def test_issue_refuses_a_mechanism_outside_the_closed_table():
    class Homemade(OutputPerturbation):
        pass

    with pytest.raises(RunError, match="not in the table of mechanisms"):
        issue(record_of(Homemade(init_clip=1.0, noise_std=1.0)), released=RELEASED)


def test_the_record_has_no_field_for_a_seed(record):
    def keys(node):
        if isinstance(node, dict):
            for key, child in node.items():
                yield key
                yield from keys(child)
        elif isinstance(node, list):
            for child in node:
                yield from keys(child)

    names = list(keys(record.to_dict()))
    assert {"noise", "generator", "std"} <= set(names)
    assert not [name for name in names if "seed" in name or "state" in name]
    assert "seed" not in json.dumps(record.to_dict())


def test_a_mechanism_whose_mu_underflows_is_refused_or_proven_but_never_crashes():
    verify(issue(record_of(OutputPerturbation(init_clip=5e-324, noise_std=1e10)), released=RELEASED))


def test_a_ball_enormous_beside_the_noise_gets_no_certificate():
    with pytest.raises(RunError, match="proves nothing"):
        issue(record_of(OutputPerturbation(init_clip=1e151, noise_std=1.0)), released=RELEASED)


def test_a_hostile_number_of_steps_does_not_keep_the_reader_busy():
    mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=2**52, noise_std=0.05)
    assert mechanism.log_delta(1.0) <= 0


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("recovery", "none: the released weights are the certified weights", "contradicts the digests"),
        ("recovery", 7, "recovery must be a text"),
        ("issued", None, "issued must be a date"),
        ("commitments", {"forget": "row 17"}, "commitments.forget must be a keyed commitment"),
        ("commitments", 7, "commitments must be an object"),
        ("profile", [], "^profile must hold at least 9"),
        ("profile", 7, "^profile must be a list"),
    ],
)
def test_fields_that_carry_no_number_are_checked_too(certificate, field, value, reason):
    content = {**certificate.content, field: value}
    content["digest"] = _digest({k: v for k, v in content.items() if k != "digest"})
    with pytest.raises(CertificateError, match=reason):
        verify(Certificate(content))


def test_a_certificate_of_undeclared_features_says_that_it_proves_nothing():
    issued = issue(record_of(MECHANISMS["undeclared_features"]), released=RELEASED)
    claim = issued.content["claim"]
    assert (claim["kind"], claim["epsilon"], claim["delta"], claim["mu"]) == ("none", 0.0, 1.0, None)
    assert claim["proves"].startswith("Nothing is proven:")
    assert issued.claim.kind is Kind.NONE


def test_undeclared_features_meet_no_budget():
    with pytest.raises(RunError, match="nothing is proven, epsilon=1 was asked: Where the feature map comes from"):
        issue(record_of(MECHANISMS["undeclared_features"]), released=RELEASED, asked=Budget(epsilon=1.0, delta=0.5))


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "exact"), ("kind", "epsilon_delta"), ("delta", 0.5), ("mu", 0.0), ("mu", 1.0), ("proves", "Everything.")],
)
def test_a_certificate_that_proves_nothing_cannot_be_made_to_claim_something(field, value):
    issued = issue(record_of(MECHANISMS["undeclared_features"]), released=RELEASED)
    with pytest.raises((ClaimRefused, MalformedCertificate)):
        verify(forged(issued, "claim", field, value=value))


def test_the_feature_maps_provenance_is_in_the_certificate():
    issued = issue(record_of(MECHANISMS["grid_ridge"]), released=RELEASED)
    assert issued.content["run"]["mechanism"]["provenance"] == "trained on ImageNet"
    assert any("given as provenance" in text for text in issued.content["claim"]["assumptions"])


@pytest.mark.parametrize(
    ("name", "said"),
    [("output_perturbation", "some of the weights"), ("gradient_clipping", "enough of them"), ("retrain", None)],
)
def test_noise_of_a_linear_generator_is_told_when_an_old_certificate_is_read(name, said, caplog):
    verify(Path(__file__).parent / "certificates" / "v1" / f"{name}.json")
    assert ("Mersenne twister" in caplog.text) is (said is not None)
    assert said is None or said in caplog.text


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "certificates" / "v1").glob("*.json")), ids=lambda p: p.stem
)
def test_what_schema_1_leaves_open_is_told_when_a_certificate_of_it_is_read(path, caplog, certificate):
    verify(path)
    told = "does not say whether the retained data held forgotten rows" in caplog.text
    assert told is (path.stem != "dp_training")  # which involves none
    caplog.clear()
    verify(certificate)
    assert not caplog.text


def test_a_withdrawn_mechanism_is_read_but_no_longer_issued(caplog):
    """Sums in floating point: the old certificates verify, with a word; no new one is made, by us or by hand."""
    withdrawn = ExactRidge(ridge=1.0, rounding=1e-9, provenance="trained on ImageNet")
    with pytest.raises(RunError, match=r"'exact_ridge' is no longer issued: its sums were kept in floating point"):
        issue(record_of(withdrawn), released=RELEASED)
    old = Path(__file__).parent / "certificates" / "v1" / "exact_ridge.json"
    verify(old)
    assert "'exact_ridge' was withdrawn after this certificate was issued" in caplog.text
    new = forged(issue(record_of(MECHANISMS["grid_ridge"]), released=RELEASED), "run", "mechanism", value={
        "name": "exact_ridge", "ridge": 1.0, "rounding": 1e-9, "provenance": "trained on ImageNet",
    })  # fmt: skip
    with pytest.raises(MalformedCertificate, match="unknown mechanism 'exact_ridge'"):
        verify(new)
