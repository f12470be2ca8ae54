"""Every unlearner on the same requests; the page is docs/leaderboard.md, with tables as CSV and JSON beside it.

    python benchmarks/leaderboard.py                       # what is missing, then the page
    python benchmarks/leaderboard.py --only "SMS spam"     # one data set; --seeds 1, --request "one row" likewise
    python benchmarks/leaderboard.py --page                # the page alone, from the results that are there

Results are kept unlearner by unlearner: interrupt when you like, and the same call goes on.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compared.sets import BUDGET, SETS, Setting
from leaders.measures import measured
from leaders.page import write_page
from leaders.requests import REQUESTS, Posed
from leaders.ways import WAYS
from paper.data import DataError
from rich.console import Console
from rich.progress import track

import expunge as ex
from expunge.jobs.unlearning import chosen
from expunge.unlearners import Run

RESULTS = Path(__file__).parent / "results" / "leaderboard"
Row = dict[str, Any]


def run(posed: Posed, name: str) -> Row:
    """One unlearner on one request: what it proves, what is measured of it, what it costs; or why it refuses."""
    task = posed.task
    try:
        way = chosen(WAYS[name](posed))
        if getattr(way, "keeps", False):
            way = way.learn(task, task.retain + task.forget, Run())
        begun = time.process_time()
        done = way.forget(task, BUDGET, ex.accounting.Relation.RETRAINED, Run(seed=posed.seed))
        seconds = time.process_time() - begun
    except ex.errors.ExpungeError as error:
        return {"refused": f"{error}"[:300]}
    claim = ex.accounting.guarantee(done.record.mechanism, delta=BUDGET.delta)
    return {
        "kind": "none" if name == "null_start" else str(claim.kind), **ex.accounting.numbers_of(claim),
        "seconds": seconds, "measured": measured(posed, done),
    }  # fmt: skip


def environment() -> Row:
    """What ran, and on what."""
    return {
        "versions": {n: version(n).partition("+")[0] for n in ("expunge", "torch", "numpy", "scipy")},
        "hardware": {
            "machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
    }  # fmt: skip


def filled(setting: Setting, kind: str, seed: int, path: Path, rows: Any = None) -> Row:
    """The results of one request with all unlearners, those that a file lacks run and written one by one."""
    found: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {
        "set": setting.name, "request": kind, "seed": seed, "unlearners": {}, **environment(),
    }  # fmt: skip
    missing = [name for name in WAYS if name not in found["unlearners"]]
    if not missing:
        return found
    train, test = rows or setting.rows()
    posed = Posed(setting, train, test, kind, seed)
    found |= {"sizes": {"retain": len(posed.task.retain), "forget": len(posed.task.forget), "test": len(test)}}
    for name in track(missing, description=f"{setting.name}, {kind}, seed {seed}", console=Console(stderr=True)):
        found["unlearners"][name] = run(posed, name)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    return found


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SETS), action="append", help="a data set; may be repeated")
    parser.add_argument("--request", choices=list(REQUESTS), action="append", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.page else arguments.only or SETS:
        for kind in arguments.request or REQUESTS:
            for seed in range(arguments.seeds):
                words = f"{name} {kind} {seed}".lower().replace(" ", "-")
                try:
                    filled(SETS[name], kind, seed, arguments.results / f"{words}.json")
                except DataError as error:
                    Console(stderr=True).print(f"{name} left out: {error}")
                    break
    write_page(arguments.results)


if __name__ == "__main__":
    main()
