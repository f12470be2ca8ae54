"""The paper's data sets: from the folder named by EXPUNGE_DATA (or ../shared/data), pictures else from the public hub.

Where the folder of a set is there, its files are read in place and anything wrong with them is an error: a damaged copy is
never replaced in silence. The hub's rows may come in another order than the files', so that runs on the two agree in
distribution only.
"""

import gzip
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "DataError",
    "DataSet",
    "Source",
    "cifar10",
    "features",
    "features_path",
    "folder",
    "from_hub",
    "mnist",
]

WIDTH = 512  # features of a row
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


class DataError(Exception):
    """A data file is missing or not what it should be; the message says which and what to do."""


@dataclass(frozen=True)
class DataSet:
    """Rows of bytes and their labels; a network sees `(bytes / 255 - mean) / std`, broadcast over a row.

    Args:
        train_x: shape (n, ...), uint8.
        train_y: shape (n,).
        test_x: shape (m, ...), uint8.
        test_y: shape (m,).
        mean: a number, or a tensor that broadcasts to one row.
        std: like `mean`.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: float | Tensor
    std: float | Tensor


@dataclass(frozen=True)
class Source:
    """Where a set of pictures lies, and what it must be.

    Args:
        repository: on the hub, or a folder of parquet files.
        columns: there, of the picture and of its label.
        shape: of a picture as it is stored, channels last.
        counts: pictures to train and to test.
        classes: labels are below it.
    """

    repository: str
    columns: tuple[str, str]
    shape: tuple[int, ...]
    counts: tuple[int, int]
    classes: int


MNIST = Source("ylecun/mnist", ("image", "label"), (28, 28), (60_000, 10_000), 10)
CIFAR10 = Source("uoft-cs/cifar10", ("img", "label"), (32, 32, 3), (50_000, 10_000), 10)
CIFAR100 = Source("uoft-cs/cifar100", ("img", "fine_label"), (32, 32, 3), (50_000, 10_000), 100)


def folder() -> Path:
    """Where the data lie."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("EXPUNGE_DATA") or default)


def mnist(root: Path | None = None) -> DataSet:
    """MNIST from its four official files, or from the hub.

    Raises:
        DataError: a file is missing, truncated, or not MNIST; or there are no files and the hub does not answer.
    """
    parts = _pictures(_root(root) / "mnist", "mnist/ with its four files", _mnist_files, MNIST)
    return DataSet(*parts, mean=0.1307, std=0.3081)


def cifar10(root: Path | None = None) -> DataSet:
    """CIFAR-10 from `cifar10/cifar10_webp.npz`, or from the hub; a picture has shape (3, 32, 32).

    Raises:
        DataError: the file is missing, damaged, or not CIFAR-10; or there is no file and the hub does not answer.
    """
    parts = _pictures(_root(root) / "cifar10", "cifar10/ with cifar10_webp.npz", _cifar10_file, CIFAR10)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    return DataSet(*parts, mean=mean.view(3, 1, 1), std=std.view(3, 1, 1))


def features(name: str, root: Path | None = None) -> DataSet:
    """512 features of each picture of "cifar10" or "cifar100"; `features.py` says how they are made.

    Raises:
        DataError: the file is missing, damaged, or not of these features.
        ValueError: there are no features of such a set.
    """
    sources = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    if name not in sources:
        raise ValueError(f"features are of cifar10 and cifar100, not of {name!r}")
    return _features_file(features_path(name, _root(root)), sources[name])


def features_path(name: str, root: Path) -> Path:
    """The file of the features of a set."""
    return root / "features" / f"{name}_mobilenetv2_pca512_u8.npz"


def from_hub(source: Source) -> Parts:
    """Rows and labels from the hub, or from parquet files on disk; colours come first, as in (n, 3, 32, 32).

    Raises:
        DataError: the library is not installed, the hub does not answer, or what it holds is not the set.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{source.repository} is read with the library datasets: pip install 'expunge[paper]'"
        ) from error
    with _blamed(f"{source.repository} cannot be read from the hub"):
        splits = datasets.load_dataset(source.repository)
    if missing := {"train", "test"} - set(splits):
        raise DataError(f"{source.repository} has no split {sorted(missing)}")
    train, test = (
        _split(source, splits[part], part, n) for part, n in zip(("train", "test"), source.counts, strict=True)
    )
    return *train, *test


def _root(root: Path | None) -> Path:
    """The folder of all sets; one that was asked for must be there."""
    where = folder() if root is None else root
    asked = root is not None or os.environ.get("EXPUNGE_DATA")
    if asked and not where.is_dir():
        raise DataError(f"{where} is not a folder: set EXPUNGE_DATA to the folder of the data, or unset it")
    return where


def _pictures(where: Path, holds: str, read: Callable[[Path, Source], Parts], source: Source) -> Parts:
    """A set from the files in its folder `where`, or from the hub if there is no such folder."""
    if where.exists():
        return read(where, source)
    try:
        return from_hub(source)
    except DataError as error:
        raise DataError(
            f"{where} is not there, and then: {error}. Set EXPUNGE_DATA to a folder that holds {holds}"
        ) from error


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Any failure inside as a DataError that starts with `what`.

    Damaged bytes and absent networks make numpy, Pillow and datasets raise a long list of errors that is nowhere promised.
    """
    try:
        yield
    except Exception as error:
        raise DataError(f"{what}: {type(error).__name__}: {error}") from error


def _split(source: Source, rows: Any, part: str, count: int) -> tuple[Tensor, Tensor]:
    """One split of the hub: pictures, colours first, and labels."""
    what = f"{source.repository}, split {part}"
    if missing := set(source.columns) - set(rows.column_names):
        raise DataError(f"{what} has no column {sorted(missing)}, only {rows.column_names}")
    if len(rows) != count:
        raise DataError(f"{what} has {len(rows)} rows, not {count}")
    image, label = source.columns
    x = np.empty((count, *source.shape), np.uint8)
    for k in range(count):
        with _blamed(f"{what}, row {k}"):
            pixels = np.asarray(rows[k][image])
        if pixels.shape != source.shape or pixels.dtype != np.uint8:
            raise DataError(f"{what}, row {k} has {pixels.dtype} {pixels.shape} in {image}, not uint8 {source.shape}")
        x[k] = pixels
    return _channels_first(x), _labels(np.asarray(rows[label][:]), source.classes, f"{what}: {label}")


def _channels_first(x: np.ndarray) -> Tensor:
    """(n, h, w, c) to (n, c, h, w); grey pictures as they are."""
    return torch.from_numpy(x if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _labels(y: np.ndarray, classes: int, what: str) -> Tensor:
    """Labels as bytes, shape (n,)."""
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= classes:
        raise DataError(f"{what} is not whole numbers from 0 to {classes - 1}")
    return torch.from_numpy(y.astype(np.uint8))


def _mnist_files(where: Path, source: Source) -> Parts:
    """The four idx files."""
    parts: list[Tensor] = []
    for part, count in zip(("train", "t10k"), source.counts, strict=True):
        parts.append(_idx(where / f"{part}-images-idx3-ubyte.gz", (count, *source.shape)))
        path = where / f"{part}-labels-idx1-ubyte.gz"
        parts.append(_labels(_idx(path, (count,)).numpy(), source.classes, str(path)))
    return parts[0], parts[1], parts[2], parts[3]


def _idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One idx file of bytes: two zero bytes, type 8, the number of axes, their lengths, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing: set EXPUNGE_DATA to a folder that holds mnist/ with its four files"
        ) from error
    except Exception as error:  # gzip raises errors of files, of ends and of zlib
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if not content.startswith(head) or len(content) != len(head) + int(np.prod(shape)):
        raise DataError(f"{path} does not hold bytes of shape {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape).copy())


def _npz(path: Path, fields: dict[str, tuple[type, tuple[int | None, ...]]], remedy: str) -> dict[str, np.ndarray]:
    """The named fields of an npz file, each of its type and shape; None: any length."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {remedy}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error}") from error
    found: dict[str, np.ndarray] = {}
    with file:
        with _blamed(f"{path} is not a whole npz file"):
            archive = np.load(file)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is not an npz file but holds a single array")
        for name, (kind, shape) in fields.items():
            if name not in archive.files:
                raise DataError(f"{path} has no {name}")
            with _blamed(f"{path}: {name} cannot be read"):
                array = archive[name]
            fits = len(array.shape) == len(shape) and all(
                n in (None, m) for n, m in zip(shape, array.shape, strict=True)
            )
            if array.dtype != kind or not fits:
                raise DataError(f"{path}: {name} is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")
            found[name] = array
    return found


def _cifar10_file(where: Path, source: Source) -> Parts:
    """The npz file of lossless WebP strips."""
    path = where / "cifar10_webp.npz"
    fields: dict[str, Any] = {"shape": (np.int64, (3,))}
    for part, count in zip(("train", "test"), source.counts, strict=True):
        fields[f"{part}_blob"] = (np.uint8, (None,))
        fields[f"{part}_lens"] = (np.int64, (None,))
        fields[f"{part}_label"] = (np.uint8, (count,))
    held = _npz(path, fields, "set EXPUNGE_DATA to a folder that holds cifar10/ with it")
    if tuple(held["shape"]) != source.shape:
        raise DataError(f"{path}: shape is {held['shape'].tolist()}, not {source.shape}")
    parts: list[Tensor] = []
    for part, count in zip(("train", "test"), source.counts, strict=True):
        blob, lens = held[f"{part}_blob"], held[f"{part}_lens"]
        parts.append(_channels_first(_strips(blob, lens, (count, *source.shape), f"{path}: {part}_blob")))
        parts.append(_labels(held[f"{part}_label"], source.classes, f"{path}: {part}_label"))
    return parts[0], parts[1], parts[2], parts[3]


def _strips(blob: np.ndarray, lens: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Rows stacked vertically in strips, the strips one after the other: shape (n, h, w, 3)."""
    if (lens <= 0).any() or lens.sum() != len(blob):
        raise DataError(f"{what} has {len(blob)} bytes, which are not the sum of its lens")
    count, height, width, _ = shape
    x = np.empty(shape, np.uint8)
    ends, done = np.cumsum(lens), 0
    for k, (size, end) in enumerate(zip(lens, ends, strict=True)):
        with _blamed(f"{what}, strip {k} does not decode"), Image.open(io.BytesIO(blob[end - size : end])) as strip:
            pixels = np.asarray(strip)
        more = len(pixels) // height
        if pixels.shape != (more * height, width, 3) or done + more > count:
            raise DataError(f"{what}, strip {k} is {pixels.shape}, not pictures of {shape[1:]}, {count - done} at most")
        x[done : done + more] = pixels.reshape(more, *shape[1:])
        done += more
    if done != count:
        raise DataError(f"{what} holds {done} pictures, not {count}")
    return x


def _features_file(path: Path, source: Source) -> DataSet:
    """A file of quantised features of a set: x = (q - zero) * scale."""
    fields: dict[str, Any] = {"scale": (np.float32, (WIDTH,)), "zero": (np.uint8, ())}
    for part, count in zip(("train", "test"), source.counts, strict=True):
        fields[f"{part}_x"], fields[f"{part}_y"] = (np.uint8, (count, WIDTH)), (np.uint8, (count,))
    held = _npz(
        path,
        fields,
        "set EXPUNGE_DATA to a folder that holds features/ with it, "
        "or make it with `python benchmarks/paper/features.py --out FOLDER`",
    )
    scale = torch.from_numpy(held["scale"]).double()
    if not (scale.isfinite() & (scale > 0)).all():
        raise DataError(f"{path}: scale is not positive and finite")
    zero = float(held["zero"])
    return DataSet(
        torch.from_numpy(held["train_x"]),
        _labels(held["train_y"], source.classes, f"{path}: train_y"),
        torch.from_numpy(held["test_x"]),
        _labels(held["test_y"], source.classes, f"{path}: test_y"),
        mean=torch.full((WIDTH,), zero / 255),
        std=(1 / (255 * scale)).float(),
    )
