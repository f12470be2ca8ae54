"""What a row holds, as bytes: two rows have the same bytes where they hold the same numbers, whatever their type.

Used to find a row again where it has no name, and to commit to it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from expunge._progress import track
from expunge.data.examples import Examples, as_examples

__all__ = ["Row", "is_label", "precision_of", "rows_of"]

_ROWS = 4096  # examples turned into bytes at a time
_LABELS = ("label", "labels", "target", "targets", "y")  # names of fields, whatever their case
_MASK = "attention_mask"
_WHOLE = 2**24  # every whole number up to here is a float32


@dataclass(frozen=True, eq=False)
class Row:
    """A row.

    Args:
        inputs: bytes of what a model is given: in a tuple the first part of more than one number a row, in a mapping
            every such part but labels; where no part has more than one number, every part, without labels where names tell
            them and two or more remain.
        whole: bytes of all parts.
        width: numbers in the inputs; None where the row is masked, and its length is free.
        names: of the inputs, in order; None for an input that has a position in the place of a name.
    """

    inputs: bytes
    whole: bytes
    width: int | None
    names: tuple[str | None, ...]


def rows_of(source: Any, *, precision: torch.dtype, label: str) -> Iterator[Row]:
    """All rows of examples, or of one pass over a loader of batches.

    Args:
        source: `Examples`, tensors, or a loader whose batches are tensors, numpy arrays, or tuples, lists or mappings of
            them; their first axis counts rows.
        precision: to which real numbers are rounded, e.g. float32; whole numbers stay exact.
        label: of the bar.

    Raises:
        TypeError: a batch holds something else, or can be read only once.
        ValueError: parts of a batch of different lengths.
    """
    examples = as_examples(source)
    batches = examples.chunks(_ROWS) if examples is not None else _every_batch(source)
    with torch.random.fork_rng(devices=[]):  # a loader's order is drawn from the global coins
        for batch in track(iter(batches), total=_length(examples, source), label=label):
            yield from _rows(batch, precision)


def precision_of(*sources: Any) -> torch.dtype:
    """The coarsest type of the real numbers in these sources, at most float32: in it a row is the same on all sides.

    Of a loader the first batch is read.
    """
    found = {torch.float32}
    for source in sources:
        examples = as_examples(source)
        with torch.random.fork_rng(devices=[]):
            first: Any = examples.values if examples is not None else next(iter(_every_batch(source)), ())
        found |= set(_real_types(first))
    return min(found, key=lambda dtype: -torch.finfo(dtype).eps)


def _real_types(batch: Any) -> Iterator[torch.dtype]:
    if isinstance(batch, Mapping):
        batch = list(cast("Mapping[str, Any]", batch).values())
    if isinstance(batch, (tuple, list)) and not _plain(batch):
        for entry in cast("Sequence[Any]", batch):
            yield from _real_types(entry)
    elif isinstance(batch, np.ndarray) and batch.dtype.kind == "f" and batch.dtype.itemsize <= 8:
        yield torch.from_numpy(np.empty(0, batch.dtype)).dtype
    elif isinstance(batch, Tensor) and (batch.is_floating_point() or batch.is_complex()):
        yield batch.dtype if batch.is_floating_point() else batch.dtype.to_real()


def _length(examples: Examples | None, source: Any) -> int | None:
    """Batches, for the bar; None where that is not known."""
    if examples is not None:
        return -(-len(examples) // _ROWS)
    try:
        return len(source)
    except TypeError:
        return None


def _every_batch(loader: Iterable[Any]) -> Iterable[Any]:
    """A pass that leaves no row out, where a loader's own pass may: its last incomplete batch, or rows drawn by lot."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None or loader.batch_sampler is None:
        return loader
    held = cast("DataLoader[Any]", loader)
    if isinstance(held.dataset, IterableDataset):
        if not held.drop_last:
            return held
        return DataLoader(cast("Any", held.dataset), batch_size=held.batch_size, collate_fn=held.collate_fn)
    sampler: Any = held.sampler
    drawn = getattr(sampler, "replacement", False) or (
        isinstance(sampler, RandomSampler) and sampler.num_samples < len(cast("Any", held.dataset))
    )
    if not drawn and not held.drop_last:
        return held
    order = range(len(cast("Any", held.dataset))) if drawn else sampler
    return DataLoader(
        held.dataset, batch_size=held.batch_size, sampler=cast("Any", order), collate_fn=held.collate_fn
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a batch, a row each: numbers rounded, and whole numbers that rounding would change, or texts."""

    numbers: NDArray[Any]
    exact: NDArray[np.int64] | None
    is_input: bool
    is_text: bool = False
    name: str | None = None

    def bytes_of(self, row: int, kept: NDArray[np.bool_] | None) -> bytes:
        numbers = self.numbers[row]
        where = slice(None) if kept is None or kept.shape != self.numbers.shape else kept[row]
        found = cast("bytes", numbers[where].tobytes())
        if self.exact is not None:
            exact = self.exact[row]
            if bool(((exact > _WHOLE) | (exact < -_WHOLE)).any()):
                return _framed(b"exact", found + exact[where].tobytes())
        return _framed(b"text" if self.is_text else b"numbers", found)


def _framed(kind: bytes, content: bytes) -> bytes:
    """Kind and length before the content: where a part ends is then never read from what it holds."""
    return kind + b":" + str(len(content)).encode() + b":" + content


def _rows(batch: Any, precision: torch.dtype) -> Iterator[Row]:
    if isinstance(batch, np.ndarray) and batch.ndim < 2 and batch.dtype.kind not in "USO":
        raise TypeError("rows of numbers must come as Examples(x) or in batches (x, y), not one array a row")
    if _plain(batch) and not all(isinstance(v, (str, bytes)) for v in batch):
        raise TypeError("rows of numbers must come as Examples(x) or in batches (x, y), not one list a row")
    if _uncollated(batch):
        raise TypeError(
            "a batch is a list of single examples: collate them, so that the first axis of tensors counts rows"
        )
    parts, mask = _parts(batch, precision)
    if not parts:
        raise TypeError(f"a batch of type {type(batch).__name__} holds no tensor whose rows could be told apart")
    lengths = {len(part.numbers) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"the parts of a batch must have one length, a row each, not {sorted(lengths)}")
    inputs = _inputs(parts)
    names = tuple(part.name for part in inputs)
    width = None if mask is not None else sum(part.numbers.shape[1] for part in inputs)
    for row in range(lengths.pop()):
        found = [(part, part.bytes_of(row, mask)) for part in parts]
        yield Row(
            inputs=b"".join(content for part, content in found if part in inputs),
            whole=b"".join(content for _, content in found),
            width=width,
            names=names,
        )


def _inputs(parts: list[_Part]) -> list[_Part]:
    if wide := [part for part in parts if part.is_input]:
        return wide
    told = [part for part in parts if part.name is not None and not is_label(part.name)]
    return told if len(told) > 1 else parts


def is_label(name: str) -> bool:
    """Whether a field of this name holds labels, as in "labels", "Y" or "batch/target"."""
    return name.rpartition("/")[2].lower() in _LABELS


def _parts(batch: Any, precision: torch.dtype) -> tuple[list[_Part], NDArray[np.bool_] | None]:
    """All parts in order, keys sorted; and which positions count, where the batch says so."""
    if isinstance(batch, Mapping):
        named = cast("Mapping[str, Any]", batch)
        parts: list[_Part] = []
        for key in sorted(named, key=str):
            below, _ = _parts(named[key], precision)
            for part in below:
                is_input = part.numbers.shape[1] > 1 and not is_label(str(key))
                name = str(key) if part.name is None else f"{key}/{part.name}"
                parts.append(replace(part, is_input=is_input, name=name))
        mask = named.get(_MASK)
        return parts, None if mask is None else np.asarray(_cpu(mask)) != 0
    if isinstance(batch, (Tensor, np.ndarray)) or _plain(batch):
        part = _part(batch, precision)
        return ([] if part is None else [part]), None
    if isinstance(batch, (tuple, list)):
        parts, mask = [], None
        for entry in cast("Sequence[Any]", batch):
            below, found = _parts(entry, precision)
            taken = any(p.is_input for p in parts)
            parts += [replace(p, is_input=p.is_input and not taken) for p in below]
            mask = found if mask is None else mask
        return parts, mask
    if batch is None or isinstance(batch, (str, bytes, int, float)):
        return [], None  # of the batch, not of its rows
    raise TypeError(
        f"rows in a {type(batch).__name__} cannot be told apart: batches must be tensors, or tuples or mappings of tensors"
    )


def _uncollated(batch: Any) -> bool:
    """Whether a batch is a list of examples, each of them a tuple or mapping with a tensor that is one number."""
    if not isinstance(batch, (tuple, list)):
        return False
    for entry in cast("Sequence[Any]", batch):
        inner = cast("Any", list(entry.values()) if isinstance(entry, Mapping) else entry)  # pyright: ignore
        if isinstance(inner, (tuple, list)) and any(isinstance(v, Tensor) and v.dim() == 0 for v in cast("Any", inner)):
            return True
    return False


def _plain(batch: Any) -> bool:
    return (
        isinstance(batch, (tuple, list))
        and bool(batch)
        and all(isinstance(v, (str, bytes, int, float)) for v in cast("list[Any]", batch))
    )


def _part(values: Any, precision: torch.dtype) -> _Part | None:
    """A part of shape (n, ...) as rows; None where it is one value for the whole batch."""
    array = np.asarray(_cpu(values)) if not isinstance(values, Tensor) else None
    if array is not None and array.dtype.kind in "USO":
        return _texts(array)
    tensor = _cpu(values) if isinstance(values, Tensor) else torch.from_numpy(np.array(array))
    if tensor.dim() == 0:
        return None
    if tensor.is_quantized or tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        raise TypeError(f"rows of {tensor.dtype} cannot be told apart")
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(
        len(tensor), -1 if len(tensor) else 0
    )
    numbers = flat.to(precision if flat.is_floating_point() or precision == torch.float64 else torch.float32, copy=True)
    if numbers.element_size() < 4:  # numpy has no bfloat16
        numbers = numbers.float()
    numbers += 0.0  # -0 becomes 0
    numbers[torch.isnan(numbers)] = float("nan")  # one NaN of many
    exact = None
    if not flat.is_floating_point() and flat.element_size() > 2:
        exact = flat.long().numpy()
    return _Part(numbers.numpy(), exact, numbers.shape[1] > 1)


def _texts(array: NDArray[Any]) -> _Part:
    """Texts, a row each, by their digests."""
    if array.ndim != 1 or not all(isinstance(v, (str, bytes)) for v in array.tolist()):
        raise TypeError(f"rows of {array.dtype} with shape {array.shape} cannot be told apart")
    raw = (v.encode() if isinstance(v, str) else v for v in array.tolist())
    digests = b"".join(hashlib.sha256(content).digest() for content in raw)
    return _Part(np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32), None, is_input=True, is_text=True)


def _cpu(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    held = values.detach()
    return (held.to_dense() if held.layout != torch.strided else held).cpu()
