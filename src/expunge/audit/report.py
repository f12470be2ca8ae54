"""An audit: findings about the run of one certificate, in a file of its own."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, cast

from expunge._files import write_new
from expunge._json import strict
from expunge.accounting import Bound, Claim
from expunge.audit.finding import Finding
from expunge.audit.measurement import Measurement
from expunge.errors import ClaimRefused, MalformedAudit, NothingTested

__all__ = ["SCHEMA", "Audit"]

SCHEMA = "expunge.audit/1"
_KEYS = {"schema", "certificate", "findings", "details"}
_MORE = {"measurements"}  # left out where there are none, as in every file before there were any
# Of a file, so that whoever reads it is not kept busy.
_MOST, _MOST_BYTES, _MOST_SECONDS = 1000, 16 * 2**20, 60


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What attacks on a certified run have shown.

    Args:
        certificate: the content digest of the certificate; None if the audit is about no certificate.
        findings: one for each attack.
        details: free, JSON-ready: curves and tables for the report. Nothing is concluded from it.
        measurements: numbers beside their nulls, which describe and bound nothing.
    """

    certificate: str | None
    findings: tuple[Finding, ...]
    details: Mapping[str, Any]
    measurements: tuple[Measurement, ...] = ()

    def refuting(self, claim: Claim) -> list[Finding]:
        """The findings that refute a claim, among those about its relation.

        Each holds with its own confidence: of many findings some refute by chance. `Finding.confidence` should be chosen
        for the number of them.
        """
        return [finding for finding in self.findings if finding.relation is claim.relation and finding.refutes(claim)]

    def check(self, claim: Claim, *, certificate: object, largest: float = inf) -> None:
        """Hold the audit against a certificate; return nothing, or raise.

        Args:
            claim: what the certificate states.
            certificate: its content digest.
            largest: how many records a forget set may hold that the claim covers.

        Raises:
            MalformedAudit: it is about another certificate, relation, δ, or about larger forget sets.
            ClaimRefused: a finding refutes the claim.
            NothingTested: none could have.
        """
        if self.certificate != certificate:
            raise MalformedAudit(f"the audit is about {self.certificate}, not about this certificate")
        for finding in self.findings:
            finding.refuse_other(claim, largest)
        for finding in self.refuting(claim):
            raise ClaimRefused(
                f"the audit refutes it: '{finding.attack}' shows epsilon >= {finding.epsilon:.4g}, mu >= "
                f"{finding.mu or 0:.4g} at delta={finding.delta:g} with confidence {finding.confidence:.4g}"
            )
        reason = self.untested(claim)
        if reason is not None:
            raise NothingTested(f"the audit is no pass, nothing could be tested: {reason}")

    def untested(self, claim: Claim) -> str | None:
        """Why no finding could have refuted a claim; None where one could."""
        if not self.findings:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            return f"there is no finding. {reasons or 'No attack was made'}"
        if not isinstance(claim, Bound):
            return f"a claim of kind '{claim.kind}' bounds no law, and no finding can refute it"
        most = max(finding.reach for finding in self.findings)
        if most <= claim.epsilon:
            return f"findings of this size can show epsilon >= {most:.4g} at most, {claim.epsilon:.4g} is claimed"
        return None

    def with_measurements(self, *more: Measurement) -> "Audit":
        """The same audit with further numbers, which change nothing of what it refutes or leaves untested.

        Raises:
            TypeError: one is no measurement.
            ValueError: there would be more than 1,000.
        """
        for one in more:
            if not isinstance(one, Measurement):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"an audit takes measurements, not {one!r:.80}")
        if len(self.measurements) + len(more) > _MOST:
            raise ValueError(f"an audit has at most {_MOST} measurements")
        return replace(self, measurements=(*self.measurements, *more))

    @property
    def left_out(self) -> dict[str, str]:
        """The parts that did not apply, with the reason."""
        parts = cast("dict[str, Any]", self.details)
        return {
            name: str(cast("dict[str, Any]", part)["left_out"])
            for name, part in parts.items()
            if isinstance(part, dict) and "left_out" in part
        }

    def to_json(self) -> str:
        """Readable JSON."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "certificate": self.certificate,
            "findings": [finding.to_dict() for finding in self.findings],
            "details": dict(self.details),
        }
        if self.measurements:
            content["measurements"] = [measured.to_dict() for measured in self.measurements]
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new file, whole or not at all; raises `OutputError`."""
        write_new(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Audit":
        """Read an audit; every bound is computed again from its evidence.

        Raises:
            MalformedAudit: missing, truncated, not JSON, of another schema, or a bound that does not follow.
        """
        try:
            with Path(path).open("rb") as file:
                read = file.read(_MOST_BYTES + 1)
            if len(read) > _MOST_BYTES:
                raise MalformedAudit(
                    f"{os.fspath(path)}: an audit has at most {_MOST_BYTES} bytes; this file is longer"
                )
            content = strict(read.decode())
        except OSError as error:
            raise MalformedAudit(f"cannot read {os.fspath(path)}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise MalformedAudit(f"{os.fspath(path)} is not whole JSON (truncated?): {error}") from error
        if not isinstance(content, dict) or set(cast("dict[str, Any]", content)) - _MORE != _KEYS:
            raise MalformedAudit(f"an audit has the fields {sorted(_KEYS)}, and may have {sorted(_MORE)}")
        held = cast("dict[str, Any]", content)
        if held["schema"] != SCHEMA:
            raise MalformedAudit(f"schema must be {SCHEMA!r}, not {held['schema']!r:.80}")
        measured = held.get("measurements", [])
        if not isinstance(held["findings"], list) or not isinstance(held["details"], dict):
            raise MalformedAudit("findings must be a list and details an object")
        if not isinstance(measured, list) or len(cast("list[object]", measured)) > _MOST:
            raise MalformedAudit(f"measurements must be a list of at most {_MOST}")
        if not isinstance(held["certificate"], str | None):
            raise MalformedAudit(f"certificate must be a digest or null, not {held['certificate']!r:.80}")
        if len(cast("list[object]", held["findings"])) > _MOST:
            raise MalformedAudit(f"an audit has at most {_MOST} findings")
        return cls(
            certificate=held["certificate"],
            findings=_computed_again(cast("list[object]", held["findings"])),
            details=cast("dict[str, Any]", held["details"]),
            measurements=_counted_again(cast("list[object]", measured)),
        )


def _computed_again(listed: list[object]) -> tuple[Finding, ...]:
    """The findings with the bounds that follow from what was seen, where these can be had in reasonable time."""
    findings = tuple(Finding.stated(fields) for fields in listed)
    _affordable("the bounds of {} findings", [finding.seconds for finding in findings])
    for finding, fields in zip(findings, listed, strict=True):
        finding.compare(cast("Mapping[str, Any]", fields))
    return findings


def _counted_again(listed: list[object]) -> tuple[Measurement, ...]:
    """The measurements with the numbers that follow from what was counted, likewise."""
    measured = tuple(Measurement.stated(fields) for fields in listed)
    _affordable("the numbers of {} measurements", [one.evidence.seconds for one in measured])
    for one, fields in zip(measured, listed, strict=True):
        one.compare(cast("Mapping[str, Any]", fields))
    return measured


def _affordable(what: str, seconds: list[float]) -> None:
    if (taken := sum(seconds)) > _MOST_SECONDS:
        raise MalformedAudit(
            f"{what.format(len(seconds))} would take about {taken:.0f} seconds to compute again, at most {_MOST_SECONDS} are "
            "given: the counts are too large for so many"
        )
