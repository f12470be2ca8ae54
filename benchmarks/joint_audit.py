"""The joint audit of one release: on a law whose ε is known, and on models that nothing was done to.

    python benchmarks/joint_audit.py --json benchmarks/results/joint_audit.json

*Known law*: 900 candidates in directions of their own, one release N(±μ/√m, I), which is μ-GDP to its certifier N(0, I).
*Untouched*: the networks of the leaderboard's canaries as they were trained, 3 % of the rows canaries with a wrong label; without a reference
model (a canary's score is minus its loss) and with one.
"""

import argparse
import json
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from leaders.measures import CONFIDENCE
from leaders.requests import Coined
from leaders.sets import BUDGET, SETS
from paper.data import DataError
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from expunge.accounting import gaussian
from expunge.audit import JointGuesses, joint_guesses

DELTA, CANDIDATES, RELEASES, SEEDS = BUDGET.delta, 900, 1000, 3


def law(mu: float, rng: np.random.Generator) -> dict[str, Any]:
    """One row: what 1,000 audits of one release each show of a known ε."""
    truth, shown, shown_mu = gaussian.epsilon(mu, DELTA), [], []
    for _ in range(RELEASES):
        coins = rng.random(CANDIDATES) < 0.5
        scores = mu / sqrt(CANDIDATES) * np.where(coins, 1, -1) + rng.normal(size=CANDIDATES)
        seen = joint_guesses(scores, coins)
        shown.append(seen.epsilon(delta=DELTA, confidence=CONFIDENCE))
        shown_mu.append(seen.mu(confidence=CONFIDENCE))
    quantiles = {str(q): float(np.quantile(shown, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return {
        "mu": mu, "epsilon": truth, "releases": RELEASES, "shown": quantiles, "mean": float(np.mean(shown)),
        "share": quantiles["0.5"] / truth, "above": float(np.mean(np.array(shown) > truth)),
        "mu_median": float(np.median(shown_mu)), "mu_above": float(np.mean(np.array(shown_mu) > mu)),
    }  # fmt: skip


def untouched(name: str, seed: int) -> dict[str, Any]:
    """One row: a model that nothing was done to."""
    posed = Coined(SETS[name], *SETS[name].rows(), "canaries", seed)
    x, y = (part[: posed.canaries] for part in posed.candidates.tensors)
    released, reference, members = posed.task.model, posed.reference, posed.members[: posed.canaries].numpy()
    with torch.no_grad():
        own, easy = (F.cross_entropy(f(x).double(), y, reduction="none").numpy() for f in (released, reference))
    found = {"loss": joint_guesses(-own, members), "loss less reference": joint_guesses(easy - own, members)}
    return {"set": name, "seed": seed, "canaries": posed.canaries} | {
        how: asdict(seen) | {"epsilon": bound(seen)} for how, seen in found.items()
    }


def bound(seen: JointGuesses) -> float:
    """ε at least."""
    return seen.epsilon(delta=DELTA, confidence=CONFIDENCE)


def show(result: dict[str, Any]) -> None:
    """The tables."""
    table = Table("mu", "epsilon", "shown (5 %, median, 95 %)", "share", "above the truth", "mu shown", "mu above")
    for r in result["law"]:
        shown = ", ".join(f"{r['shown'][q]:.2f}" for q in ("0.05", "0.5", "0.95"))
        table.add_row(
            f"{r['mu']:g}", f"{r['epsilon']:.2f}", shown, f"{r['share']:.1%}", f"{r['above']:.1%}", f"{r['mu_median']:.2f}",
            f"{r['mu_above']:.1%}",
        )  # fmt: skip
    Console().print(table)
    table = Table("set", "seed", "canaries", "epsilon by loss", "by loss less reference")
    for r in result["untouched"]:
        bounds = (f"{r[how]['epsilon']:.1f}" for how in ("loss", "loss less reference"))
        table.add_row(r["set"], str(r["seed"]), str(r["canaries"]), *bounds)
    Console().print(table)


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"delta": DELTA, "confidence": CONFIDENCE, "candidates": CANDIDATES}
    result["law"] = [law(mu, rng) for mu in (0.5, 1.0, 3.0, 6.0, 12.0)]
    result["untouched"] = []
    for name in SETS:
        for seed in range(SEEDS):
            try:
                result["untouched"].append(untouched(name, seed))
            except DataError as error:
                Console(stderr=True).print(f"{name} left out: {error}")
                break
    if arguments.json:
        result |= environment()
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)


if __name__ == "__main__":
    main()
