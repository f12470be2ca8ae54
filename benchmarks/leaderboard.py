"""Every unlearner on the same requests; the pages are docs/leaderboard.md and, of the canaries, docs/comparison.md.

    python benchmarks/leaderboard.py                       # what is missing, then the pages, CSV and JSON
    python benchmarks/leaderboard.py --only "SMS spam"     # one data set; --seeds 1, --unlearner scrub likewise
    python benchmarks/leaderboard.py --request canaries    # one request; "models": what takes many models
    python benchmarks/leaderboard.py --page                # the pages alone, from the results that are there

Results are kept unlearner by unlearner: interrupt when you like, and the same call goes on. What a file holds is not run
again; what you take out of it is.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from environment import environment
from leaders.many import AFFORDED, MODELS, Retrained, compared
from leaders.measures import guessing, measured, worlds
from leaders.page import write_pages
from leaders.requests import REQUESTS, Coined, Drawn, Posed, pose
from leaders.sets import BUDGET, SETS, Setting
from leaders.ways import CONTROLS, WAYS, Forgot, forgotten, one_more
from paper.data import DataError
from rich.console import Console
from rich.progress import track

import expunge as ex
from expunge.certificate.issuing import asked_of
from expunge.training.weights import save_weights

RESULTS = Path(__file__).parent / "results" / "leaderboard"
Row = dict[str, Any]


def run(posed: Posed, name: str) -> Row:
    """One unlearner on one request: what it proves, what is measured of it, what it costs; or why it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            forgot = forgotten(posed, name, Path(folder))
        except ex.errors.ExpungeError as error:
            return {"refused": f"{error}"[:300]}
        claim = ex.accounting.guarantee(forgot.done.record.mechanism, delta=BUDGET.delta)
        kind = "none" if name in CONTROLS else str(claim.kind)
        found = {
            "kind": kind, **ex.accounting.numbers_of(claim), "seconds": forgot.seconds, "measured": measured(posed, forgot.done),
        }  # fmt: skip
        return found | audited(posed, forgot, kind, Path(folder)) if isinstance(posed, Coined) else found


def audited(posed: Coined, forgot: Forgot, kind: str, folder: Path) -> Row:
    """What is found of a request of canaries alone: what guessing shows, and what the unlearner keeps; its certificate is verified."""
    done, way = forgot.done, forgot.way
    if kind != "none":
        record = done.record
        if record.coverage == "unchecked":  # of runs that read what they kept, not the forgotten rows
            record = replace(record, coverage=ex.data.check_disjoint(posed.task.retain, posed.task.forget))
        weights = folder / "released.safetensors"
        save_weights(done.model, weights)
        ex.verify(ex.issue(record, released=weights, asked=asked_of(record.mechanism, BUDGET)), weights=weights)
    proven = done.record.mechanism
    return {
        "verified": kind != "none",
        "guessing": guessing(posed, done),
        "worlds": worlds(getattr(way, "on_one_weight", lambda m: m)(proven)) if kind == "epsilon_delta" else None,
        "kept": forgot.kept,
        "one row": one_more(posed, forgot),
    }


def filled(path: Path, about: Callable[[], Row], names: list[str], run_one: Callable[[str], Row | None]) -> Row:
    """The results of a file, with the unlearners that it lacks run and written one by one; those that give None are left out."""
    found: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [name for name in names if name not in found.get("unlearners", {})]
    if not missing:
        return found
    found = {**about(), "unlearners": {}, **environment("scipy"), **found}
    for name in track(missing, description=path.stem, console=Console(stderr=True)):
        one = run_one(name)
        if one is None:
            continue
        found["unlearners"][name] = one
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    return found


class Set:
    """A data set, whose rows are read where something is missing."""

    def __init__(self, setting: Setting, results: Path) -> None:
        self.setting, self.results = setting, results

    @cached_property
    def rows(self) -> tuple[ex.Examples, ex.Examples]:
        """To learn and to test."""
        return self.setting.rows()

    def requested(self, kind: str, seed: int, names: list[str]) -> Row:
        """One request with every unlearner."""
        posed = lru_cache(lambda: pose(self.setting, *self.rows, kind, seed))
        return filled(
            self._path(f"{kind} {seed}"), lambda: self._about(posed()), names, lambda name: run(posed(), name)
        )

    def compared(self, kind: str, names: list[str]) -> Row:
        """One request with many models of every unlearner."""
        retrained = lru_cache(lambda: Retrained(Drawn(self.setting, *self.rows, kind, 0), MODELS))

        def about() -> Row:
            return self._about(retrained().posed) | {"models": MODELS, "candidates": len(retrained().posed.candidates)}

        return filled(self._path(kind, "models"), about, names, lambda name: compared(retrained(), name))

    def _about(self, posed: Posed) -> Row:
        retain, forget = posed.parts
        sizes = {"retain": len(retain), "forget": len(forget), "test": len(posed.test)}
        return {"set": self.setting.name, "request": posed.kind, "seed": posed.seed, "sizes": sizes}

    def _path(self, words: str, *folder: str) -> Path:
        name = f"{self.setting.name} {words}".lower().replace(" ", "-")
        return self.results.joinpath(*folder, f"{name}.json")


def main() -> None:
    """Run what is missing, and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SETS), action="append", help="a data set; may be repeated")
    parser.add_argument("--request", choices=[*REQUESTS, "models"], action="append", help="may be repeated")
    parser.add_argument("--unlearner", choices=list(WAYS), action="append", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    (arguments.results / "models").mkdir(parents=True, exist_ok=True)
    names = arguments.unlearner or list(WAYS)
    for name in [] if arguments.page else arguments.only or SETS:
        own, asked = Set(SETS[name], arguments.results), arguments.request or [*REQUESTS, "models"]
        try:
            for kind in (kind for kind in REQUESTS if kind in asked):
                for seed in range(arguments.seeds):
                    own.requested(kind, seed, names)
            for _, kind in (one for one in AFFORDED if one[0] == name and "models" in asked):
                own.compared(kind, names)
        except DataError as error:
            Console(stderr=True).print(f"{name} left out: {error}")
    write_pages(arguments.results)


if __name__ == "__main__":
    main()
