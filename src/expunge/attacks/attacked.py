"""What an attack returns."""

from dataclasses import dataclass
from typing import Any

from expunge.audit.finding import Finding

__all__ = ["Attacked"]


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What attacks have shown.

    Args:
        findings: lower bounds on ε, each with its null.
        details: curves and tables for readers, JSON-ready.
    """

    findings: tuple[Finding, ...]
    details: dict[str, Any]
