"""What is measured of a released model, each number beside what it is where nothing was left: that of a retrained model."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.audit import predicted_information
from expunge.audit.scores import auc
from leaders.requests import Posed

__all__ = ["measured", "relearned"]

_AT_ONCE = 4096
_LARGE = 1e9
_EPOCHS = 10  # of relearning, at most


def measured(posed: Posed, done: ex.Unlearned) -> dict[str, float | None]:
    """Of a release: accuracies, membership, information, relearning; None where a number has no meaning or cannot be had."""
    task, test = posed.task, posed.test
    released = {
        part: _scores(done, rows) for part, rows in (("test", test), ("forget", task.forget), ("retain", task.retain))
    }
    labels = {"test": test.tensors[1], "forget": task.forget.tensors[1], "retain": task.retain.tensors[1]}
    found: dict[str, float | None] = {
        f"accuracy on {part}": float((released[part].argmax(1) == labels[part]).double().mean()) for part in released
    }
    if posed.kind == "mislabelled":  # the label that is true, beside the one that was learned
        true = posed.train.tensors[1][sorted(posed.chosen.tolist())]
        found["true label on forget"] = float((released["forget"].argmax(1) == true).double().mean())
    return found | {
        "membership": _membership(released, labels),
        "information": _information(posed, released),
        "relearning": relearned(posed, done.model) if done.features is None else None,
    }


def relearned(posed: Posed, model: nn.Module) -> float:
    """Epochs on the forgotten rows, at the rate of training, until the trained model's accuracy on them is reached; 10 at most."""
    rows, s = posed.task.forget, posed.setting
    target = _right(posed.task.model, rows)
    work = copy.deepcopy(model).train()
    able = [p for p in work.parameters() if p.requires_grad]
    optimizer, coins = torch.optim.SGD(able, lr=s.recipe.learning_rate), torch.Generator().manual_seed(posed.seed)
    for epoch in range(_EPOCHS):
        if _right(work, rows) >= target - 1e-12:
            return float(epoch)
        for part in torch.randperm(len(rows), generator=coins).split(s.recipe.batch_size):
            optimizer.zero_grad()
            posed.task.loss(work, rows.batch(part)).backward()
            optimizer.step()
    return float(_EPOCHS)


def _scores(done: ex.Unlearned, rows: ex.Examples) -> Tensor:
    return torch.cat([done.predict(ex.Examples(*part)).double() for part in rows.chunks(_AT_ONCE)])


@torch.no_grad()
def _right(model: nn.Module, rows: ex.Examples) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in rows.chunks(_AT_ONCE))
    model.train()
    return right / len(rows)


def _membership(scores: dict[str, Tensor], labels: dict[str, Tensor]) -> float | None:
    """|AUC - 1/2| + 1/2 of the loss between forgotten rows and rows to test; either side tells: low losses, or patched ones."""
    if len(labels["forget"]) < 2:
        return None
    every = (F.cross_entropy(scores[part], labels[part], reduction="none") for part in ("forget", "test"))
    found = auc(*(losses.nan_to_num(posinf=_LARGE).numpy() for losses in every))  # of a class of which nothing is left
    return max(found, 1 - found)


def _information(posed: Posed, scores: dict[str, Tensor]) -> float:
    kept = scores["retain"].argmax(1).numpy()
    labels = (scores["forget"].argmax(1).numpy(), kept)
    found = predicted_information(labels, labels, labels=posed.setting.classes, against="retained rows")
    return float(found.evidence.values(found.confidence)["value"])
