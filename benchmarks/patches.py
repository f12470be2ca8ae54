"""PRUNE's patches: what they change, what they cost, and how a membership attack finds the patched rows; results/patches.json.

python benchmarks/patches.py
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from torch import nn
from torch.nn import functional as F

import expunge as ex
from expunge.audit.scores import auc
from expunge.jobs.digits_task import digits
from expunge.report.curves import interval
from expunge.unlearners.heuristics import Patching

RESULTS = Path(__file__).parent / "results" / "patches.json"
WIDTHS, ROWS, SEEDS, EPOCHS = (24, 64), (8, 50), 3, 60


def accuracy(model: nn.Module, rows: ex.Examples) -> float:
    """The share of right labels."""
    with torch.no_grad():
        return float((model(rows.tensors[0]).argmax(1) == rows.tensors[1]).double().mean())


def found(model: nn.Module, forgotten: ex.Examples, unseen: ex.Examples, original: nn.Module) -> float:
    """AUC of "the loss is abnormally high" among rows that the original model gets right."""
    losses: list[Any] = []
    for rows in (forgotten, unseen):
        x, y = rows.tensors
        with torch.no_grad():
            right = original(x).argmax(1) == y
            losses.append(F.cross_entropy(model(x), y, reduction="none")[right].numpy())
    return auc(*losses)


def run(width: int, count: int, seed: int) -> dict[str, Any]:
    """One network, patched at so many rows, beside its retraining."""
    home = digits(seed)
    rows = home.retain + home.forget

    def make_model() -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def trained(on: ex.Examples, use: int) -> nn.Module:
        return ex.unlearners.train_from_scratch(
            make_model, on, loss=home.loss, epochs=EPOCHS, recipe=ex.recovery.Recipe(learning_rate=0.2),
            generator=torch.Generator().manual_seed(100 * seed + use),
        ).model  # fmt: skip

    original = trained(rows, 0)
    forget, retain = rows.take(range(count)), rows.take(range(count, len(rows)))
    task = ex.Task(model=original, loss=home.loss, retain=retain, forget=forget, held_out=home.held_out)
    begun = time.perf_counter()
    done = ex.unlearn(task, None, Patching())
    made = time.perf_counter() - begun
    weights = {name: t.detach().numpy() for name, t in done.model.state_dict().items()}
    begun = time.perf_counter()
    done.record.mechanism.check(weights)
    verified = time.perf_counter() - begun
    retrained = trained(retain, 1)
    x = home.held_out.tensors[0]
    with torch.no_grad():
        same = float((done.model(x) == original(x)).all(1).double().mean())
    return {
        "width": width, "rows": count, "seed": seed, "patches": done.record.mechanism.patches,
        "held_out": {"original": accuracy(original, home.held_out), "patched": accuracy(done.model, home.held_out)},
        "forgotten": {"original": accuracy(original, forget), "patched": accuracy(done.model, forget), "retrained": accuracy(retrained, forget)},
        "unchanged": same, "seconds": {"patch": made, "verify": verified},
        "auc": {name: found(m, forget, home.held_out, original) for name, m in (("patched", done.model), ("retrained", retrained), ("original", original))},
    }  # fmt: skip


def main() -> None:
    """Run all, print a table, write the results."""
    runs = [run(width, count, seed) for width in WIDTHS for count in ROWS for seed in range(SEEDS)]
    for width in WIDTHS:
        for count in ROWS:
            own = [r for r in runs if (r["width"], r["rows"]) == (width, count)]

            def told(*path: str, own: list[dict[str, Any]] = own) -> str:
                values = []
                for one in own:
                    value: Any = one
                    for step in path:
                        value = value[step]
                    values.append(float(value))
                mean, half = interval(values)
                return f"{mean:.3f} ± {half:.3f}"

            print(
                f"width {width}, {count} rows: patches {told('patches')}, held out {told('held_out', 'original')} -> {told('held_out', 'patched')}, "
                f"forgotten {told('forgotten', 'patched')}, unchanged {told('unchanged')}, AUC {told('auc', 'patched')} "
                f"(retrained {told('auc', 'retrained')}), {told('seconds', 'patch')} s, verify {told('seconds', 'verify')} s"
            )
    RESULTS.write_text(json.dumps({
        "runs": runs, **environment("scipy"),
    }, indent=1) + "\n", encoding="utf-8")  # fmt: skip


if __name__ == "__main__":
    np.set_printoptions(precision=3)
    main()
