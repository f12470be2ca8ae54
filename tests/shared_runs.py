"""What process groups of several sizes run, for tests/parallel; `task`-like pieces are the same in every process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import expunge as ex
from expunge.accounting import GradientClipping, ModelClipping, OutputPerturbation
from expunge.recovery import FineTuning, Recipe, recover
from expunge.unlearners import run, train_from_scratch

ROWS, WIDE, CLASSES, BATCH = 45, 6, 3, 7  # 7 rows: no two workers have as many
STEPS = 20


def rows(seed: int = 1) -> ex.Examples:
    """Retained rows."""
    coins = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, WIDE, generator=coins)
    return ex.Examples(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long(), ids=[f"r{i}" for i in range(ROWS)])


def network(seed: int = 2) -> nn.Module:
    """A trained model, as far as the mechanism cares."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return fresh()


def fresh() -> nn.Module:
    """New weights."""
    return nn.Sequential(nn.Linear(WIDE, 9), nn.Tanh(), nn.Linear(9, CLASSES))


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """The mean over the rows."""
    return F.cross_entropy(model(batch[0]), batch[1])


def coins(seed: int = 5) -> torch.Generator:
    """Of a run that is repeated."""
    return torch.Generator().manual_seed(seed)


CLIPPED = GradientClipping(
    init_clip=0.5, grad_clip=0.05, learning_rate=0.1, weight_decay=0.5, steps=STEPS, noise_std=1e-3
)
MECHANISMS: dict[str, Any] = {
    "gradients": CLIPPED,
    "models": ModelClipping(model_clip=0.5, learning_rate=0.1, weight_decay=0.5, steps=STEPS, noise_std=1e-3),
    "once": OutputPerturbation(init_clip=0.5, noise_std=1e-3),
}


def flat(model: nn.Module) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def unlearned(mechanism: Any, model: nn.Module, **how: Any) -> ex.Unlearned:
    """The noisy run on the retained rows."""
    how = {"loss": loss, "batch_size": BATCH, "generator": coins(), "forget": ["gone"]} | how
    return run(model, rows(), mechanism, **how)


def outcome(done: ex.Unlearned) -> dict[str, Any]:
    """What tests compare."""
    return {"weights": flat(done.model), "record": done.record.to_dict()}


def tuned(model: nn.Module, **how: Any) -> torch.Tensor:
    """Recovery, with a clip that bites."""
    recipe = Recipe(learning_rate=0.05, batch_size=BATCH, max_grad_norm=0.1)
    recovery = FineTuning(epochs=2, recipe=recipe, rescale=True)
    return flat(recover(model, rows(), loss=loss, recovery=recovery, generator=coins(6), **how))


def retrained(make: Callable[[], nn.Module] = fresh, **how: Any) -> dict[str, Any]:
    """Retraining with AdamW."""
    recipe = Recipe(optimizer="adamw", learning_rate=0.01, batch_size=BATCH)
    return outcome(
        train_from_scratch(make, rows(), loss=loss, forget=["gone"], epochs=2, recipe=recipe, generator=coins(7), **how)
    )


def wrapped(model: nn.Module) -> nn.Module:
    """As users of DDP do."""
    return DistributedDataParallel(model)


def _certified(_: Path) -> dict[str, Any]:
    done = run(wrapped(network()), rows(), CLIPPED, loss=loss, batch_size=BATCH, forget=["gone"])
    released = recover(done.model, rows(), loss=loss, epochs=1)
    found: dict[str, Any] = {"weights": flat(done.model), "origin": done.record.noise.generator}
    if dist.get_rank() == 0:
        certificate = ex.issue(done.record, released=released)
        ex.verify(certificate, weights=released)
        found["certificate"] = certificate.content
        return found
    ex.issue(done.record, released=released)
    return found


def _differ(key: str) -> Callable[[Path], object]:
    """One worker alone has something else."""

    def scenario(_: Path) -> object:
        other = dist.get_rank() == dist.get_world_size() - 1 and dist.get_world_size() > 1
        model = network(3 if other and key == "weights" else 2)
        data = rows(4 if other and key == "data" else 1)
        size = 8 if other and key == "options" else BATCH
        mechanism = MECHANISMS["once"] if other and key == "mechanism" else CLIPPED
        if other and key == "verb":
            return recover(model, data, loss=loss, epochs=1)
        return run(model, data, mechanism, loss=loss, batch_size=size, generator=coins())

    return scenario


def _failing(_: Path) -> object:
    """The last worker's loss is NaN in the midst of the run."""
    last, calls = dist.get_rank() == dist.get_world_size() - 1, [0]

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            return self.inner(x) * (float("nan") if last and calls[0] > 3 else 1.0)

    return run(Failing(), rows(), CLIPPED, loss=loss, batch_size=BATCH, generator=coins())


# In every world; the others in that of two.
SCENARIOS: dict[str, Callable[[Path], object]] = {
    **{f"plain {name}": lambda _, m=m: outcome(unlearned(m, network())) for name, m in MECHANISMS.items()},
    "ddp gradients": lambda _: outcome(unlearned(CLIPPED, wrapped(network()))),
    "ddp recovery": lambda _: tuned(wrapped(network())),
    "retraining": lambda _: retrained(),
}
OF_TWO: dict[str, Callable[[Path], object]] = {
    "ddp in place": lambda _: outcome(unlearned(CLIPPED, wrapped(network()), copy=False)),
    "ddp retraining": lambda _: retrained(lambda: wrapped(fresh())),
    "certified": _certified,
    **{f"other {key}": _differ(key) for key in ("weights", "data", "options", "mechanism", "verb")},
    "failing": _failing,
}
