"""Adaptation at test time: what is adapted, to what, and what is refused."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import expunge as ex
import sample_tasks
from expunge.errors import ModelRefused, StillRetained
from expunge.recovery import AdaBn, Cafa, Tent
from expunge.recovery.class_moments import ClassMoments, alignment_loss
from expunge.testing import check_recovery
from expunge.training.statistics import average_
from expunge.unlearners import OutputPerturbation
from interrupted import interrupted

ALL = [AdaBn, Tent, Cafa]


def shifted() -> ex.Examples:
    """Digits of lower contrast and another brightness; their labels are there, and are not to be read."""
    rows = sample_tasks.task().held_out
    return ex.Examples(0.4 * rows.tensors[0] + 0.3, rows.tensors[1])


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> nn.Module:
    return copy.deepcopy(trained(norm))


@cache
def trained(norm: Callable[[int], nn.Module]) -> nn.Module:
    """For a little, on the retained rows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            OrderedDict(
                body=nn.Linear(64, 32), norm=norm(32), act=nn.ReLU(), drop=nn.Dropout(0.3), head=nn.Linear(32, 10)
            )
        )
    return recovered(model, ex.recovery.FineTuning(epochs=5, recipe=ex.Recipe(batch_size=32)))


def recovered(model: nn.Module, recovery: Any, retain: Any = None, public: Any = ()) -> nn.Module:
    rows = sample_tasks.task().retain if retain is None else retain
    coins = torch.Generator().manual_seed(0)
    return ex.recover(model, rows, loss=sample_tasks.loss, recovery=recovery, generator=coins, public=public)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def changed_names(one: nn.Module, other: nn.Module) -> set[str]:
    after = other.state_dict()
    return {name for name, t in one.state_dict().items() if not torch.equal(t, after[name])}


@pytest.mark.parametrize("kind", ALL)
def test_the_contract_of_a_recovery_is_kept(kind: Any) -> None:
    stream = ex.Examples(torch.randn(80, 8, generator=torch.Generator().manual_seed(7)))
    check_recovery(kind(stream=stream, batch_size=32))


@pytest.mark.parametrize("kind", ALL)
def test_normalisation_layers_alone_are_adapted_and_labels_of_the_stream_are_not_read(kind: Any) -> None:
    model, stream = network(), shifted()
    done = recovered(model, kind(stream=stream, batch_size=25))
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert changed_names(model, done) == statistics | (set() if kind is AdaBn else {"norm.weight", "norm.bias"})
    for other in (ex.Examples(stream.tensors[0], 9 - stream.tensors[1]), ex.Examples(stream.tensors[0])):
        assert same(done, recovered(model, kind(stream=other, batch_size=25)))
    assert done.training == model.training
    assert done.norm.momentum == model.norm.momentum


def test_statistics_are_the_plain_averages_over_the_stream() -> None:
    """Bit for bit those of the function that estimates them behind a noisy stage."""
    model = network()
    expected = copy.deepcopy(model).eval()
    x = shifted().tensors[0]
    average_([expected.norm], iter([lambda part=part: expected(part) for part in x.split(25)]))  # type: ignore[list-item]
    assert same(expected, recovered(model, AdaBn(stream=shifted(), batch_size=25)))


def test_a_vanishing_rate_leaves_the_estimated_statistics() -> None:
    statistics = recovered(network(), AdaBn(stream=shifted(), batch_size=25))
    for kind in (Tent, Cafa):
        adapted = recovered(network(), kind(stream=shifted(), batch_size=25, learning_rate=1e-30))
        assert same(statistics, adapted)


@pytest.mark.parametrize("kind", [Tent, Cafa])
def test_layers_without_running_statistics_are_adapted_too(kind: Any) -> None:
    """Of one row too."""
    model = network(nn.LayerNorm)
    done = recovered(model, kind(stream=shifted().take([3, 5]), batch_size=1))
    assert changed_names(model, done) == {"norm.weight", "norm.bias"}


def test_entropy_falls_over_the_stream() -> None:
    def entropy(model: nn.Module) -> float:
        logs = model.eval()(shifted().tensors[0]).log_softmax(1)
        return float(-(logs.exp() * logs).sum(1).mean().detach())

    stream = ex.Examples.join([ex.Examples(*shifted().tensors)] * 10)
    before = recovered(network(), AdaBn(stream=stream, batch_size=50))
    after = recovered(network(), Tent(stream=stream, batch_size=50, learning_rate=0.01))
    assert entropy(after) < 0.9 * entropy(before)


def test_alignment_falls_over_the_stream() -> None:
    stream = ex.Examples.join([ex.Examples(*shifted().tensors)] * 10)

    def measured(model: nn.Module, moments: Any) -> float:
        features = model.eval()[:-1](shifted().tensors[0])
        return float(alignment_loss(features, model.head(features), moments.alignment(0.1)).detach())

    model, moments = network(), ClassMoments()
    x, y = sample_tasks.task().retain.tensors
    moments.see(model.eval()[:-1](x), y, 10)
    before = recovered(model, AdaBn(stream=stream, batch_size=50))
    after = recovered(model, Cafa(stream=stream, batch_size=50, learning_rate=0.01))
    assert measured(after, moments) < measured(before, moments) - 0.05


@pytest.mark.parametrize("kind", ALL)
def test_predictions_on_the_way_end_at_the_bits_of_a_recovery(kind: Any) -> None:
    """Those of a batch come from statistics of its own, and from the weights that earlier batches made."""
    recovery, model, rows = kind(stream=shifted(), batch_size=30), network(), sample_tasks.task().retain
    online = copy.deepcopy(model)
    found = list(recovery.predictions(online, rows if kind is Cafa else None))
    assert [len(scores) for scores in found] == [25, 25, 25, 25]
    assert same(online, recovered(model, recovery))
    first = copy.deepcopy(model).eval()
    first.norm.train()
    assert torch.equal(found[0], first(shifted().tensors[0][:25]).detach())
    partly = copy.deepcopy(model)
    one = next(recovery.predictions(partly, rows if kind is Cafa else None))
    assert torch.equal(one, found[0])
    assert [m.training for m in partly.modules()] == [m.training for m in model.modules()]


def test_a_stream_is_cut_into_equal_batches() -> None:
    stream = shifted()
    assert Tent(stream=stream.take(range(65)), batch_size=32).total(9) == 3
    assert Cafa(stream=stream.take(range(65)), batch_size=32).total(9) == 12
    assert recovered(network(), AdaBn(stream=stream.take(range(65)), batch_size=64)).norm.num_batches_tracked == 2


# The laws of alignment


def gaussian_classes(width: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    coins = torch.Generator().manual_seed(1)
    labels = torch.arange(300) % 3
    means = 3 * torch.randn(3, width, generator=coins, dtype=torch.float64)
    rows = means[labels] + torch.randn(300, width, generator=coins, dtype=torch.float64)
    shifted_rows = 1.3 * rows[:40] + 0.5 + torch.randn(40, width, generator=coins, dtype=torch.float64)
    return rows, labels, shifted_rows, torch.randn(40, 4, generator=coins, dtype=torch.float64)


def aligned(
    rows: torch.Tensor, labels: torch.Tensor, stream: torch.Tensor, scores: torch.Tensor, shrinkage: float
) -> float:
    moments = ClassMoments()
    for part in range(3):
        moments.see(rows[100 * part : 100 * part + 100], labels[100 * part : 100 * part + 100], 4)
    return float(alignment_loss(stream, scores, moments.alignment(shrinkage)))


def test_alignment_is_invariant_under_invertible_affine_maps_of_the_features() -> None:
    rows, labels, stream, scores = gaussian_classes()
    coins = torch.Generator().manual_seed(2)
    map_, shift = (
        torch.randn(6, 6, generator=coins, dtype=torch.float64),
        torch.randn(6, generator=coins, dtype=torch.float64),
    )
    plain = aligned(rows, labels, stream, scores, 0.0)
    assert aligned(rows @ map_ + shift, labels, stream @ map_ + shift, scores, 0.0) == pytest.approx(plain, abs=1e-10)
    rotation = torch.linalg.qr(map_)[0]
    shrunk = aligned(rows, labels, stream, scores, 0.3)
    turned = aligned(7 * rows @ rotation + shift, labels, 7 * stream @ rotation + shift, scores, 0.3)
    assert turned == pytest.approx(shrunk, abs=1e-10)
    assert abs(aligned(rows @ map_, labels, stream @ map_, scores, 0.3) - shrunk) > 1e-4  # shrinkage has a scale


def test_alignment_is_that_of_the_definition() -> None:
    """Row by row, with an inverse of the covariance within classes; a class without rows is not predicted."""
    rows, labels, stream, scores = gaussian_classes()
    means = torch.stack([rows[labels == k].mean(0) for k in range(3)])
    inverse = torch.linalg.inv(torch.cov((rows - means[labels]).T, correction=0))
    total = 0.0
    for x, row_scores in zip(stream, scores, strict=True):
        distances = [float((x - mean) @ inverse @ (x - mean)) for mean in means]
        own = int(row_scores[:3].argmax())
        total += float(torch.tensor(distances[own] / (sum(distances) - distances[own]), dtype=torch.float64).log())
    assert aligned(rows, labels, stream, scores, 0.0) == pytest.approx(total / len(stream), abs=1e-10)


def test_moments_that_hold_no_alignment_are_refused() -> None:
    rows, labels, stream, scores = gaussian_classes()
    with pytest.raises(ValueError, match="one class alone"):
        aligned(rows, 0 * labels, stream, scores, 0.0)
    with pytest.raises(ValueError, match="labels must be whole numbers from 0 to 3"):
        aligned(rows, labels + 2, stream, scores, 0.0)
    dead = rows * torch.tensor([1.0, 1, 1, 1, 1, 0])
    with pytest.raises(ModelRefused, match=r"covariance of the features has no inverse.*shrinkage above 0"):
        aligned(dead, labels, stream, scores, 0.0)
    assert aligned(dead, labels, stream, scores, 0.1) < 0


# What is refused


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("rows", "size"), [(1, 128), (3, 2), (4, 1)])
def test_a_batch_of_one_row_for_batch_norm_is_refused(kind: Any, rows: int, size: int) -> None:
    with pytest.raises(ModelRefused, match=r"'norm' is BatchNorm.*a batch of the stream has one row"):
        recovered(network(), kind(stream=shifted().take(range(rows)), batch_size=size))


@pytest.mark.parametrize("kind", ALL)
def test_a_model_without_normalisation_layers_is_refused(kind: Any) -> None:
    with pytest.raises(ModelRefused, match=f"recovery '{kind.name}' .*normalisation layer"):
        recovered(sample_tasks.make_model(), kind(stream=shifted()))


def test_public_and_frozen_layers_are_not_adapted() -> None:
    with pytest.raises(ModelRefused, match="'ada_bn' estimates running statistics"):
        recovered(network(), AdaBn(stream=shifted()), public=("norm.*",))
    frozen = network()
    frozen.norm.requires_grad_(False)
    with pytest.raises(ModelRefused, match="'tent' changes the affine parameters"):
        recovered(frozen, Tent(stream=shifted()))


def test_a_stream_that_holds_forgotten_rows_is_refused_before_the_run() -> None:
    task = sample_tasks.task()
    stream = ex.Examples(torch.cat([shifted().tensors[0], task.forget.tensors[0][4:5]]))
    with (
        interrupted() as counted,
        pytest.raises(StillRetained, match="'tent' in its setting 'stream' holds rows to forget, by id or by content"),
    ):
        ex.unlearn(task, None, OutputPerturbation(noise_std=1.0, recovery=Tent(stream=stream)))
    assert counted.calls == 0


def test_other_models_and_settings_are_refused_by_name() -> None:
    flat = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 1))
    with pytest.raises(ModelRefused, match=r"scores of shape \(rows, classes\).*not \(100, 1\)"):
        recovered(flat, Tent(stream=shifted()))
    with pytest.raises(ModelRefused, match="classifier='top' names no layer"):
        recovered(network(), Cafa(stream=shifted(), classifier="top"))
    stray = network()
    stray.head.stray = nn.Linear(2, 2)  # the last one to be registered, never called
    with pytest.raises(ModelRefused, match=r"called once, with one vector a row, and was given \[\]"):
        recovered(stray, Cafa(stream=shifted()))
    with pytest.raises(TypeError, match="data must be Examples"):
        next(Cafa(stream=shifted()).predictions(network()))
    with pytest.raises(TypeError, match="stream must be Examples"):
        Tent(stream=shifted().tensors[0])  # type: ignore[arg-type]
    for wrong, field in (
        ({"shrinkage": 1.5}, "shrinkage"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 0}, "batch"),
    ):
        with pytest.raises(ValueError, match=field):
            Cafa(stream=shifted(), **wrong)  # type: ignore[arg-type]


# The record


def test_a_stream_is_stated_by_the_number_of_its_rows(tmp_path: Path) -> None:
    task = sample_tasks.task()
    model = network()
    way = OutputPerturbation(recovery=Tent(stream=shifted(), batch_size=50))
    done = ex.unlearn(replace(task, model=model, buffers="reset"), None, way)
    stated = {"name": "tent", "settings": {"stream.rows": 100, "batch_size": 50, "learning_rate": 0.001}}
    assert done.record.procedure["recovery"] == stated
    done.save(tmp_path / "out")
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")


def test_accuracy_under_a_shift_comes_back_with_the_statistics() -> None:
    x, y = shifted().tensors

    def accuracy(model: nn.Module) -> float:
        return float((model.eval()(x).argmax(1) == y).float().mean())

    before, after = accuracy(network()), accuracy(recovered(network(), AdaBn(stream=shifted(), batch_size=50)))
    assert after > before + 0.1
