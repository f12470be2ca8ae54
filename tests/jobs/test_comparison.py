"""Accuracy is the share of right labels, of any data and model that a task may have, or a clear refusal."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
import lane_tasks
from expunge.errors import TaskError
from expunge.jobs import unlearning
from expunge.jobs.comparison import accuracies, accuracy
from expunge.unlearners import noisy
from expunge.unlearners.output_perturbation import OutputPerturbation


def right(model: nn.Module, rows: ex.Examples) -> float:
    x, y = rows.tensors
    return sum(int(model(one[None]).argmax()) == int(label) for one, label in zip(x, y, strict=True)) / len(rows)


def test_accuracy_is_that_of_a_loop_over_single_rows_of_examples_and_of_loaders():
    task = lane_tasks.task()
    loader: Any = DataLoader(TensorDataset(*task.held_out.tensors), batch_size=7)
    expected = right(task.model, task.held_out)
    assert 0.1 < expected < 0.9
    assert accuracy(task.model, task.held_out) == pytest.approx(expected)
    assert accuracy(task.model, loader) == pytest.approx(expected)
    assert accuracies(task, task.model) == {
        "held_out": pytest.approx(expected), "forget": pytest.approx(right(task.model, task.forget)),
    }  # fmt: skip


def test_every_module_is_in_evaluation_mode_and_has_its_own_mode_afterwards():
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3), nn.Dropout(0.9)).train()
    model[0].eval()
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model[1](x).argmax(-1)
    assert accuracy(model, ex.Examples(x, labels)) == 1
    assert [module.training for module in model] == [False, True, True]


def test_modes_come_back_where_the_measure_fails():
    def fails(_model: nn.Module, _batch: Any) -> Tensor:
        raise RuntimeError("of the user's")

    model = nn.Linear(4, 3).train()
    with pytest.raises(RuntimeError, match="of the user's"):
        accuracy(model, ex.Examples(torch.zeros(2, 4)), fails)
    assert model.training


class Scored(nn.Linear):
    """As transformers' models answer."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=super().forward(x))


X, Y = torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            nn.Linear(4, 3),
            [{"input_ids": X, "attention_mask": X, "labels": Y}],
            r"in batches .* not in fields \['attention_mask', 'input_ids', 'labels'\]; set task.accuracy",
        ),
        (nn.Linear(4, 3), ex.Examples(X), "not in tuple; set task.accuracy"),
        (Scored(4, 3), ex.Examples(X, Y), r"scores of shape \(6, 'classes'\) from the model, not SimpleNamespace"),
        (nn.Linear(4, 1), ex.Examples(X, torch.zeros(6, 1)), r"shape \(6, 1, 'classes'\) from the model, not \(6, 1\)"),
    ],
)
def test_what_has_no_right_labels_is_refused_with_the_remedy(model: nn.Module, data: Any, message: str):
    with pytest.raises(TaskError, match=message):
        accuracy(model, data)


def test_a_measure_of_ones_own_takes_any_batch():
    def of(model: nn.Module, batch: Any) -> Tensor:
        return model(batch["x"]).argmax(-1) == batch["y"]

    assert accuracy(nn.Linear(4, 3), [{"x": X, "y": Y}, {"x": X, "y": Y}], of) in (0.0, 1.0)


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match="no data"):
        accuracy(nn.Linear(4, 3), [])


def test_a_task_that_cannot_be_measured_is_refused_before_it_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was run")

    task = replace(lane_tasks.task(), held_out=[{"x": X}])
    monkeypatch.setattr(unlearning, "load_task", lambda _: task)
    monkeypatch.setattr(noisy, "run_executor", never)
    way = OutputPerturbation(init_clip=0.5, noise_std=4.0)
    with pytest.raises(TaskError, match=r"set task\.accuracy"):
        unlearning.run_unlearner("its:name", tmp_path / "out", way, ex.Budget(epsilon=1.0, delta=1e-5))
    assert list(tmp_path.iterdir()) == []
