"""The strongly convex head on CIFAR-10 features and Adult: time against retraining, one Newton step, fairness.

    python benchmarks/convex_head.py --json benchmarks/results/convex_head.json

CIFAR-10: 45,000 rows of 512 public features, of which 5,000 are forgotten. Retraining is the same solver from zero, on the
retained rows, without the time to keep an inverse for later requests. Adult: the columns of the documentation, one-hot;
numbers are scaled by round constants chosen without looking at any row, since a mean or a deviation of rows that may be
forgotten would void the provenance.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from environment import environment
from leaders.adult import PROVENANCE, adult
from paper.data import DataError, features
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import expunge as ex
from expunge.data import Request
from expunge.heads.convex import ConvexHead
from expunge.heads.corrections import Corrections, digests
from expunge.heads.fairness import EqualScores, equalised_odds_gap
from expunge.heads.near import Near
from expunge.heads.packed import PackedDigests
from expunge.heads.preconditioners import Kronecker

BUDGET = ex.Budget(epsilon=0.1, delta=1e-6)
CIFAR: dict[str, Any] = {
    "loss": "logistic", "regularization": 1e-4, "classes": 10, "residual": 1e-9, "noise_std": BUDGET,
    "provenance": "public ImageNet backbone, projection fitted on CIFAR-100",
}  # fmt: skip
ADULT: dict[str, Any] = {
    "loss": "logistic", "regularization": 1e-4, "classes": 2, "residual": 1e-10, "noise_std": BUDGET,
    "provenance": PROVENANCE,
}  # fmt: skip


def cifar10() -> tuple[ex.Examples, ex.Examples]:
    """45,000 rows to train, 10,000 to test, in float32."""
    held = features("cifar10")
    x, test = ((t.float() / 255 - held.mean) / held.std for t in (held.train_x, held.test_x))
    order = torch.randperm(50_000, generator=torch.Generator().manual_seed(0))[:45_000]
    return ex.Examples(x[order], held.train_y[order].long()), ex.Examples(test, held.test_y.long())


def linear(weights: Tensor, x: Tensor) -> Tensor:
    """Predictions of exact weights with a bias in their last column."""
    return (x.double() @ weights[:, :-1].T + weights[:, -1]).argmax(1)


def accuracy(model: nn.Module, test: ex.Examples) -> float:
    """Of a released head."""
    with torch.no_grad():
        return float((model(test.tensors[0].double()).argmax(1) == test.tensors[1]).double().mean())


def on_cifar10(repeats: int) -> dict[str, Any]:
    """Unlearning 5,000 rows against retraining without them, timed in turns."""
    train, test = cifar10()
    request, kept = Request.rows(train.ids[:5000]), train.take(range(5000, 45_000))
    begun = time.perf_counter()
    ConvexHead(**CIFAR).fit(train, prepare=False)
    fit = time.perf_counter() - begun
    seconds: dict[str, list[float]] = {"unlearn": [], "retrain": [], "fit and keep an inverse": []}
    noisy: list[tuple[float, float]] = []
    for _ in range(repeats):
        head, again = ConvexHead(**CIFAR), ConvexHead(**CIFAR)
        begun = time.perf_counter()
        head.fit(train)
        seconds["fit and keep an inverse"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        done = head.unlearn(kept, request)
        seconds["unlearn"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        retrained = again.fit(kept, prepare=False)
        seconds["retrain"].append(time.perf_counter() - begun)
        noisy.append((accuracy(done.model, test), accuracy(retrained.model, test)))
    certificate = ex.issue(done.record, released=done.model, asked=BUDGET)
    ex.verify(certificate, weights=done.model)
    exact = float((linear(again.solution.weights, test.tensors[0]) == test.tensors[1]).double().mean())
    return {
        "seconds": seconds, "fit without": fit, "ratio": min(seconds["unlearn"]) / min(seconds["retrain"]),
        "accuracy unlearned": [a for a, _ in noisy], "accuracy retrained": [b for _, b in noisy],
        "accuracy retrained, exact": exact, "noise_std": head.noise_std,
        "distance": float((head.solution.weights - again.solution.weights).norm()),
        "weights": float(again.solution.weights.norm()), "residual": head.solution.residual,
        "rounding": head.solution.rounding, "start": head.solution.start,
        "steps": [[s.residual, s.products] for s in head.solution.steps],
        "steps of retraining": [[s.residual, s.products] for s in again.solution.steps],
        "epsilon": certificate.claim.epsilon,
    }  # fmt: skip


def objective(head: ConvexHead, rows: ex.Examples) -> Any:
    """The head's objective on these rows as they are."""
    key = bytes(32)
    known = Corrections(key=key, learned=PackedDigests.of(digests(rows.ids, key)))
    return head._objective(rows, known, rows.tensors[0].shape[1])


def one_step(regularization: float) -> dict[str, Any]:
    """Relabel 10 % of Adult: the residual and distance from retraining of nothing, one gradient or Newton step, and measured."""
    train, _ = adult()
    x, y, group = train.tensors
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[: len(y) // 10]
    new = y.clone()
    new[chosen] = 1 - new[chosen]
    corrected = ex.Examples(x, new, group, ids=train.ids)
    settings = ADULT | {"regularization": regularization}
    head, again = ConvexHead(**settings), ConvexHead(**settings)
    head.fit(train)
    again.fit(corrected, prepare=False)
    target, start = again.solution.weights, head.solution.weights
    of = objective(head, corrected)
    here = of.measure(start)
    hessian = Near(of, start, torch.float64).product
    newton = start + conjugate(hessian, -here.gradient, Kronecker(of).at(here))
    first_order = start - here.gradient  # the step of Warnecke et al. with a rate of 1
    head.unlearn(train, Request.labels([train.ids[i] for i in chosen.tolist()], new[chosen].tolist()))
    ways = {
        "nothing": start, "one gradient step, rate 1": first_order,
        "one Newton step": newton, "measured": head.solution.weights,
    }  # fmt: skip
    return {
        "lambda": regularization,
        "ways": {
            name: {"residual": of.measure(w).certified, "distance": float((w - target).norm())}
            for name, w in ways.items()
        },
        "steps": [[s.residual, s.length, s.products] for s in head.solution.steps],
    }


def conjugate(hessian: Any, b: Tensor, precondition: Any) -> Tensor:
    """H⁻¹ b to a relative 1e-12."""
    x, r = torch.zeros_like(b), b.clone()
    z = precondition(r)
    q, rho, enough = z.clone(), float((r * z).sum()), 1e-12 * float(b.norm())
    for _ in range(2000):
        if float(r.norm()) <= enough:
            break
        bent = hessian(q)
        x, r = x + rho / float((q * bent).sum()) * q, r - rho / float((q * bent).sum()) * bent
        z = precondition(r)
        rho, before = float((r * z).sum()), rho
        q = z + rho / before * q
    return x


def fairness(weights: tuple[float, ...]) -> list[dict[str, Any]]:
    """Test accuracy and equalised-odds gap (by sex) before, after unlearning a tenth, and after retraining."""
    train, test = adult()
    count, rows = len(train) // 10, list[dict[str, Any]]()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1)).tolist()
    for weight in weights:
        settings = ADULT | ({"fairness": EqualScores(weight=weight)} if weight else {})
        head, again = ConvexHead(**settings), ConvexHead(**settings)
        models = {"trained": head.fit(train).model}
        models["unlearned"] = head.unlearn(train, Request.rows([train.ids[i] for i in order[:count]])).model
        models["retrained"] = again.fit(train.take(order[count:]), prepare=False).model
        x, y, group = test.tensors
        for name, model in models.items():
            with torch.no_grad():
                gap = equalised_odds_gap(model(x.double()).argmax(1), y, group)
            rows.append({"weight": weight, "model": name, "accuracy": accuracy(model, test), "gap": gap})
    return rows


def show(found: dict[str, Any]) -> None:
    """The tables."""
    console = Console(width=130)
    if "cifar10" in found:
        c = found["cifar10"]
        table = Table(
            "CIFAR-10 features, 5,000 of 45,000 forgotten",
            "seconds, each run",
            "test accuracy",
            "residual, Hessian products",
        )
        for name, key in (("unlearn", "accuracy unlearned"), ("retrain", "accuracy retrained")):
            steps = c["steps"] if name == "unlearn" else c["steps of retraining"]
            table.add_row(
                name, ", ".join(f"{s:.2f}" for s in c["seconds"][name]), ", ".join(f"{a:.4f}" for a in c[key]),
                f"{steps[-1][0]:.2e}, {sum(s[1] for s in steps)} in {len(steps)} steps",
            )  # fmt: skip
        kept = ", ".join(f"{s:.2f}" for s in c["seconds"]["fit and keep an inverse"])
        table.add_row("fit and keep an inverse (once)", kept, "", "")
        console.print(table)
        console.print(
            f"ratio {c['ratio']:.3f}; exact retraining has accuracy {c['accuracy retrained, exact']:.4f}; "
            f"noise_std {c['noise_std']:.2e}, distance {c['distance']:.2e}, |W| {c['weights']:.2f}, "
            f"rounding bound {c['rounding']:.2e}, epsilon {c['epsilon']:.4f}"
        )
    for part in found.get("relabelling", []):
        table = Table(
            f"Adult, 10 % relabelled, lambda {part['lambda']:g}", "certified residual", "distance from retraining"
        )
        for name, way in part["ways"].items():
            table.add_row(name, f"{way['residual']:.3e}", f"{way['distance']:.3e}")
        console.print(table)
    if "fairness" in found:
        table = Table("Adult, penalty weight", "model", "test accuracy", "equalised-odds gap")
        for row in found["fairness"]:
            table.add_row(f"{row['weight']:g}", row["model"], f"{row['accuracy']:.4f}", f"{row['gap']:.4f}")
        console.print(table)


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    parts: dict[str, Any] = {
        "cifar10": lambda: on_cifar10(arguments.repeats),
        "relabelling": lambda: [one_step(lam) for lam in (1e-2, 1e-4, 1e-6)],
        "fairness": lambda: fairness((0.0, 0.03, 0.3)),
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            found[name] = part()
        except DataError as error:
            Console(stderr=True).print(f"{name} left out: {error}")
    show(found)
    if arguments.json:
        result = found | {
            **environment(),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
