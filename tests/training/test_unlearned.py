"""What an unlearner returns predicts from rows in every form that a task's data have."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
from expunge.accounting import Retrain
from expunge.training.unlearned import Unlearned, noiseless_record

N = 1500  # more than one batch
COINS = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 3, generator=COINS), torch.arange(N) % 2
IDS, MASK = torch.randint(10, (N, 4), generator=COINS), torch.ones(N, 4)


class Words(nn.Module):
    """Of two inputs by name; `wrap` is what it returns its scores in."""

    def __init__(self, wrap: Any = lambda scores: scores) -> None:
        super().__init__()
        self.words, self.wrap = nn.Embedding(10, 2), wrap

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.wrap((self.words(input_ids) * attention_mask[..., None]).sum(1))


def of(model: nn.Module, **options: Any) -> Unlearned:
    return Unlearned(model, noiseless_record(Retrain(), model), **options)


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    "rows",
    [
        X, X.numpy(), (X, Y), (X.numpy(), Y.numpy()), ex.Examples(X, Y), {"x": X}, {"x": X.numpy(), "labels": Y.numpy()},
        ex.Examples(pixels=X, label=Y), ex.Examples(x=X),
    ],
    ids=["tensor", "array", "pair", "arrays", "examples", "mapping", "arrays by name", "examples by name", "inputs alone"],
)  # fmt: skip
def test_rows_of_one_input_in_any_form_have_the_same_scores(rows: Any) -> None:
    model = linear()
    scores = of(model).predict(rows)
    assert torch.equal(scores, torch.cat([model(part) for part in X.split(1024)]))
    assert not scores.requires_grad


@pytest.mark.parametrize("wrap", [lambda scores: scores, lambda scores: SimpleNamespace(logits=scores, loss=None)])
@pytest.mark.parametrize("labels", [{}, {"labels": Y}])
def test_several_inputs_go_to_the_model_by_their_names_and_labels_do_not(wrap: Any, labels: dict[str, Tensor]) -> None:
    model = Words(wrap)
    expected = model.words(IDS).sum(1)
    for rows in (
        {"input_ids": IDS, "attention_mask": MASK, **labels},
        {"attention_mask": MASK.numpy(), "input_ids": IDS.numpy(), **labels},
        ex.Examples(input_ids=IDS, attention_mask=MASK, **labels),
    ):
        assert torch.allclose(of(model).predict(rows), expected)


def test_a_head_takes_the_one_input_through_its_features() -> None:
    head = nn.Linear(6, 2, dtype=torch.float64)
    done = of(head, features=lambda x: torch.cat([x, -x], 1))
    expected = head(torch.cat([X, -X], 1).double())
    for rows in (X, X.numpy(), {"x": X}, ex.Examples(x=X, y=Y), ex.Examples(X, Y)):
        assert torch.allclose(done.predict(rows), expected)
    with pytest.raises(TypeError, match=r"a map of one input, and \['attention_mask', 'input_ids'\]"):
        done.predict({"input_ids": IDS, "attention_mask": MASK})


def test_no_row_has_no_scores() -> None:
    assert of(linear()).predict(X[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ex.Examples(labels=Y), "there is no input"),
        ([X, X], "a list of arrays"),
        ("rows", "data must be Examples"),
        (iter([X]), "only once"),
        ([(X, Y)], "predict takes Examples, or tensors of them, not list"),
    ],
)
def test_what_is_no_rows_is_refused(rows: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        of(linear()).predict(rows)


def test_a_model_without_scores_is_refused() -> None:
    done = of(Words(lambda scores: {"out": scores}))
    with pytest.raises(TypeError, match="no tensor of scores, but dict"):
        done.predict({"input_ids": IDS, "attention_mask": MASK})


def test_the_models_mode_is_left_as_it_was() -> None:
    model = nn.Sequential(linear(), nn.Dropout(0.5)).train()
    done = of(model)
    assert torch.equal(done.predict(X), done.predict(X))
    assert model.training
