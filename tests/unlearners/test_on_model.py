"""The verbs, end to end on small data."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex
from expunge.errors import ModelRefused, NonFinite, RunError, StateError, WeightsMismatch
from expunge.randomness.grid import grid_of
from interrupted import interrupted

MECHANISM = ex.GradientClipping(
    init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=0.5, steps=12, noise_std=0.2
)
MODEL_CLIPPING = ex.ModelClipping(model_clip=1.0, learning_rate=0.1, weight_decay=0.5, steps=12, noise_std=0.2)
OUTPUT = ex.OutputPerturbation(init_clip=1.0, noise_std=0.2)
SCHEDULED = ex.ScheduledGradientClipping(
    init_clip=1.0,
    grad_clip=1.0,
    learning_rate=tuple(0.1 - 0.005 * t for t in range(12)),
    weight_decay=0.5,
    noise_std=tuple(0.2 + 0.01 * t for t in range(12)),
)
SGD = ex.Recipe(optimizer="sgd", learning_rate=0.05, batch_size=64)
ADAMW = ex.Recipe(optimizer="adamw", learning_rate=0.01, batch_size=64)


@pytest.fixture(scope="module")
def retain() -> ex.Examples:
    digits = load_digits()
    return ex.Examples(torch.tensor(digits.data[:600] / 16).float(), torch.tensor(digits.target[:600]).long())


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))


def build_with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def make(build: Callable[[], nn.Module] = build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    dtype = next(model.parameters()).dtype
    return nn.functional.cross_entropy(model(x.to(dtype)).float(), y)


def coins(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(torch.equal(one[k], two[k]) for k in one)


def unlearn(model: nn.Module, retain: Any, **options: Any) -> ex.Unlearned:
    options = {"mechanism": MECHANISM, "loss": loss, "batch_size": 64, "generator": coins()} | options
    return ex.unlearn(model, retain, options.pop("mechanism"), **options)


@pytest.mark.parametrize("mechanism", [MECHANISM, MODEL_CLIPPING, OUTPUT], ids=lambda m: m.name)
def test_unlearn_leaves_the_original_untouched(retain: ex.Examples, mechanism: ex.Mechanism) -> None:
    """The model given keeps its weights, its modes and its gradients; the one returned is another."""
    model = make().eval()
    before = copy.deepcopy(model)
    result = unlearn(model, retain, mechanism=mechanism)
    assert same(model, before)
    assert not same(result.model, before)
    assert not any(m.training for m in (*model.modules(), *result.model.modules()))
    assert all(p.grad is None for p in (*model.parameters(), *result.model.parameters()))
    assert result.record.noise.count == mechanism.noise_draws
    assert result.record.steps_done == mechanism.gradient_steps


def test_without_copy_the_model_itself_is_unlearned(retain: ex.Examples) -> None:
    """copy=False returns the model that was given, with the weights that a copy would have."""
    model, expected = make(), unlearn(make(), retain).model
    assert unlearn(model, retain, copy=False).model is model
    assert same(model, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("mechanism", [MECHANISM, MODEL_CLIPPING, OUTPUT], ids=lambda m: m.name)
def test_the_same_seed_gives_the_same_weights(retain: ex.Examples, dtype: torch.dtype, mechanism: ex.Mechanism) -> None:
    """Two runs of one seed agree bit for bit, another seed does not."""
    model = make().to(dtype)
    first, second, other = (unlearn(model, retain, mechanism=mechanism, generator=coins(s)) for s in (7, 7, 8))
    assert same(first.model, second.model)
    assert first.record == second.record
    assert not same(first.model, other.model)
    assert next(first.model.parameters()).dtype == dtype
    assert first.record.weights_dtype == str(dtype).removeprefix("torch.")


def test_without_a_generator_every_run_differs(retain: ex.Examples) -> None:
    """The default coins are fresh and secret, and the record says so."""
    first, second = (unlearn(make(), retain, generator=None) for _ in range(2))
    assert not same(first.model, second.model)
    assert first.record.noise.generator == "secret"
    assert unlearn(make(), retain).record.noise.generator == "given"


BLOCKWISE = ex.BlockwiseGradientClipping(
    block_sizes=ex.layer_sizes(build()),
    block_clips=(0.5,) * len(ex.layer_sizes(build())),
    grad_clip=1.0,
    learning_rate=0.1,
    weight_decay=0.5,
    steps=6,
    noise_std=0.2,
    blind=True,
)


@pytest.mark.parametrize("mechanism", [MECHANISM, MODEL_CLIPPING, OUTPUT, SCHEDULED, BLOCKWISE], ids=lambda m: m.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_released_weight_lies_on_the_public_grid(
    retain: ex.Examples, mechanism: ex.Mechanism, dtype: torch.dtype
) -> None:
    """Multiples of a power of two near 2^-12 of the last draw's scale, of every method; the record says which."""
    done = unlearn(make().to(dtype), retain, mechanism=mechanism)
    std = mechanism.noise_std
    grid = done.record.noise.grid
    assert grid == grid_of(std[-1] if isinstance(std, tuple) else std)
    assert done.record.noise.stream == "aes-256-ctr/1"
    assert not any(bool((p.double() % grid).any()) for p in done.model.parameters())


def test_a_release_about_a_public_centre_is_the_centre_plus_the_grid(retain: ex.Examples) -> None:
    """What is rounded is the difference: the centre is public, and adding it is post-processing."""
    center = make(seed=5).double()
    done = unlearn(make().double(), retain, center=center)
    for p, c in zip(done.model.parameters(), center.parameters(), strict=True):
        steps = (p - c).detach() / done.record.noise.grid
        assert float((steps - steps.round()).abs().max()) < 1e-9


Verb = Callable[..., nn.Module]


def verb_unlearn(dtype: torch.dtype, mechanism: ex.Mechanism) -> Verb:
    return lambda retain, **o: unlearn(make().to(dtype), retain, mechanism=mechanism, **o).model


def verb_recover(recipe: ex.Recipe, maker: Callable[[], nn.Module] = build) -> Verb:
    return lambda retain, **o: ex.recover(
        make(maker), retain, epochs=2, recipe=recipe, rescale=True, **{"generator": coins(), **o}
    )


def verb_retrain(recipe: ex.Recipe) -> Verb:
    return lambda retain, **o: ex.retrain(build, retain, epochs=2, recipe=recipe, **{"generator": coins(), **o}).model


VERBS = {
    "unlearn, gradient clipping": verb_unlearn(torch.float32, MECHANISM),
    "unlearn, model clipping": verb_unlearn(torch.float32, MODEL_CLIPPING),
    "unlearn, schedules": verb_unlearn(torch.float32, SCHEDULED),
    "unlearn, block by block": verb_unlearn(torch.float32, BLOCKWISE),
    "unlearn, bfloat16": verb_unlearn(torch.bfloat16, MECHANISM),
    "unlearn, float64": verb_unlearn(torch.float64, MECHANISM),
    "recover, SGD": verb_recover(SGD),
    "recover, AdamW": verb_recover(ADAMW),
    "recover, BatchNorm": verb_recover(SGD, build_with_batch_norm),
    "retrain, SGD": verb_retrain(SGD),
    "retrain, AdamW": verb_retrain(ADAMW),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
def test_an_interrupted_run_goes_on_bit_for_bit(
    retain: ex.Examples, verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, in the second epoch too, and repeated with its state file, a run ends where it would have."""
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)
    with interrupted() as counted:
        whole = verb(retain, loss=loss)
    state = tmp_path / "run.state"
    for after in (4, 6):
        with pytest.raises(KeyboardInterrupt), interrupted(after):
            verb(retain, loss=loss, state=state)
        assert state.is_file()
        assert state.stat().st_mode & 0o077 == 0
    with interrupted() as rest:
        resumed = verb(retain, loss=loss, state=state)
    assert 0 < rest.calls < counted.calls
    assert same(resumed, whole)
    assert not state.exists()


def interrupted_state(retain: ex.Examples, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("expunge.training.state.SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt), interrupted(5):
        unlearn(make(), retain, state=path)
    return path


@pytest.mark.parametrize("keep", [0, 10, 100, 200, -1])
def test_a_truncated_state_is_refused(
    retain: ex.Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """A state file cut anywhere is a StateError, and is left as it is."""
    path = interrupted_state(retain, tmp_path / "run.state", monkeypatch)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateError, match="truncated"):
        unlearn(make(), retain, state=path)
    assert path.exists()


def test_an_altered_state_is_refused(retain: ex.Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One flipped bit is a StateError."""
    path = interrupted_state(retain, tmp_path / "run.state", monkeypatch)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateError, match="altered"):
        unlearn(make(), retain, state=path)


def test_the_state_of_another_run_is_refused(
    retain: ex.Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another mechanism, batch size, dtype, verb, or data, be it one value: a StateError, and the file is kept."""
    path = interrupted_state(retain, tmp_path / "run.state", monkeypatch)
    content = path.read_bytes()
    fewer = retain.take(range(500))
    changed = ex.Examples(*(tensor.clone() for tensor in retain.tensors))
    changed.tensors[1][-1] = (changed.tensors[1][-1] + 1) % 10
    for run in (
        lambda: unlearn(make(), retain, state=path, mechanism=MODEL_CLIPPING),
        lambda: unlearn(make(), retain, state=path, batch_size=32),
        lambda: unlearn(make().double(), retain, state=path),
        lambda: unlearn(make(), fewer, state=path),
        lambda: unlearn(make(), changed, state=path),
        lambda: unlearn(make(), retain, state=path, public=["0.*"]),
        lambda: unlearn(make(), retain, state=path, center=make(seed=3)),
        lambda: ex.recover(make(), retain, loss=loss, state=path),
    ):
        with pytest.raises(StateError, match="another run"):
            run()
        assert path.read_bytes() == content


def test_a_state_needs_examples(retain: ex.Examples, tmp_path: Path) -> None:
    """A loader's order cannot be restored, so a state file with one is a ValueError."""
    with pytest.raises(ValueError, match="Examples"):
        unlearn(make(), [(retain.tensors[0][:64], retain.tensors[1][:64])], state=tmp_path / "run.state")


def test_the_global_random_state_is_left_alone(retain: ex.Examples) -> None:
    """Unlearning, recovery and retraining draw nothing from torch's global generator, and do not depend on it."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = unlearn(make(), retain).model
    ex.recover(first, retain, loss=loss, epochs=1, recipe=SGD, generator=coins())
    ex.retrain(build, retain, loss=loss, epochs=1, recipe=SGD, generator=coins())
    with pytest.raises(NonFinite):
        unlearn(make(), retain, loss=lambda m, b: loss(m, b) * float("nan"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(unlearn(make(), retain).model, first)


def test_an_empty_retain_set_is_refused() -> None:
    """Nothing to keep is a ValueError, for tensors and for loaders."""
    with pytest.raises(ValueError, match="empty"):
        unlearn(make(), (torch.zeros(0, 64), torch.zeros(0).long()))
    with pytest.raises(ValueError, match="empty"):
        unlearn(make(), [])
    with pytest.raises(TypeError, match="can be read only once"):
        unlearn(make(), iter(()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_every_verb(retain: ex.Examples, value: float) -> None:
    """NaN or infinity as a loss is a NonFinite, and the original stays as it was."""
    model = make()
    before = copy.deepcopy(model)

    def broken(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch) * value

    for run in (
        lambda: unlearn(model, retain, loss=broken),
        lambda: ex.recover(model, retain, loss=broken),
        lambda: ex.retrain(build, retain, loss=broken),
    ):
        with pytest.raises(NonFinite, match="loss"):
            run()
    assert same(model, before)


@pytest.mark.parametrize(
    "bad", [lambda m, b: m(b[0]), lambda m, b: loss(m, b).item(), lambda m, b: None], ids=["vector", "float", "None"]
)
def test_a_loss_that_is_not_a_scalar_tensor_is_refused(retain: ex.Examples, bad: Any) -> None:
    """Anything but one number in a tensor is a TypeError."""
    with pytest.raises(TypeError, match="scalar tensor"):
        unlearn(make(), retain, loss=bad)


def test_a_loss_that_cannot_be_called_is_refused(retain: ex.Examples) -> None:
    """A value in place of a function is a TypeError that names it."""
    with pytest.raises(TypeError, match="loss must be a function"):
        unlearn(make(), retain, loss=3.0)


def test_unlearn_refuses_the_retrain_mechanism(retain: ex.Examples) -> None:
    """Retraining starts from a fresh model: unlearn says how to call it."""
    with pytest.raises(TypeError, match=r"unlearn\(task, request, 'retrain'\)"):
        unlearn(make(), retain, mechanism=ex.Retrain())


def test_retrain_refuses_a_finished_model(retain: ex.Examples) -> None:
    """A module may carry the forgotten data; a function that builds one is asked for."""
    with pytest.raises(TypeError, match="finished"):
        ex.retrain(make(), retain, loss=loss)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        ex.retrain(lambda: 3, retain, loss=loss)


def test_batch_norm_is_refused_unless_reset_and_then_certified(retain: ex.Examples, tmp_path: Path) -> None:
    """With buffers='reset' the statistics are those of the final weights on retained data; the certificate holds."""
    model = make(build_with_batch_norm)
    model.train()
    model(retain.tensors[0] * 100)
    with pytest.raises(ModelRefused, match="buffers='reset'"):
        unlearn(model, retain)
    result = unlearn(model, retain, buffers="reset", batch_size=600)
    hidden = result.model[0](retain.tensors[0]).detach()
    assert torch.allclose(result.model[1].running_mean, hidden.mean(0), atol=1e-4)
    assert torch.allclose(result.model[1].running_var, hidden.var(0), rtol=1e-3)
    assert result.model[1].momentum == 0.1
    assert result.record.buffers == "reset"
    certificate = ex.issue(result.record, released=result.model, unchecked="a test")
    ex.verify(certificate, weights=result.model)
    path = tmp_path / "m.safetensors"
    ex.save_weights(result.model, path)
    ex.verify(certificate, weights=path)


def test_batch_norm_statistics_of_the_original_leave_no_trace(retain: ex.Examples) -> None:
    """Two originals that differ in their running statistics alone give the same unlearned model."""
    plain, spoiled = make(build_with_batch_norm), make(build_with_batch_norm)
    spoiled[1].running_mean.fill_(100.0)
    spoiled[1].num_batches_tracked.fill_(9)
    assert same(*(unlearn(m, retain, buffers="reset").model for m in (plain, spoiled)))


@pytest.mark.parametrize("center", [False, True])
def test_the_null_start_is_the_centre_of_the_ball(center: bool) -> None:
    """All zero, or the public checkpoint; the model given stays as it was."""
    model, checkpoint = make(seed=0), make(seed=1)
    before = copy.deepcopy(model)
    null = ex.null_start(model, center=checkpoint if center else None)
    assert same(model, before)
    assert same(null, checkpoint) if center else not any(bool(p.any()) for p in null.parameters())


def test_a_start_outside_the_ball_is_told_and_kept_out_of_the_record(
    retain: ex.Examples, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator learns that weights were clipped; the record of a start at the centre reads alike."""
    result = unlearn(make(), retain)
    assert result.start_clipped
    assert "outside the ball" in caplog.text
    null = unlearn(ex.null_start(make()), retain)
    assert not null.start_clipped
    assert result.record.to_dict().keys() == null.record.to_dict().keys()
    different = {k for k, v in result.record.to_dict().items() if v != null.record.to_dict()[k]}
    assert different == {"certified"}


@pytest.mark.parametrize("mechanism", [MECHANISM, MODEL_CLIPPING, OUTPUT], ids=lambda m: m.name)
def test_the_certificate_of_a_recovered_model_verifies(
    retain: ex.Examples, tmp_path: Path, mechanism: ex.Mechanism
) -> None:
    """Unlearn, recover, issue: the certificate holds for the module, for its file, and for no other weights."""
    unlearned = unlearn(make(), retain, mechanism=mechanism)
    before = copy.deepcopy(unlearned.model)
    recovered = ex.recover(unlearned.model, retain, loss=loss, epochs=2, recipe=SGD, rescale=True, generator=coins())
    assert same(unlearned.model, before)
    certificate = ex.issue(unlearned.record, released=recovered, unchecked="a test", recovery="2 epochs of SGD")
    released, certified, path = (tmp_path / n for n in ("released.safetensors", "certified.safetensors", "c.json"))
    ex.save_weights(recovered, released)
    ex.save_weights(unlearned.model, certified)
    certificate.save(path)
    ex.verify(certificate)
    ex.verify(certificate, weights=recovered, certified_weights=unlearned.model)
    ex.verify(path, weights=released, certified_weights=certified)
    with pytest.raises(WeightsMismatch):
        ex.verify(certificate, weights=unlearned.model)
    with pytest.raises(WeightsMismatch):
        ex.verify(certificate, weights=released, certified_weights=released)


def test_the_certificate_of_a_retrained_model_is_exact(retain: ex.Examples) -> None:
    """Retraining proves epsilon = delta = 0."""
    result = ex.retrain(build, retain, loss=loss, epochs=1, recipe=SGD, generator=coins())
    certificate = ex.issue(result.record, released=result.model, unchecked="a test")
    ex.verify(certificate, weights=result.model)
    assert (certificate.claim.epsilon, certificate.claim.delta) == (0, 0)


def test_recovery_reports_every_epoch_in_evaluation_mode(retain: ex.Examples) -> None:
    """on_epoch sees 1, 2, 3 and a model that drops nothing."""
    seen: list[tuple[int, bool]] = []
    ex.recover(
        make(), retain, loss=loss, epochs=2.5, recipe=SGD, generator=coins(),
        on_epoch=lambda epoch, model: seen.append((epoch, model.training)),
    )  # fmt: skip
    assert seen == [(1, False), (2, False), (3, False)]


class Counting(nn.Module):
    """A layer that remembers what passed through it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x.sum(0)
        return self.layer(x)


THREE_STEPS = ex.GradientClipping(
    init_clip=0.5, grad_clip=1.0, learning_rate=0.01, weight_decay=20.0, steps=3, noise_std=0.3
)


def some_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def some_data():
    coins = torch.Generator().manual_seed(0)
    return torch.rand(40, 64, generator=coins), torch.randint(10, (40,), generator=coins)


def test_a_buffer_declared_public_that_training_changes_is_refused():
    with pytest.raises(ex.errors.RunError, match="carries data"):
        ex.unlearn(Counting(), some_data(), THREE_STEPS, loss=some_loss, batch_size=8, public=["seen"])


def test_batch_norm_statistics_declared_public_are_left_as_they_are():
    model = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
    model[1].running_mean.fill_(3.0)
    done = ex.unlearn(model, some_data(), THREE_STEPS, loss=some_loss, batch_size=8, public=["1.running_*", "1.num*"])
    assert torch.equal(done.model[1].running_mean, torch.full((10,), 3.0))
    assert done.record.buffers == "public"


def test_a_start_outside_the_ball_is_clipped_and_says_so(caplog: pytest.LogCaptureFixture):
    done = ex.unlearn(nn.Linear(64, 10), some_data(), THREE_STEPS, loss=some_loss, batch_size=8)
    assert done.start_clipped
    assert "clipped to init_clip=0.5" in caplog.text
    assert "clipped" not in str(done.record.to_dict())


def test_a_run_with_schedules_is_certified_and_its_record_holds_every_scale(retain: ex.Examples) -> None:
    done = unlearn(make(), retain, mechanism=SCHEDULED)
    assert done.record.noise.std == SCHEDULED.noise_std
    certificate = ex.issue(done.record, released=done.model, unchecked="a test")
    ex.verify(ex.Certificate.from_json(certificate.to_json()), weights=done.model)
    other = replace(done.record.noise, std=(*SCHEDULED.noise_std[:-1], 0.1))
    with pytest.raises(RunError, match="drew noise of scale"):
        ex.issue(replace(done.record, noise=other), released=done.model, unchecked="a test")


def test_recovery_with_a_limit_on_gradients_is_bounded_by_it(retain: ex.Examples) -> None:
    """Each step of SGD without momentum and decay moves the weights by no more than the rate times the limit."""
    start = build()
    options = {"learning_rate": 10.0, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 64}
    moved = {}
    for limit in (1e-3, None):
        done = ex.recover(
            start, retain, loss=loss, epochs=1, recipe=ex.Recipe(max_grad_norm=limit, **options), generator=coins()
        )
        parts = zip(done.parameters(), start.parameters(), strict=True)
        moved[limit] = float(torch.cat([(p - q).detach().reshape(-1) for p, q in parts]).norm())
    steps = len(retain) // 64
    assert 0 < moved[1e-3] <= 10.0 * 1e-3 * steps
    assert moved[None] > 10.0 * 1e-3 * steps


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_on_gradients_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="max_grad_norm must be"):
        ex.Recipe(max_grad_norm=limit)


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
def test_a_verb_does_the_same_where_the_caller_has_switched_gradients_off(retain: ex.Examples, verb: Verb) -> None:
    with torch.no_grad():
        quiet = verb(retain, loss=loss)
    assert same(quiet, verb(retain, loss=loss))
