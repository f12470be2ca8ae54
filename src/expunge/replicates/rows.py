"""Rows held on the device, pictures among them augmented a whole batch at a time by tables of indices."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from expunge import _validate

__all__ = ["Rows", "RunBatches", "crops", "rotations"]

_AHEAD = 1 << 15  # pictures augmented at a time, over a few steps ahead


class Rows:
    """Labelled rows: pictures, or any features, as bytes or as float32.

    Args:
        images: shape (n, height, width), (n, channels, height, width) or (n, features); uint8, which stands for values in
            [0, 1], or float32, taken as it is.
        labels: shape (n,).
        tables: ways to augment a picture, shape (ways, pixels), int32: entry p of a way is the pixel that goes to p, or
            `pixels` for black. None: no augmentation.
        mean: subtracted from the values; a number, or a tensor that broadcasts to one picture.
        std: divided by after that; a number or a tensor like `mean`.

    Raises:
        TypeError, ValueError: images are of another type, shapes do not agree, or std is not positive.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        tables: Tensor | None = None,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 1.0,
    ) -> None:
        if images.dtype not in (torch.uint8, torch.float32):
            raise TypeError(f"images must be uint8 or float32, not {images.dtype}")
        if len(images) != len(labels) or len(images) == 0 or images.dim() < 2:
            raise ValueError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not agree")
        self.shape = images.shape[1:]
        pixels = self.shape.numel()
        if tables is not None and (tables.dim() != 2 or tables.shape[1] != pixels):
            raise ValueError(f"tables must have shape (ways, {pixels}), not {tuple(tables.shape)}")
        # One more pixel, black, for what comes in from outside.
        self._rows = torch.cat([images.reshape(-1, pixels), images.new_zeros(len(images), 1)], dim=1)
        self.labels = labels.long()
        self._tables = None if tables is None else tables.to(images.device, torch.int32)
        self._scale, self._shift = _affine(mean, std, self.shape, images.device)
        if images.dtype == torch.uint8:
            self._scale = self._scale / 255

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Rows":
        """The same pictures on another device."""
        moved = object.__new__(Rows)
        moved.__dict__ |= self.__dict__
        moved._rows, moved.labels = self._rows.to(device), self.labels.to(device)
        moved._tables = None if self._tables is None else self._tables.to(device)
        moved._scale, moved._shift = self._scale.to(device), self._shift.to(device)
        return moved

    def batch(self, index: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(pictures as float32, labels) at `index` of any shape; augmented where a generator is given."""
        return self.scaled(self.pixels(index, generator=generator)), self.labels[index.reshape(-1)].view(index.shape)

    def pixels(self, index: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The pictures at `index` as they are held, shape (*index.shape, pixels); augmented where a generator is given."""
        flat = index.reshape(-1)
        if generator is None or self._tables is None:
            return self._rows[flat, :-1].view(*index.shape, -1)
        ways = torch.randint(len(self._tables), flat.shape, generator=generator, device=flat.device)
        augmented = _way_by_way if flat.device.type == "cpu" else _at_once
        return augmented(self._rows, flat, self._tables, ways).view(*index.shape, -1)

    def scaled(self, pixels: Tensor) -> Tensor:
        """Held values of shape (..., pixels) as normalised float32 pictures."""
        shaped = pixels.float().view(*pixels.shape[:-1], *self.shape)
        return (shaped * self._scale).add_(self._shift)


def _affine(
    mean: float | Tensor, std: float | Tensor, shape: torch.Size, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What a value is multiplied by, and what is added then, each broadcasting to `shape`."""
    m, s = (torch.as_tensor(value, dtype=torch.float64, device=device) for value in (mean, std))
    for name, value in (("mean", m), ("std", s)):
        try:
            fits = torch.broadcast_shapes(value.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits or not bool(value.isfinite().all()):
            raise ValueError(
                f"{name} must be finite and broadcast to a picture of shape {tuple(shape)}: {_validate.shown(value)}"
            )
    if not bool((s > 0).all()):
        raise ValueError(f"std must be positive everywhere, not {_validate.shown(std)}")
    return (1 / s).float(), (-m / s).float()


def _at_once(rows: Tensor, index: Tensor, tables: Tensor, ways: Tensor) -> Tensor:
    """Every pixel by its own index: one kernel on an accelerator."""
    where = tables[ways] + (index.int() * rows.shape[1])[:, None]
    return rows.view(-1)[where.long()]


def _way_by_way(rows: Tensor, index: Tensor, tables: Tensor, ways: Tensor) -> Tensor:
    """All pictures of one way together: numpy moves bytes along an axis several times as fast as torch on a CPU."""
    order = ways.argsort()
    source, columns = rows.numpy(), tables.numpy()
    where, at = index[order].numpy(), order.numpy()
    ends = torch.bincount(ways, minlength=len(tables)).cumsum(0).tolist()
    found = np.empty((len(at), columns.shape[1]), dtype=source.dtype)
    start = 0
    for way, end in enumerate(ends):
        if end > start:
            found[at[start:end]] = np.take(source[where[start:end]], columns[way], axis=1, mode="clip")
        start = end
    return torch.from_numpy(found)  # pyright: ignore[reportUnknownMemberType]


class RunBatches:
    """An endless stream of batches for many runs, each with rows, order and augmentation of its own.

    Args:
        data: all rows.
        rows: the rows of each run, shape (R, n); all runs have equally many.
        batch_size: b; the last incomplete batch of an epoch is left out.
        seed: of orders and augmentation.
        augment: whether pictures are augmented.
    """

    def __init__(self, data: Rows, rows: Tensor, *, batch_size: int, seed: int, augment: bool = True) -> None:
        _validate.whole(batch_size=batch_size)
        if rows.dim() != 2 or rows.shape[1] < batch_size:
            raise ValueError(
                f"rows must have shape (runs, n), n at least batch_size={batch_size}, not {tuple(rows.shape)}"
            )
        self._data, self._rows, self._size = data, rows.to(data.labels.device), batch_size
        self._coins = torch.Generator(self._rows.device).manual_seed(seed)
        self._augment = augment

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self._rows.shape[1] // self._size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of pictures, shape (R, b, ...), and labels, shape (R, b)."""
        coins = self._coins if self._augment else None
        runs, ahead = len(self._rows), max(1, _AHEAD // (len(self._rows) * self._size))
        while True:
            keys = torch.rand(self._rows.shape, generator=self._coins, device=self._rows.device)
            order = self._rows.gather(1, keys.argsort(dim=1))[:, : self.per_epoch * self._size]
            for index in order.split(ahead * self._size, dim=1):
                steps = index.reshape(runs, -1, self._size).transpose(0, 1).contiguous()
                labels = self._data.labels[steps]
                for pixels, y in zip(self._data.pixels(steps, generator=coins), labels, strict=True):
                    yield self._data.scaled(pixels), y


def rotations(shape: Sequence[int], *, degrees: float = 10.0, angles: int = 21, flip: bool = True) -> Tensor:
    """Tables of rotations about the centre, nearest pixel, with or without a horizontal flip before.

    Args:
        shape: (height, width) or (channels, height, width).
        degrees: the largest angle to either side.
        angles: how many, evenly spaced.
        flip: whether each comes flipped as well.
    """
    _validate.non_negative(degrees=degrees)
    _validate.whole(angles=angles)
    height, width = shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    tables: list[Tensor] = []
    for angle in torch.linspace(-math.radians(degrees), math.radians(degrees), angles).tolist():
        cos, sin = math.cos(angle), math.sin(angle)
        source_y = torch.round(cos * y - sin * x + (height - 1) / 2).long()
        source_x = torch.round(sin * y + cos * x + (width - 1) / 2).long()
        tables.append(_table(source_y, source_x, shape))
        if flip:
            tables.append(_table(source_y, width - 1 - source_x, shape))
    return torch.stack(tables)


def crops(shape: Sequence[int], *, padding: int = 4, flip: bool = True) -> Tensor:
    """Tables of crops of the picture's own size out of a black frame, with or without a horizontal flip.

    Args:
        shape: (height, width) or (channels, height, width).
        padding: width of the frame; all (2 padding + 1)² crops are there.
        flip: whether each comes flipped as well.
    """
    _validate.whole(padding=padding, least=0)
    height, width = shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    tables: list[Tensor] = []
    for dy in range(-padding, padding + 1):
        for dx in range(-padding, padding + 1):
            tables.append(_table(y + dy, x + dx, shape))
            if flip:
                tables.append(_table(y + dy, (width - 1 - x) + dx, shape))
    return torch.stack(tables)


def _table(y: Tensor, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Pixel indices for source coordinates, the same in every channel; outside is black."""
    height, width = shape[-2:]
    channels = shape[0] if len(shape) == 3 else 1
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    plane = y * width + x
    table = torch.stack([plane + c * height * width for c in range(channels)])
    return torch.where(inside, table, channels * height * width).reshape(-1).int()
