"""Contracts that anyone can run on a mechanism or an executor of their own, as scikit-learn's `check_estimator`.

`check_mechanism` needs no torch; `check_executor` loads it on first use. Both return nothing, or raise
`ContractViolation` with the contract that is broken, the fields and the numbers. What they check, and why:
docs/contracts.md.

A contract that holds proves no theorem: it says that the numbers do not contradict one another, a known adversary, or
the run. The derivation is still yours to give.
"""

import importlib
from typing import TYPE_CHECKING, Any

from expunge.errors import MissingExtra
from expunge.testing.contract import ContractViolation
from expunge.testing.mechanisms import check_mechanism

if TYPE_CHECKING:
    from expunge.testing.executors import check_executor

__all__ = ["ContractViolation", "check_executor", "check_mechanism"]


def __getattr__(name: str) -> Any:
    if name != "check_executor":
        raise AttributeError(f"module 'expunge.testing' has no attribute {name!r}")
    try:
        return importlib.import_module("expunge.testing.executors").check_executor
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("expunge.testing.check_executor needs torch: pip install 'expunge[torch]'") from error
