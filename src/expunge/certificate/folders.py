"""Which files of a folder hold a model's weights: as `save_pretrained` of transformers and of PEFT writes them."""

import json
import os
from pathlib import Path

from expunge.errors import WeightsMismatch

__all__ = ["files_in"]

_MODEL, _INDEX, _ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
# Other files that loaders take weights from: no digest would cover them.
_WEIGHTS = frozenset({
    ".safetensors", ".bin", ".pt", ".pt2", ".pth", ".ckpt", ".h5", ".keras", ".msgpack", ".npz", ".npy", ".pkl", ".pickle", ".gguf",
    ".onnx", ".joblib", ".ot", ".tflite", ".pb", ".tar", ".zip",
})  # fmt: skip


def files_in(folder: str | os.PathLike[str]) -> list[tuple[str, Path]]:
    """Every file of weights in a folder, with what comes before the names of its tensors.

    A folder holds one model (whole, or in parts that an index names), or an adapter; and adapters in folders of their own, whose
    names come before those of their tensors.

    Raises:
        WeightsMismatch: it holds no weights, others beside them, or not the parts that its index names.
    """
    home = Path(folder)
    found = [("", path) for path in _own(home)]
    below = sorted(path for path in home.iterdir() if path.is_dir() and (path / _ADAPTER).exists())
    found += [(f"{path.name}.", each) for path in below for each in _own(path)]
    if not found:
        raise WeightsMismatch(f"{home} holds no {_MODEL}, {_INDEX} or {_ADAPTER}, nor folders with the latter")
    held = {path for _, path in found}
    for path in sorted(home.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise WeightsMismatch(f"{path} is a link to a folder: a folder must hold what it names")
        if path.suffix.lower() in _WEIGHTS and path not in held:
            raise WeightsMismatch(
                f"{path} lies beside the weights, and would not be covered: a folder must hold one model"
            )
    return found


def _own(folder: Path) -> list[Path]:
    here = [name for name in (_MODEL, _INDEX, _ADAPTER) if (folder / name).exists()]
    if len(here) > 1:
        raise WeightsMismatch(f"{folder} holds {' and '.join(here)}: which of them would be loaded is not told")
    if here != [_INDEX]:
        return [folder / name for name in here]
    try:
        plain: object = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        names = sorted({str(name) for name in plain["weight_map"].values()})  # pyright: ignore
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsMismatch(f"{folder / _INDEX} names no parts: {error}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightsMismatch(f"{folder / _INDEX} names {name!r}, which is no file beside it")
    return [folder / name for name in names]
