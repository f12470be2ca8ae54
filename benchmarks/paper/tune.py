"""Choose the recovery once, on seeds that no figure uses: the training with the best validation accuracy.

    python benchmarks/paper/tune.py mnist --json benchmarks/paper/results/tuning_mnist.json
    python benchmarks/paper/tune.py features10 --private --seeds 2 --json benchmarks/paper/results/tuning_private.json

For gradient clipping at a true (1, 1e-5), and for retraining with the same effort, so that neither is favoured.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from experiment import Experiment
from recipes import Job, Training
from rich.console import Console
from rich.table import Table
from run import environment
from studies import STUDIES

FIRST_SEED = 100


def candidates() -> list[Training]:
    """The grid."""
    sgd = [
        Training(f"sgd {rate:g}, momentum 0.9", learning_rate=rate, momentum=0.9)
        for rate in (0.02, 0.035, 0.05, 0.1, 0.2)
    ]
    adamw = [Training(f"adamw {rate:g}", optimizer="adamw", learning_rate=rate) for rate in (0.003, 0.006, 0.012)]
    rescaled = [
        Training("sgd 0.05, momentum 0.9, rescaled", learning_rate=0.05, momentum=0.9, rescale=True),
        Training("sgd 0.1, momentum 0.9, rescaled", learning_rate=0.1, momentum=0.9, rescale=True),
        Training("sgd 0.2, momentum 0.9, rescaled", learning_rate=0.2, momentum=0.9, rescale=True),
        *(
            Training(f"adamw {rate:g}, rescaled", optimizer="adamw", learning_rate=rate, rescale=True)
            for rate in (0.003, 0.006, 0.012)
        ),
    ]
    decayed = [
        Training(
            f"sgd {rate:g}, momentum 0.9, decay {decay:g}" + ", rescaled" * rescale,
            learning_rate=rate, momentum=0.9, weight_decay=decay, rescale=rescale,
        )
        for decay in (0.002, 0.005, 0.01)
        for rate in (0.05, 0.1)
        for rescale in (False, True)
    ]  # fmt: skip
    limited = [
        Training(
            f"sgd {rate:g}, momentum 0.9, rescaled, norm {norm:g}",
            learning_rate=rate, momentum=0.9, rescale=True, max_grad_norm=norm,
        )
        for rate, norm in ((0.2, 1.0), (0.4, 1.0), (0.2, 2.0), (0.4, 2.0))
    ]  # fmt: skip
    return [*sgd, *adamw, Training("the paper's: sgd 0.1", learning_rate=0.1), *rescaled, *decayed, *limited]


def private_candidates() -> list[Training]:
    """The rates of private training: its noise is large, and so they must be small."""
    return [
        Training(f"private {rate:g}, momentum 0.9", learning_rate=rate, momentum=0.9, weight_decay=0.0)
        for rate in (0.02, 0.05, 0.1, 0.2)
    ]


def main() -> None:
    """Run what is missing of the grid, print it, and keep it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")
    parser.add_argument("--bfloat16", action="store_true", help="train in mixed precision; the result says so")
    parser.add_argument("--seeds", type=int, help="how many; the study's block unless given")
    parser.add_argument("--original-epochs", type=int, help="shorten the original training; the result says so")
    parser.add_argument("--private", action="store_true", help="private training instead, where the study has it")
    parser.add_argument("--only", nargs="+", help="candidates of these names")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    size = arguments.seeds or (study.block if arguments.device == "cpu" else 8)
    experiment = Experiment(
        study, study.data(), range(FIRST_SEED, FIRST_SEED + size), device=arguments.device, compiled=arguments.compile,
        autocast=torch.bfloat16 if arguments.bfloat16 else None, original_epochs=arguments.original_epochs,
    )  # fmt: skip
    kind, methods = ("private", ["dp_training"]) if arguments.private else ("tuned", ["gradient_clipping", "retrain"])
    cells = [job.cell for job in study.jobs() if job.training.name == kind]
    if not cells:
        parser.error(f"{study.name} has no private training; features10 and features100 have")
    compared = [next(cell for cell in cells if cell.method == method) for method in methods]
    rows = read(arguments.json)
    for training in private_candidates() if arguments.private else candidates():
        if arguments.only and training.name not in arguments.only:
            continue
        for cell in compared:
            if any((r["training"]["name"], r["method"]) == (training.name, cell.method) for r in rows):
                continue
            found = {b: experiment.run(Job(cell, training, b, (b,))) for b in study.tuning}
            accuracy = {str(b): next(iter(f.values()))["validation"][b] for b, f in found.items()}
            row = {
                "training": training.to_dict(),
                "method": cell.method,
                "setting": cell.setting,
                "validation": accuracy,
            }
            rows.append(row)
            Console(stderr=True).print(training.name, cell.method, {b: round(mean(a), 4) for b, a in accuracy.items()})
            write(arguments.json, experiment, rows)
    table = Table("training", "method", "setting", *(f"{b} epochs" for b in study.tuning), title="validation accuracy")
    for row in rows:
        means = (f"{mean(values):.4f}" for values in row["validation"].values())
        table.add_row(row["training"]["name"], row["method"], row["setting"], *means)
    Console(width=160).print(table)


def read(path: Path | None) -> list[dict[str, Any]]:
    """What was compared before."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path and path.is_file() else []


def write(path: Path | None, experiment: Experiment, rows: list[dict[str, Any]]) -> None:
    """What is compared so far."""
    if path is None:
        return
    result = {
        "study": experiment.study.name, "seeds": experiment.seeds, "original_epochs": experiment.original_epochs,
        "autocast": str(experiment.autocast), "rows": rows, **environment(experiment.device),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
