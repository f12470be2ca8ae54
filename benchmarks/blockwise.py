"""What block-wise noise buys: every method from the trained start and from its null start, at the same true budget.

    python benchmarks/blockwise.py --seeds 8 --json benchmarks/results/blockwise.json

scikit-learn's digits, a tenth forgotten; accuracy on held-out rows right after the noise and after each epoch of recovery.
The seed varies split, initialisation, training and noise; the two starts of one seed share all of them but the start.
"""

import argparse
import json
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from environment import environment
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from torch import nn

import expunge as ex
from expunge.accounting import gaussian
from expunge.jobs.digits_task import RECIPE, digits, make_model
from expunge.report.curves import interval
from expunge.training.task import accuracy

EPOCHS = 5
NOISY = {"grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 20.0}


def methods_at(budget: ex.Budget, radius: float, steps: int) -> dict[str, ex.accounting.Mechanism]:
    """The methods at one budget and one radius of the ball: layers as blocks, of equal radius, against the whole."""
    sizes = ex.unlearners.layer_sizes(make_model())
    clips = (radius / sqrt(len(sizes)),) * len(sizes)

    def blockwise(sigma: float, *, blind: bool) -> ex.accounting.BlockwiseGradientClipping:
        return ex.accounting.BlockwiseGradientClipping(
            block_sizes=sizes, block_clips=clips, steps=steps, noise_std=sigma, blind=blind, **NOISY
        )

    return {
        "output perturbation": ex.accounting.calibrate(
            lambda s: ex.accounting.OutputPerturbation(init_clip=radius, noise_std=s), budget
        ),
        "gradient clipping": ex.accounting.calibrate(
            lambda s: ex.accounting.GradientClipping(init_clip=radius, steps=steps, noise_std=s, **NOISY), budget
        ),
        "block-wise, blind": ex.accounting.calibrate(lambda s: blockwise(s, blind=True), budget),
        "block-wise, seeing": ex.accounting.calibrate(lambda s: blockwise(s, blind=False), budget),
    }


def curve(start: nn.Module, task: ex.Task, mechanism: ex.accounting.Mechanism | None, seed: int) -> list[float]:
    """Held-out accuracy after the mechanism and after every epoch of recovery; no mechanism: training from `start`."""
    coins = torch.Generator().manual_seed(1000 + seed)
    model = (
        start if mechanism is None else ex.unlearn(start, task.retain, mechanism, loss=task.loss, generator=coins).model
    )
    points = [accuracy(model, task.held_out)]
    ex.recovery.recover(
        model,
        task.retain,
        loss=task.loss,
        epochs=EPOCHS,
        recipe=RECIPE,
        rescale=mechanism is not None,
        generator=torch.Generator().manual_seed(2000 + seed),
        on_epoch=lambda _, m: points.append(accuracy(m, task.held_out)),
    )
    return points


def measure(epsilon: float, radius: float, steps: int, seeds: int) -> dict[str, Any]:
    """All methods, both starts, all seeds."""
    budget = ex.Budget(epsilon=epsilon, delta=1e-5)
    methods = methods_at(budget, radius, steps)
    curves: dict[str, dict[str, list[list[float]]]] = {n: {"trained": [], "null": []} for n in methods}
    curves["retraining"] = {"fresh": []}
    for seed in track(range(seeds), description=f"epsilon {epsilon:g}, radius {radius:g}", transient=True):
        task = digits(seed)
        for name, mechanism in methods.items():
            curves[name]["trained"].append(curve(task.model, task, mechanism, seed))
            curves[name]["null"].append(curve(ex.unlearners.null_start(task.model), task, mechanism, seed))
        torch.manual_seed(seed)
        curves["retraining"]["fresh"].append(curve(make_model(), task, None, seed))
    return {
        "epsilon": epsilon,
        "delta": 1e-5,
        "radius": radius,
        "steps": steps,
        "seeds": seeds,
        "bound": 2 * stats.norm.cdf(gaussian.mu(epsilon, 1e-5) / 2) - 1,
        "noise_std": {name: m.noise_std for name, m in methods.items()},
        "output_noise_std": {name: m.output_noise_std for name, m in methods.items()},
        "held_out": curves,
    }


def shown(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval."""
    return "{:.3f} ± {:.3f}".format(*interval(values))


def show(result: dict[str, Any]) -> None:
    """One table a setting."""
    for setting in result["settings"]:
        title = (
            f"epsilon {setting['epsilon']:g}, radius {setting['radius']:g}: starts may differ by {setting['bound']:.3f}"
        )
        columns = ("method", "start", "after the noise", "1 epoch", f"{EPOCHS} epochs")
        table = Table(*columns, title=title)
        for name, starts in setting["held_out"].items():
            for start, runs in starts.items():
                points = [[run[k] for run in runs] for k in (0, 1, EPOCHS)]
                table.add_row(name, start, *map(shown, points))
        Console().print(table)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="noisy steps: of each block, and of the whole")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    settings = [(1.0, 0.5), (10.0, 0.5), (10.0, 5.0)]
    result = {
        "settings": [measure(e, r, arguments.steps, arguments.seeds) for e, r in settings],
        **environment("scipy", "scikit-learn"),
    }
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
