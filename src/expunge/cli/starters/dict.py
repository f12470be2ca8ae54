"""A task for expunge: batches that are dicts, as of tokenised texts. It runs as it stands, on generated ones; put your own in.

expunge plan FILE:task                    compares the ways to forget, before anything is run
expunge unlearn FILE:task --out unlearned forgets, certifies, writes weights, certificate and report
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

Batch = dict[str, Tensor]
WORDS, LENGTH, CLASSES = 200, 12, 3

# 1. Which rows must be forgotten, by the names that your records have.
FORGET = [f"document-{i}" for i in range(0, 1500, 20)]


# 2. Your data: rows that the model was trained on, and rows that no training saw. Any names of fields do; every batch is a
#    dict with these names.
def everything() -> tuple[ex.Examples, ex.Examples]:
    """Trained on, held out; whole numbers of shape (n, LENGTH), a mask of the same shape, and a class."""
    coins = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (2000,), generator=coins)
    words = torch.randint(WORDS, (2000, LENGTH), generator=coins)
    words[:, :4] = words[:, :4] % (WORDS // CLASSES) * CLASSES + labels[:, None]  # four words that tell the class
    mask = (torch.arange(LENGTH) < torch.randint(4, LENGTH + 1, (2000, 1), generator=coins)).float()
    rows = ex.Examples(
        input_ids=words, attention_mask=mask, labels=labels, ids=[f"document-{i}" for i in range(len(words))]
    )
    return rows.take(range(1500)), rows.take(range(1500, 2000))


# 3. Your network.
class Classifier(nn.Module):
    """The sum of the words that the mask shows, through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.classes = nn.Linear(16, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores of shape (n, CLASSES)."""
        shown = self.words(input_ids) * attention_mask.unsqueeze(-1)
        return self.classes(shown.sum(1))


def scores(model: nn.Module, batch: Batch) -> Tensor:
    """The model's output for a batch."""
    return model(batch["input_ids"], batch["attention_mask"])


# 4. The loss that it was trained with: the mean over a batch, one number.
def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(scores(model, batch), batch["labels"])


# 5. What is measured before and after: one number an example, here 1 for a right answer.
def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    """Right answers."""
    return scores(model, batch).argmax(-1) == batch["labels"]


# 6. The trained model. Load yours here: model = Classifier(); model.load_state_dict(torch.load("model.pt")); return model
def trained(rows: ex.Examples) -> nn.Module:
    """Trains one, in a few seconds."""
    coins = torch.Generator().manual_seed(0)
    return ex.unlearners.train_from_scratch(Classifier, rows, loss=loss, epochs=40, generator=coins).model


def task() -> ex.Task:
    """What the commands ask for."""
    rows, held_out = everything()
    whole = ex.Task(
        model=trained(rows),
        data=rows,
        held_out=held_out,
        loss=loss,
        accuracy=accuracy,
        make_model=Classifier,
        training_epochs=40,  # that the model was trained for: what retraining it would take
    )
    return whole.parts(ex.Request.rows(FORGET))
