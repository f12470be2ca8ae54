"""A stack of models is its models: gradients, outputs and training row by row."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from expunge.accounting import GradientClipping, OutputPerturbation, Retrain
from expunge.errors import ModelRefused, NonFinite
from expunge.recovery.training import Recipe, Training, training_steps
from expunge.replicates import Stack, accuracy_runs, recover_runs, unlearn_runs

RUNS = 3


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def convolutional():
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(count, seed=0):
    coins = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(RUNS, 8, 6, generator=coins), torch.randint(4, (RUNS, 8), generator=coins)


@pytest.fixture(params=[mlp, convolutional])
def stack(request):
    return Stack.fresh(request.param, range(RUNS))


def test_each_row_is_a_freshly_initialised_model_of_its_seed(stack):
    again = Stack.fresh(lambda: stack.model(0), [0])
    assert again.runs == 1
    assert len({tuple(row.tolist()) for row in stack.theta}) == RUNS
    models = [stack.model(k) for k in range(RUNS)]
    assert torch.equal(Stack.of(models).theta, stack.theta)


def test_fresh_models_leave_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    Stack.fresh(mlp, range(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_of_every_run_is_that_of_its_model_alone(stack):
    (batch,) = batches(1)
    found = stack.gradient(loss)(stack.theta, batch)
    for run in range(RUNS):
        model = stack.model(run)
        loss(model, (batch[0][run], batch[1][run])).backward()
        alone = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(found[run], alone, rtol=1e-4, atol=1e-6)


def test_convolutions_one_run_after_another_and_all_together_give_the_same(stack):
    """The first on a CPU, the second on an accelerator."""
    (batch,) = batches(1)
    found = {}
    for one_by_one in (True, False):
        stack._one_by_one = one_by_one
        nested = {"pairs": [batch]}
        gradient = stack.gradient(lambda model, nested: loss(model, nested["pairs"][0]))
        found[one_by_one] = gradient(stack.theta, nested), stack.outputs(batch[0][0])
    for alone, together in zip(*found.values(), strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)


def test_only_convolutions_on_a_cpu_take_turns():
    assert Stack.fresh(convolutional, [0])._one_by_one
    assert not Stack.fresh(mlp, [0])._one_by_one


@pytest.mark.long
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own, on its first import
def test_a_compiled_stack_has_the_same_gradients_and_outputs(stack):
    (batch,) = batches(1)
    compiled = Stack(stack.model(0), stack.theta, compiled=True).copy()
    torch.testing.assert_close(
        compiled.gradient(loss)(stack.theta, batch), stack.gradient(loss)(stack.theta, batch), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(compiled.outputs(batch[0][0]), stack.outputs(batch[0][0]), rtol=1e-4, atol=1e-6)


def pictures_network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


@pytest.fixture
def of_pictures():
    coins = torch.Generator().manual_seed(0)
    batch = torch.randn(RUNS, 16, 3, 12, 12, generator=coins), torch.randint(4, (RUNS, 16), generator=coins)
    return Stack.fresh(pictures_network, range(RUNS)), batch


def test_convolutions_of_pictures_are_the_models_although_channels_are_last(of_pictures):
    stack, (x, y) = of_pictures
    found = stack.gradient(loss)(stack.theta, (x, y))
    outputs = stack.outputs(x[0])
    for run in range(RUNS):
        model = stack.model(run)
        loss(model, (x[run], y[run])).backward()
        alone = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(found[run], alone, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(outputs[run], model(x[0]).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", [pictures_network, lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 4))])
def test_mixed_precision_changes_gradients_by_its_rounding_only(of_pictures, network):
    _, batch = of_pictures
    plain = Stack.fresh(network, range(RUNS))
    mixed = Stack.fresh(network, range(RUNS), autocast=torch.bfloat16).copy()
    exact, found = (stack.gradient(loss)(plain.theta, batch) for stack in (plain, mixed))
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert ((found - exact).norm(dim=1) < 0.02 * exact.norm(dim=1)).all()
    assert torch.equal(mixed.outputs(batch[0][0]), plain.outputs(batch[0][0]))


def test_in_mixed_precision_the_loss_sees_outputs_of_the_type_of_the_weights(of_pictures):
    _, batch = of_pictures
    stack = Stack.fresh(pictures_network, range(RUNS), autocast=torch.bfloat16)

    def checked(model, batch):
        outputs = model(batch[0])
        assert outputs.dtype == torch.float32
        return F.cross_entropy(outputs, batch[1])

    stack.gradient(checked)(stack.theta, batch)


def test_outputs_are_those_of_the_models(stack):
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    found = stack.outputs(x)
    for run in range(RUNS):
        torch.testing.assert_close(found[run], stack.model(run)(x).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_together_is_training_each_alone_with_torch_sgd(stack, momentum):
    models = [stack.model(k) for k in range(RUNS)]
    recover_runs(stack, batches(20), loss=loss, steps=20, learning_rate=0.3, momentum=momentum, weight_decay=0.01)
    for run, model in enumerate(models):
        recipe = Recipe(learning_rate=0.3, momentum=momentum, weight_decay=0.01)
        own = ((x[run], y[run]) for x, y in batches(20))
        list(training_steps(Training(model, recipe, steps=20), own, loss=loss, steps=range(20)))
        alone = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(stack.theta[run], alone, rtol=1e-3, atol=1e-5)


def test_training_together_by_adamw_is_training_each_alone(stack):
    models = [stack.model(k) for k in range(RUNS)]
    recover_runs(stack, batches(20), loss=loss, steps=20, optimizer="adamw", learning_rate=0.03, weight_decay=0.1)
    for run, model in enumerate(models):
        recipe = Recipe(optimizer="adamw", learning_rate=0.03, weight_decay=0.1)
        own = ((x[run], y[run]) for x, y in batches(20))
        list(training_steps(Training(model, recipe, steps=20), own, loss=loss, steps=range(20)))
        alone = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(stack.theta[run], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", [0.01, 0.5, 100.0])
def test_gradients_are_limited_run_by_run_as_torch_limits_those_of_each_alone(stack, norm):
    models, free = [stack.model(k) for k in range(RUNS)], stack.copy()
    options = {"loss": loss, "steps": 20, "learning_rate": 0.3}
    recover_runs(stack, batches(20), max_grad_norm=norm, **options)
    recover_runs(free, batches(20), **options)
    assert torch.equal(stack.theta, free.theta) == (norm == 100.0)
    for run, model in enumerate(models):
        recipe = Recipe(learning_rate=0.3, max_grad_norm=norm)
        own = ((x[run], y[run]) for x, y in batches(20))
        list(training_steps(Training(model, recipe, steps=20), own, loss=loss, steps=range(20)))
        alone = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(stack.theta[run], alone, rtol=1e-3, atol=1e-5)


def test_every_run_may_have_a_learning_rate_of_its_own(stack):
    together, single = stack.copy(), stack.copy()
    rates = torch.tensor([0.0, 0.1, 0.3])
    recover_runs(together, batches(5), loss=loss, steps=5, learning_rate=rates)
    recover_runs(single, batches(5), loss=loss, steps=5, learning_rate=0.3)
    assert torch.equal(together.theta[0], stack.theta[0])
    torch.testing.assert_close(together.theta[2], single.theta[2])
    assert not torch.allclose(together.theta[1], single.theta[1])


def test_unlearning_runs_the_executor_with_noise_of_its_own_in_each_run(stack):
    mechanism = OutputPerturbation(init_clip=0.5, noise_std=2.0)
    before = stack.theta.clone()
    unlearn_runs(stack, batches(1), mechanism, loss=loss, generator=torch.Generator().manual_seed(3))
    clipped = before * (0.5 / before.norm(dim=1, keepdim=True)).clamp(max=1)
    noise = (stack.theta - clipped) / 2.0
    assert 0.8 < float(noise.std()) < 1.2
    assert not torch.allclose(noise[0], noise[1])


def test_noisy_steps_move_the_runs_as_the_mechanism_says():
    stack = Stack.fresh(mlp, range(RUNS))
    mechanism = GradientClipping(
        init_clip=100.0, grad_clip=1e-3, learning_rate=0.1, weight_decay=5.0, steps=4, noise_std=1e-9
    )
    before = stack.theta.clone()
    unlearn_runs(stack, batches(4), mechanism, loss=loss, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(stack.theta, before * 0.5**4, rtol=1e-2, atol=1e-3)


def test_accuracy_counts_right_labels_of_every_run(stack):
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    y = stack.outputs(x)[1].argmax(-1)
    found = accuracy_runs(stack, [(x[:5], y[:5]), (x[5:], y[5:])])
    assert found.shape == (RUNS,)
    assert found[1] == 1
    assert float(found[0]) == float((stack.outputs(x)[0].argmax(-1) == y).double().mean())


def test_what_a_stack_cannot_hold_is_refused():
    with pytest.raises(ModelRefused, match="buffer"):
        Stack.fresh(lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), [0])
    with pytest.raises(ValueError, match=r"theta must have shape \(runs, 59\), not \(3, 58\)"):
        Stack(mlp(), torch.zeros(3, 58))
    with pytest.raises(ValueError, match=r"autocast must be torch.bfloat16 or None, not torch.float16"):
        Stack.fresh(mlp, [0], autocast=torch.float16)
    with pytest.raises(ValueError, match="at least one model"):
        Stack.of([])
    with pytest.raises(TypeError, match="unlearn_runs cannot run"):
        unlearn_runs(Stack.fresh(mlp, [0]), [], Retrain(), loss=loss, generator=torch.Generator())
    with pytest.raises(ValueError, match="one number or one for each of 3 runs, not 2"):
        recover_runs(Stack.fresh(mlp, range(3)), [], loss=loss, steps=1, learning_rate=torch.ones(2))
    with pytest.raises(ValueError, match="optimizer must be 'sgd' or 'adamw', not 'lion'"):
        recover_runs(Stack.fresh(mlp, [0]), [], loss=loss, steps=1, optimizer="lion")
    with pytest.raises(ValueError, match="max_grad_norm must be"):
        recover_runs(Stack.fresh(mlp, [0]), batches(1), loss=loss, steps=1, max_grad_norm=0.0)
    with pytest.raises(ValueError, match="no data"):
        accuracy_runs(Stack.fresh(mlp, [0]), [])


def test_a_loss_that_is_not_finite_names_its_run(stack):
    ((x, y),) = batches(1)
    x[1] = float("nan")
    with pytest.raises(NonFinite, match="run 1"):
        stack.gradient(loss)(stack.theta, (x, y))
