"""Claimed against true ε of every configuration of the paper's figures: [proved lower, proved upper] at δ = 1e-5.

python benchmarks/paper/claims.py    # some minutes: the attack on many steps is the long part; what is there is kept
"""

import json
from typing import Any

from recipes import DELTA, Cell
from rich.progress import track
from run import RESULTS
from studies import configurations

import expunge as ex

PATH = RESULTS / "claims.json"


def row(study: str, cell: Cell) -> dict[str, Any]:
    """A line of the table."""
    mechanism = cell.mechanism
    assert mechanism is not None, "retraining claims nothing"
    true = {
        str(r): list(ex.accounting.interval(mechanism, delta=DELTA, relation=r, tolerance=1e-3))
        for r in ex.accounting.Relation
    }
    return {
        "study": study, "method": cell.method, "setting": cell.setting, "reading": cell.reading,
        "steps": mechanism.gradient_steps, "noise_std": mechanism.noise_std,
        "claimed": cell.target if cell.claimed is None else cell.claimed, "true_epsilon": true,
    }  # fmt: skip


def key(study: str, cell: Cell) -> tuple[Any, ...]:
    """What a line is about."""
    return study, cell.method, cell.setting, cell.reading, cell.target if cell.claimed is None else cell.claimed


def main() -> None:
    """Compute what is missing."""
    held = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else []
    rows = {tuple(r[n] for n in ("study", "method", "setting", "reading", "claimed")): r for r in held}
    wanted = [(study, cell) for study, cells in configurations().items() for cell in cells]
    for study, cell in track(wanted, description="claims"):
        if key(study, cell) not in rows:
            rows[key(study, cell)] = row(study, cell)
            ordered = [rows[key(*w)] for w in wanted if key(*w) in rows]
            PATH.parent.mkdir(parents=True, exist_ok=True)
            PATH.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
