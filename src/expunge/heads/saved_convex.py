"""What a convex head's file holds: settings, exact weights, corrections, and the factor that makes requests cheap."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.errors import StateError
from expunge.heads.corrections import Corrections
from expunge.heads.newton import Dense, Kronecker, Preconditioner, Solution, Step
from expunge.heads.saved import CONVEX, seal, unseal

__all__ = ["Kept", "pack", "unpack"]

_DIGEST = 16  # bytes, see `requests.digest`
# What each factor is made of: the name of its attribute -> the name in the file.
_FACTORS: dict[type[Dense | Kronecker], dict[str, str]] = {
    Dense: {"_inverse": "inverse"},
    Kronecker: {"_values": "gram_values", "_vectors": "gram_vectors"},
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """All that a fitted head holds beside its settings.

    Args:
        width: d, features of a row.
        corrections: which rows were learned, and how they changed; its key is not written.
        solution: the exact weights, and how they were reached.
        factor: the kept inverse Hessian or Gram matrix; None where it is not kept.
    """

    width: int
    corrections: Corrections
    solution: Solution
    factor: Preconditioner | None


def pack(settings: Mapping[str, Any], kept: Kept, *, key: bytes) -> bytes:
    """A file's content: a function of the state alone, digests sorted."""
    known, solution = kept.corrections, kept.solution
    relabelled, zeroed = sorted(known.labels.items()), sorted((d, sorted(c)) for d, c in known.cells.items())
    tensors = {
        "weights": solution.weights,
        "learned": _digests(known.learned),
        "removed": _digests(known.removed),
        "relabelled": _digests(d for d, _ in relabelled),
        "labels": torch.tensor([label for _, label in relabelled], dtype=torch.int64),
        "zeroed": _digests(d for d, _ in zeroed),
        "zeroed_counts": torch.tensor([len(columns) for _, columns in zeroed], dtype=torch.int64),
        "zeroed_columns": torch.tensor([c for _, columns in zeroed for c in columns], dtype=torch.int64),
    }
    config: dict[str, Any] = {
        "settings": dict(settings),
        "width": kept.width,
        "columns": sorted(known.columns),
        "solution": {
            "residual": solution.residual,
            "rounding": solution.rounding,
            "start": solution.start,
            "steps": [asdict(step) for step in solution.steps],
        },
        "factor": None if kept.factor is None else type(kept.factor).__name__,
    }
    if isinstance(kept.factor, (Dense, Kronecker)):
        held: dict[str, Any] = vars(kept.factor)
        tensors |= {name: held[attribute] for attribute, name in _FACTORS[type(kept.factor)].items()}
    # A product's last bits depend on the order in which a matrix lies in memory, so that is kept too.
    across = [name for name, t in tensors.items() if t.dim() == 2 and not t.is_contiguous() and t.T.is_contiguous()]
    lying = {name: (t.T if name in across else t).contiguous() for name, t in tensors.items()}
    return seal(CONVEX, config | {"column_major": across}, lying, key=key)


def unpack(path: str | os.PathLike[str], *, key: bytes, digest_key: bytes) -> tuple[dict[str, Any], Kept]:
    """Settings and state of a file.

    Raises:
        StateError: as `saved.unseal`; or parts that do not fit one another, weights below float64 among them.
    """
    where = os.fspath(path)
    config, stored = unseal(CONVEX, path, key=key)
    # Copies lie where torch puts its own tensors: products of others may differ in the last bit.
    tensors = {name: t.clone().T if name in config["column_major"] else t.clone() for name, t in stored.items()}
    settings, width, weights = config["settings"], config["width"], tensors["weights"]
    shape = (settings["classes"], width + int(settings["bias"]))
    if weights.dtype != torch.float64 or tuple(weights.shape) != shape:
        raise StateError(
            f"{where}: weights are {weights.dtype} of shape {tuple(weights.shape)}, not float64 of {shape}"
        )
    found = config["solution"]
    if not found["residual"] <= settings["residual"]:
        raise StateError(f"{where}: the residual is {found['residual']:g}, above residual={settings['residual']:g}")
    counts = tensors["zeroed_counts"].tolist()
    columns = [frozenset(part.tolist()) for part in tensors["zeroed_columns"].split(counts)] if counts else []
    corrections = Corrections(
        key=digest_key,
        learned=frozenset(_names(tensors["learned"])),
        removed=frozenset(_names(tensors["removed"])),
        labels=dict(zip(_names(tensors["relabelled"]), tensors["labels"].tolist(), strict=True)),
        columns=frozenset(config["columns"]),
        cells=dict(zip(_names(tensors["zeroed"]), columns, strict=True)),
    )
    if not corrections.removed < corrections.learned:
        raise StateError(f"{where}: its parts do not fit one another")
    steps = tuple(Step(**step) for step in found.pop("steps"))
    solution = Solution(weights, found["residual"], found["rounding"], found["start"], steps)
    factor = _factor(where, config["factor"], tensors, math.prod(shape), settings["regularization"])
    return settings, Kept(width=width, corrections=corrections, solution=solution, factor=factor)


def _factor(
    where: str, kind: str | None, tensors: Mapping[str, Tensor], size: int, regularization: float
) -> Preconditioner | None:
    for family, names in _FACTORS.items():
        if kind == family.__name__:
            parts = {attribute: tensors[name] for attribute, name in names.items()}
            if family is Dense and parts["_inverse"].shape != (size, size):
                raise StateError(f"{where}: its parts do not fit one another")
            made = family.__new__(family)
            vars(made).update(parts if family is Dense else parts | {"_regularization": regularization})
            return made
    return None


def _digests(names: Iterable[bytes]) -> Tensor:
    flat = bytearray(b"".join(sorted(names)))
    return torch.frombuffer(flat, dtype=torch.uint8) if flat else torch.zeros(0, dtype=torch.uint8)


def _names(flat: Tensor) -> list[bytes]:
    content = flat.numpy().tobytes()
    return [content[k : k + _DIGEST] for k in range(0, len(content), _DIGEST)]
