"""What a convex head's file holds: settings, exact weights, corrections, and the factor that makes requests cheap."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.errors import StateError
from expunge.heads.corrections import Corrections
from expunge.heads.newton import Preconditioner, Solution, Step
from expunge.heads.packed import DIGEST, PackedDigests
from expunge.heads.preconditioners import ClassBlocks, Dense, Kronecker
from expunge.heads.saved import CONVEX, seal, unseal

__all__ = ["Kept", "pack", "unpack"]

# What each factor is made of: the name of its attribute -> the name in the file.
_FACTORS: dict[type[ClassBlocks | Dense | Kronecker], dict[str, str]] = {
    ClassBlocks: {"_inverses": "inverses"},
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
        "learned": torch.from_numpy(known.learned.records().reshape(-1)),
        "removed": torch.from_numpy(known.removed.records().reshape(-1)),
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
    if isinstance(kept.factor, (ClassBlocks, Dense, Kronecker)):
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
        learned=_packed(tensors["learned"]),
        removed=_packed(tensors["removed"]),
        labels=dict(zip(_names(tensors["relabelled"]), tensors["labels"].tolist(), strict=True)),
        columns=frozenset(config["columns"]),
        cells=dict(zip(_names(tensors["zeroed"]), columns, strict=True)),
    )
    removed = corrections.removed.records()
    if not len(removed) < len(corrections.learned) or not corrections.learned.found(removed).all():
        raise StateError(f"{where}: its parts do not fit one another")
    steps = tuple(Step(**step) for step in found.pop("steps"))
    solution = Solution(weights, found["residual"], found["rounding"], found["start"], steps)
    factor = _factor(where, config["factor"], tensors, shape, settings)
    return settings, Kept(width=width, corrections=corrections, solution=solution, factor=factor)


def _factor(
    where: str, kind: str | None, tensors: Mapping[str, Tensor], shape: tuple[int, int], settings: Mapping[str, Any]
) -> Preconditioner | None:
    outputs, width = shape
    shapes = {ClassBlocks: (outputs + 1, width, width), Dense: (outputs * width, outputs * width), Kronecker: (width,)}
    for family, names in _FACTORS.items():
        if kind == family.__name__:
            parts: dict[str, Any] = {attribute: tensors[name] for attribute, name in names.items()}
            if tuple(next(iter(parts.values())).shape) != shapes[family]:
                raise StateError(f"{where}: its parts do not fit one another")
            parts |= {"_centred": settings["loss"] == "logistic"} if family is ClassBlocks else {}
            parts |= {"_regularization": settings["regularization"]} if family is Kronecker else {}
            made = family.__new__(family)
            vars(made).update(parts)
            return made
    return None


def _digests(names: Iterable[bytes]) -> Tensor:
    flat = bytearray(b"".join(sorted(names)))
    return torch.frombuffer(flat, dtype=torch.uint8) if flat else torch.zeros(0, dtype=torch.uint8)


def _names(flat: Tensor) -> list[bytes]:
    content = flat.numpy().tobytes()
    return [content[k : k + DIGEST] for k in range(0, len(content), DIGEST)]


def _packed(flat: Tensor) -> PackedDigests:
    return PackedDigests.of(flat.numpy().reshape(-1, DIGEST))
