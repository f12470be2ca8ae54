"""Contracts that anyone can run on a class of their own, as scikit-learn's `check_estimator`.

They are for mechanisms, executors, unlearners, recoveries and feature maps. `check_mechanism` needs no torch; the others
load it on first use. All return nothing, or raise `ContractViolation` with the contract that is broken, the fields and the
numbers. What they check, and why: docs/contracts.md.

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
    from expunge.testing.feature_maps import check_feature_map
    from expunge.testing.recoveries import check_recovery
    from expunge.testing.unlearners import check_unlearner

__all__ = [
    "ContractViolation", "check_executor", "check_feature_map", "check_mechanism", "check_recovery", "check_unlearner",
]  # fmt: skip

_TORCH_BACKED = {
    "check_executor": "executors", "check_feature_map": "feature_maps", "check_recovery": "recoveries",
    "check_unlearner": "unlearners",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _TORCH_BACKED:
        raise AttributeError(f"module 'expunge.testing' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"expunge.testing.{_TORCH_BACKED[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra(f"expunge.testing.{name} needs torch: pip install 'expunge[torch]'") from error


def __dir__() -> list[str]:
    return sorted(__all__)
