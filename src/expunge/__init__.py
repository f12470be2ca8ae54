"""Certified machine unlearning for PyTorch.

`__all__` holds what most programs need. Below it lie layers, modules of this package: `unlearners`, `features` and `recovery` hold
ways to unlearn, `accounting` what is proven, `testing`, `attacks`, `audit` and `replicates` what tries to refute it.
Accounting, certificates, verification and reports need no torch; all names load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from expunge import errors
from expunge._formerly import FORMERLY
from expunge._version import __version__

if TYPE_CHECKING:
    from expunge import accounting as accounting
    from expunge import attacks as attacks
    from expunge import audit as audit
    from expunge import certificate as certificate
    from expunge import data as data
    from expunge import features as features
    from expunge import heads as heads
    from expunge import hf as hf
    from expunge import policies as policies
    from expunge import recovery as recovery
    from expunge import replicates as replicates
    from expunge import report as report
    from expunge import testing as testing
    from expunge import trace as trace
    from expunge import training as training
    from expunge import unlearners as unlearners
    from expunge.accounting import Budget
    from expunge.certificate import Certificate, issue, verify
    from expunge.data import Examples, Request
    from expunge.jobs.comparison import Metric, compare
    from expunge.jobs.planner import Plan, plan
    from expunge.jobs.unlearning import unlearn
    from expunge.training.task import Task
    from expunge.training.unlearned import Unlearned


__all__ = [
    "Budget",
    "Certificate",
    "Examples",
    "Metric",
    "Plan",
    "Request",
    "Task",
    "Unlearned",
    "__version__",
    "audit",
    "compare",
    "errors",
    "issue",
    "plan",
    "report",
    "unlearn",
    "verify",
]

_WHERE = {
    "Budget": "accounting",
    "Certificate": "certificate",
    "Examples": "data",
    "Metric": "jobs.comparison",
    "Plan": "jobs.planner",
    "Request": "data",
    "Task": "training.task",
    "Unlearned": "training.unlearned",
    "compare": "jobs.comparison",
    "issue": "certificate",
    "plan": "jobs.planner",
    "unlearn": "jobs.unlearning",
    "verify": "certificate",
}

_LAYERS = (
    "accounting",
    "attacks",
    "audit",
    "certificate",
    "data",
    "features",
    "heads",
    "hf",
    "policies",
    "recovery",
    "replicates",
    "report",
    "testing",
    "trace",
    "unlearners",
)


def __getattr__(name: str) -> Any:
    if name in (*_LAYERS, "training"):
        return importlib.import_module(f"expunge.{name}")
    where, called = (_WHERE[name], name) if name in _WHERE else FORMERLY.get(name, ("", ""))
    if not where:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"expunge.{where}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise errors.MissingExtra(f"expunge.{name} needs torch: pip install 'expunge[torch]'") from error
    return getattr(module, called)


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAYERS})
