"""Make the two files of features: CIFAR-10 and CIFAR-100 through a public ImageNet MobileNetV2.

    pip install 'expunge[paper]' transformers
    python benchmarks/paper/features.py --out FOLDER    # writes FOLDER/features/; then EXPUNGE_DATA=FOLDER

A file depends on no row of its own set but the row itself: the backbone is public, and the projection to 512 and the scale
of the bytes are fitted on the other set.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from data import CIFAR100, WIDTH, DataError, Parts, cifar10, features_path, from_hub

BACKBONE = "google/mobilenet_v2_1.0_224"
SIZE, BATCH, ZERO = 160, 250, 128
Backbone = Callable[[Tensor], Tensor]


def fit(x: Tensor, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows (n, d): their centre (d,), leading principal directions (d, width), and the scale (width,) of their bytes.

    Raises:
        ValueError: the rows do not span `width` directions.
    """
    x = x.double()  # the smallest of 512 variances drown in float32
    centre = x.mean(0)
    values, vectors = torch.linalg.eigh((x - centre).mT @ (x - centre))
    if len(values) < width or values[-width] <= values[-1] * 1e-12:
        raise ValueError(f"rows of shape {tuple(x.shape)} do not span {width} directions")
    basis = vectors.flip(1)[:, :width]
    most = ((x - centre) @ basis).abs().amax(0)
    return centre, basis, (most / (255 - ZERO)).float()  # none of these rows is clipped


def quantise(x: Tensor, centre: Tensor, basis: Tensor, scale: Tensor) -> Tensor:
    """The bytes q of `(x - centre) @ basis = (q - 128) * scale`, clipped: shape (n, width), uint8."""
    z = (x.double() - centre) @ basis / scale
    return (z.round() + ZERO).clamp(0, 255).to(torch.uint8)


def mobilenet(device: str) -> Backbone:
    """The public network: pictures (n, 3, h, w) in [-1, 1] to pooled features (n, 1280).

    Raises:
        DataError: the library is not installed, or the weights cannot be had.
    """
    try:
        from transformers import MobileNetV2Model
    except ModuleNotFoundError as error:
        raise DataError("the backbone is read with the library transformers: pip install transformers") from error
    try:
        model = MobileNetV2Model.from_pretrained(BACKBONE).eval().to(device)
    except Exception as error:
        raise DataError(f"{BACKBONE} cannot be read from the hub: {type(error).__name__}: {error}") from error
    return lambda x: model(x).pooler_output


def embed(backbone: Backbone, pictures: Tensor, *, device: str, what: str) -> Tensor:
    """Features (n, d), float32, of pictures (n, 3, h, w), uint8, enlarged to 160x160."""
    found: list[Tensor] = []
    with torch.inference_mode():
        for batch in track(pictures.split(BATCH), description=what):
            large = F.interpolate(batch.to(device).float(), size=(SIZE, SIZE), mode="bicubic").clamp(0, 255)
            found.append(backbone(large / 127.5 - 1).float().cpu())
    return torch.cat(found)


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """One npz file; an interrupted run leaves none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


def make(out: Path, backbone: Backbone, sets: dict[str, Parts], *, width: int = WIDTH, device: str = "cpu") -> None:
    """The files of two sets, each projected as fitted on the other's training rows."""
    x = {name: [embed(backbone, p, device=device, what=name) for p in parts[::2]] for name, parts in sets.items()}
    for name, other in zip(sets, reversed(sets), strict=True):
        centre, basis, scale = fit(x[other][0], width)
        train_x, test_x = (quantise(rows, centre, basis, scale).numpy() for rows in x[name])
        train_y, test_y = (y.numpy() for y in sets[name][1::2])
        arrays = {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}
        write(features_path(name, out), arrays | {"scale": scale.numpy(), "zero": np.array(ZERO, np.uint8)})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cifar100", default=CIFAR100.repository, help="on the hub, or a folder of its parquet files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    try:
        backbone = mobilenet(options.device)
        ten = cifar10()
        pictures = (ten.train_x, ten.train_y, ten.test_x, ten.test_y)
        hundred = from_hub(replace(CIFAR100, repository=options.cifar100))
    except DataError as error:
        sys.exit(str(error))
    make(options.out, backbone, {"cifar10": pictures, "cifar100": hundred}, device=options.device)


if __name__ == "__main__":
    main()
