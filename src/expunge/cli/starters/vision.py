"""A task for expunge: pictures. It runs as it stands, on scikit-learn's digits; put your own in, part by part.

expunge plan FILE:task                    compares the ways to forget, before anything is run
expunge unlearn FILE:task --out unlearned forgets, certifies, writes weights, certificate and report
"""

import torch
from sklearn.datasets import load_digits  # pip install scikit-learn
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

# 1. Which rows must be forgotten, by the names that your records have.
FORGET = [f"person-{i}" for i in range(0, 1400, 10)]


# 2. Your data: rows that the model was trained on, and rows that no training saw. Names (ids) are strongly advised: without
#    them two equal pictures count as one row.
def everything() -> tuple[ex.Examples, ex.Examples]:
    """Trained on, held out; pictures as float32 of shape (n, 1, 8, 8)."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    names = [f"person-{i}" for i in range(len(x))]
    return ex.Examples(x[:1400], y[:1400], ids=names[:1400]), ex.Examples(x[1400:], y[1400:], ids=names[1400:])


# 3. Your network. Noisy methods cannot cover BatchNorm as it is; GroupNorm and LayerNorm are fine.
def make_model() -> nn.Module:
    """A fresh network, as before any training."""
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 10))


# 4. The loss that it was trained with: the mean over a batch, one number.
def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    x, y = batch
    return F.cross_entropy(model(x), y)


# 5. The trained model. Load yours here: model = make_model(); model.load_state_dict(torch.load("model.pt")); return model
def trained(rows: ex.Examples) -> nn.Module:
    """Trains one, in a few seconds."""
    coins = torch.Generator().manual_seed(0)
    return ex.unlearners.train_from_scratch(
        make_model, rows, loss=loss, epochs=5, recipe=ex.recovery.Recipe(learning_rate=0.2), generator=coins
    ).model


# 6. Features for the methods that keep the network and forget in its last layer: any map that saw none of the data, such as
#    a public network. Leave features and provenance out if you have none.
_FEATURES = ex.features.RandomFeatures(64, 256, seed=0)


def features(x: Tensor) -> Tensor:
    """Pixels, through fixed random weights."""
    return _FEATURES(x.flatten(1))


def task() -> ex.Task:
    """What the commands ask for."""
    rows, held_out = everything()
    whole = ex.Task(
        model=trained(rows),
        data=rows,
        held_out=held_out,
        loss=loss,
        make_model=make_model,
        training_epochs=5,  # that the model was trained for: what retraining it would take
        features=features,
        provenance=f"pixels; {_FEATURES.provenance}",
    )
    return whole.parts(ex.Request.rows(FORGET))
