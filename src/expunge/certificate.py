"""A certificate: the claim, the configuration that proves it, and the digests of the weights it speaks of.

`issue` writes down what a run proves; `verify` proves it again from the fields, trusting only the closed table of
mechanisms, and raises with the reason where it cannot. Neither needs torch or the model.

A certificate says what *was recorded*. That the run took place as recorded rests on the word of its issuer: the content
digest shows damage, not forgery by someone who computes a new digest.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import rfc8785

from expunge import _validate
from expunge._files import write_new
from expunge.accounting import Budget, Guarantee, Kind, Mechanism, Relation, delta_at, guarantee
from expunge.accounting.guarantee import ROUNDING
from expunge.errors import ClaimRefused, MalformedAudit, MalformedCertificate, RunError, WeightsMismatch
from expunge.record import RunRecord, check_keys, weights_digest

if TYPE_CHECKING:
    from expunge.audit.report import Audit

__all__ = ["SCHEMA", "Certificate", "issue", "verify"]

SCHEMA = "expunge.certificate/2"
_VERSIONS = {"expunge.certificate/1": 1, SCHEMA: 2}

_KEYS = {
    "schema", "asked", "claim", "also_proven", "profile", "run", "weights", "commitments", "recovery",
    "does_not_prove", "issued", "digest", "unchecked",
}  # fmt: skip
_KEYS_1 = _KEYS - {"unchecked"}
_PROFILE_AT = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

DOES_NOT_PROVE = (
    "That the run happened as recorded: this rests on the issuer, until a run is attested or repeated.",
    "That the released weights came from the certified ones by retained data, public data and fresh coins only: declared.",
    "That the network cannot state facts that the retained data also contain.",
    "That copies of the data, or models trained on them elsewhere, are gone.",
    "That unlearning was cheaper or more accurate than retraining.",
)
NO_RECOVERY = "none: the released weights are the certified weights"
DECLARED_RECOVERY = "declared by the issuer: training on the retained data with a fresh optimiser and fresh coins"


@dataclass(frozen=True)
class Certificate:
    """A certificate's content as JSON-ready fields.

    `issue` makes one, `Certificate.load` reads one; neither vouches for it, `verify` does.
    """

    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Certificate":
        """Read a certificate.

        Raises:
            MalformedCertificate: the file is missing, truncated, not JSON, repeats a key or holds NaN.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MalformedCertificate(f"cannot read {os.fspath(path)}: {error}") from error
        return cls.from_json(text)

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read a certificate from its JSON text; raises `MalformedCertificate`."""
        try:
            content: object = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise MalformedCertificate(f"not a whole JSON document (truncated?): {error}") from error
        if not isinstance(content, dict):
            raise MalformedCertificate(f"a certificate is a JSON object, not {type(content).__name__}")
        return cls(cast("dict[str, Any]", content))

    def to_json(self) -> str:
        """Readable JSON; the digest is over the canonical form (RFC 8785), so layout does not matter."""
        return json.dumps(self.content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new file, whole or not at all; raises `OutputError`."""
        write_new(path, self.to_json().encode())

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism, built from its fields."""
        return self.record.mechanism

    @property
    def record(self) -> RunRecord:
        """The run as recorded."""
        return RunRecord.from_dict(self.content["run"], version=_version(self.content) or 2)

    @property
    def claim(self) -> Guarantee:
        """The claim as stated. Not yet verified."""
        return _guarantee_from_dict("claim", self.content["claim"])


def issue(
    record: RunRecord,
    *,
    released: object,
    delta: float = 1e-5,
    relation: Relation = Relation.RETRAINED,
    asked: Budget | None = None,
    commitments: Mapping[str, str] | None = None,
    recovery: str | None = None,
    unchecked: str = "",
) -> Certificate:
    """The certificate of a run.

    Args:
        record: from `unlearn` or `retrain`.
        released: the weights that are handed out, after any recovery: a module, a safetensors path, or a digest.
        delta: δ of the claim; ignored where the guarantee is exact.
        relation: the reading to certify; the other one is stated beside it.
        asked: a budget that the claim must meet; its δ takes the place of `delta`.
        commitments: keyed commitments, e.g. to the forget set (`commit`); never ids or counts in clear.
        recovery: what was done between certified and released weights, in a sentence.
        unchecked: where the record's coverage is "unchecked": why, in the issuer's words, which the certificate carries.

    Raises:
        RunError: the record does not match its mechanism, or does not meet what was asked.
    """
    record.check()
    relation = Relation(relation)
    delta = asked.delta if asked is not None else delta
    claim = guarantee(record.mechanism, delta=delta, relation=relation)
    if asked is not None and claim.kind is Kind.NONE:
        raise RunError(f"nothing is proven, epsilon={asked.epsilon:g} was asked: {claim.assumptions[0]}")
    if claim.kind is not Kind.NONE and not (isfinite(claim.epsilon) and isfinite(claim.mu)):
        raise RunError(f"the run proves nothing: epsilon={claim.epsilon}, mu={claim.mu} at delta={delta:g}")
    if asked is not None and claim.epsilon > asked.epsilon:
        raise RunError(
            f"the run proves epsilon={claim.epsilon:.9g} at delta={delta:g}, not the {asked.epsilon:g} asked"
        )
    for name, value in (commitments or {}).items():
        if not value.startswith("hmac-sha256:"):
            raise ValueError(f"commitments[{name!r}] must come from expunge.commit, not {value!r}")
    released_digest = weights_digest(released)
    unchanged = released_digest == record.certified
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "asked": None if asked is None else {"epsilon": asked.epsilon, "delta": asked.delta},
        "claim": _claim(record.mechanism, claim),
        "also_proven": _claim(record.mechanism, guarantee(record.mechanism, delta=delta, relation=_other(relation))),
        "profile": [{"epsilon": e, "delta": delta_at(record.mechanism, e, relation)} for e in _PROFILE_AT],
        "run": record.to_dict(),
        "weights": {"certified": record.certified, "released": released_digest},
        "commitments": dict(commitments or {}),
        "recovery": NO_RECOVERY if unchanged else recovery or DECLARED_RECOVERY,
        "unchecked": unchecked,
        "does_not_prove": list(DOES_NOT_PROVE),
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Read back from its own JSON: in memory a certificate is what its file will be, schedules as lists.
    return Certificate.from_json(Certificate(content | {"digest": _digest(content)}).to_json())


def verify(
    certificate: "Certificate | str | os.PathLike[str]",
    *,
    weights: object = None,
    certified_weights: object = None,
    audit: "Audit | str | os.PathLike[str] | None" = None,
) -> None:
    """Prove the certificate again from its fields; return nothing, or raise.

    Args:
        certificate: a `Certificate` or the path of one.
        weights: the released weights at hand (safetensors path, module or digest); omitted, only the claim is checked.
        certified_weights: the weights before recovery, if they were handed over too.
        audit: an audit of this certificate's run; its bounds are computed again from what was seen.

    Raises:
        MalformedCertificate: truncated, altered, or of an unknown schema or mechanism.
        MalformedAudit: the audit is damaged, about another certificate, or its bounds do not follow from its evidence.
        ClaimRefused: the fields do not prove what is claimed, or the audit refutes it.
        WeightsMismatch: the weights are others.
    """
    certificate = certificate if isinstance(certificate, Certificate) else Certificate.load(certificate)
    content = certificate.content
    if _version(content) is None:
        known = " and ".join(map(repr, _VERSIONS))
        raise MalformedCertificate(f"unknown schema {content.get('schema')!r}; this version reads {known}")
    check_keys("certificate", content, _KEYS if content["schema"] == SCHEMA else _KEYS_1)
    expected = _digest({key: value for key, value in content.items() if key != "digest"})
    if content["digest"] != expected:
        raise MalformedCertificate(
            "the content digest does not match: a field was altered after the certificate was issued"
        )
    _verify_run(certificate)
    _verify_claims(certificate)
    _verify_weights(content, weights, certified_weights)
    _verify_words(content)
    if audit is not None:
        _verify_audit(certificate, audit)


def _version(content: Mapping[str, Any]) -> int | None:
    """Of the schema; None where it is none that this version reads."""
    schema: object = content.get("schema")
    return _VERSIONS.get(schema) if isinstance(schema, str) else None


def _verify_audit(certificate: Certificate, given: "Audit | str | os.PathLike[str]") -> None:
    from expunge.audit.report import Audit  # late: scipy's distributions

    audit = given if isinstance(given, Audit) else Audit.load(given)
    if audit.certificate != certificate.content["digest"]:
        raise MalformedAudit(f"the audit is about {audit.certificate}, not about this certificate")
    for finding in audit.refuting(certificate.claim):
        raise ClaimRefused(
            f"the audit refutes it: '{finding.attack}' shows epsilon >= {finding.epsilon:.4g}, mu >= {finding.mu or 0:.4g} "
            f"at delta={finding.delta:g} with confidence {finding.confidence:.4g}"
        )


def _verify_words(content: Mapping[str, Any]) -> None:
    """The fields that carry no number: commitments, recovery, date."""
    commitments, unchanged = content["commitments"], content["weights"]["certified"] == content["weights"]["released"]
    if not isinstance(commitments, dict) or not all(
        isinstance(c, str) and c.startswith("hmac-sha256:") for c in cast("dict[str, Any]", commitments).values()
    ):
        raise MalformedCertificate("commitments must hold keyed commitments 'hmac-sha256:...' only")
    for name in ("recovery", "issued", "unchecked"):
        if not isinstance(content.get(name, ""), str):
            raise MalformedCertificate(f"{name} must be a text, not {content[name]!r}")
    if (content["recovery"] == NO_RECOVERY) != unchanged:
        raise ClaimRefused("recovery contradicts the digests: it says 'none' exactly where both weights are the same")


def _verify_run(certificate: Certificate) -> None:
    record = certificate.record
    try:
        record.check()
    except RunError as error:
        raise ClaimRefused(str(error)) from error
    if any(size < 0 for _, size in record.layers):
        raise MalformedCertificate("run.layers holds a negative size")


def _verify_claims(certificate: Certificate) -> None:
    content, mechanism = certificate.content, certificate.mechanism
    claim = _verify_claim("claim", content["claim"], mechanism)
    also = _verify_claim("also_proven", content["also_proven"], mechanism)
    if also.relation is claim.relation:
        raise ClaimRefused("claim and also_proven state the same relation")
    if content["does_not_prove"] != list(DOES_NOT_PROVE):
        raise ClaimRefused("does_not_prove was changed: a certificate must state its limits as issued")
    if not isinstance(content["profile"], list) or len(cast("list[Any]", content["profile"])) != len(_PROFILE_AT):
        raise MalformedCertificate(f"profile must be a list of {len(_PROFILE_AT)} points")
    for point in cast("list[Any]", content["profile"]):
        check_keys("profile", point, {"epsilon", "delta"})
        epsilon, delta = (_number(f"profile.{key}", point[key]) for key in ("epsilon", "delta"))
        if delta < delta_at(mechanism, epsilon, claim.relation) * (1 - ROUNDING / 2):
            raise ClaimRefused(
                f"profile claims delta={delta:g} at epsilon={epsilon:g}, more than '{mechanism.name}' proves"
            )
    asked = content["asked"]
    if asked is not None:
        check_keys("asked", asked, {"epsilon", "delta"})
        if claim.epsilon > _number("asked.epsilon", asked["epsilon"]) or claim.delta > _number(
            "asked.delta", asked["delta"]
        ):
            raise ClaimRefused(
                f"the claim (epsilon={claim.epsilon:g}, delta={claim.delta:g}) does not meet what was asked"
            )


def _verify_claim(where: str, plain: object, mechanism: Mechanism) -> Guarantee:
    claim = _guarantee_from_dict(where, plain)
    exact, nothing = mechanism.kind is Kind.EXACT, mechanism.kind is Kind.NONE
    if claim.kind is not mechanism.kind:
        raise ClaimRefused(f"{where} is of kind '{claim.kind}', but '{mechanism.name}' proves '{mechanism.kind}'")
    if exact and (claim.epsilon, claim.delta) != (0.0, 0.0):
        raise ClaimRefused(f"{where}: an exact guarantee has epsilon = delta = 0")
    if nothing and (claim.epsilon, claim.delta, claim.mu) != (0.0, 1.0, inf):
        raise ClaimRefused(
            f"{where}: of kind 'none' it must state epsilon = 0, delta = 1 and mu = null, which is nothing"
        )
    proven = guarantee(mechanism, delta=0.5 if exact or nothing else claim.delta, relation=claim.relation)
    # The slack lies inside the rounding that `guarantee` adds, so what passes is still an upper bound.
    slack = 1 - ROUNDING / 2
    if claim.epsilon < proven.epsilon * slack:
        raise ClaimRefused(
            f"{where} states epsilon={claim.epsilon:.9g} at delta={claim.delta:g} under relation '{claim.relation}', "
            f"but the fields of '{mechanism.name}' prove only epsilon={proven.epsilon:.9g}"
        )
    if claim.mu < proven.mu * slack:
        raise ClaimRefused(f"{where} states mu={claim.mu:.9g}, but '{mechanism.name}' proves only mu={proven.mu:.9g}")
    if (claim.theorem, claim.assumptions) != (proven.theorem, proven.assumptions):
        raise ClaimRefused(f"{where}: theorem or assumptions are not those of '{mechanism.name}'")
    stated = cast("dict[str, Any]", plain)
    if (stated["certifier"], stated["proves"]) != (mechanism.certifier(claim.relation), _sentence(mechanism, claim)):
        raise ClaimRefused(f"{where}: certifier or statement are not those of '{mechanism.name}' and its numbers")
    return claim


def _verify_weights(content: Mapping[str, Any], weights: object, certified_weights: object) -> None:
    check_keys("weights", content["weights"], {"certified", "released"})
    if content["weights"]["certified"] != content["run"]["certified"]:
        raise ClaimRefused("weights.certified is not the digest that the run recorded")
    for name, given in {"released": weights, "certified": certified_weights}.items():
        stated = content["weights"][name]
        if not (isinstance(stated, str) and stated.startswith("sha256:")):
            raise MalformedCertificate(f"weights.{name} must be a digest 'sha256:...', not {stated!r}")
        if given is not None and weights_digest(given) != stated:
            raise WeightsMismatch(
                f"these are not the {name} weights: their digest is {weights_digest(given)}, not {stated}"
            )


def _claim(mechanism: Mechanism, proven: Guarantee) -> dict[str, Any]:
    return {
        "kind": str(proven.kind),
        "relation": str(proven.relation),
        "epsilon": proven.epsilon,
        "delta": proven.delta,
        "mu": None if proven.kind is Kind.NONE else proven.mu,
        "theorem": proven.theorem,
        "assumptions": list(proven.assumptions),
        "certifier": mechanism.certifier(proven.relation),
        "proves": _sentence(mechanism, proven),
    }


def _sentence(mechanism: Mechanism, proven: Guarantee) -> str:
    if proven.kind is Kind.NONE:
        return "Nothing: an assumption of the theorem was not declared. See the assumptions."
    if proven.kind is Kind.EXACT:
        close = "has exactly the law"
    else:
        close = f"is (epsilon={proven.epsilon:.6g}, delta={proven.delta:.6g})-indistinguishable, in both directions, from that"
    return (
        f"Under the assumptions, for every training set and {_covers(mechanism)} the law of the certified weights, and of "
        f"anything computed from them without the forgotten data, {close} of {mechanism.certifier(proven.relation)}."
    )


def _covers(mechanism: Mechanism) -> str:
    """The mechanism's words with its numbers in place of the fields they name."""
    return mechanism.covers.format(**asdict(cast("Any", mechanism)))


def _guarantee_from_dict(where: str, plain: object) -> Guarantee:
    keys = {"kind", "relation", "epsilon", "delta", "mu", "theorem", "assumptions", "certifier", "proves"}
    check_keys(where, cast("Mapping[str, Any]", plain), keys)
    values = cast("dict[str, Any]", plain)
    empty = values["kind"] == Kind.NONE and values["mu"] is None
    numbers = {
        name: _number(f"{where}.{name}", values[name]) for name in ("epsilon", "delta", "mu")[: 2 if empty else 3]
    }
    numbers.setdefault("mu", inf)
    try:
        kind, relation = Kind(values["kind"]), Relation(values["relation"])
        if kind not in (Kind.EXACT, Kind.NONE):
            _validate.open_unit_interval(**{f"{where}.delta": numbers["delta"]})
    except ValueError as error:
        raise MalformedCertificate(f"{where}: {error}") from error
    if not isinstance(values["assumptions"], list):
        raise MalformedCertificate(f"{where}.assumptions must be a list")
    return Guarantee(
        **numbers,
        kind=kind,
        relation=relation,
        theorem=values["theorem"],
        assumptions=tuple(cast("list[str]", values["assumptions"])),
    )


def _number(where: str, value: object) -> float:
    try:
        _validate.non_negative(**{where: value})
    except (TypeError, ValueError) as error:
        raise MalformedCertificate(str(error)) from error
    return float(cast("float", value))


def _other(relation: Relation) -> Relation:
    return Relation.CENTER if relation is Relation.RETRAINED else Relation.RETRAINED


def _digest(content: Mapping[str, Any]) -> str:
    try:
        canonical = rfc8785.dumps(dict(content))
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise MalformedCertificate(f"no canonical form: {error}") from error
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise MalformedCertificate(f"a key is repeated: {next(key for key in keys if keys.count(key) > 1)!r}")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise MalformedCertificate(f"{name} is not a number that a certificate may hold")
