"""A task for expunge: a table. It runs as it stands, on a generated one; put your own in, part by part.

expunge plan FILE:task                    compares the ways to forget, before anything is run
expunge unlearn FILE:task --out unlearned forgets, certifies, writes weights, certificate and report
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

# 1. Which rows must be forgotten, by the names that your records have.
FORGET = [f"customer-{i}" for i in range(0, 2000, 25)]


# 2. Your data: rows that the model was trained on, and rows that no training saw. Arrays of numpy and tensors both do, e.g.
#    table[columns].to_numpy(dtype="float32") of pandas. Scale columns by fixed numbers, not by means of the table: those
#    depend on the rows to be forgotten.
def everything() -> tuple[ex.Examples, ex.Examples]:
    """Trained on, held out; 12 columns as float32, and a class, 0 to 2."""
    coins = np.random.default_rng(0)
    x = coins.normal(size=(2500, 12)).astype(np.float32)
    y = (x[:, :3] + 0.3 * coins.normal(size=(2500, 3))).argmax(axis=1)
    names = [f"customer-{i}" for i in range(len(x))]
    return ex.Examples(x[:2000], y[:2000], ids=names[:2000]), ex.Examples(x[2000:], y[2000:], ids=names[2000:])


# 3. Your network.
def make_model() -> nn.Module:
    """A fresh network, as before any training."""
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))


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


# 6. Features for the methods that forget in a linear head: any map that saw none of the data. Leave features and provenance
#    out if you have none.
_FEATURES = ex.features.RandomFeatures(12, 128, seed=0)


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
        features=_FEATURES,
        provenance=f"columns, scaled by fixed numbers; {_FEATURES.provenance}",
    )
    return whole.parts(ex.Request.rows(FORGET))
