"""What accounting costs beside dp-accounting on the same work, and the noise that the paper's configurations need.

    python benchmarks/accounting.py --json accounting.json

Times are medians of a few repetitions, taken in one run; the first call of each is not counted. Values are printed
beside the times: a fast wrong number is worth nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting import pld
from environment import environment
from paper.recipes import published_gradient_clipping
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

import expunge as ex
from expunge.accounting import adversary, schedules

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
# (dataset, C0, C1, eta, lambda) of the figures of Koloskova et al. 2025, arXiv 2506.06985.
PAPER = [
    ("MNIST", 0.01, 10.0, 1e-4, 750.0),
    ("MNIST", 0.01, 100.0, 1e-4, 10.0),
    ("CIFAR-10", 0.1, 10.0, 0.001, 50.0),
    ("CIFAR-10", 1.0, 1.0, 0.001, 50.0),
    ("CIFAR-10", 20.0, 10.0, 0.01, 50.0),
    ("CIFAR-10", 0.1, 10.0, 0.01, 1.0),
    ("features", 1.0, 1.0, 0.001, 100.0),
    ("features", 1.0, 10.0, 0.001, 500.0),
    ("features", 0.1, 0.1, 0.01, 10.0),
    ("features", 0.01, 1.0, 0.001, 10.0),
]


def timed(work: Callable[[], Any], repetitions: int) -> tuple[Any, float]:
    """The value of `work` and the median of its seconds, the first call left out."""
    value = work()
    seconds: list[float] = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        value = work()
        seconds.append(time.perf_counter() - begun)
    return value, statistics.median(seconds)


def constant(steps: int, noise_std: float) -> ex.accounting.GradientClipping:
    """The setting that the timings use."""
    return ex.accounting.GradientClipping(
        init_clip=0.5, grad_clip=1.0, learning_rate=0.01, weight_decay=20.0, steps=steps, noise_std=noise_std
    )


def plain_loop(drift: list[float], decay: list[float], noise_std: list[float]) -> float:
    """The recursion of `schedules.scheduled` as one would write it first."""
    c, u, best = 1.0, 0.0, float("inf")
    for s, d, sigma in zip(drift, decay, noise_std, strict=True):
        rho = 1 - d
        c, u = rho * c + s, rho * rho * u + sigma * sigma
        best = min(best, c * c / u)
    return sqrt(best)


def peer_noise() -> float:
    """The noise of one Gaussian release at the budget, by dp-accounting."""
    asked = pld.common.DifferentialPrivacyParameters(BUDGET.epsilon, BUDGET.delta)
    return float(pld.accountant.get_smallest_gaussian_noise(asked, 1, 1.0))


def timings(repetitions: int) -> list[dict[str, Any]]:
    """One row for each piece of work: ours and, where there is one, a peer on the same work."""
    rng = np.random.default_rng(0)
    million = {name: rng.uniform(0, 1e-3, 10**6) for name in ("drift", "decay")}
    million["noise_std"] = rng.uniform(0.5, 1.0, 10**6)
    lists = {name: values.tolist() for name, values in million.items()}
    once = ex.accounting.OutputPerturbation(init_clip=1.0, noise_std=8.0)
    model = ex.accounting.calibrate(
        lambda s: ex.accounting.ModelClipping(model_clip=0.5, learning_rate=0.1, steps=20, noise_std=s), BUDGET
    )
    dp = ex.accounting.DPTraining(sample_clip=1.0, noise_multiplier=1.0, sampling_rate=0.01, steps=1000, group_size=1)
    peer_dp = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(1.0)), 1000
    )

    def output(sigma: float) -> ex.accounting.OutputPerturbation:
        return ex.accounting.OutputPerturbation(init_clip=0.5, noise_std=sigma)  # sensitivity 2 C0 = 1

    def group(size: int) -> float:
        gc_dp = replace(dp, group_size=size)
        return ex.accounting.guarantee(gc_dp, delta=1e-5).epsilon

    def peer_group(size: int) -> float:
        binomial = stats.binom.pmf(np.arange(size + 1), size, 0.01)
        one = pld.privacy_loss_distribution.from_mixture_gaussian_mechanism(1.0, list(range(size + 1)), binomial)
        return float(one.self_compose(1000).get_epsilon_for_delta(1e-5))

    def peer_four() -> float:
        one = pld.privacy_loss_distribution.from_gaussian_mechanism(4.0)
        return float(one.self_compose(4).get_epsilon_for_delta(1e-5))

    work: list[tuple[str, Callable[[], float], str, Callable[[], float] | None]] = [
        (
            "noise of one release",
            lambda: ex.accounting.calibrate(output, BUDGET).noise_std,
            "dp-accounting",
            peer_noise,
        ),
        (
            "epsilon of 4 releases",
            lambda: ex.certificate.compose([once] * 4, delta=1e-5).epsilon,
            "dp-accounting",
            peer_four,
        ),
        (
            "calibrate gradient clipping, T = 50",
            lambda: ex.accounting.calibrate(lambda s: constant(50, s), BUDGET).noise_std,
            "",
            None,
        ),
        (
            "mu of a schedule of 10^6 steps",
            lambda: schedules.scheduled(distance=1.0, **million)[0],
            "plain Python loop",
            lambda: plain_loop(**lists),
        ),
        ("epsilon of model clipping, T = 20", lambda: ex.accounting.guarantee(model, delta=1e-5).epsilon, "", None),
        (
            "epsilon of model clipping, 8 releases",
            lambda: ex.certificate.compose([model] * 8, delta=1e-5).epsilon,
            "",
            None,
        ),
        ("lower bound, T = 10", lambda: exp(constant(10, 0.2).log_delta_lower(1.0)), "", None),
        (
            "DP training, q = 0.01, T = 1000, single records",
            lambda: group(1),
            "dp-accounting, Poisson-sampled Gaussian",
            lambda: float(pld.PLDAccountant().compose(peer_dp).get_epsilon(1e-5)),
        ),
        (
            "DP training, the same, groups of 4",
            lambda: group(4),
            "dp-accounting, mixture of Gaussians",
            lambda: peer_group(4),
        ),
    ]
    rows: list[dict[str, Any]] = []
    for name, ours, peer_name, peer in track(work, description="timings", transient=True):
        value, seconds = timed(_uncached(ours), repetitions)
        row: dict[str, Any] = {"work": name, "value": float(value), "seconds": seconds}
        if peer is not None:
            peer_value, peer_seconds = timed(peer, max(1, repetitions // 4))
            row |= {"peer": peer_name, "peer_value": peer_value, "peer_seconds": peer_seconds}
            row["ratio"] = peer_seconds / seconds
        rows.append(row)
    return rows


def _uncached(work: Callable[[], float]) -> Callable[[], float]:
    """`work` without what earlier calls left in caches."""

    def fresh() -> float:
        from expunge.accounting import sampling

        for cached in vars(sampling).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        return work()

    return fresh


def proved_lower_noise(m: ex.accounting.GradientClipping, cells: int) -> float:
    """The largest σ at which an adversary on a line still exceeds δ at ε: with less noise no proof can exist."""

    def exceeds(sigma: float) -> bool:
        steps = np.ones(m.steps)
        attained = adversary.log_delta_retrained(
            epsilon=BUDGET.epsilon,
            radius=m.init_clip,
            push=steps * m.learning_rate * m.grad_clip,
            decay=steps * m.decay,
            noise_std=steps * sigma,
            cells=cells,
        )
        return attained > log(BUDGET.delta)

    low, high = 1e-6 * m.noise_std, m.noise_std
    while high > low * 1.0002:
        middle = sqrt(low * high)
        low, high = (middle, high) if exceeds(middle) else (low, middle)
    return low


def noise_table(cells: int) -> list[dict[str, Any]]:
    """σ needed at (1, 1e-5), and what the published noise gives."""
    rows: list[dict[str, Any]] = []
    for dataset, c0, c1, eta, decay in track(PAPER, description="noise needed", transient=True):
        published = published_gradient_clipping(c0, c1, eta, decay)

        def family(sigma: float, m: ex.accounting.GradientClipping = published) -> ex.accounting.GradientClipping:
            return replace(m, noise_std=sigma)

        ours, center = (ex.accounting.calibrate(family, BUDGET, relation=r) for r in ex.accounting.Relation)
        at_the_end = published.noise_std * sqrt(2)  # the paper takes no minimum over prefixes
        low, high = ex.accounting.interval(published, delta=BUDGET.delta, tolerance=1e-3)
        rows.append(
            {
                "dataset": dataset, "init_clip": c0, "grad_clip": c1, "learning_rate": eta, "weight_decay": decay,
                "steps": published.steps,
                "paper_theorem": 1.5 * sqrt(log(1 / BUDGET.delta)) / BUDGET.epsilon * at_the_end,
                "retrained": ours.noise_std, "center": center.noise_std,
                "proved_lower": proved_lower_noise(ours, cells),
                "published_noise": published.noise_std, "published_true_epsilon": [low, high],
            }
        )  # fmt: skip
    return rows


def show(result: dict[str, Any]) -> None:
    """Print both tables."""
    console = Console()
    table = Table("work", "value", "seconds", "peer", "its value", "its seconds", "ratio", title="Times")
    for row in result["timings"]:
        peer = [""] * 4
        if "peer" in row:
            peer = [row["peer"], f"{row['peer_value']:.6g}", f"{row['peer_seconds']:.3g}", f"{row['ratio']:.3g}"]
        table.add_row(row["work"], f"{row['value']:.6g}", f"{row['seconds']:.3g}", *peer)
    console.print(table)
    table = Table(
        "configuration (C0, C1, eta, lambda)", "T", "paper's theorem", "ours, retrained", "ours, center", "proved lower",
        "published noise", "its true epsilon", title="Noise needed at (1, 1e-5)",
    )  # fmt: skip
    for row in result["noise"]:
        setting = f"{row['dataset']} ({row['init_clip']:g}, {row['grad_clip']:g}, {row['learning_rate']:g}, {row['weight_decay']:g})"
        low, high = row["published_true_epsilon"]
        numbers = [row[n] for n in ("paper_theorem", "retrained", "center", "proved_lower", "published_noise")]
        table.add_row(setting, str(row["steps"]), *(f"{n:.4g}" for n in numbers), f"[{low:.3g}, {high:.3g}]")
    console.print(table)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--cells", type=int, default=1 << 17, help="grid of the lower bounds")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    result = {
        "timings": timings(arguments.repetitions),
        "noise": noise_table(arguments.cells),
        "cells": arguments.cells,
        **environment("scipy", "dp-accounting"),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)


if __name__ == "__main__":
    main()
