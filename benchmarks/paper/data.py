"""The paper's data sets, read in place from the folder named by EXPUNGE_DATA (or ../shared/data)."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["DataError", "DataSet", "folder", "mnist"]


class DataError(Exception):
    """A data file is missing or not what it should be; the message says which and what to do."""


@dataclass(frozen=True)
class DataSet:
    """Pictures as bytes and their labels.

    Args:
        train_x: shape (n, ...), uint8.
        train_y: shape (n,).
        test_x: shape (m, ...), uint8.
        test_y: shape (m,).
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def folder() -> Path:
    """Where the data lie."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("EXPUNGE_DATA", default))


def mnist(root: Path | None = None) -> DataSet:
    """MNIST from its four official files.

    Raises:
        DataError: a file is missing, truncated, or not MNIST.
    """
    where = (folder() if root is None else root) / "mnist"
    parts = [
        _idx(where / f"{part}-{kind}-ubyte.gz", shape)
        for part, count in (("train", 60_000), ("t10k", 10_000))
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,)))
    ]
    return DataSet(*parts)


def _idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One idx file of bytes: two zero bytes, type 8, the number of axes, their lengths, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing: set EXPUNGE_DATA to a folder that holds mnist/ with its four files"
        ) from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if not content.startswith(head) or len(content) != len(head) + int(np.prod(shape)):
        raise DataError(f"{path} does not hold bytes of shape {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape).copy())
