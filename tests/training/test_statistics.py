"""Running statistics: public and left alone, or of the final weights on the retained data."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.errors import ModelRefused
from expunge.recovery import rescale_

GRADIENT = ex.GradientClipping(
    init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=3, noise_std=0.5
)
COINS = torch.Generator().manual_seed(0)
DATA = (torch.randn(64, 8, generator=COINS) + 3, torch.randint(3, (64,), generator=COINS))
RECIPE = ex.Recipe(learning_rate=0.01, batch_size=16)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def unlearn(model: nn.Module, **options: Any) -> ex.Unlearned:
    return ex.unlearn(model, DATA, GRADIENT, loss=loss, batch_size=16, **options)


def certified(done: ex.Unlearned) -> None:
    certificate = ex.issue(done.record, released=done.model, unchecked="a test")
    ex.verify(certificate, weights=done.model, certified_weights=done.model)


class Instances(nn.Module):
    """Normalises the instances of two channels; the layer is used twice a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x.view(-1, 2, 4)).flatten(1))


def test_instance_norm_is_estimated_as_the_mean_over_the_instances_of_all_retained_data() -> None:
    """Not as one batch's, and not left where the reset put it."""
    model = Instances()
    model.norm.running_mean.fill_(100.0)
    done = unlearn(model, buffers="reset")
    x = DATA[0].view(-1, 2, 4)
    assert torch.allclose(done.model.norm.running_mean, x.mean((0, 2)), atol=1e-5)
    assert torch.allclose(done.model.norm.running_var, x.var(2).mean(0), rtol=1e-5)
    assert done.model.norm.momentum == 0.1
    assert not done.model.norm._forward_pre_hooks
    assert done.record.estimated == ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
    certified(done)


def mixed() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3), nn.BatchNorm1d(3))
    model(DATA[0])
    return model


def test_public_statistics_stay_where_others_are_estimated() -> None:
    """Each layer by its own declaration; the record names what was estimated."""
    model = mixed()
    done = unlearn(model, buffers="reset", public=["1.running_*", "1.num*"])
    assert torch.equal(done.model[1].running_mean, model[1].running_mean)
    assert not torch.equal(done.model[3].running_mean, model[3].running_mean)
    assert done.record.estimated == ("3.running_mean", "3.running_var", "3.num_batches_tracked")
    certified(done)


def test_statistics_declared_in_part_are_refused() -> None:
    """A reset would change the declared ones, and no reset would keep the others."""
    with pytest.raises(ModelRefused, match=r"'1.running_mean' is declared public and '1.running_var' is not"):
        unlearn(mixed(), buffers="reset", public=["1.running_mean"])


class Hoarding(nn.BatchNorm1d):
    """A normalisation layer with a buffer of its own."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.register_buffer("bank", torch.ones(4, 8))


class Stubborn(nn.BatchNorm1d):
    """A normalisation layer that does not reset."""

    def reset_running_stats(self) -> None:
        pass


def test_a_reset_covers_running_statistics_and_nothing_else() -> None:
    """A further buffer of such a layer is refused; a layer that will not reset itself is reset all the same."""
    with pytest.raises(ModelRefused, match=r"buffer '0.bank'"):
        unlearn(nn.Sequential(Hoarding(8), nn.Linear(8, 3)), buffers="reset")
    plain, spoiled = (nn.Sequential(nn.Linear(8, 3), Stubborn(3)) for _ in range(2))
    spoiled.load_state_dict(plain.state_dict())
    spoiled[1].running_mean.fill_(100.0)
    coins = [torch.Generator().manual_seed(3) for _ in range(2)]
    one, two = (unlearn(m, buffers="reset", generator=g).model for m, g in zip((plain, spoiled), coins, strict=True))
    assert torch.equal(one[1].running_mean, two[1].running_mean)


def test_the_null_start_keeps_no_trained_statistics() -> None:
    """The start that saw no data has not seen their means either."""
    null = ex.null_start(mixed(), buffers="reset")
    assert all(not bool(null[k].running_mean.any()) and bool((null[k].running_var == 1).all()) for k in (1, 3))


def backbone(*, affine: bool = True) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=affine)).requires_grad_(requires_grad=False).eval()
    return nn.Sequential(model, nn.Linear(8, 3))


@pytest.mark.parametrize("affine", [True, False])
def test_recovery_and_retraining_leave_a_frozen_part_s_statistics_alone(affine: bool) -> None:
    """What `unlearn` was told is public stays public afterwards, bit for bit."""
    model = backbone(affine=affine)
    done = unlearn(model, public=["0.*"])
    back = ex.recover(done.model, DATA, loss=loss, epochs=1, recipe=RECIPE, rescale=True)
    again = ex.retrain(lambda: copy.deepcopy(model), DATA, loss=loss, epochs=1, recipe=RECIPE).model
    for trained in (back, again):
        assert torch.equal(trained[0][1].running_mean, model[0][1].running_mean)
        assert torch.equal(trained[0][0].weight, model[0][0].weight)
        assert not trained[0][1].training
        assert not torch.equal(trained[1].weight, done.model[1].weight)


def test_recovery_leaves_alone_what_is_declared_public_and_estimates_the_rest() -> None:
    """In a model that is wholly in evaluation mode, and trained throughout."""
    model = mixed().eval()
    named = {"public": ["1.*"]}
    done = unlearn(model, buffers="reset", **named)
    back = ex.recover(done.model, DATA, loss=loss, epochs=1, recipe=RECIPE, **named)
    assert torch.equal(back[1].running_mean, model[1].running_mean)
    assert not torch.equal(back[3].running_mean, done.model[3].running_mean)
    with pytest.raises(ModelRefused, match="matches no parameter"):
        ex.recover(done.model, DATA, loss=loss, public=["nothing"])


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8), nn.BatchNorm1d(8), nn.RMSNorm((2, 4))]
)
def test_rescaling_makes_every_normalisation_layer_the_identity(norm: nn.Module) -> None:
    """Weight one and bias zero, whatever the noise left there; frozen and public parts are left alone."""
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    left = copy.deepcopy(norm)
    rescale_(norm)
    assert bool((norm.weight == 1).all())
    assert getattr(norm, "bias", None) is None or not bool(norm.bias.any())
    assert torch.equal(rescale_(left, public=list(left.parameters())).weight, left.weight)
    assert not bool((left.weight == 1).all())
    left.requires_grad_(requires_grad=False)
    assert not bool((rescale_(left).weight == 1).all())


def test_rescaling_passes_over_parameters_that_hold_nothing() -> None:
    """An empty matrix has no scale."""
    model = nn.ParameterList([nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(2, 3))])
    assert torch.allclose(rescale_(model)[1], torch.full((2, 3), (2 / 3) ** 0.5))
