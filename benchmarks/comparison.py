"""Every unlearner on the same data, network and forget set; the page is docs/comparison.md.

    python benchmarks/comparison.py                    # what is missing, then the page
    python benchmarks/comparison.py --only MNIST       # one data set
    python benchmarks/comparison.py --again grid_ridge # this unlearner anew, into results that are there
    python benchmarks/comparison.py --page             # the page alone, from the results that are there

Three seeds; each varies split, coins of the audit, initialisation, training and noise. Each seed of a data set is a file
of its own: interrupt when you like.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compared.measures import accuracies, guessing, worlds
from compared.page import write_page
from compared.runs import UNLEARNERS, Outcome
from compared.sets import BUDGET, SETS, Case, Setting
from paper.data import DataError
from rich.console import Console
from rich.progress import track

import expunge as ex

RESULTS = Path(__file__).parent / "results" / "comparison"


def measured(case: Case, outcome: Outcome) -> dict[str, Any]:
    """One row of the results; where there is a guarantee, its certificate is made and verified."""
    claim = None
    if outcome.mechanism is not None and outcome.record is not None:
        record, module = outcome.record
        if record.coverage == "unchecked":  # of the runs whose verb was not given the forgotten rows, and timed without
            record = replace(record, coverage=ex.data.check_disjoint(case.retain, case.forget))
        certificate = ex.issue(record, released=module, asked=BUDGET)
        ex.verify(certificate, weights=module)
        claim = certificate.claim
    proven = {} if claim is None else ex.accounting.numbers_of(claim)
    return {
        "kind": "none" if claim is None else str(claim.kind), **proven,
        "mechanism": None if outcome.mechanism is None else repr(outcome.mechanism),
        "accuracy": accuracies(case, outcome.scores), "seconds": outcome.seconds, "one_row": outcome.one_row,
        "kept": outcome.kept, "reads": outcome.reads, "guessing": guessing(case, outcome.scores),
        "worlds": None if claim is None or outcome.mechanism is None else worlds(outcome.mechanism), **outcome.details,
    }  # fmt: skip


def run(setting: Setting, seed: int) -> dict[str, Any]:
    """All unlearners from one seed."""
    train, test = setting.rows()
    case = Case(setting, train, test, seed)
    begun, found = time.perf_counter(), dict[str, Any]()
    for name in track(UNLEARNERS, description=f"{setting.name}, seed {seed}", console=Console(stderr=True)):
        found[name] = measured(case, UNLEARNERS[name](case))
    return {
        "set": setting.name, "seed": seed, "unlearners": found, "whole": round(time.perf_counter() - begun, 1),
        "sizes": {"retain": len(case.retain), "forget": len(case.forget), "test": len(test)},
        "width": setting.width, "weights": sum(p.numel() for p in setting.make_model().parameters()),
        "epochs": setting.epochs, "recovery_epochs": setting.recovery_epochs, **environment(),
    }  # fmt: skip


def again(setting: Setting, path: Path, names: list[str]) -> dict[str, Any]:
    """The results of a file with some unlearners run anew, which say the versions and machine that they ran on."""
    found = json.loads(path.read_text(encoding="utf-8"))
    case = Case(setting, *setting.rows(), found["seed"])
    for name in names:
        found["unlearners"][name] = measured(case, UNLEARNERS[name](case)) | {"ran_on": environment()}
    return found


def environment() -> dict[str, Any]:
    """What ran, and on what."""
    return {
        "versions": {n: version(n).partition("+")[0] for n in ("expunge", "torch", "numpy")},
        "hardware": {
            "machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
    }  # fmt: skip


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SETS), action="append", help="a data set; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", choices=list(UNLEARNERS), action="append", default=[], help="may be repeated")
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or SETS:
        for seed in range(0 if arguments.page else arguments.seeds):
            path = arguments.results / f"{name.replace(' ', '-').lower()}-{seed}.json"
            if path.exists() != bool(arguments.again):
                continue  # nothing to be done, or nothing to be done again
            try:
                found = again(SETS[name], path, arguments.again) if arguments.again else run(SETS[name], seed)
            except DataError as error:
                Console(stderr=True).print(f"{name} left out: {error}")
                break
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
    write_page(arguments.results)


if __name__ == "__main__":
    main()
