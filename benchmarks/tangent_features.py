"""Tangent features on MNIST: what linearised fine-tuning gains over a plain head, beside a random layer of equal width.

    python benchmarks/tangent_features.py --json benchmarks/results/tangent_features.json

The public network is a small convolutional one, trained on scikit-learn's digits (UCI Optdigits, 1,797 pictures of 8x8),
enlarged, moved and turned at random; it never sees MNIST. All heads but "zero-shot" and "fine-tuned" are exact ridge heads on
the network's hidden features and a constant, to which each map adds as many features of its own kind. Accuracy is given for
several ridges, as a ridge that suits one kind of features may not suit another; the default, 1, was fixed in advance.
Fine-tuning cannot be forgotten exactly except by doing it anew. With --maps and --seeds one can measure parts: figures in
the file that are not measured again stay.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from environment import environment
from paper.data import mnist
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from expunge._progress import track
from expunge.features import RandomFeatures
from expunge.features.tangent import TangentFeatures
from expunge.heads import AnalyticHead
from expunge.heads.statistics import solve

RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
CONVOLUTIONS, DENSE, EVERYTHING = ("1.*", "3.*"), ("7.*",), ("*",)
REASON = "trained on UCI Optdigits alone"
HIDDEN = "8"


def network() -> nn.Sequential:
    """28x28 to 10 outputs; 64 hidden features, 11,178 parameters."""
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def public_network(seed: int, epochs: int) -> nn.Sequential:
    """The network after training on the digits of scikit-learn, in evaluation mode."""
    digits = load_digits()
    small = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    # Optdigits fills its frame, MNIST keeps four pixels free on each side.
    x = F.pad(F.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False), (4, 4, 4, 4))
    y = torch.tensor(digits.target).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
    coins = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in track(iter(range(epochs)), total=epochs, label="public network"):
        for rows in torch.randperm(len(x), generator=coins).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(moved(x[rows], coins)), y[rows]).backward()
            optimiser.step()
        decay.step()
    return model.eval()


def moved(x: Tensor, coins: torch.Generator) -> Tensor:
    """Turned by up to 15 degrees, stretched by up to 20 %, sheared, shifted by up to 2 pixels; strokes thinner or thicker."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), generator=coins)

    angle, shear = uniform(-0.26, 0.26), uniform(-0.3, 0.3)
    across, down = uniform(0.8, 1.3), uniform(0.8, 1.2)
    c, s = angle.cos(), angle.sin()
    top = torch.stack([c * across, (shear * c - s) * down, uniform(-0.15, 0.15)], 1)
    bottom = torch.stack([s * across, (shear * s + c) * down, uniform(-0.15, 0.15)], 1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), list(x.shape), align_corners=False)
    turned = F.grid_sample(x, grid, align_corners=False)
    return turned.clamp(0, 1) ** uniform(0.5, 2.0).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Problem:
    """MNIST in [0, 1) by multiples of 1/256, so that random layers are exact, and a public network."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    public: nn.Sequential
    seed: int
    forget: int


@dataclass(frozen=True)
class Map:
    """A feature map: a function of pictures (n, 1, 28, 28), float64 features out."""

    of: Callable[[Tensor], Tensor]
    provenance: str
    about: dict[str, Any]


def tangent(problem: Problem, parameters: tuple[str, ...], directions: int) -> Map:
    """Tangent features, hidden ones and a constant."""
    layer = TangentFeatures(
        problem.public, shape=(1, 28, 28), directions=directions, seed=problem.seed, provenance=REASON,
        parameters=parameters, hidden=HIDDEN,
    )  # fmt: skip
    about = {"parameters": list(parameters), "covered": layer.parameters_covered, "directions": directions}
    return Map(layer, layer.provenance, about)


def hidden(problem: Problem) -> Callable[[Tensor], Tensor]:
    """Hidden features and a constant, on the same grid as tangent features; rows in blocks of one size."""
    wide = copy.deepcopy(problem.public)[: int(HIDDEN) + 1].double()

    def of(x: Tensor) -> Tensor:
        with torch.no_grad():
            features = torch.cat([wide(rows.double()) for rows in x.split(64)])
        return F.pad(torch.round(features * 2.0**16) / 2.0**16, (0, 1), value=1.0)

    return of


def plain(problem: Problem) -> Map:
    """Hidden features alone."""
    return Map(hidden(problem), REASON, {})


def random_layer(problem: Problem, source: str, width: int) -> Map:
    """Hidden features, and `width` random ones of the pixels or of the hidden features (a constant among them)."""
    below = hidden(problem)
    layer = RandomFeatures(785 if source == "pixels" else 65, width, seed=problem.seed)

    def of(x: Tensor) -> Tensor:
        known = below(x)
        given = F.pad(x.double().flatten(1), (0, 1), value=1.0) if source == "pixels" else known
        return torch.cat([layer(given), known], dim=1)

    return Map(of, f"{REASON}; {layer.provenance}", {"source": source})


MAPS: dict[str, Callable[[Problem], Map]] = {
    "plain head": plain,
    "random layer on hidden, 300": lambda p: random_layer(p, "hidden", 300),
    "random layer on pixels, 300": lambda p: random_layer(p, "pixels", 300),
    "tangent, convolutions, 30 directions": lambda p: tangent(p, CONVOLUTIONS, 30),
    "random layer on hidden, 1000": lambda p: random_layer(p, "hidden", 1000),
    "random layer on pixels, 1000": lambda p: random_layer(p, "pixels", 1000),
    "tangent, convolutions, 100 directions": lambda p: tangent(p, CONVOLUTIONS, 100),
    "tangent, dense layer, 100 directions": lambda p: tangent(p, DENSE, 100),
    "tangent, all layers, 100 directions": lambda p: tangent(p, EVERYTHING, 100),
}
NETWORKS = ("zero-shot", "fine-tuned")


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that one call takes, and what it returns."""
    begun = time.perf_counter()
    done = act()
    return time.perf_counter() - begun, done


def share(predicted: Tensor, y: Tensor) -> float:
    """The share of labels predicted."""
    return float((predicted == y).double().mean())


def measure_map(problem: Problem, kind: Map) -> dict[str, Any]:
    """Features, learning, forgetting, retraining: seconds; accuracy; bytes."""
    (x, y), (x_test, y_test), k = problem.train, problem.test, problem.forget
    ids = [str(row) for row in range(len(x))]
    seconds: dict[str, float] = {}
    seconds["features"], phi = timed(lambda: kind.of(x))
    seconds["features_of_test"], phi_test = timed(lambda: kind.of(x_test))

    def head() -> AnalyticHead:
        return AnalyticHead(ridge=1.0, classes=10, provenance=kind.provenance, key=bytes(32))

    def learn(fresh: AnalyticHead, first: int) -> Tensor:
        fresh.learn(phi[first:], y[first:], ids=ids[first:])
        return fresh.weights

    def forget() -> Tensor:
        done.forget(again, y[:k], ids=ids[:k])
        return done.weights

    done, retrained = head(), head()
    seconds["learn"], _ = timed(lambda: learn(done, 0))
    accuracy = share(done.predict(phi_test), y_test)
    sums = done._sums
    assert sums is not None
    ridges = {str(g): share((phi_test @ solve(sums, ridge=g, scale=None).weights).argmax(1), y_test) for g in RIDGES}
    # Features of the forgotten rows are made anew: nothing but the pictures is kept.
    seconds["features_of_forgotten"], again = timed(lambda: kind.of(x[:k]))
    seconds["forget"], _ = timed(forget)
    seconds["retrain"], _ = timed(lambda: learn(retrained, k))
    with tempfile.TemporaryDirectory() as folder:
        done.save(Path(folder) / "state")
        state = (Path(folder) / "state").stat().st_size
    return kind.about | {
        "width": phi.shape[1], "accuracy": accuracy, "accuracy_by_ridge": ridges,
        "accuracy_after": share(done.predict(phi_test), y_test), "seconds": seconds, "state_bytes": state,
        "largest_difference": float((done.weights - retrained.weights).abs().max()), "error_bound": done.error_bound,
        "features_kept_to_the_bit": bool(torch.equal(again, phi[:k])),
    }  # fmt: skip


def fine_tuned(problem: Problem, first: int, epochs: int) -> nn.Module:
    """All weights trained on from the public ones, on the rows from `first` on."""
    x, y = problem.train[0][first:], problem.train[1][first:]
    model = network()
    model.load_state_dict(problem.public.state_dict())
    coins = torch.Generator().manual_seed(problem.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in track(iter(range(epochs)), total=epochs, label="fine-tuning"):
        for rows in torch.randperm(len(x), generator=coins).split(128):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
        decay.step()
    return model.eval()


def measure_network(problem: Problem, name: str, epochs: int) -> dict[str, Any]:
    """The public network as it is, or trained on."""
    x, y = problem.test
    seconds: dict[str, float] = {}
    model: nn.Module = problem.public
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    figures: dict[str, Any] = {"state_bytes": size, "seconds": seconds}
    if name == "fine-tuned":
        seconds["learn"], model = timed(lambda: fine_tuned(problem, 0, epochs))
        seconds["retrain"], _ = timed(lambda: fine_tuned(problem, problem.forget, epochs))
        figures["epochs"] = epochs
    with torch.no_grad():
        figures["accuracy"] = share(torch.cat([model(rows) for rows in x.split(1000)]).argmax(1), y)
    return figures


def pictures(rows: Tensor) -> Tensor:
    """Bytes to float32, (n, 1, 28, 28)."""
    return rows.float()[:, None] / 256


def show(results: dict[str, dict[str, Any]]) -> None:
    """Means over the seeds."""
    table = Table(title="Test accuracy, and seconds: means over the seeds")
    for column in ("map", "seeds", "d", "accuracy", "best ridge", "features s", "learn s", "forget s", "of it features",
                   "retrain s", "max |ΔW|", "state MB"):  # fmt: skip
        table.add_column(column, justify="left" if column == "map" else "right")

    def cell(runs: list[dict[str, Any]], key: Callable[[dict[str, Any]], float], form: str) -> str:
        try:
            return format(mean(key(r) for r in runs), form)
        except KeyError:
            return "-"

    for name, by_seed in results.items():
        runs = list(by_seed.values())
        table.add_row(
            name, str(len(runs)), cell(runs, lambda r: r["width"], ".0f"), cell(runs, lambda r: r["accuracy"], ".4f"),
            cell(runs, lambda r: max(r["accuracy_by_ridge"].values()), ".4f"),
            cell(runs, lambda r: r["seconds"]["features"], ".1f"), cell(runs, lambda r: r["seconds"]["learn"], ".1f"),
            cell(runs, lambda r: r["seconds"]["forget"] + r["seconds"]["features_of_forgotten"], ".2f"),
            cell(runs, lambda r: r["seconds"]["features_of_forgotten"], ".2f"),
            cell(runs, lambda r: r["seconds"]["retrain"], ".1f"), cell(runs, lambda r: r["largest_difference"], ".1e"),
            cell(runs, lambda r: r["state_bytes"] / 1e6, ".2f"),
        )  # fmt: skip
    Console(width=170).print(table)


def main() -> None:
    """Read the arguments, measure, print; the file is written after every map."""
    every = (*NETWORKS, *MAPS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="of the public network, its training and the sketch"
    )
    parser.add_argument("--maps", nargs="+", choices=every, default=every)
    parser.add_argument("--rows", type=int, default=60_000, help="rows of MNIST to train on")
    parser.add_argument("--forget", type=int, default=6_000, help="rows to forget")
    parser.add_argument("--public-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--note", default="", help="about the machine, for the file")
    parser.add_argument("--json", type=Path, help="write the figures to this file, beside those it holds")
    arguments = parser.parse_args()
    if not 0 < arguments.forget < arguments.rows <= 60_000:
        parser.error("--forget must be above 0 and below --rows, and --rows at most 60000")
    held = mnist()
    train = pictures(held.train_x[: arguments.rows]), held.train_y[: arguments.rows].long()
    test = pictures(held.test_x), held.test_y.long()
    old = json.loads(arguments.json.read_text())["results"] if arguments.json and arguments.json.exists() else {}
    results: dict[str, dict[str, Any]] = old
    about = {
        "setting": {
            "rows": arguments.rows, "forgotten": arguments.forget, "test": len(test[0]), "ridge": 1.0,
            "public_epochs": arguments.public_epochs, "note": arguments.note,
        },
        **environment("scikit-learn"),
    }  # fmt: skip
    for seed in arguments.seeds:
        problem = Problem(train, test, public_network(seed, arguments.public_epochs), seed, arguments.forget)
        for name in arguments.maps:
            results.setdefault(name, {})[str(seed)] = (
                measure_network(problem, name, arguments.epochs)
                if name in NETWORKS
                else measure_map(problem, MAPS[name](problem))
            )
            if arguments.json:
                arguments.json.write_text(json.dumps({"results": results} | about, indent=2) + "\n")
    show({name: results[name] for name in every if results.get(name)})
    for part in about.values():
        print(", ".join(f"{name} {value}" for name, value in part.items()))


if __name__ == "__main__":
    main()
