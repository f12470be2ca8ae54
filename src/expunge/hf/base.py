"""A public base: what a model is built from that nobody trains, known by the bits of its checkpoint."""

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from expunge.certificate.digests import TensorInfo, digest_tensors, weights_tensors
from expunge.errors import ModelRefused, WeightsMismatch
from expunge.hf._packages import package
from expunge.training.tensors import named_buffers, named_parameters, same_bits, tensor_infos

__all__ = ["PublicBase", "check_base"]


@dataclass(frozen=True)
class PublicBase:
    """A folder of `save_pretrained` whose weights are public; made by `PublicBase.of`.

    Args:
        path: of the folder. It may move: a base is the same wherever it lies.
        digest: of its weights.
    """

    path: Path
    digest: str

    def __getstate__(self) -> dict[str, str]:
        """What a trace knows it by: its bits, not its place."""
        return {"digest": self.digest}

    def __deepcopy__(self, memo: object) -> "PublicBase":
        return self

    @classmethod
    def of(cls, folder: "str | os.PathLike[str] | PublicBase") -> "PublicBase":
        """The base in a folder; reads all of it once.

        Raises:
            TypeError: a model, of which nobody knows what trained it.
            WeightsMismatch: the folder holds no whole checkpoint in the safetensors format.
        """
        if isinstance(folder, PublicBase):
            return folder
        return cls(_path(folder), digest_tensors(_checkpoint(_path(folder))))

    @classmethod
    def known(cls, folder: "str | os.PathLike[str] | PublicBase", digest: str) -> "PublicBase":
        """The base of a digest in a folder, which is read when it is loaded."""
        return cls(folder.path if isinstance(folder, PublicBase) else _path(folder), digest)

    def load(self) -> Any:
        """The model, frozen, every tensor of it bit for bit that of the checkpoint; what it does not save is built by its class.

        Raises:
            WeightsMismatch: the checkpoint is no longer that of the digest.
            ModelRefused: the model has a tensor that is not in the checkpoint, or is another there.
        """
        held = _checkpoint(self.path)
        found = digest_tensors(held)
        if found != self.digest:
            raise WeightsMismatch(
                f"the base {self.path} has the digest {found}, not {self.digest}: it is not, bit for bit, the one that the adapters "
                "were trained on. Restore it, or train anew"
            )
        with _quiet():
            model = package("transformers").AutoModelForCausalLM.from_pretrained(
                self.path, local_files_only=True, use_safetensors=True, dtype="auto"
            )
        model.requires_grad_(False)
        model.eval()
        model.config._name_or_path = ""
        for module in model.modules():
            if "name_or_path" in vars(module):
                module.name_or_path = ""  # where it lay is no part of it
        _compare(model, {info.name: info for info in held})
        return model


def check_base(model: nn.Module, folder: str | os.PathLike[str]) -> str:
    """Check that a model is a public checkpoint, bit for bit; returns the checkpoint's digest.

    Buffers that no file holds (rotary frequencies) must be those that the model's class computes from its configuration.

    Raises:
        ModelRefused: the message names a tensor that is another, or is in none of them.
        WeightsMismatch: the folder holds no whole checkpoint.
    """
    base = PublicBase.of(folder)
    other = dict((*named_parameters(fresh := base.load()), *named_buffers(fresh)))
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        if name not in other:
            raise ModelRefused(f"'{name}' is in no file of {folder}: a public base is its checkpoint and nothing else")
        _refuse_other(name, same_bits(tensor, other[name]))
    return base.digest


def _path(folder: object) -> Path:
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f"base must be the folder of a public checkpoint (save_pretrained), not {type(folder).__name__}: only a checkpoint shows "
            "that no private row has shaped its weights"
        )
    return Path(folder)


def _checkpoint(folder: Path) -> tuple[TensorInfo, ...]:
    if not folder.is_dir():
        raise WeightsMismatch(f"{folder} is no folder: give that of a public checkpoint (save_pretrained)")
    return weights_tensors(folder)


def _compare(model: nn.Module, held: dict[str, TensorInfo]) -> None:
    """Every saved tensor against the checkpoint; of tied ones one name is enough."""
    own: dict[int, list[tuple[str, Tensor]]] = {}
    unsaved = {name for name, _ in named_buffers(model)} - model.state_dict().keys()
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        if name not in unsaved:
            own.setdefault(id(tensor), []).append((name, tensor))
    for names in own.values():
        known = [(name, tensor) for name, tensor in names if name in held]
        if not known:
            raise ModelRefused(
                f"'{names[0][0]}' is not in the checkpoint and was drawn at random: a public base is its checkpoint and nothing "
                "else. Give the class that the checkpoint was saved from, or save the whole model first"
            )
        for name, tensor in known:
            _refuse_other(name, tensor_infos({name: tensor})[0] == held[name])


def _refuse_other(name: str, same: bool) -> None:
    if not same:
        raise ModelRefused(
            f"'{name}' is not, bit for bit, that of the public checkpoint: it may have been trained. Load it anew"
        )


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without the bars of transformers, which would tell of every shard's base."""
    logging = package("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
