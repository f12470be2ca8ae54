"""A finding: an attack, what it saw, and what that refutes."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import inf, isclose
from typing import Any, cast

from expunge import _validate
from expunge.accounting import Bound, Claim, Relation
from expunge.audit.evidence import EVIDENCE, Evidence, JointGuesses, sure
from expunge.errors import MalformedAudit

__all__ = ["Finding"]

_KEYS = {"attack", "relation", "delta", "confidence", "evidence", "null", "bounds", "assumes", "unit", "direction"}
_LONGEST = 300


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one attack shows. It refutes a guarantee, or it does not; it never proves one.

    Args:
        attack: what was done, in a few words.
        relation: whom the attacked output was compared with.
        delta: δ at which ε is bounded.
        confidence: with which the bounds hold, each finding for itself.
        evidence: what was seen.
        null: what the same attack saw where nothing can leak, e.g. retrained against retrained; None if it was not run.
    """

    attack: str
    relation: Relation
    delta: float
    confidence: float
    evidence: Evidence
    null: Evidence | None = None

    def __post_init__(self) -> None:
        _validate.open_unit_interval(delta=self.delta)
        sure(self.confidence)
        object.__setattr__(self, "relation", Relation(self.relation))

    @cached_property
    def epsilon(self) -> float:
        """A lower bound on ε at δ."""
        return self.evidence.epsilon(delta=self.delta, confidence=self.confidence)

    @cached_property
    def mu(self) -> float | None:
        """A lower bound on μ; None where this evidence gives none."""
        return self.evidence.mu(confidence=self.confidence)

    @cached_property
    def ceiling(self) -> float:
        """The largest ε that evidence of this size can show."""
        return self.evidence.ceiling(delta=self.delta, confidence=self.confidence)

    @cached_property
    def reach(self) -> float:
        """The largest ε that the guesses which were made could have shown, see `Evidence.reach`."""
        return self.evidence.reach(delta=self.delta, confidence=self.confidence)

    @cached_property
    def null_epsilon(self) -> float | None:
        """The same bound where nothing can leak: 0, but for chance."""
        return None if self.null is None else self.null.epsilon(delta=self.delta, confidence=self.confidence)

    def refutes(self, claim: Claim) -> bool:
        """Whether a bound exceeds what is claimed: ε at a δ no larger than this finding's, or μ.

        A claim that bounds no law, of kind `none` or `behavioural`, no finding refutes; `Audit.untested` says so.

        Raises:
            ValueError: the claim is about another relation, or about a larger δ than the finding.
        """
        if claim.relation is not self.relation:
            raise ValueError(f"the finding is about {self.relation}, the claim about {claim.relation}")
        if not isinstance(claim, Bound):
            return False
        if claim.delta > self.delta:
            raise ValueError(
                f"the finding bounds epsilon at delta={self.delta:g}, the claim speaks of delta={claim.delta:g}"
            )
        beyond_mu = self.mu is not None and self.mu > claim.mu
        return self.epsilon > claim.epsilon or beyond_mu

    def refuse_other(self, claim: Claim, largest: float) -> None:
        """Raise `MalformedAudit` unless the finding speaks of this claim: its relation, its δ or a larger one, its forget sets.

        Args:
            claim: of a certificate.
            largest: how many records a forget set may hold that it covers.
        """
        if self.relation is not claim.relation:
            raise MalformedAudit(
                f"finding {self.attack!r} is about relation '{self.relation}', the certificate about '{claim.relation}'"
            )
        if isinstance(claim, Bound) and self.delta < claim.delta:
            raise MalformedAudit(
                f"finding {self.attack!r} bounds epsilon at delta={self.delta:g}, the certificate speaks of {claim.delta:g}"
            )
        for seen in (self.evidence, self.null):
            if isinstance(seen, JointGuesses) and seen.candidates > largest:
                raise MalformedAudit(
                    f"finding {self.attack!r} is about {seen.candidates} candidates together, the certificate covers at most "
                    f"{largest:g}"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `bounds` is for readers, `from_dict` computes them again."""
        return {
            "attack": self.attack,
            "relation": str(self.relation),
            "delta": self.delta,
            "confidence": self.confidence,
            "evidence": _to_dict(self.evidence),
            "null": None if self.null is None else _to_dict(self.null),
            "bounds": self._bounds(),
            "assumes": self.evidence.assumes,
            "unit": "epsilon, natural logarithm of a ratio of probabilities",
            "direction": "larger shows more; 0 shows nothing",
        }

    def _bounds(self) -> dict[str, float | str | None]:
        bounds = {"epsilon": self.epsilon, "mu": self.mu, "ceiling": self.ceiling, "null_epsilon": self.null_epsilon}
        return {name: "infinite" if value == inf else value for name, value in bounds.items()}

    @classmethod
    def from_dict(cls, fields: object) -> "Finding":
        """Read a finding, and compute its bounds again.

        Raises:
            MalformedAudit: a field is missing, unknown or out of range, or the bounds do not follow from the evidence.
        """
        found = cls.stated(fields)
        found.compare(cast("Mapping[str, Any]", fields))
        return found

    @classmethod
    def stated(cls, fields: object) -> "Finding":
        """Read a finding, and compute nothing: its bounds stand as they are until `compare`.

        Raises:
            MalformedAudit: a field is missing, unknown or out of range.
        """
        if not isinstance(fields, Mapping) or set(cast("Mapping[str, Any]", fields)) != _KEYS:
            raise MalformedAudit(f"a finding has the fields {sorted(_KEYS)}, not {fields!r:.200}")
        held = cast("Mapping[str, Any]", fields)
        try:
            return cls(
                attack=_words(held["attack"]),
                relation=Relation(held["relation"]),
                delta=held["delta"],
                confidence=held["confidence"],
                evidence=_from_dict(held["evidence"]),
                null=None if held["null"] is None else _from_dict(held["null"]),
            )
        except (TypeError, ValueError, ArithmeticError) as error:
            raise MalformedAudit(f"finding {held['attack']!r:.80}: {error}") from error

    @property
    def seconds(self) -> float:
        """About how long its bounds take to compute."""
        return self.evidence.seconds + (0.0 if self.null is None else self.null.seconds)

    def compare(self, held: Mapping[str, Any]) -> None:
        """Raise `MalformedAudit` unless the bounds and sentences of fields are those that follow from the evidence."""
        try:
            again = json.loads(json.dumps(self.to_dict()))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise MalformedAudit(f"finding {self.attack!r:.80}: {error}") from error
        for name, value in again["bounds"].items():
            if not _same(value, held["bounds"].get(name) if isinstance(held["bounds"], Mapping) else None):
                raise MalformedAudit(
                    f"finding {self.attack!r}: {name} follows from the evidence as {value}, not {held['bounds']!r:.120}"
                )
        if any(again[name] != held[name] for name in ("assumes", "unit", "direction")):
            raise MalformedAudit(f"finding {self.attack!r}: its fixed sentences were altered")


def _words(attack: object) -> str:
    _validate.text(attack=attack)
    return str(attack)[:_LONGEST]


def _to_dict(evidence: Evidence) -> dict[str, Any]:
    return {"kind": evidence.kind, **asdict(cast("Any", evidence))}


def _from_dict(fields: object) -> Evidence:
    if not isinstance(fields, Mapping):
        raise ValueError(f"evidence must be an object, not {fields!r:.80}")
    held = dict(cast("Mapping[str, Any]", fields))
    kind = EVIDENCE.get(held.pop("kind", None))
    if kind is None:
        raise ValueError(f"evidence must be of one of the kinds {sorted(EVIDENCE)}")
    return kind(**held)


def _same(one: Any, other: Any) -> bool:
    """Numbers to rounding between machines; anything else exactly."""
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(other) <= sys.float_info.max and isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return one == other
