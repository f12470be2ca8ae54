"""Forget a tenth of MNIST: `expunge unlearn examples/mnist.py:task --out mnist-unlearned`.

Reads the four official idx files from the folder `mnist` under EXPUNGE_DATA, by default `../shared/data`. The network
is that of Koloskova et al. 2025 (784-5-10, 3,985 weights); it is trained here, on all data, before it forgets.
"""

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

EPOCHS = 5


def task() -> ex.Task:
    """The network trained on all of MNIST, a random tenth of the training set to be forgotten."""
    images, labels = read("train")
    coins = torch.Generator().manual_seed(0)
    everything = ex.Examples(images, labels, ids=range(len(images)))  # names: two equal pictures are still two
    forget, retain = ex.split(everything, [len(images) // 10], generator=coins)
    trained = ex.retrain(make_model, everything, loss=loss, epochs=EPOCHS, generator=coins)
    return ex.Task(
        model=trained.model,
        retain=retain,
        forget=forget,
        held_out=ex.Examples(*read("t10k")),
        loss=loss,
        make_model=make_model,
    )


def make_model() -> nn.Module:
    """The paper's multilayer perceptron."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 10))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of (images, labels)."""
    return F.cross_entropy(model(batch[0]), batch[1])


def read(part: str) -> tuple[Tensor, Tensor]:
    """Images as float32 in [0, 1] of shape (n, 28, 28), and labels, of "train" or "t10k"."""
    folder = Path(os.environ.get("EXPUNGE_DATA", "../shared/data")) / "mnist"
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: put the official MNIST files there, or set EXPUNGE_DATA")
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _idx(folder / f"{part}-labels-idx1-ubyte.gz", header=8)
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(labels.astype(np.int64))


def _idx(path: Path, *, header: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)
