"""Ways are compared with their controls; accuracy is the share of right labels of any data and model, or a clear refusal."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
import sample_tasks
from expunge.errors import TaskError
from expunge.jobs import unlearning
from expunge.report.comparisons import save_comparison
from expunge.training.task import accuracies, accuracy
from expunge.unlearners import NoisyHead, noisy
from expunge.unlearners.output_perturbation import OutputPerturbation


def right(model: nn.Module, rows: ex.Examples) -> float:
    x, y = rows.tensors
    return sum(int(model(one[None]).argmax()) == int(label) for one, label in zip(x, y, strict=True)) / len(rows)


def test_accuracy_is_that_of_a_loop_over_single_rows_of_examples_and_of_loaders():
    task = sample_tasks.task()
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

    task = replace(sample_tasks.task(), held_out=[{"x": X}])
    monkeypatch.setattr(unlearning, "load_task", lambda _: task)
    monkeypatch.setattr(noisy, "run_executor", never)
    way = OutputPerturbation(init_clip=0.5, noise_std=4.0)
    with pytest.raises(TaskError, match=r"set task\.accuracy"):
        unlearning.run_unlearner("its:name", tmp_path / "out", way, ex.Budget(epsilon=1.0, delta=1e-5))
    assert list(tmp_path.iterdir()) == []


# Comparing


def keeps_all(model: nn.Module, retain: Any, forget: Any) -> None:
    """A plain function: nothing is unlearned."""


def norm(done: Any, task: ex.Task) -> float:
    return float(sum(p.detach().square().sum() for p in done.model.parameters()) ** 0.5)


@pytest.fixture(scope="module")
def compared() -> ex.report.Comparison:
    ways = {"mine": keeps_all, "once": OutputPerturbation(init_clip=0.5, epochs=1), "head": "grid_ridge"}
    weight = ex.Metric(measure=norm, unit="norm", better="lower")
    return ex.compare(sample_tasks.task(), unlearners=ways, metrics={"weight": weight}, seeds=2)


def test_ways_are_compared_with_a_null_start_and_a_retraining_of_equal_steps(compared: Any) -> None:
    assert [curve.name for curve in compared.curves] == ["mine", "once", "null start: once", "head", "retrain"]
    once, null, retrain = (compared.curve(name) for name in ("once", "null start: once", "retrain"))
    assert compared.null_start_of("once") is null
    assert once.steps == null.steps == retrain.steps == 270 // 128
    assert (once.kind, null.kind, retrain.kind, compared.curve("mine").kind) == (
        "epsilon_delta",
        "none",
        "exact",
        "none",
    )
    assert once.epsilon <= 1
    for curve in compared.curves:
        assert len(curve.held_out) == len(curve.forget) == len(curve.seconds) == len(curve.metrics["weight"]) == 2


def test_a_plain_function_that_does_nothing_leaves_what_the_trained_model_is(compared: Any) -> None:
    task, mine = sample_tasks.task(), compared.curve("mine")
    assert mine.held_out[0][-1] == accuracy(task.model, task.held_out)
    assert mine.metrics["weight"][0] == pytest.approx(norm(SimpleNamespace(model=task.model), task))


def test_a_comparison_is_json_csv_and_a_table_and_is_read_again(compared: Any, tmp_path: Any) -> None:
    save_comparison(compared, tmp_path / "c")
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json", ".csv", ".txt", ".svg"}
    again = ex.report.Comparison.load(tmp_path / "c" / "comparison.json")
    assert again.curve("once").metrics == {"weight": list(compared.curve("once").metrics["weight"])}
    rows = (tmp_path / "c" / "comparison.csv").read_text().splitlines()
    assert rows[0] == "unlearner,seed,metric,value"
    assert len(rows) == 1 + 5 * 4 * 2  # ways, three numbers and a metric, seeds
    assert f"once,1,weight,{compared.curve('once').metrics['weight'][1]!r}" in rows
    assert "weight [norm]" in str(compared)
    assert all(len(line) <= 120 for line in str(compared).splitlines())


def test_a_comparison_without_controls_runs_what_is_named_alone() -> None:
    found = ex.compare(sample_tasks.task(), unlearners={"mine": keeps_all}, seeds=1, controls=False)
    assert [curve.name for curve in found.curves] == ["mine"]
    with pytest.raises(ValueError, match="unlearners must name at least one way"):
        ex.compare(sample_tasks.task(), unlearners={})
    with pytest.raises(TypeError, match="is no unlearner"):
        ex.compare(sample_tasks.task(), unlearners={"x": 3})  # pyright: ignore


def test_every_seed_has_a_task_of_its_own_where_a_function_makes_them() -> None:
    seen: list[int] = []

    def make(seed: int) -> ex.Task:
        seen.append(seed)
        return sample_tasks.task()

    ex.compare(make, unlearners={"mine": keeps_all}, seeds=3, controls=False)
    assert sorted(set(seen)) == [0, 1, 2]


def test_learning_heads_and_traces_forget_what_they_have_learned() -> None:
    """The head of a comparison learned all rows first; it then answers as one that never saw the forgotten ones."""
    found = ex.compare(
        sample_tasks.task(), unlearners={"head": "grid_ridge", "noisy": NoisyHead(regularization=1e-2, residual=1e-8)},
        seeds=1, controls=False, budget=ex.Budget(epsilon=8.0, delta=1e-5),
    )  # fmt: skip
    never = ex.unlearn(sample_tasks.task(), None, "grid_ridge")
    assert found.curve("head").held_out[0][-1] == unlearning.released_accuracies(sample_tasks.task(), never)["held_out"]
    assert found.curve("noisy").epsilon == pytest.approx(8.0, rel=1e-6)
