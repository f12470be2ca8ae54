"""The demo: every method on the digits."""

import json
from pathlib import Path
from typing import Any, cast

from expunge._files import write_new
from expunge.accounting import Budget, Relation
from expunge.certificate import Certificate
from expunge.jobs.comparison import compare
from expunge.jobs.digits_task import digits, training, unlearners
from expunge.jobs.folder import working_folder, write, write_page
from expunge.report import render
from expunge.report.curves import Comparison
from expunge.report.engineering import control, table
from expunge.unlearners.grid_ridge import ExactHead
from expunge.unlearners.retrain import Retraining
from expunge.unlearners.working import Run

__all__ = ["run_demo"]


def run_demo(
    out: Path, budget: Budget, *, seeds: int, epochs: int
) -> tuple[Comparison, list[dict[str, Any]], dict[str, Any]]:
    """Several unlearners on scikit-learn's digits, several seeds each; certificates of the first seed, weights, report."""
    with working_folder(out, resume=False) as work:
        noisy, head, retraining = unlearners(epochs), ExactHead(), Retraining(**training(epochs))
        comparison = compare(
            digits, unlearners={**noisy, head.name: head}, seeds=seeds, budget=budget,
            title=f"Forgetting a tenth of digits at ({budget.epsilon:g}, {budget.delta:g})",
        )  # fmt: skip
        task = digits(0)
        pages: dict[str, Certificate] = {}
        for name, unlearner in {**noisy, retraining.name: retraining}.items():
            folder = work / name
            folder.mkdir()
            done = unlearner.forget(task, budget, Relation.RETRAINED, Run())
            pages[name] = write(folder, done, done.model, budget, Relation.RETRAINED, {})
            write_page(folder, pages[name], comparison)
        write_new(work / "comparison.json", (json.dumps(comparison.to_dict(), indent=1) + "\n").encode())
        first = next(iter(noisy))
        write_new(work / "report.html", render(pages[first], comparison).encode())
    return comparison, table(comparison), cast("dict[str, Any]", control(comparison, first))
