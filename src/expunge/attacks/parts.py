"""What the parts of an audit have in common: how much is spent, on what, and the file that keeps finished ones."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge import _validate
from expunge._files import write_over
from expunge.accounting import Budget, Mechanism, Relation
from expunge.audit.finding import Finding
from expunge.errors import MalformedAudit, StateError
from expunge.training.task import Task
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.recalled import Procedure

__all__ = ["Effort", "How", "Kept", "Part", "left_out"]

Part = tuple[list[Finding], dict[str, Any]]
"""Findings, and details for readers; "measurements" among these are those of the audit."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is spent.

    Args:
        replicates: runs of each world in the two-worlds attack.
        seeds: runs from each start in the null-start audit, at least 8.
        runs: models in the membership attacks, at least 8; 0 leaves them out, for models too large for shadow models.
    """

    replicates: int = 100_000
    seeds: int = 64
    runs: int = 128

    def __post_init__(self) -> None:
        _validate.whole(100, replicates=self.replicates)
        _validate.whole(8, seeds=self.seeds)
        _validate.whole(8 if self.runs else 0, runs=self.runs)

    @classmethod
    def quick(cls) -> "Effort":
        """Under a minute for a small task."""
        return cls(replicates=20_000, seeds=48, runs=32)


@dataclass(frozen=True, kw_only=True)
class How:
    """What `audit_task` was asked, see there."""

    task: Task
    unlearner: Unlearner
    mechanism: Mechanism
    budget: Budget
    relation: Relation
    delta: float
    confidence: float
    effort: Effort
    seed: int
    procedure: Procedure
    assumed: Mapping[str, Any]


def left_out(reason: object) -> Part:
    """A part that does not apply."""
    return [], {"left_out": str(reason)}


class Kept:
    """Finished parts in a state file; without a path none are kept.

    Args:
        path: of the file.
        settings: all that decides the parts.

    Raises:
        StateError: the file is damaged or belongs to another audit.
    """

    def __init__(self, path: Path | None, settings: str) -> None:
        self.path, self.key = path, hashlib.sha256(settings.encode()).hexdigest()
        self.parts: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            key, self.parts = content["settings"], dict(content["parts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path} is not a whole audit state: {error}; remove it to start again") from error
        if key != self.key:
            raise StateError(f"{path} belongs to an audit with other settings; remove it, or repeat those settings")

    def get(self, name: str) -> Part | None:
        """A finished part; raises `StateError` where it does not follow from its evidence."""
        held = self.parts.get(name)
        if held is None:
            return None
        try:
            return [Finding.from_dict(fields) for fields in held["findings"]], held["details"]
        except (MalformedAudit, KeyError, TypeError) as error:
            raise StateError(f"{self.path}: {name}: {error}; remove it to start again") from error

    def put(self, name: str, part: Part) -> None:
        """Keep a finished part."""
        if self.path is None:
            return
        self.parts[name] = {"findings": [finding.to_dict() for finding in part[0]], "details": part[1]}
        write_over(self.path, json.dumps({"settings": self.key, "parts": self.parts}).encode())

    def remove(self) -> None:
        """All parts are finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
