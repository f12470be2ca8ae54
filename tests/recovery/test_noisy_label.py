"""Self-training: labels that the model gave itself, split by their losses in every class, and a teacher that follows."""

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import expunge as ex
import sample_tasks
from expunge.data import Batches
from expunge.recovery import FineTuning, Progress, SelfTraining
from expunge.recovery.noisy_label import Teacher, smallest_of_each, soft_kmeans
from expunge.recovery.training import Training, training_steps
from expunge.testing import check_recovery
from expunge.training.randomness import mode
from expunge.unlearners import OutputPerturbation

RECIPE = ex.Recipe(learning_rate=0.05, batch_size=30)


def network() -> nn.Module:
    return copy.deepcopy(trained())


@cache
def trained() -> nn.Module:
    """For a little, so that its labels are right for most rows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sample_tasks.make_model()
    how = FineTuning(epochs=3, recipe=RECIPE)
    coins = torch.Generator().manual_seed(0)
    return ex.recover(model, sample_tasks.task().retain, loss=sample_tasks.loss, recovery=how, generator=coins)


def recovered(model: nn.Module, recovery: Any, retain: Any = None, loss: Any = sample_tasks.loss) -> nn.Module:
    rows = sample_tasks.task().retain if retain is None else retain
    return ex.recover(model, rows, loss=loss, recovery=recovery, generator=torch.Generator().manual_seed(0))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_contract_of_a_recovery_is_kept() -> None:
    check_recovery(SelfTraining(epochs=2, recipe=RECIPE))


def test_the_contract_is_kept_on_digits_with_a_hard_split() -> None:
    check_recovery(SelfTraining(epochs=1, recipe=RECIPE, clean=0.2, rounds=0, decay=0.5), sample_tasks.task())


def test_no_label_is_read() -> None:
    """Others, or none, end at the same bits; the loss, which reads them, is not called."""
    x, y = sample_tasks.task().retain.tensors

    def refusing(_model: nn.Module, _batch: Any) -> torch.Tensor:
        raise AssertionError("the loss was called")

    how = SelfTraining(epochs=1, recipe=RECIPE)
    plain = recovered(network(), how)
    assert not same(plain, network())
    for rows in (ex.Examples(x, 9 - y), ex.Examples(x)):
        assert same(plain, recovered(network(), how, rows, loss=refusing))


def with_statistics() -> nn.Module:
    """The same behind BatchNorm, whose statistics tell in which mode it ran."""
    model = nn.Sequential(nn.BatchNorm1d(64), *network())
    model(sample_tasks.task().retain.tensors[0])
    return model


@pytest.mark.parametrize("network", [network, with_statistics])
def test_with_all_labels_clean_and_no_noise_it_is_fine_tuning_on_pre_labels_bit_for_bit(
    network: Callable[[], nn.Module],
) -> None:
    """The labels are made in evaluation mode."""
    rows, epochs = sample_tasks.task().retain, 2
    x = rows.tensors[0]
    with torch.no_grad():
        scores = network().eval()(x)
        features = network().eval()[:-1](x)
    labels = soft_kmeans(features, scores.softmax(1), rounds=2, temperature=0.1)
    how = SelfTraining(epochs=epochs, recipe=RECIPE, clean=1.0, input_noise=0.0)
    model, expected = network(), network()
    per_epoch = len(rows) // 30
    assert len(rows) == 30 * per_epoch  # so that the first pass labels every row
    with mode(model, training=True):
        progress = Progress(model, rows, batch_size=30, seed=5, total=how.total(per_epoch))
        assert len(list(how.steps(model, progress.batches, sample_tasks.loss, progress))) == 3 * per_epoch
    with mode(expected, training=True):
        batches = iter(Batches(ex.Examples(x, labels), batch_size=30, seed=5, skip=per_epoch))
        training = Training(expected, RECIPE, steps=epochs * per_epoch)
        steps = training_steps(training, batches, loss=sample_tasks.loss, steps=range(epochs * per_epoch))
        assert len(list(steps)) == epochs * per_epoch
    assert same(model, expected)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("losses", ["random", "equal", "one class is easy", "infinite"])
def test_the_split_takes_the_same_share_of_every_class_whatever_the_losses(share: float, losses: str) -> None:
    coins = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 50 + [1] * 7 + [3] * 200 + [-1] * 10)[torch.randperm(267, generator=coins)]
    values = {
        "random": torch.randn(267, generator=coins), "equal": torch.zeros(267), "infinite": torch.full((267,), torch.inf),
        "one class is easy": torch.where(labels == 1, 0.0, 5.0) + torch.rand(267, generator=coins),
    }[losses]  # fmt: skip
    clean = smallest_of_each(values, labels, share)
    assert not bool(clean[labels == -1].any())
    for label, rows in ((0, 50), (1, 7), (3, 200)):
        chosen = clean & (labels == label)
        assert int(chosen.sum()) == max(1, round(share * rows))
        left = values[(labels == label) & ~clean]
        assert not len(left) or float(values[chosen].max()) <= float(left.min())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_teacher_is_the_weighted_sum_of_the_weights_that_were(decay: float) -> None:
    """decay^T θ_0 + (1 - decay) Σ decay^(T - t) θ_t, statistics too; what counts is copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    teacher = Teacher(model, decay)
    expected = {name: t.clone() for name, t in model.state_dict().items()}
    terms: list[dict[str, torch.Tensor]] = []
    for _ in range(12):
        model(torch.randn(5, 3, dtype=torch.float64))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        teacher.follow(model)
        terms.append({name: t.clone() for name, t in model.state_dict().items()})
    for name, start in expected.items():
        if start.is_floating_point():
            whole = decay**12 * start + sum(
                (1 - decay) * decay ** (11 - t) * term[name] for t, term in enumerate(terms)
            )
            assert torch.allclose(teacher.model.state_dict()[name], whole, rtol=0, atol=1e-12)
    assert int(teacher.model[1].num_batches_tracked) == 12
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_soft_kmeans_puts_right_what_a_noisy_model_says() -> None:
    """Three clusters of directions; a fifth of the rows are said to belong elsewhere."""
    coins = torch.Generator().manual_seed(0)
    truth = torch.arange(300) % 3
    features = 4 * F.one_hot(truth, 8).float() + 0.5 * torch.randn(300, 8, generator=coins)
    said = torch.where(torch.rand(300, generator=coins) < 0.2, (truth + 1) % 3, truth)
    probabilities = 0.7 * F.one_hot(said, 3) + 0.1
    assert float((said == truth).float().mean()) < 0.85
    for rounds in (0, 1, 5):
        found = soft_kmeans(features, probabilities, rounds=rounds, temperature=0.1)
        assert torch.equal(found, truth)
        assert torch.equal(found, soft_kmeans(7 * features, probabilities, rounds=rounds, temperature=0.1))


def test_soft_kmeans_is_that_of_the_definition() -> None:
    coins = torch.Generator().manual_seed(3)
    features = torch.randn(40, 5, generator=coins, dtype=torch.float64)
    members = torch.randn(40, 4, generator=coins, dtype=torch.float64).softmax(1)
    unit = features / features.norm(dim=1, keepdim=True)
    given = members.clone()
    for _ in range(3):
        centroids = torch.stack([sum(w * f for w, f in zip(members[:, k], unit, strict=True)) for k in range(4)])  # type: ignore[misc]
        cosines = unit @ (centroids / centroids.norm(dim=1, keepdim=True)).T
        members = torch.exp(cosines / 0.2) / torch.exp(cosines / 0.2).sum(1, keepdim=True)
    assert torch.equal(soft_kmeans(features, given, rounds=2, temperature=0.2), cosines.argmax(1))


def test_elsewhere_the_model_follows_the_teacher_alone() -> None:
    """At full weight on none but the clean rows, and with no agreement asked, other rows move nothing."""
    x = sample_tasks.task().retain.tensors[0]
    how = SelfTraining(epochs=1, recipe=RECIPE, clean=0.1, consistency=0.0, input_noise=0.0)
    agreeing = SelfTraining(epochs=1, recipe=RECIPE, clean=0.1, consistency=20.0, input_noise=0.0, decay=0.999)
    start = network()
    free, held = recovered(start, how), recovered(start, agreeing)

    def moved(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(x).softmax(1) - start(x).softmax(1)).abs().sum(1).mean())

    assert moved(held) < 0.7 * moved(free)


def test_rows_that_the_first_pass_left_out_are_never_clean() -> None:
    rows = sample_tasks.task().retain.take(range(100))  # 3 batches of 30
    model = recovered(network(), SelfTraining(epochs=2, recipe=RECIPE), rows)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_rows_are_known_again_by_progress() -> None:
    rows = sample_tasks.task().retain
    progress = Progress(network(), rows, batch_size=30, seed=1, total=3)
    assert progress.retained == 270
    for _ in range(12):
        batch = next(progress.batches)
        assert progress.rows is not None
        assert torch.equal(batch[0], rows.tensors[0][progress.rows])
    of_loader = Progress(network(), list(rows.chunks(30)), batch_size=30, seed=1, total=3)
    next(of_loader.batches)
    assert of_loader.rows is None
    assert of_loader.retained is None


def test_a_loader_is_refused_and_wrong_settings_are_named() -> None:
    with pytest.raises(TypeError, match=r"'self_training' must know a row again: give the retained rows as Examples"):
        recovered(network(), SelfTraining(recipe=RECIPE), list(sample_tasks.task().retain.chunks(30)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"clean": 0.0}, "clean"), ({"clean": 1.1}, "clean is a share"), ({"decay": 1.0}, "decay must be below 1"),
        ({"temperature": 0.0}, "temperature"), ({"rounds": -1}, "rounds"), ({"epochs": 0}, "epochs"),
    ]  # fmt: skip
    for settings, field in wrong:
        with pytest.raises(ValueError, match=field):
            SelfTraining(**settings)


def test_behind_a_noisy_stage_it_is_stated_in_the_record(tmp_path: Path) -> None:
    way = OutputPerturbation(recovery=SelfTraining(epochs=1, recipe=RECIPE))
    done = ex.unlearn(sample_tasks.task(), None, way)
    told = done.record.procedure["recovery"]
    assert told["name"] == "self_training"
    assert told["settings"]["recipe.batch_size"] == 30
    done.save(tmp_path / "out")
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")


def test_an_interruption_in_every_step_goes_on_bit_for_bit() -> None:
    """In the pass that labels, between the two, and in training."""
    how, rows = SelfTraining(epochs=1, recipe=RECIPE), sample_tasks.task().retain
    total = how.total(9)

    def run(saved: Any, stop: int) -> tuple[nn.Module, Any]:
        model = network()
        with mode(model, training=True), torch.random.fork_rng():
            torch.manual_seed(0 if saved is None else 99)
            progress = Progress(model, rows, batch_size=30, seed=5, total=total, saved=saved)
            steps: Iterator[int] = progress.through(
                how.steps(model, progress.batches, sample_tasks.loss, progress), "s"
            )
            for done in steps:
                if done == stop:
                    return model, copy.deepcopy(progress.state())
        return model, None

    whole, _ = run(None, total + 1)
    for stop in (1, 8, 9, 10, 17):
        resumed, _ = run(run(None, stop)[1], total + 1)
        assert same(whole, resumed)


def test_each_epoch_splits_by_the_losses_that_were_last_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(losses: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        seen.append((losses.clone(), labels.clone()))
        return smallest_of_each(losses, labels, share)

    monkeypatch.setattr("expunge.recovery.noisy_label.smallest_of_each", watched)
    recovered(network(), SelfTraining(epochs=3, recipe=RECIPE))
    assert len(seen) == 3
    for (before, labels), (after, same_labels) in itertools.pairwise(seen):
        assert torch.equal(labels, same_labels)
        assert bool((before != after).all())
    with torch.no_grad():
        x = sample_tasks.task().retain.tensors[0]
        losses = F.cross_entropy(network().eval()(x), seen[0][1], reduction="none")
    assert torch.allclose(seen[0][0], losses, atol=1e-5)  # at first under the released model


def test_the_teacher_sees_rows_as_they_are_and_the_model_with_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []
    plain = Teacher.probabilities

    def watched(teacher: Teacher, inputs: Any) -> torch.Tensor:
        shown.append(inputs)
        return plain(teacher, inputs)

    monkeypatch.setattr(Teacher, "probabilities", watched)
    noisy = recovered(network(), SelfTraining(epochs=1, recipe=RECIPE, input_noise=0.5))
    rows = {tuple(row) for row in sample_tasks.task().retain.tensors[0].tolist()}
    assert len(shown) == 9
    assert all(tuple(row) in rows for part in shown for row in part.tolist())
    assert not same(noisy, recovered(network(), SelfTraining(epochs=1, recipe=RECIPE, input_noise=0.0)))
