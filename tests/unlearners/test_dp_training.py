"""Private training: the exact law of what it leaves on a linear loss, gradients by example, and what is refused."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from math import sqrt
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
from expunge.errors import MissingExtra, ModelRefused
from expunge.randomness.secret import Secret
from expunge.training.example_gradients import ExampleGradients, poisson_batches
from expunge.training.noise import Noise
from expunge.training.state import StateFile
from expunge.training.weights import FlatWeights
from expunge.unlearners import dp_training as private
from expunge.unlearners.costs import Costs

# Example i of N points along axis i, with norm 3 before the clip to 1: the weights count how often each took part.
N, D, STEPS, RATE = 400, 4000, 10, 0.1
SEEDS = range(5, 11)
LINEAR = ex.DPTraining(sample_clip=1.0, noise_multiplier=0.02, sampling_rate=RATE, steps=STEPS, group_size=1)
MLP = ex.DPTraining(sample_clip=1.0, noise_multiplier=1.0, sampling_rate=0.1, steps=8, group_size=3)


def coins(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def axes() -> ex.Examples:
    return ex.Examples(3 * torch.eye(N, D))


def zero_linear() -> nn.Module:
    model = nn.Linear(D, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def linear_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).mean()


def train_linear(mechanism: ex.DPTraining = LINEAR, seed: int = 5) -> tuple[Tensor, ex.RunRecord]:
    done = ex.train_private(
        zero_linear, axes(), mechanism, loss=linear_loss, learning_rate=0.5, expected_batch=100.0, generator=coins(seed)
    )
    return next(done.model.parameters()).detach().double().flatten() * -200, done.record


def z_scores(moved: Tensor, mechanism: ex.DPTraining = LINEAR) -> dict[str, float]:
    """Standard scores of the law: every example Binomial(T, q) times, and N(0, T (νC)²) on every coordinate."""
    steps, q, spread = mechanism.steps, mechanism.sampling_rate, mechanism.noise_std * sqrt(mechanism.steps)
    counts = moved[:N].round()
    noise = torch.cat([moved[:N] - counts, moved[N:]]) / spread
    variance = steps * q * (1 - q)
    squares = float(((counts - steps * q) ** 2).sum()) / variance
    excess = (1 - 6 * q * (1 - q)) / variance
    return {
        "noise": (float(noise.square().sum()) - D) / sqrt(2 * D),
        "noise mean": float(noise.sum()) / sqrt(D),
        "taken": float((counts - steps * q).sum()) / sqrt(N * variance),
        "binomial": (squares - N) / sqrt(N * (2 + excess)),
    }


def combined_scores() -> dict[str, float]:
    """Of six runs together; standard normal for an honest training."""
    runs = [z_scores(train_linear(seed=seed)[0]) for seed in SEEDS]
    return {name: sum(run[name] for run in runs) / sqrt(len(runs)) for name in runs[0]}


def test_what_is_left_has_the_law_of_poisson_samples_and_fresh_noise() -> None:
    """Counts are binomial, noise has its scale on every coordinate; a significance of 4 standard deviations."""
    scores = combined_scores()
    assert max(map(abs, scores.values())) < 4, scores


def test_the_record_of_a_run_counts_every_step_and_draw() -> None:
    _, record = train_linear()
    assert (record.noise.count, record.steps_done, record.noise.std) == (STEPS, STEPS, LINEAR.noise_std)


def shuffled(
    examples: ex.Examples, *, sampling_rate: float, secret: Secret, skip: int = 0
) -> Iterator[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(int.from_bytes(secret.derive("orders")[:3], "big"))
    while True:
        for part in torch.randperm(len(examples), generator=generator).split(round(sampling_rate * len(examples))):
            yield tuple(t[part] for t in examples.tensors)


class MeanGradient(ExampleGradients):
    """Hands on the whole batch's gradient, so that the mean is clipped and not every example."""

    def __call__(self, theta: Tensor, batch: tuple[Tensor, ...]) -> Iterator[Tensor]:
        for rows in super().__call__(theta, batch):
            yield rows.mean(dim=0, keepdim=True)


class Weak(Noise):
    def __init__(self, std: float, coins: Secret) -> None:
        super().__init__(0.97 * std, coins)


@pytest.mark.parametrize(
    ("name", "sabotage", "caught"),
    [("poisson_batches", shuffled, "binomial"), ("ExampleGradients", MeanGradient, "taken"), ("Noise", Weak, "noise")],
    ids=["shuffled batches", "clip of the mean", "noise x 0.97"],
)
def test_a_sabotaged_training_does_not_have_the_law(
    name: str, sabotage: Any, caught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above has power: each of these mistakes moves the score that watches it by more than five deviations."""
    monkeypatch.setattr(private, name, sabotage)
    scores = combined_scores()
    assert abs(scores[caught]) > 5, scores


def test_a_run_with_less_noise_than_its_mechanism_gets_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "Noise", Weak)
    _, record = train_linear()
    with pytest.raises(ex.errors.RunError, match="drew noise of scale"):
        ex.issue(record, released="sha256:" + "0" * 64)


def test_steps_with_empty_batches_draw_noise_too() -> None:
    """With nobody drawn, the weights are the noise of all T steps."""
    mechanism = ex.DPTraining(sample_clip=1.0, noise_multiplier=0.02, sampling_rate=1e-12, steps=STEPS, group_size=1)
    moved, record = train_linear(mechanism)
    score = (float((moved / (0.02 * sqrt(STEPS))).square().sum()) - D) / sqrt(2 * D)
    assert abs(score) < 5
    assert record.noise.count == STEPS


def test_poisson_batches_hold_every_example_independently() -> None:
    """Sizes and inclusions have the binomial means and variances, and successive batches are uncorrelated."""
    n, q, steps = 50, 0.02, 4000
    examples = ex.Examples(torch.arange(n))
    taken = torch.zeros(steps, n, dtype=torch.float64)
    for row, (batch,) in zip(
        taken, islice(poisson_batches(examples, sampling_rate=q, secret=Secret(bytes(32))), steps), strict=True
    ):
        row[batch] = 1
    sizes, variance = taken.sum(dim=1), n * q * (1 - q)
    assert abs(float(sizes.sum()) - steps * n * q) < 5 * sqrt(steps * variance)
    assert abs(float(((sizes - n * q) ** 2).mean()) / variance - 1) < 5 * sqrt(2 + 1 / variance) / sqrt(steps)
    assert abs(float((sizes == 0).double().mean()) - (1 - q) ** n) < 5 * sqrt(0.25 / steps)
    scores = (taken.sum(dim=0) - steps * q) / sqrt(steps * q * (1 - q))
    assert float(scores.abs().max()) < 5
    successive = ((sizes[1:] - n * q) * (sizes[:-1] - n * q)).sum() / variance / sqrt(steps)
    assert abs(float(successive)) < 5


def test_without_sampling_every_batch_is_all_the_data() -> None:
    (batch,) = next(poisson_batches(ex.Examples(torch.arange(7)), sampling_rate=1.0, secret=Secret(bytes(32))))
    assert batch.tolist() == list(range(7))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.LayerNorm(16), nn.Linear(16, 5))


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def data(n: int = 60) -> ex.Examples:
    x = torch.randn(n, 64, generator=coins(1))
    return ex.Examples(x, x[:, :5].argmax(dim=1))


def loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)).float(), y)


def plain_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value = nn.functional.cross_entropy(model(x[None]), y[None])
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_gradients_by_example_are_those_of_a_loop_over_single_examples(at_once: int) -> None:
    """However the batch is taken apart, row i is the gradient of example i alone."""
    model = made(convolutional).double().train()
    x, y = (t[:10] for t in data().tensors)
    x = x.double()
    expected = torch.stack([plain_gradient(model, a, b) for a, b in zip(x, y, strict=True)])
    weights = FlatWeights(model)
    gradients = ExampleGradients(weights, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), at_once=at_once)
    rows = list(gradients(weights.theta, (x, y)))
    assert [len(r) for r in rows] == [len(part) for part in x.split(at_once)]
    torch.testing.assert_close(torch.cat(rows), expected, rtol=1e-10, atol=1e-12)
    assert list(gradients(weights.theta, (x[:0], y[:0]))) == []
    gradients.close()
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())


def train(build: Callable[[], nn.Module] = mlp, **options: Any) -> ex.Unlearned:
    options = {"loss": loss, "learning_rate": 0.5, "expected_batch": 6.0, "generator": coins()} | options
    return ex.train_private(build, options.pop("data", data()), options.pop("mechanism", MLP), **options)


@pytest.mark.parametrize("build", [mlp, convolutional])
def test_the_certificate_of_a_run_verifies_and_names_the_group(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    done = train(build)
    ex.save_weights(done.model, tmp_path / "model.safetensors")
    issued = ex.issue(done.record, released=tmp_path / "model.safetensors", delta=1e-5)
    issued.save(tmp_path / "certificate.json")
    ex.verify(tmp_path / "certificate.json", weights=tmp_path / "model.safetensors")
    loaded = ex.Certificate.load(tmp_path / "certificate.json")
    assert loaded.record == done.record
    assert loaded.mechanism == MLP
    assert f"every forget set of size at most {MLP.group_size}," in loaded.content["claim"]["proves"]
    assert loaded.claim.epsilon == ex.guarantee(MLP, delta=1e-5).epsilon


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_same_seed_gives_the_same_weights(dtype: torch.dtype) -> None:
    one, two, other = (train(lambda: mlp().to(dtype), generator=coins(s)).record for s in (1, 1, 2))
    assert one == two
    assert one.certified != other.certified
    assert one.weights_dtype == str(dtype).removeprefix("torch.")


def test_without_a_generator_every_run_differs_and_global_coins_stay() -> None:
    before = torch.get_rng_state()
    one, two = (train(generator=None).record for _ in range(2))
    assert one.certified != two.certified
    assert one.noise.generator == "secret"
    assert torch.equal(torch.get_rng_state(), before)


def test_how_batches_are_taken_apart_hardly_matters() -> None:
    """Up to rounding: the sum is the same."""

    def without_dropout() -> nn.Module:
        return nn.Linear(64, 5)

    one, two = (nn.utils.parameters_to_vector(train(without_dropout, at_once=k).model.parameters()) for k in (2, 100))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_momentum_is_heavy_ball_on_the_noisy_sums() -> None:
    descend = private._Descent(0.5, 0.9)
    theta, first, second = torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    descend(theta, first.clone())
    descend(theta, second.clone())
    torch.testing.assert_close(theta, -0.5 * (first + (0.9 * first + second)))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """State files after every step."""
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)
    monkeypatch.setattr("expunge.training.state.SHARE", 0.0)


@contextlib.contextmanager
def stopped(after: int | None = None) -> Iterator[list[int]]:
    """Count the steps by their state files, and interrupt after so many."""
    steps, save = [0], StateFile.save

    def saved(file: StateFile, state: dict[str, Any]) -> None:
        save(file, state)
        steps[0] += 1
        if steps[0] == after:
            raise KeyboardInterrupt

    with mock.patch.object(StateFile, "save", saved):
        yield steps


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_interrupted_training_goes_on_bit_for_bit(every_step: None, tmp_path: Path, momentum: float) -> None:
    """Dropout, batches, noise and momentum: twice interrupted, it ends where it would have."""
    state = tmp_path / "run.state"
    whole = train(momentum=momentum)
    for after in (3, 2):
        with pytest.raises(KeyboardInterrupt), stopped(after):
            train(momentum=momentum, state=state)
        assert state.stat().st_mode & 0o077 == 0
    with stopped() as rest:
        resumed = train(momentum=momentum, state=state, generator=coins(99))  # its own coins are in the file
    assert rest == [MLP.steps - 3 - 2]
    assert resumed.record == whole.record
    assert not state.exists()
    ex.issue(resumed.record, released=resumed.model, delta=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"momentum": 0.5}, {"learning_rate": 0.4}, {"expected_batch": 7.0}, {"data": data(61)},
        {"mechanism": replace(MLP, noise_multiplier=0.5)}, {"build": lambda: nn.Linear(64, 5)},
    ],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_the_state_of_another_training_is_refused(every_step: None, tmp_path: Path, other: dict[str, Any]) -> None:
    state = tmp_path / "run.state"
    with pytest.raises(KeyboardInterrupt), stopped(3):
        train(state=state)
    before = state.read_bytes()
    with pytest.raises(ex.errors.StateError, match="another run"):
        train(state=state, **other)
    assert state.read_bytes() == before


def test_private_training_learns() -> None:
    """Enough noise for ε near 6 still leaves a linear model that beats guessing by far."""
    x = torch.randn(2000, 64, generator=coins(2))
    y = x[:, :5].argmax(dim=1)
    mechanism = ex.DPTraining(sample_clip=1.0, noise_multiplier=1.0, sampling_rate=0.05, steps=150, group_size=1)
    done = train(
        lambda: nn.Linear(64, 5), data=ex.Examples(x, y), mechanism=mechanism, learning_rate=2.0, expected_batch=100.0
    )
    assert float((done.model(x).argmax(dim=1) == y).double().mean()) > 0.7


def with_buffer() -> nn.Module:
    model = nn.Linear(64, 5)
    model.register_buffer("scale", torch.ones(1))
    return model


def stateless_batch_norm() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(64, affine=False, track_running_stats=False), nn.Linear(64, 5))


class Outside(nn.Module):
    """Uses a parameter past its layer, where Opacus does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.inner.weight.T


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - x.mean(dim=0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)), "GroupNorm"),
        (stateless_batch_norm, "mixes the examples"),
        (with_buffer, "buffer 'scale'"),
        (lambda: nn.Sequential(nn.Linear(64, 5), nn.MultiheadAttention(5, 1)), "no gradients by example"),
        (Outside, "each example alone"),
        (Mixing, "each example alone"),
    ],
    ids=["BatchNorm", "BatchNorm without state", "buffer", "attention", "outside its layer", "mixing"],
)
def test_models_without_gradients_by_example_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        train(build)


@pytest.mark.parametrize(
    "bad",
    [
        lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], reduction="sum"),
        lambda m, b: loss(m, b) + 0.1 * sum(p.square().sum() for p in m.parameters()),
        lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], weight=torch.tensor([1.0, 5.0, 9.0, 2.0, 0.5])),
        lambda m, b: m(b[0]).var(dim=0, unbiased=False).mean(),
    ],
    ids=["sum", "penalty on weights", "weighted mean", "variance over the batch"],
)
def test_losses_that_are_no_mean_over_examples_are_refused(bad: Any) -> None:
    with pytest.raises(ModelRefused, match="mean over the batch"):
        train(lambda: nn.Linear(64, 5), loss=bad)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"expected_batch": -1.0}, ValueError, "expected_batch"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"at_once": 0}, ValueError, "at_once"),
        ({"data": [(torch.zeros(1, 64), torch.zeros(1).long())]}, TypeError, "Poisson"),
        ({"mechanism": ex.Retrain()}, TypeError, "train_private runs a DPTraining"),
        ({"loss": 3}, TypeError, "loss must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(**options)


def test_a_finished_model_is_refused() -> None:
    with pytest.raises(TypeError, match="make_model must be a function"):
        train(made(mlp))  # pyright: ignore


def test_unlearn_names_the_verb_for_private_training() -> None:
    with pytest.raises(TypeError, match=r"unlearn\(task, request, 'dp_training'\)"):
        ex.unlearn(made(mlp), data(), MLP, loss=loss)


def test_without_opacus_the_quote_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data()
    task = ex.Task(model=mlp(), make_model=mlp, retain=rows, forget=rows.take([0]), loss=loss)
    way = private.PrivateTraining(noise_multiplier=1.0, private_steps=3, expected_batch=30.0)
    asked = (task, ex.Budget(1.0, 1e-5), ex.Relation.RETRAINED, Costs(task))
    assert "trains anew" in way.quote(*asked).why
    monkeypatch.setattr(private, "find_spec", lambda _name: None)
    found = way.quote(*asked)
    assert (found.applies, found.why) == (False, "it needs Opacus: pip install 'expunge[dp]'")


def test_without_opacus_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus.grad_sample", None)
    with pytest.raises(MissingExtra, match=r"pip install 'expunge\[dp\]'"):
        train()
