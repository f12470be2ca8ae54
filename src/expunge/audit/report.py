"""An audit: findings about the run of one certificate, in a file of its own."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from expunge._files import write_new
from expunge.accounting import Guarantee
from expunge.audit.finding import Finding
from expunge.errors import MalformedAudit

__all__ = ["SCHEMA", "Audit"]

SCHEMA = "expunge.audit/1"
_KEYS = {"schema", "certificate", "findings", "details"}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What attacks on a certified run have shown.

    Args:
        certificate: the content digest of the certificate; None if the audit is about no certificate.
        findings: one for each attack.
        details: free, JSON-ready: curves and tables for the report. Nothing is concluded from it.
    """

    certificate: str | None
    findings: tuple[Finding, ...]
    details: Mapping[str, Any]

    def refuting(self, guarantee: Guarantee) -> list[Finding]:
        """The findings that refute a guarantee, among those about its relation.

        Each holds with its own confidence: of many findings some refute by chance. `Finding.confidence` should be chosen
        for the number of them.
        """
        return [
            finding
            for finding in self.findings
            if finding.relation is guarantee.relation and finding.refutes(guarantee)
        ]

    def to_json(self) -> str:
        """Readable JSON."""
        content = {
            "schema": SCHEMA,
            "certificate": self.certificate,
            "findings": [finding.to_dict() for finding in self.findings],
            "details": dict(self.details),
        }
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
            content: object = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)
        except (OSError, ValueError, RecursionError) as error:
            raise MalformedAudit(f"cannot read {os.fspath(path)}: {error}") from error
        if not isinstance(content, dict) or set(cast("dict[str, Any]", content)) != _KEYS:
            raise MalformedAudit(f"an audit has the fields {sorted(_KEYS)}")
        held = cast("dict[str, Any]", content)
        if held["schema"] != SCHEMA:
            raise MalformedAudit(f"schema must be {SCHEMA!r}, not {held['schema']!r:.80}")
        if not isinstance(held["findings"], list) or not isinstance(held["details"], dict):
            raise MalformedAudit("findings must be a list and details an object")
        findings = tuple(Finding.from_dict(fields) for fields in cast("list[object]", held["findings"]))
        return cls(certificate=held["certificate"], findings=findings, details=cast("dict[str, Any]", held["details"]))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
