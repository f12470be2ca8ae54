"""Choose the recovery once, on seeds that no figure uses: the training with the best validation accuracy.

    python benchmarks/paper/tune.py --json benchmarks/paper/results/tuning_mnist.json

For gradient clipping at a true (1, 1e-5), and for retraining with the same effort, so that neither is favoured.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from data import mnist
from recipes import Training, mnist_cells
from rich.console import Console
from rich.table import Table
from run import Experiment, environment

BUDGETS = (1, 6)
FIRST_SEED = 100


def candidates() -> list[Training]:
    """The grid."""
    sgd = [
        Training(name=f"sgd {rate:g}, momentum 0.9", learning_rate=rate, momentum=0.9)
        for rate in (0.02, 0.035, 0.05, 0.1)
    ]
    adamw = [Training(name=f"adamw {rate:g}", optimizer="adamw", learning_rate=rate) for rate in (0.003, 0.006, 0.012)]
    paper = Training(name="the paper's: sgd 0.1", learning_rate=0.1)
    rescaled = Training(name="sgd 0.05, momentum 0.9, rescaled", learning_rate=0.05, momentum=0.9, rescale=True)
    return [*sgd, *adamw, paper, rescaled]


def main() -> None:
    """Run the grid, print it, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    experiment = Experiment(mnist(), first_seed=FIRST_SEED, device=arguments.device)
    proven = [c for c in mnist_cells() if c.method == "gradient_clipping" and c.reading == "proven"]
    retrain = next(c for c in mnist_cells() if c.method == "retrain")
    rows: list[dict[str, Any]] = []
    table = Table("training", "cell", *(f"{b} epochs" for b in BUDGETS), title="validation accuracy")
    for training in candidates():
        for cell in [*proven, retrain]:
            found = [experiment.run(cell, training, b) for b in BUDGETS]
            values = [next(iter(f.values()))["validation"] for f in found]
            rows.append(
                {"training": asdict(training), "method": cell.method, "setting": cell.setting, "validation": values}
            )
            table.add_row(training.name, f"{cell.method} {cell.setting}", *(f"{mean(v):.4f}" for v in values))
    Console(width=160).print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"budgets": BUDGETS, "seeds": experiment.seeds, "rows": rows, **environment(arguments.device)}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
