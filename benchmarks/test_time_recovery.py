"""What recoveries without labels give back: at test time under shifts, and in place of fine-tuning. Digits, five seeds.

    OMP_NUM_THREADS=1 python benchmarks/test_time_recovery.py

A small convolutional network with BatchNorm is trained on 1,000 digits (UCI Optdigits, 8x8), output perturbation at
epsilon = 10 forgets 20 of them, and fine-tuning with labels makes the released model. Rows that were never trained on, 797 of
them, are shifted and come as a stream without labels. Accuracy is on the stream: of the released model as it is, with
statistics estimated again (AdaBn), of Tent and of Cafa, each of the adapted model as it is released in the end, and of its
predictions on the way. Then self-training in place of the fine-tuning, without a shift; from the same noisy weights, and
from weights with so little noise that they still label rows, which proves nothing that is worth stating.
All settings but the rates, both shown, are defaults that were fixed before anything was measured.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import environment
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex
from expunge.accounting import Budget, OutputPerturbation, Relation, calibrate, guarantee
from expunge.recovery import AdaBn, Cafa, FineTuning, SelfTraining, Tent
from expunge.recovery.test_time import OnStream
from expunge.unlearners import run

SEEDS, TRAINED, FORGOTTEN, BATCH, DELTA = 5, 1000, 20, 64, 1e-5
RECIPE = ex.Recipe(learning_rate=0.1, batch_size=64)
CLIP = 10.0
CERTIFIED = calibrate(
    lambda std: OutputPerturbation(init_clip=CLIP, noise_std=std),
    Budget(epsilon=10.0, delta=DELTA),
    relation=Relation.RETRAINED,
)
MECHANISMS = {
    "little noise": OutputPerturbation(init_clip=CLIP, noise_std=0.05),
    "more noise": OutputPerturbation(init_clip=CLIP, noise_std=0.12),
    "certified": CERTIFIED,
}
TUNING = FineTuning(epochs=10, recipe=RECIPE, rescale=True)
SHIFTS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, _coins: x,
    "noise": lambda x, coins: x + 0.5 * torch.randn(x.shape, generator=coins),
    "contrast": lambda x, _coins: 0.3 * (x - 0.5) + 0.5,
    "gamma": lambda x, _coins: x**3,
    "bias": lambda x, _coins: x + 0.7,
}


def network() -> nn.Module:
    """1 to 16 to 32 channels, 10 classes; 9,418 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def right(scores: Tensor, labels: Tensor) -> float:
    """The share of rows that are."""
    return float((scores.argmax(1) == labels).double().mean())


@torch.no_grad()
def accuracy(model: nn.Module, rows: ex.Examples) -> float:
    """In evaluation mode."""
    return right(copy.deepcopy(model).eval()(rows.tensors[0]), rows.tensors[1])


def parts(seed: int) -> tuple[ex.Examples, ex.Examples]:
    """Rows to train on, those to forget first; and others."""
    digits, coins = load_digits(), torch.Generator().manual_seed(seed)
    x, y = torch.tensor(digits.images / 16).float()[:, None], torch.tensor(digits.target).long()
    order = torch.randperm(len(y), generator=coins)
    rows = ex.Examples(x, y, ids=[f"r{k}" for k in range(len(y))])
    return rows.take(order[:TRAINED]), rows.take(order[TRAINED:])


def recoveries(stream: ex.Examples) -> dict[str, OnStream]:
    """At test time."""
    how: dict[str, Any] = {"stream": stream, "batch_size": BATCH}
    found: dict[str, OnStream] = {"statistics alone": AdaBn(**how)}
    for rate in (1e-3, 1e-2):
        found[f"tent, rate {rate:g}"] = Tent(learning_rate=rate, **how)
        found[f"cafa, rate {rate:g}"] = Cafa(learning_rate=rate, **how)
    return found


def under_shifts(released: nn.Module, retain: ex.Examples, others: ex.Examples, seed: int) -> dict[str, Any]:
    """Accuracy on each shifted stream, by recovery: released in the end, and on the way."""
    found: dict[str, Any] = {}
    for shift, change in SHIFTS.items():
        x, y = others.tensors
        stream = ex.Examples(change(x, torch.Generator().manual_seed(seed)), y)
        found[shift] = {"as released": {"in the end": accuracy(released, stream)}}
        for name, recovery in recoveries(ex.Examples(stream.tensors[0])).items():
            coins = torch.Generator().manual_seed(seed)
            done = ex.recover(released, retain, loss=loss, recovery=recovery, generator=coins)
            online = copy.deepcopy(released)
            scores = torch.cat(list(recovery.predictions(online, retain)))
            found[shift][name] = {"in the end": accuracy(done, stream), "on the way": right(scores, y)}
    return found


def without_labels(noisy: nn.Module, retain: ex.Examples, others: ex.Examples, seed: int) -> dict[str, float]:
    """Accuracy on rows that are not shifted, by what follows the noisy stage."""
    ways = {
        "fine-tuning with labels": FineTuning(epochs=5, recipe=RECIPE),
        "self-training": SelfTraining(epochs=5, recipe=RECIPE),
        "fine-tuning on pre-labels": SelfTraining(epochs=5, recipe=RECIPE, clean=1.0, input_noise=0.0),
        "fine-tuning on the model's own labels": None,
    }
    found = {"nothing": accuracy(noisy, others)}
    with torch.no_grad():
        own = copy.deepcopy(noisy).eval()(retain.tensors[0]).argmax(1)
    for name, way in ways.items():
        rows = retain if way is not None else ex.Examples(retain.tensors[0], own)
        how = way if way is not None else FineTuning(epochs=5, recipe=RECIPE)
        coins = torch.Generator().manual_seed(seed)
        found[name] = accuracy(ex.recover(noisy, rows, loss=loss, recovery=how, generator=coins), others)
    return found


def one(seed: int) -> dict[str, Any]:
    """All that is measured with a seed."""
    rows, others = parts(seed)
    trained = ex.unlearners.train_from_scratch(
        network, rows, loss=loss, epochs=10, recipe=RECIPE, generator=torch.Generator().manual_seed(seed)
    ).model
    retain, found = rows.take(range(FORGOTTEN, TRAINED)), {"trained": accuracy(trained, others)}
    for name, mechanism in MECHANISMS.items():
        noisy = run(
            trained, retain, mechanism, loss=loss, forget=rows.take(range(FORGOTTEN)), buffers="reset",
            generator=torch.Generator().manual_seed(seed),
        ).model  # fmt: skip
        found[name] = {"without labels": without_labels(noisy, retain, others, seed)}
        if mechanism is CERTIFIED:
            coins = torch.Generator().manual_seed(seed)
            released = ex.recover(noisy, retain, loss=loss, recovery=TUNING, generator=coins)
            found["under shifts"] = under_shifts(released, retain, others, seed)
    return found


def gathered(seeds: list[Any]) -> Any:
    """The same form, with mean, standard deviation and all values in the place of a number."""
    if isinstance(seeds[0], dict):
        return {name: gathered([seed[name] for seed in seeds]) for name in seeds[0]}
    return {"mean": statistics.mean(seeds), "sd": statistics.stdev(seeds), "values": seeds}


def shown(found: Any, name: str = "") -> None:
    """One line a number."""
    if "values" in found:
        print(f"{name[2:]}: {found['mean']:.3f} ± {found['sd']:.3f}")
        return
    for part, inside in found.items():
        shown(inside, f"{name}, {part}")


def main() -> None:
    """Run, print and keep."""
    begun = time.process_time()
    accuracies = gathered([one(seed) for seed in range(SEEDS)])
    shown(accuracies)
    proven = {
        name: {"noise_std": mechanism.noise_std, "epsilon": guarantee(mechanism, delta=DELTA).epsilon, "delta": DELTA}
        for name, mechanism in MECHANISMS.items()
    }
    result = {
        **environment("scikit-learn"),
        "cpu_seconds": round(time.process_time() - begun, 1), "seeds": SEEDS, "rows": {
            "trained": TRAINED, "forgotten": FORGOTTEN, "batch of the stream": BATCH,
        },
        "proven": proven, "accuracy": accuracies,
    }  # fmt: skip
    where = Path(__file__).parent / "results" / "test_time_recovery.json"
    where.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
