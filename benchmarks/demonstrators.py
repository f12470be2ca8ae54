"""What is a policy worth after one of its demonstrators was forgotten? CartPole, three who balance and one who steers off the track.

    python benchmarks/demonstrators.py --json benchmarks/results/demonstrators.json

Behaviour cloning and energy-based distribution matching, each trained on all demonstrators, retrained without the bad one,
unlearned (noisy fine-tuning at epsilon=1, delta=1e-5, then recovery by the same objective), and from the null start through
the same steps. All take equally many steps; both objectives are also retrained for four times as many, since samples of
energies cost steps. Demonstrations are few, one short trajectory of each who balances: there EDM's paper claims its gain.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import nn

import expunge as ex
from expunge.policies import Demonstrator, PersistentEnergyMatching, cloning, demonstrations, returns
from expunge.recovery import FineTuning, Recipe, Recovery, recover
from expunge.unlearners import GradientClipping
from expunge.unlearners.centre import null_start

SEEDS, STEPS, LONGER, NOISY, EPISODES = 3, 250, 1000, 50, 100
BAD = "astray"
BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
RECIPE = Recipe(optimizer="adamw", learning_rate=0.01, batch_size=64)
WHO = {
    "steady": Demonstrator(), "brisk": Demonstrator(weights=(0.05, 0.15, 1.0, 0.2)), "shaky": Demonstrator(slips=0.15),
    BAD: Demonstrator(goal=3.0),
}  # fmt: skip
TRAJECTORIES, LONGEST = {name: 3 if name == BAD else 1 for name in WHO}, 60
Objective = Callable[[float], Recovery]
OBJECTIVES: dict[str, Objective] = {
    "cloning": lambda epochs: FineTuning(epochs=epochs, recipe=RECIPE, rescale=True),
    "EDM": lambda epochs: PersistentEnergyMatching(epochs=epochs, recipe=RECIPE, rescale=True),
}


def network() -> nn.Module:
    """4-64-64-2, with ELU: the width of the published code."""
    return nn.Sequential(nn.Linear(4, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 2))


def coins(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def fresh(seed: int) -> nn.Module:
    """A network that saw nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network()


def epochs(rows: ex.Examples, steps: int) -> float:
    """Passes that so many steps are."""
    return steps / max(1, len(rows) // RECIPE.batch_size)


def trained(rows: ex.Examples, objective: Objective, seed: int, steps: int = STEPS) -> nn.Module:
    """A training: the recovery, on a network that saw nothing."""
    how = objective(epochs(rows, steps))
    return recover(fresh(seed), rows, loss=cloning, recovery=how, generator=coins(seed))


def one(seed: int, objective: Objective) -> dict[str, float]:
    """The mean return by way."""
    given = {name: (who, TRAJECTORIES[name]) for name, who in WHO.items()}
    rows = demonstrations(given, seed=seed, longest=LONGEST)
    task = ex.Task(model=trained(rows, objective, seed), data=rows, loss=cloning, make_model=network)
    request = ex.Request.groups([BAD])
    stays = task.parts(request).retain
    assert isinstance(stays, ex.Examples)
    way = GradientClipping(
        steps=NOISY, batch_size=RECIPE.batch_size, recovery=objective(epochs(stays, STEPS - NOISY)),
    )  # fmt: skip
    null = replace(task, model=null_start(task.model))
    models = {
        "trained on all": task.model,
        "retrained": trained(stays, objective, seed + 1000),
        "retrained for longer": trained(stays, objective, seed + 1000, LONGER),
        "unlearned": ex.unlearn(task, request, way, budget=BUDGET, seed=seed).model,
        "null start": ex.unlearn(null, request, way, budget=BUDGET, seed=seed + 2000).model,
        "untrained": fresh(seed + 3000),
    }
    return {name: float(returns(model, episodes=EPISODES, seed=seed).mean()) for name, model in models.items()}


def told(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation and every seed's."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values), "values": values}


def main() -> None:
    """Run, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    where = parser.parse_args().json
    begun, worked = time.perf_counter(), time.process_time()
    result: dict[str, Any] = {
        **environment(),
        "seeds": SEEDS, "steps": STEPS, "longer": LONGER, "noisy steps": NOISY, "episodes": EPISODES, "longest episode": 500,
        "budget": {"epsilon": BUDGET.epsilon, "delta": BUDGET.delta}, "recipe": RECIPE.to_dict(),
        "trajectories": TRAJECTORIES, "longest trajectory": LONGEST, "return": {},
    }  # fmt: skip
    for name, objective in OBJECTIVES.items():
        seeds = [one(seed, objective) for seed in range(SEEDS)]
        result["return"][name] = {what: told([seed[what] for seed in seeds]) for what in seeds[0]}
        for what, held in result["return"][name].items():
            print(f"{name}, {what}: {held['mean']:.4g} ± {held['sd']:.3g}")
    result["seconds"] = {
        "of the wall clock": round(time.perf_counter() - begun), "of the processor": round(time.process_time() - worked),
    }  # fmt: skip
    print(result["seconds"])
    if where is not None:
        where.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
