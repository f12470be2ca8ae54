"""Run the jobs of a study, each into a JSON file of its own; what is there is not computed again.

    python benchmarks/paper/run.py mnist
    python benchmarks/paper/run.py cifar10 --original-epochs 20 --compile    # shortened, and labelled so
    python benchmarks/paper/run.py mnist --quick

Every job runs from eight seeds; each varies split, initialisation, training and noise. A mechanism runs from the trained start and,
with the same seeds, from the null start. Accuracy on the paper's metric (validation rows, augmented), on plain test
pictures and on the forgotten rows. Interrupt it when you like: a block of seeds that is finished is on disk.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from experiment import CACHE, Experiment, Measured
from recipes import DELTA, Cell, Job
from rich.console import Console
from studies import STUDIES

import expunge as ex

RESULTS = Path(__file__).parent / "results"
SEEDS = 8


def describe(cell: Cell) -> dict[str, Any]:
    """The mechanism, its claim, and the ε that is proven, under both relations; `claims.py` has lower bounds as well."""
    if cell.mechanism is None:
        return {}
    proven = {
        str(r): ex.accounting.guarantee(cell.mechanism, delta=DELTA, relation=r).epsilon for r in ex.accounting.Relation
    }
    return {
        "mechanism": asdict(cast("Any", cell.mechanism)), "target": cell.target, "claimed": cell.claimed,
        "proven_epsilon": proven,
    }  # fmt: skip


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    return {
        "versions": {n: version(n).partition("+")[0] for n in ("expunge", "torch", "numpy")}
        | {"python": platform.python_version()},
        "hardware": {"device": name, "machine": platform.machine(), "cpus": os.cpu_count()},
    }


def precision(experiment: Experiment) -> dict[str, str]:
    """That of training, where it is mixed."""
    return {} if experiment.autocast is None else {"autocast": str(experiment.autocast)}


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result as a whole: an interrupted call leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def stored(path: Path, job: Job, original_epochs: int | None) -> dict[str, Any] | None:
    """What is there of a job, if it was run with this training and from such originals."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    same = (found["training"], found["original_epochs"]) == (job.training.to_dict(), original_epochs)
    return found if same else None


def merged(old: dict[str, Any], new: dict[str, Measured]) -> dict[str, Any]:
    """The accuracies of more seeds behind those that are there."""
    return {
        start: {
            name: {str(epoch): old.get(start, {}).get(name, {}).get(str(epoch), []) + values for epoch, values in curve.items()}
            for name, curve in metrics.items()
        }
        for start, metrics in new.items()
    }  # fmt: skip


def run_block(job: Job, experiment: Experiment, path: Path) -> None:
    """Run a job from the seeds of an experiment, and put the result behind what is there of it by then."""
    Console(stderr=True).print(f"{path.stem}: seeds {experiment.seeds}", highlight=False)
    begun = time.perf_counter()
    found = experiment.run(job)
    seconds = round(time.perf_counter() - begun, 3)
    held = stored(path, job, originals(job, experiment))
    if held is None:
        held = {
            "study": experiment.study.name, "method": job.cell.method, "reading": job.cell.reading,
            "setting": job.cell.setting, "training": job.training.to_dict(), "epochs": job.epochs,
            "original_epochs": originals(job, experiment), **describe(job.cell), "seeds": [], "accuracy": {}, "blocks": [],
        }  # fmt: skip
    held["accuracy"] = merged(held["accuracy"], found)
    held["seeds"] += experiment.seeds
    block = {"seeds": experiment.seeds, "seconds": seconds, **precision(experiment), **environment(experiment.device)}
    held["blocks"].append(block)
    save(path, held)


def originals(job: Job, experiment: Experiment) -> int | None:
    """Epochs of the original training; None where a job starts from scratch."""
    from_scratch = job.cell.mechanism is None or isinstance(job.cell.mechanism, ex.accounting.DPTraining)
    return None if from_scratch else experiment.original_epochs


def run_study(
    jobs: list[Job], experiment: Callable[[tuple[int, ...]], Experiment], blocks: list[range], folder: Path
) -> None:
    """All jobs, block of seeds by block, so that an interrupted run has whole seeds."""
    for block in blocks:
        for job in jobs:
            path = folder / f"{job.name}.json"
            held = stored(path, job, originals(job, experiment(tuple(block))))
            missing = tuple(seed for seed in block if held is None or seed not in held["seeds"])
            if missing:
                run_block(job, experiment(missing), path)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--quick", action="store_true", help="fewer jobs and seeds; CIFAR-10 pictures shortened")
    parser.add_argument("--seeds", type=int, help=f"how many; {SEEDS} unless quick")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")
    parser.add_argument("--bfloat16", action="store_true", help="train in mixed precision; the results say so")
    parser.add_argument("--original-epochs", type=int, help="shorten the original training; the results say so")
    parser.add_argument("--first-seed", type=int, default=0, help="so that several processes can share the seeds")
    parser.add_argument("--only", nargs="+", default=[""], help="jobs whose name contains one of these")
    parser.add_argument("--results", type=Path, help="a folder; for --quick another than the page's")
    arguments = parser.parse_args()
    study, quick = STUDIES[arguments.study], arguments.quick
    seeds = arguments.seeds or (study.quick_seeds if quick else SEEDS)
    original_epochs = arguments.original_epochs or (study.quick_original_epochs if quick else None)
    results = arguments.results or (CACHE / "quick" if quick else RESULTS)
    planned = study.quick() if quick else study.jobs()
    jobs = [job for job in planned if any(part in job.name for part in arguments.only)]
    if not jobs:
        parser.error(
            f"--only: no job's name contains one of these; there are: {', '.join(job.name for job in planned)}"
        )
    data = study.data()

    @lru_cache(2)
    def experiment(own: tuple[int, ...]) -> Experiment:
        return Experiment(
            study, data, own, device=arguments.device, compiled=arguments.compile,
            autocast=torch.bfloat16 if arguments.bfloat16 else None, original_epochs=original_epochs,
        )  # fmt: skip

    size = study.block if arguments.device == "cpu" else seeds
    blocks = [range(first, min(first + size, seeds)) for first in range(arguments.first_seed, seeds, size)]
    run_study(jobs, experiment, blocks, results / study.name)


if __name__ == "__main__":
    main()
