"""What a bank is built from: a public base with a fresh adapter in training, and all adapters on one base at its end."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused
from expunge.hf._packages import package
from expunge.hf.base import PublicBase
from expunge.hf.serving import AdapterMixture, Serving
from expunge.training.randomness import fork_coins
from expunge.training.tensors import named_parameters

__all__ = ["AdapterMaker", "plain_config"]

_TRAINED = "default"  # PEFT's name of the adapter in training
_INITIAL = (True, "gaussian")  # by coins alone: other ways read data, or change the base's own weights
_PLAIN: Mapping[str, Any] = {
    "bias": "none", "modules_to_save": None, "use_dora": False, "layer_replication": None, "trainable_token_indices": None,
    "lora_bias": False, "exclude_modules": None,
}  # fmt: skip


@dataclass(frozen=True)
class AdapterMaker:
    """Builds a base with one fresh LoRA adapter, as `make_model` does; and puts the adapters of all shards on one base.

    Args:
        base: the public base.
        config: of LoRA, JSON-ready, from `plain_config`.
        serving: how the adapters answer together; no part of what a trace knows this by.
    """

    base: PublicBase
    config: Mapping[str, Any]
    serving: Serving = field(default_factory=Serving)

    def __getstate__(self) -> dict[str, Any]:
        """What a trace knows it by."""
        return {"base": self.base, "config": json.dumps(dict(self.config), sort_keys=True)}

    def __deepcopy__(self, memo: object) -> "AdapterMaker":
        return self

    def __call__(self) -> nn.Module:
        """The base, frozen, with an adapter drawn from torch's coins.

        Raises:
            WeightsMismatch, ModelRefused: see `PublicBase.load`; or something else than the adapter would be trained.
        """
        model = package("peft").get_peft_model(self.base.load(), self._config(), adapter_name=_TRAINED)
        model.peft_config[_TRAINED].base_model_name_or_path = None
        other = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
        if other:
            raise ModelRefused(
                f"'{other[0]}' would be trained and is no factor of an adapter: give a LoraConfig without it"
            )
        return model

    @property
    def stated(self) -> Mapping[str, str]:
        """For a certificate: the base's digest, the configuration of the adapters, and how they serve."""
        versions = {name: str(package(name).__version__) for name in ("transformers", "peft")}
        kept = {name: value for name, value in self.config.items() if value not in (None, False, [], {})}
        return (
            {"base": self.base.digest, "adapters": json.dumps(kept, sort_keys=True)[:1000]}
            | self.serving.stated
            | versions
        )

    def served(self, states: Mapping[int, Mapping[str, Any]]) -> AdapterMixture:
        """One module of checkpoints of shards, by their numbers; the base is loaded once.

        Raises:
            WeightsMismatch, ModelRefused: see `PublicBase.load`.
        """
        return self.joined({f"shard-{shard}": _factors(state["model"]) for shard, state in states.items()})

    def joined(self, adapters: Mapping[str, Mapping[str, Tensor]]) -> AdapterMixture:
        """One module of adapters by name, each with its factors by the names of a PEFT file."""
        model: Any = self.base.load()
        with fork_coins(torch.device("cpu")):  # what is drawn is written over
            for number, name in enumerate(adapters):
                if number == 0:
                    model = package("peft").get_peft_model(model, self._config(), adapter_name=name)
                else:
                    model.add_adapter(name, self._config())
        for name, factors in adapters.items():
            _write(model, name, factors)
        return AdapterMixture(model, tuple(adapters), serving=self.serving)

    def _config(self) -> Any:
        found = package("peft").PeftConfig.from_peft_type(**copy.deepcopy(dict(self.config)))
        found.task_type = "CAUSAL_LM"
        return found


def plain_config(config: Any) -> dict[str, Any]:
    """A `peft.LoraConfig` in JSON-ready fields.

    Raises:
        TypeError: it is another configuration.
        ValueError: it would train, change or read something else than the two factors of each adapter.
    """
    if not isinstance(config, package("peft").LoraConfig):
        raise TypeError(f"config must be a peft.LoraConfig, not {type(config).__name__}")
    plain: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=sorted))
    if plain.get("init_lora_weights", True) not in _INITIAL:
        raise ValueError(
            f"init_lora_weights={plain['init_lora_weights']!r} changes the base's weights or reads data: give True or 'gaussian'"
        )
    for name, value in _PLAIN.items():
        if plain.get(name, value) not in (value, [], None, False):
            raise ValueError(
                f"{name}={plain[name]!r} is not taken: the two factors of each adapter are all that is trained"
            )
    plain |= {"base_model_name_or_path": None, "inference_mode": False, "revision": None, "task_type": "CAUSAL_LM"}
    return plain


def _factors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors in a checkpoint, by the names of a PEFT file."""
    return {_without(name, _TRAINED): tensor for name, tensor in state.items()}


def _write(model: nn.Module, adapter: str, factors: Mapping[str, Tensor]) -> None:
    own = {_without(name, adapter): p for name, p in named_parameters(model) if adapter in name.split(".")}
    if own.keys() != factors.keys():
        odd = min(own.keys() ^ factors.keys())
        raise ModelRefused(f"adapter {adapter!r} and the configuration differ in '{odd}'")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(factors[name])


def _without(name: str, adapter: str) -> str:
    return ".".join(part for part in name.split(".") if part != adapter)
