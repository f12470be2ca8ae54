"""What the information penalty does to a class of which most is forgotten, and what a barycenter map leaves of an attribute.

    python benchmarks/information.py

Digits: three quarters of the threes are forgotten, by the penalty with the labels' reference and with the reference 0, in
the authors' four settings; beside it fine-tuning (γ = 0), and retraining. Adult: the columns of sex are asked to be forgotten;
what a linear and a tree classifier still tell of sex from the other columns, and how well income is predicted.
Ridge and settings were fixed beforehand. Under two minutes on one core.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from leaders.adult import adult
from paper.data import DataError
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import expunge as ex
from expunge.audit import predicted_information
from expunge.features import FeatureAnswer, QuantileBarycenter
from expunge.unlearners import Run
from expunge.unlearners.heuristics import InformationPenalty
from expunge.unlearners.heuristics.information import batch_information

SEEDS, CLASS, SHARE, EPOCHS = 3, 3, 0.75, 60
SETTINGS = ((1.5, 20), (3.5, 5), (3.5, 20), (5.0, 2))
ROWS, RIDGE = 6000, 1e-2
BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)


def network() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def trained(rows: ex.Examples, seed: int) -> nn.Module:
    """By Adam, as the authors do."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = iter(ex.data.Batches(rows, batch_size=64, seed=seed))
    for _ in range(EPOCHS * (len(rows) // 64)):
        optimizer.zero_grad()
        loss(model, next(batches)).backward()
        optimizer.step()
    return model


@torch.no_grad()
def predicted(model: nn.Module, rows: ex.Examples) -> Tensor:
    """Probabilities, float64."""
    return model(rows.tensors[0]).double().softmax(1)


def information(retained: Tensor, forgotten: Tensor) -> float:
    """Of whole parts, at the weights of a batch of 64 and 16."""
    return float(batch_information(retained.mean(0).repeat(64, 1), forgotten.mean(0).repeat(16, 1)))


def told(model: nn.Module, task: ex.Task) -> dict[str, float]:
    """I and accuracies of a model."""
    kept, lost, seen = (predicted(model, rows) for rows in (task.retain, task.forget, task.held_out))
    y = task.held_out.tensors[1]
    right = (seen.argmax(1) == y).double()
    return {
        "information, nats": information(kept, lost),
        "accuracy on the class, held out": float(right[y == CLASS].mean()),
        "accuracy on forgotten rows": float((lost.argmax(1) == CLASS).double().mean()),
        "accuracy held out": float(right.mean()),
    }


def digits(seed: int) -> dict[str, dict[str, float]]:
    """Numbers of each model, by its name."""
    data, coins = load_digits(), torch.Generator().manual_seed(seed)
    x, y = torch.tensor(data.data / 16).float(), torch.tensor(data.target).long()
    order = torch.randperm(len(y), generator=coins)
    train, test = order[:1300], order[1300:]
    threes = train[y[train] == CLASS]
    gone = threes[: round(SHARE * len(threes))]
    stays = train[~torch.isin(train, gone)]
    retain, forget, held_out = (ex.Examples(x[k], y[k], ids=[f"r{i}" for i in k.tolist()]) for k in (stays, gone, test))
    task = ex.Task(
        model=trained(retain + forget, seed), retain=retain, forget=forget, held_out=held_out, loss=loss,
        make_model=network,
    )  # fmt: skip
    again = trained(retain, seed)
    found = {"original": told(task.model, task), "retrained": told(again, task)}
    one_hot = [nn.functional.one_hot(rows.tensors[1], 10).double() for rows in (retain, forget)]
    found["labels"] = {"information, nats": information(*one_hot)}
    released: dict[str, nn.Module] = {}
    for gamma, epochs in SETTINGS:
        for target in ("labels", "0", "none"):
            strength = gamma if target != "none" else 0.0
            way = InformationPenalty(gamma=strength, epochs=epochs, from_labels=target == "labels")
            name = (
                f"gamma {gamma:g}, {epochs} epochs, target {target}"
                if target != "none"
                else f"fine-tuned, {epochs} epochs"
            )
            released[name] = way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=seed)).model
            found[name] = told(released[name], task)
    aim = found["retrained"]["information, nats"]
    oracle = InformationPenalty(gamma=3.5, epochs=20, from_labels=False, reference=aim)
    name = "gamma 3.5, 20 epochs, target that of the retrained model"
    found[name] = told(oracle.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=seed)).model, task)
    for name in ("gamma 3.5, 20 epochs, target labels", "gamma 3.5, 20 epochs, target 0"):
        models = (released[name], again)
        labels = [[predicted(model, rows).argmax(1).numpy() for rows in (forget, held_out)] for model in models]
        measured = predicted_information(*map(tuple, labels), labels=10, against="held-out rows; reference: retrained")
        found[f"measurement, {name}"] = measured.values
    return found


def tells(make: Callable[[], Any], rows: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
    """Accuracy and AUC of a classifier on the official test rows."""
    fitted = make().fit(rows[0], labels[0])
    return {
        "accuracy": float(fitted.score(rows[1], labels[1])),
        "auc": float(roc_auc_score(labels[1], fitted.predict_proba(rows[1])[:, 1])),
    }


def attribute(seed: int) -> dict[str, dict[str, Any]]:
    """What is told of sex and of income, without the columns of sex, before and after."""
    coins = torch.Generator().manual_seed(seed)
    train, test = adult()
    train = train.take(torch.randperm(len(train), generator=coins)[:ROWS])
    x, _, sex = train.tensors
    columns = [k for k in range(x.shape[1]) if torch.equal(x[:, k], sex.float()) or torch.equal(x[:, k], 1.0 - sex)]
    request = ex.Request.features(columns)
    zeroed = [rows.tensors[0].index_fill(1, torch.tensor(columns), 0.0).numpy() for rows in (train, test)]
    forms: dict[str, list[np.ndarray]] = {"columns zeroed alone": zeroed}
    for name, how in (("gaussian", {"ridge": RIDGE}), ("quantiles", {"by": QuantileBarycenter})):
        answer = FeatureAnswer.fit(train, request, **how)
        forms[f"barycenter, {name}"] = [answer(rows).tensors[0].numpy() for rows in (train, test)]
    incomes, sexes = ([rows.tensors[k].numpy() for rows in (train, test)] for k in (1, 2))
    linear, trees = (
        (lambda: LogisticRegression(max_iter=2000)),
        (lambda: HistGradientBoostingClassifier(random_state=seed)),
    )
    found: dict[str, dict[str, Any]] = {}
    for name, rows in forms.items():
        found[name] = {
            "sex, linear": tells(linear, rows, sexes), "sex, trees": tells(trees, rows, sexes),
            "income, linear": tells(linear, rows, incomes), "income, trees": tells(trees, rows, incomes),
            "movement": float(((rows[0] - zeroed[0]) ** 2).sum(1).mean()),
        }  # fmt: skip
    found["nobody asked"] = {"sex, majority": {"accuracy": float(max(sexes[1].mean(), 1 - sexes[1].mean()))}}
    return found


def summed(seeds: list[Any]) -> Any:
    """Mean, deviation and values of each number over the seeds."""
    if isinstance(seeds[0], dict):
        return {key: summed([seed[key] for seed in seeds]) for key in seeds[0]}
    return {"mean": statistics.mean(seeds), "sd": statistics.stdev(seeds), "values": seeds}


def shown(found: Any, name: str = "") -> None:
    """Print every number."""
    if "mean" in found:
        print(f"{name}: {found['mean']:.4f} ± {found['sd']:.4f}")
        return
    for key, value in found.items():
        shown(value, f"{name}: {key}" if name else key)


def main() -> None:
    """Run, print and keep."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        **environment("scipy", "scikit-learn"),
        "seeds": list(range(SEEDS)), "class": CLASS, "share": SHARE, "ridge": RIDGE, "rows of Adult": ROWS,
        "digits": summed([digits(seed) for seed in range(SEEDS)]),
    }  # fmt: skip
    try:
        result["adult"] = summed([attribute(seed) for seed in range(SEEDS)])
    except DataError as error:
        print(f"Adult is left out: {error}")
    result["seconds of the processor"] = time.process_time()
    shown({name: result[name] for name in ("digits", "adult") if name in result})
    where = Path(__file__).parent / "results" / "information.json"
    where.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
