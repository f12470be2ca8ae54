"""Forget a tenth of MNIST: `expunge unlearn examples/mnist.py:task --out mnist-unlearned`.

Reads the four official idx files from the folder `mnist` under EXPUNGE_DATA, by default `../shared/data`; where there is no
such folder they are fetched once from a public mirror, held against their SHA-256, and kept in `~/.cache/expunge/mnist`. The
network is that of Koloskova et al. 2025 (784-5-10, 3,985 weights); it is trained here, on all data, before it forgets.
"""

import gzip
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex

EPOCHS = 5
MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist")
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def task() -> ex.Task:
    """The network trained on all of MNIST, a random tenth of the training set to be forgotten."""
    images, labels = read("train")
    coins = torch.Generator().manual_seed(0)
    everything = ex.Examples(images, labels, ids=range(len(images)))  # names: two equal pictures are still two
    forget, retain = ex.data.split(everything, [len(images) // 10], generator=coins)
    trained = ex.unlearners.train_from_scratch(make_model, everything, loss=loss, epochs=EPOCHS, generator=coins)
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
    images = _idx(f"{part}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _idx(f"{part}-labels-idx1-ubyte.gz", header=8)
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(labels.astype(np.int64))


def _idx(name: str, *, header: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    given = Path(os.environ.get("EXPUNGE_DATA", "../shared/data")) / "mnist" / name
    content = given.read_bytes() if given.is_file() else _fetched(name)
    return np.frombuffer(gzip.decompress(content), dtype=np.uint8, offset=header)


def _fetched(name: str) -> bytes:
    """One of the official files, from the cache or a mirror; any other content is refused."""
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expunge" / "mnist" / name
    if kept.is_file() and _is_official(name, kept.read_bytes()):
        return kept.read_bytes()
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(f"{mirror}/{name}", timeout=30) as answer:  # noqa: S310 - of MIRRORS
                content: bytes = answer.read()
        except (OSError, http.client.HTTPException):  # no network, or a mirror that is gone: the next one
            continue
        if _is_official(name, content):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_bytes(content)
            part.replace(kept)
            return content
    raise ex.errors.TaskError(
        f"no MNIST: set EXPUNGE_DATA to a folder that holds mnist/{name} and its three siblings; no mirror gave the official file"
    )


def _is_official(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256[name]
