"""Does a constraint for each class help the worst class after a noisy stage? Digits with one class thinned, five seeds.

python benchmarks/constrained_recovery.py
"""

import json
import statistics
from pathlib import Path
from typing import Any

import torch
from environment import environment
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex
from expunge.accounting import GradientClipping
from expunge.recovery import FineTuning, ResilientConstrained
from expunge.unlearners import run

RARE, SHARE, SEEDS = 8, 0.15, 5
RECIPE = ex.Recipe(learning_rate=0.1, batch_size=64)
MECHANISM = GradientClipping(
    init_clip=1.0, grad_clip=1.0, learning_rate=0.05, weight_decay=1.0, steps=10, noise_std=0.3
)
RECOVERIES = {
    "fine-tuning": FineTuning(epochs=5, recipe=RECIPE),
    "constrained": ResilientConstrained(classes=10, level=0.3, price=0.1, slack_rate=0.5, epochs=5, recipe=RECIPE),
}


def network() -> nn.Module:
    """64-32-10."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def one(seed: int) -> dict[str, list[float]]:
    """Accuracy on the worst class and on all, by recovery, from the same noisy weights."""
    digits, coins = load_digits(), torch.Generator().manual_seed(seed)
    x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target).long()
    order = torch.randperm(len(y), generator=coins)
    train, test = order[:1300], order[1300:]
    train = train[(y[train] != RARE) | (torch.rand(len(train), generator=coins) < SHARE)]
    rows = ex.Examples(x[train], y[train], ids=[f"r{k}" for k in train.tolist()])
    trained = ex.unlearners.train_from_scratch(
        network, rows, loss=loss, epochs=20, recipe=RECIPE, generator=torch.Generator().manual_seed(seed)
    ).model
    noisy = run(
        trained, rows, MECHANISM, loss=loss, forget=["nobody"], generator=torch.Generator().manual_seed(seed)
    ).model
    found: dict[str, list[float]] = {}
    for name, recovery in RECOVERIES.items():
        generator = torch.Generator().manual_seed(seed)
        done = ex.recover(noisy, rows, loss=loss, recovery=recovery, generator=generator)
        with torch.no_grad():
            right = (done(x[test]).argmax(1) == y[test]).double()
        found[name] = [min(float(right[y[test] == k].mean()) for k in range(10)), float(right.mean())]
    return found


def main() -> None:
    """Run, print and keep."""
    seeds = [one(seed) for seed in range(SEEDS)]
    result: dict[str, Any] = {
        **environment("scikit-learn"), "seeds": SEEDS, "rare": SHARE,
        "accuracy": {},
    }  # fmt: skip
    for name in RECOVERIES:
        for k, what in enumerate(("worst class", "all classes")):
            values = [seed[name][k] for seed in seeds]
            told = {"mean": statistics.mean(values), "sd": statistics.stdev(values), "values": values}
            result["accuracy"].setdefault(name, {})[what] = told
            print(f"{name}, {what}: {told['mean']:.3f} ± {told['sd']:.3f}")
    where = Path(__file__).parent / "results" / "constrained_recovery.json"
    where.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
