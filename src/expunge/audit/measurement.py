"""A measurement: a number that describes a release and bounds nothing, beside its value where nothing is left."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

from numpy.typing import ArrayLike

from expunge.audit.evidence.base import counted, sure
from expunge.audit.evidence.counts import binomial_upper
from expunge.audit.information import Tables, table_of
from expunge.errors import MalformedAudit

__all__ = ["Measurement", "Shares", "predicted_information"]

_KEYS = {"name", "unit", "direction", "confidence", "evidence", "values"}
_LONGEST = 300
_NEAR = 1e-9  # how far limits may lie from those of another machine's mathematics


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How often something is so, and how often where nothing is left.

    Args:
        hits: of the rows in question.
        of: how many these are.
        null_hits: of rows, or of models, where nothing can be left.
        null_of: how many these are.
    """

    kind: ClassVar[str] = "shares"

    hits: int
    of: int
    null_hits: int
    null_of: int
    seconds: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        counted(of=self.of, null_of=self.null_of)
        counted(0, hits=self.hits, null_hits=self.null_hits)
        for part, whole in (("hits", "of"), ("null_hits", "null_of")):
            if getattr(self, part) > getattr(self, whole):
                raise ValueError(f"{part}={getattr(self, part)} exceeds {whole}={getattr(self, whole)}")

    def values(self, confidence: float) -> dict[str, float]:
        """Value and null, and the limits of each: Clopper-Pearson, each with this confidence for itself."""
        sure(confidence)
        alpha = (1 - confidence) / 2
        low, high = _limits(self.hits, self.of, alpha)
        null_low, null_high = _limits(self.null_hits, self.null_of, alpha)
        return {
            "value": self.hits / self.of, "low": low, "high": high, "null": self.null_hits / self.null_of,
            "null_low": null_low, "null_high": null_high,
        }  # fmt: skip


_EVIDENCE: dict[str, type[Shares] | type[Tables]] = {kind.kind: kind for kind in (Shares, Tables)}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number with its null: it refutes no guarantee, and proves none.

    Args:
        name: what is measured, in a few words.
        unit: of value and null.
        direction: what a value above its null means, and one below.
        confidence: of the limits of the value, and of those of the null, each for itself.
        evidence: what was counted; the numbers follow from it.
    """

    name: str
    unit: str
    direction: str
    confidence: float
    evidence: Shares | Tables

    def __post_init__(self) -> None:
        sure(self.confidence)
        for name in ("name", "unit", "direction"):
            text = getattr(self, name)
            if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
                raise ValueError(f"{name} must be a text of at most {_LONGEST} characters, not {text!r:.80}")

    @cached_property
    def values(self) -> dict[str, float]:
        """By name: value, low, high, null, null_low, null_high; and what else the evidence tells."""
        return self.evidence.values(self.confidence)

    @property
    def value(self) -> float:
        """What was measured."""
        return self.values["value"]

    @property
    def null(self) -> float:
        """What it is where nothing is left."""
        return self.values["null"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `values` is for readers, `from_dict` computes them again."""
        return {
            "name": self.name, "unit": self.unit, "direction": self.direction, "confidence": self.confidence,
            "evidence": {"kind": self.evidence.kind} | asdict(self.evidence), "values": self.values,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, fields: object) -> "Measurement":
        """Read a measurement, and compute its numbers again.

        Raises:
            MalformedAudit: a field is missing, unknown or out of range, or the numbers do not follow from the evidence.
        """
        found = cls.stated(fields)
        found.compare(cast("Mapping[str, Any]", fields))
        return found

    @classmethod
    def stated(cls, fields: object) -> "Measurement":
        """Read what was counted; no number is computed yet.

        Raises:
            MalformedAudit: a field is missing, unknown or out of range.
        """
        if not isinstance(fields, Mapping) or set(cast("Mapping[str, Any]", fields)) != _KEYS:
            raise MalformedAudit(f"a measurement has the fields {sorted(_KEYS)}, not {fields!r:.200}")
        held = cast("Mapping[str, Any]", fields)
        try:
            seen = dict(held["evidence"])
            if not isinstance(kind := seen.pop("kind"), str) or kind not in _EVIDENCE:
                raise ValueError(f"evidence of kind {kind!r:.80} is not known")
            words = {name: held[name] for name in ("name", "unit", "direction", "confidence")}
            return cls(evidence=_EVIDENCE[kind](**seen), **words)
        except (TypeError, ValueError, KeyError) as error:
            raise MalformedAudit(f"measurement {held['name']!r:.80}: {error}") from error

    def compare(self, fields: Mapping[str, Any]) -> None:
        """Hold what a file states against what follows from the evidence.

        Raises:
            MalformedAudit: the numbers do not follow.
        """
        try:
            again = self.values
        except (ValueError, ArithmeticError) as error:
            raise MalformedAudit(f"measurement {self.name!r:.80}: {error}") from error
        if not _close(fields["values"], again):
            raise MalformedAudit(
                f"measurement {self.name!r:.80}: its values follow from the evidence as {again}, not {fields['values']!r:.200}"
            )


def predicted_information(
    released: tuple[ArrayLike, ArrayLike],
    reference: tuple[ArrayLike, ArrayLike],
    *,
    labels: int,
    against: str,
    confidence: float = 0.95,
) -> Measurement:
    """Measure I(output; Z): how much predicted labels tell whether a row was forgotten.

    The null is the same number of the reference's labels for the same rows. Where the forget set is not balanced in its
    labels as the others are, any model that is right tells something, so that neither 0 nor independence would do.

    Args:
        released: the release's labels for the forgotten rows and for the others, whole numbers, shapes (m,) and (k,).
        reference: those of a model that never saw the forgotten rows, e.g. a retrained one; or the true labels.
        labels: how many there are.
        against: who the others are and what the reference is, in a few words.
        confidence: of the limits of the value, and of those of the null.

    Raises:
        TypeError, ValueError: as `table_of`; or the reference has labels of another number of rows.
    """
    forgotten, others = table_of(*released, labels=labels)
    null_forgotten, null_others = table_of(*reference, labels=labels)
    return Measurement(
        name=f"information of predicted labels on which row was forgotten, beside {against}", unit="nats",
        direction="above its null: the labels tell more than the reference's; below: less, as where a class was destroyed",
        confidence=confidence,
        evidence=Tables(
            forgotten=forgotten, others=others, null_forgotten=null_forgotten, null_others=null_others
        ),
    )  # fmt: skip


def _limits(hits: int, of: int, alpha: float) -> tuple[float, float]:
    return 1 - binomial_upper(of - hits, of, alpha), binomial_upper(hits, of, alpha)


def _close(held: object, again: Mapping[str, float]) -> bool:
    if not isinstance(held, Mapping) or set(cast("Mapping[str, Any]", held)) != set(again):
        return False
    stated = cast("Mapping[str, Any]", held)
    plain = all(isinstance(value, float | int) and not isinstance(value, bool) for value in stated.values())
    return plain and all(abs(stated[name] - value) <= _NEAR for name, value in again.items())
