"""What a file of a model holds: its parameters and persistent buffers, under plain names."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import expunge as ex
from expunge.errors import ModelRefused
from training.small import Body, data, loss, unlearn


def extra_number() -> nn.Module:
    class Counted(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"scale": 3}

        def set_extra_state(self, state: Any) -> None:
            pass

    return Counted(8, 3)


def extra_tensor() -> nn.Module:
    class Scaled(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.ones(4)

        def set_extra_state(self, state: Any) -> None:
            pass

    return Scaled(8, 3)


def adding_hook() -> nn.Module:
    model = nn.Linear(8, 3)
    model.register_state_dict_post_hook(lambda module, state, prefix, _: state.update({prefix + "more": torch.ones(2)}))
    return model


def changing_hook() -> nn.Module:
    model = nn.Linear(8, 3)
    model.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({prefix + "bias": state[prefix + "bias"] + 1})
    )
    return model


def own_state_dict() -> nn.Module:
    class Own(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {"layer." + name: t for name, t in super().state_dict(*args, **kwargs).items()}

    return Own(8, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (extra_number, "shows '_extra_state'"), (extra_tensor, "shows '_extra_state'"), (adding_hook, "shows 'more'"),
        (changing_hook, "does not show 'bias' as it is"), (own_state_dict, "shows 'layer"),
    ],
)  # fmt: skip
def test_a_state_dict_of_more_or_less_than_parameters_and_buffers_is_refused_before_the_run(
    make: Callable[[], nn.Module], words: str, tmp_path: Any
) -> None:
    """By every verb and by `save_weights`: neither raw tensors nor hidden ones reach a file."""
    for run in (
        lambda: unlearn(make()),
        lambda: ex.recover(make(), data(), loss=loss),
        lambda: ex.retrain(make, data(), loss=loss),
        lambda: ex.save_weights(make(), tmp_path / "m.safetensors"),
    ):
        with pytest.raises(ModelRefused, match=words):
            run()


@pytest.mark.parametrize("part", [False, True], ids=["whole", "a part"])
def test_a_compiled_model_is_released_under_plain_names(part: bool, tmp_path: Any) -> None:
    """The certificate and the file do not tell that it was compiled, and the plain model loads it."""
    plain = Body()
    model = copy.deepcopy(plain)
    if part:
        model.first = torch.compile(model.first, backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    done = unlearn(model, public=["last.*"])
    assert [name for name, _ in done.record.layers] == ["first.weight", "first.bias"]
    ex.save_weights(done.model, tmp_path / "m.safetensors")
    certificate = ex.issue(done.record, released=tmp_path / "m.safetensors", unchecked="a test")
    ex.verify(certificate, weights=tmp_path / "m.safetensors", certified_weights=done.model)
    plain.load_state_dict(load_file(tmp_path / "m.safetensors"))
    ex.verify(certificate, weights=plain)
