"""Audits of seven ways to unlearn, on digits and MNIST: what each attack shows, and what it refutes.

    python benchmarks/audits.py --json benchmarks/results/audits.json

Trained, retrained, gradient clipping at a true (1, 1e-5), gradient clipping with the published noise (claim 1.004, true
6.57), output perturbation, plain fine-tuning, gradient ascent. In every run each of the candidates was trained on and
forgotten, or never seen, by a fair coin.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path
from typing import Any

import torch
from environment import environment
from paper.data import DataError, mnist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.attacks import Arena, distances, membership, two_worlds
from expunge.attacks.arena import Unlearner, fine_tuning, gradient_ascent, mechanism, nothing, retraining
from expunge.replicates import Rows

DELTA = 1e-5
# Learning rates of ascent that unlearn something and leave something: half of them does nothing, twice them ruins the model.
ASCENT = {"digits": 0.2, "MNIST": 0.04}


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of one run."""
    return F.cross_entropy(model(batch[0]), batch[1])


def digits(runs: int) -> Arena:
    """64-64-10, 1,000 rows retained, 200 attacked."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = Rows((torch.as_tensor(data.data) / 16).float(), torch.as_tensor(data.target))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return Arena(
        data=rows, retain=order[:1000], candidates=order[1000:1200], population=order[1200:], runs=runs,
        make_model=lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), loss=loss,
        recipe=ex.recovery.Recipe(learning_rate=0.4, weight_decay=0.0), epochs=60, recovery_epochs=5,
    )  # fmt: skip


def handwriting(runs: int) -> Arena:
    """MNIST, 784-32-10, 4,000 rows retained, 400 attacked: few, so that they are learned by heart."""
    data = mnist()
    rows = Rows(data.train_x, data.train_y, mean=0.1307, std=0.3081)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return Arena(
        data=rows, retain=order[:4000], candidates=order[4000:4400], population=order[4400:5400], runs=runs,
        make_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)), loss=loss,
        recipe=ex.recovery.Recipe(learning_rate=0.05, weight_decay=0.0), epochs=30, recovery_epochs=5,
    )  # fmt: skip


def published() -> ex.accounting.GradientClipping:
    """One step, with the noise of the published code for a claim of 1.004."""
    shift = 2 * 0.01 * (1 - 1e-3) + 2 * 1e-4 * 100.0
    return ex.accounting.GradientClipping(
        init_clip=0.01, grad_clip=100.0, learning_rate=1e-4, weight_decay=10.0, steps=1, noise_std=shift / sqrt(2)
    )


def unlearners(ascent: float) -> dict[str, tuple[Unlearner, ex.accounting.Mechanism | None, float | None]]:
    """By name: what is run, its mechanism, and the ε it claims."""
    budget = ex.Budget(epsilon=1.0, delta=DELTA)
    wrong = published()
    right = ex.accounting.calibrate(lambda s: replace(wrong, noise_std=s), budget)
    output = ex.accounting.calibrate(lambda s: ex.accounting.OutputPerturbation(init_clip=0.01, noise_std=s), budget)
    return {
        "trained, nothing done": (nothing(), None, None),
        "plain fine-tuning": (fine_tuning(), None, None),
        "gradient ascent": (gradient_ascent(steps=20, learning_rate=ascent), None, None),
        "gradient clipping, published noise": (mechanism(wrong), wrong, 1.004),
        "gradient clipping, true (1, 1e-5)": (mechanism(right), right, 1.0),
        "output perturbation, true (1, 1e-5)": (mechanism(output), output, 1.0),
        "retrained": (retraining(), None, 0.0),
    }


def audited(name: str, arena: Arena) -> list[dict[str, Any]]:
    """One row an unlearner."""
    trained, rows = arena.trained(), []
    for label, (unlearner, of, claimed) in unlearners(ASCENT[name]).items():
        begun = time.perf_counter()
        seen = membership(arena, unlearner, delta=DELTA, trained=trained)
        coins = torch.Generator().manual_seed(0)
        worlds = () if of is None else two_worlds(of, delta=DELTA, generator=coins).findings
        findings = [*worlds, *seen.findings]
        claim = None
        if claimed is not None:
            known = ex.accounting.guarantee(ex.accounting.Retrain() if of is None else of, delta=DELTA)
            claim = known if known.epsilon <= claimed else replace(known, epsilon=claimed, mu=inf)
        rows.append({
            "data": name, "unlearner": label, "claimed": claimed,
            "proven": None if of is None else ex.accounting.guarantee(of, delta=DELTA).epsilon,
            "refuted_by": [] if claim is None else [f.attack for f in findings if f.refutes(claim)],
            "findings": [f.to_dict() for f in findings],
            "membership": {k: {p: c["auc"] for p, c in v.items()} for k, v in seen.details.items() if "attack" in v},
            "retained_auc": seen.details["retained"]["auc"], "accuracy": seen.details["accuracy"],
            "distances": distances(arena, unlearner, trained=trained), "seconds": round(time.perf_counter() - begun, 1),
        })  # fmt: skip
        show(rows[-1:])
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(
        "data", "unlearner", "claimed", "two worlds: ε ≥", "membership: ε ≥", "best AUC", "KLOM (null)", "challenge (null)",
        "accuracy", "refuted",
    )  # fmt: skip
    for r in rows:

        def best(kind: str, r: dict[str, Any] = r) -> str:
            bounds = [f["bounds"]["epsilon"] for f in r["findings"] if f["attack"].startswith(kind)]
            return f"{max(bounds):.2f}" if bounds else ""

        far = {
            n: f"{r['distances'][n]['value']:.3f} ({r['distances'][n]['null']:.3f})"
            for n in ("KLOM", "challenge score")
        }
        verdict = "" if r["claimed"] is None else "REFUTED" if r["refuted_by"] else "no"
        claimed = "" if r["claimed"] is None else f"{r['claimed']:g}"
        table.add_row(
            r["data"], r["unlearner"], claimed, best("two worlds"), best("membership"),
            f"{max(c['attack'] for c in r['membership'].values()):.3f}", *far.values(),
            f"{r['accuracy']['population']:.3f}", verdict,
        )  # fmt: skip
    Console(width=190).print(table)


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=128)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    makers: dict[str, Callable[[int], Arena]] = {"digits": digits, "MNIST": handwriting}
    rows: list[dict[str, Any]] = []
    for name, make in makers.items():
        try:
            rows += audited(name, make(arguments.runs))
        except DataError as error:
            Console(stderr=True).print(f"{name} left out: {error}")
    show(rows)
    if arguments.json:
        result = {
            "runs": arguments.runs, "delta": DELTA, "rows": rows,
            **environment(),
        }  # fmt: skip
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
