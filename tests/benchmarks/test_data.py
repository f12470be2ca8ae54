"""The paper's data: what a file must be, what is said of one that is not, and when the hub is asked. No network is used."""

import gzip
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from expunge.replicates import Rows

COUNTS = (5, 3)  # of the small sets here


@pytest.fixture
def small(data, monkeypatch):
    """The module, where every set has five pictures to train and three to test."""
    for name in ("MNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setattr(data, name, replace(getattr(data, name), counts=COUNTS))
    return data


@pytest.fixture
def hub(small, tmp_path, monkeypatch):
    """Maker of parquet files that stand in for the hub, which is out of reach; no data but there."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # read when the library is first imported
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    monkeypatch.setattr(small, "__file__", str(tmp_path / "repository" / "benchmarks" / "paper" / "data.py"))

    def make(name, pictures, labels, *, splits=("train", "test"), columns=None):
        """A data set of the splits, each picture one of `pictures[split]`; the module then takes it for the hub's."""
        source = getattr(small, name)
        where = tmp_path / "hub" / name
        where.mkdir(parents=True)
        image, label = columns or source.columns
        as_stored = datasets.Features({image: datasets.Image(), label: datasets.Value("int64")})
        for split, x, y in zip(splits, pictures, labels, strict=True):
            rows = {image: [Image.fromarray(picture) for picture in x], label: list(y)}
            datasets.Dataset.from_dict(rows, features=as_stored).to_parquet(where / f"{split}.parquet")
        monkeypatch.setattr(small, name, replace(source, repository=str(where)))

    return make


def random_pictures(*shape):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (n, *shape), dtype=np.uint8) for n in COUNTS]


LABELS = [np.arange(n, dtype=np.uint8) for n in COUNTS]


def write_idx(path, shape, *, cut=0, largest=251):
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    body = bytes(k % largest for k in range(torch.Size(shape).numel()))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress((head + body)[: len(head + body) - cut], compresslevel=1))


def write_mnist(root):
    for part, n in zip(("train", "t10k"), COUNTS, strict=True):
        write_idx(root / "mnist" / f"{part}-images-idx3-ubyte.gz", (n, 28, 28))
        write_idx(root / "mnist" / f"{part}-labels-idx1-ubyte.gz", (n,))


def webp(pictures, **options):
    content = io.BytesIO()
    Image.fromarray(np.concatenate(list(pictures))).save(content, "WEBP", lossless=True, **options)
    return np.frombuffer(content.getvalue(), np.uint8)


def strips(pictures):
    """The blob and the lengths of strips of two pictures."""
    parts = [webp(pictures[k : k + 2]) for k in range(0, len(pictures), 2)]
    return np.concatenate(parts), np.array([len(part) for part in parts])


def cifar10_arrays():
    arrays = {"shape": np.array([32, 32, 3])}
    for part, x, y in zip(("train", "test"), random_pictures(32, 32, 3), LABELS, strict=True):
        arrays[f"{part}_blob"], arrays[f"{part}_lens"] = strips(x)
        arrays[f"{part}_label"] = y
    return arrays


def features_arrays():
    (train_x, test_x), (train_y, test_y) = random_pictures(512), LABELS
    scale = np.linspace(0.01, 0.2, 512, dtype=np.float32)
    return {
        "train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y,
        "scale": scale, "zero": np.array(128, np.uint8),
    }  # fmt: skip


def write_npz(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def write_cifar10(root, **changed):
    write_npz(root / "cifar10" / "cifar10_webp.npz", cifar10_arrays() | changed)


def write_features(root, name="cifar10", **changed):
    write_npz(root / "features" / f"{name}_mobilenetv2_pca512_u8.npz", features_arrays() | changed)


# MNIST's idx files


def test_a_missing_file_is_named_with_the_remedy(data, tmp_path):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte\.gz is missing: set EXPUNGE_DATA"):
        data.mnist(tmp_path)


def test_a_truncated_gzip_file_is_named(data, tmp_path):
    path = tmp_path / "part.gz"
    write_idx(path, (3, 2, 2))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(data.DataError, match=r"part\.gz is not a whole gzip file"):
        data._idx(path, (3, 2, 2))


def test_a_gzip_file_damaged_inside_is_named(data, tmp_path):
    path = tmp_path / "part.gz"
    write_idx(path, (3, 2, 2))
    content = bytearray(path.read_bytes())
    content[10] = 0xFF  # the first byte of the compressed stream
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"part\.gz is not a whole gzip file"):
        data._idx(path, (3, 2, 2))


@pytest.mark.parametrize(("shape", "cut"), [((3, 2, 2), 1), ((3, 2, 3), 0), ((4, 2, 2), 0)])
def test_bytes_of_another_shape_are_refused(data, tmp_path, shape, cut):
    write_idx(tmp_path / "part.gz", shape, cut=cut)
    with pytest.raises(data.DataError, match=r"does not hold bytes of shape \(3, 2, 2\)"):
        data._idx(tmp_path / "part.gz", (3, 2, 2))


def test_an_idx_file_is_read_as_it_was_written(data, tmp_path):
    write_idx(tmp_path / "part.gz", (3, 2, 2))
    assert data._idx(tmp_path / "part.gz", (3, 2, 2)).flatten().tolist() == list(range(12))


def test_mnist_is_its_four_files_in_order(small, tmp_path):
    write_mnist(tmp_path)
    found = small.mnist(tmp_path)
    assert (found.train_x.shape, found.test_x.shape) == ((5, 28, 28), (3, 28, 28))
    assert (found.train_y.tolist(), found.test_y.tolist()) == ([0, 1, 2, 3, 4], [0, 1, 2])
    assert (found.mean, found.std) == (0.1307, 0.3081)


def test_a_digit_above_nine_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(small, "MNIST", replace(small.MNIST, counts=(12, 3)))
    write_mnist(tmp_path)
    write_idx(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", (12, 28, 28))
    write_idx(tmp_path / "mnist" / "train-labels-idx1-ubyte.gz", (12,))
    with pytest.raises(small.DataError, match=r"train-labels-idx1-ubyte\.gz is not whole numbers from 0 to 9"):
        small.mnist(tmp_path)


# Npz files


def test_cifar10_is_read_as_it_was_written_with_colours_first(small, tmp_path):
    write_cifar10(tmp_path)
    found = small.cifar10(tmp_path)
    for x, y, wrote, labels in zip(
        (found.train_x, found.test_x), (found.train_y, found.test_y), random_pictures(32, 32, 3), LABELS, strict=True
    ):
        assert x.is_contiguous()
        assert torch.equal(x, torch.from_numpy(wrote).permute(0, 3, 1, 2))
        assert torch.equal(y, torch.from_numpy(labels))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_features_are_read_as_they_were_written(small, tmp_path, name):
    write_features(tmp_path, name)
    found, wrote = small.features(name, tmp_path), features_arrays()
    for field in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(found, field), torch.from_numpy(wrote[field]))
    assert (found.mean.shape, found.std.shape) == ((512,), (512,))
    assert (found.mean.dtype, found.std.dtype) == (torch.float32, torch.float32)


def test_features_of_another_set_are_not_known(small, tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 and cifar100, not of 'mnist'"):
        small.features("mnist", tmp_path)


READERS = [
    ("cifar10", "cifar10/cifar10_webp.npz", write_cifar10),
    ("features", "features/cifar10_mobilenetv2_pca512_u8.npz", write_features),
]


def read(module, which, root):
    return module.cifar10(root) if which == "cifar10" else module.features("cifar10", root)


@pytest.mark.parametrize(("which", "file", "write"), READERS)
class TestAnNpzFile:
    def test_that_is_missing_is_named_and_the_hub_not_asked(self, small, tmp_path, which, file, write):
        (tmp_path / file).parent.mkdir()
        with pytest.raises(
            small.DataError, match=rf"{file} is missing: set EXPUNGE_DATA to a folder that holds {which}/"
        ):
            read(small, which, tmp_path)

    def test_that_is_a_folder_is_named(self, small, tmp_path, which, file, write):
        (tmp_path / file).mkdir(parents=True)
        with pytest.raises(small.DataError, match=rf"{file} cannot be opened"):
            read(small, which, tmp_path)

    @pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 nor this"])
    def test_that_is_no_archive_is_named(self, small, tmp_path, which, file, write, content):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_bytes(content)
        with pytest.raises(small.DataError, match=rf"{file} is not a whole npz file"):
            read(small, which, tmp_path)

    def test_that_is_truncated_is_named(self, small, tmp_path, which, file, write):
        write(tmp_path)
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(small.DataError, match=rf"{file} is not a whole npz file"):
            read(small, which, tmp_path)

    def test_that_is_damaged_inside_is_named_with_the_field(self, small, tmp_path, which, file, write):
        write(tmp_path)
        content = bytearray((tmp_path / file).read_bytes())
        field = b"train_blob" if which == "cifar10" else b"train_x"
        start = content.index(field + b".npy") + 1_000
        content[start : start + 64] = bytes(64)
        (tmp_path / file).write_bytes(content)
        with pytest.raises(small.DataError, match=rf"{file}: {field.decode()} cannot be read"):
            read(small, which, tmp_path)

    def test_that_is_a_single_array_is_named(self, small, tmp_path, which, file, write):
        (tmp_path / file).parent.mkdir()
        with (tmp_path / file).open("wb") as out:
            np.save(out, np.zeros(3))
        with pytest.raises(small.DataError, match=rf"{file} is not an npz file but holds a single array"):
            read(small, which, tmp_path)

    def test_that_needs_pickle_is_refused(self, small, tmp_path, which, file, write):
        field = "train_label" if which == "cifar10" else "train_y"
        write(tmp_path, **{field: np.array([print] * 5)})
        with pytest.raises(small.DataError, match=rf"{file}: {field} cannot be read: ValueError: Object arrays"):
            read(small, which, tmp_path)


@pytest.mark.parametrize("field", sorted(cifar10_arrays()))
def test_a_missing_field_of_cifar10_is_named(small, tmp_path, field):
    write_npz(tmp_path / "cifar10" / "cifar10_webp.npz", {k: v for k, v in cifar10_arrays().items() if k != field})
    with pytest.raises(small.DataError, match=rf"cifar10_webp\.npz has no {field}"):
        small.cifar10(tmp_path)


@pytest.mark.parametrize("field", sorted(features_arrays()))
def test_a_missing_field_of_features_is_named(small, tmp_path, field):
    where = tmp_path / "features" / "cifar10_mobilenetv2_pca512_u8.npz"
    write_npz(where, {k: v for k, v in features_arrays().items() if k != field})
    with pytest.raises(small.DataError, match=rf"pca512_u8\.npz has no {field}"):
        small.features("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shape": np.array([32, 32])}, r"shape is int64 \(2,\), not int64 \(3,\)"),
        ({"shape": np.array([28, 32, 3])}, r"shape is \[28, 32, 3\], not \(32, 32, 3\)"),
        ({"train_blob": np.zeros(9, np.int8)}, r"train_blob is int8 \(9,\), not uint8"),
        ({"test_lens": np.ones(2)}, r"test_lens is float64 \(2,\), not int64"),
        ({"test_lens": np.array([3, 4])}, r"test_blob has \d+ bytes, which are not the sum of its lens"),
        ({"test_blob": np.zeros(1, np.uint8), "test_lens": np.array([2, -1])}, r"test_blob has 1 bytes, which are not"),
        ({"train_label": np.zeros(4, np.uint8)}, r"train_label is uint8 \(4,\), not uint8 \(5,\)"),
        ({"train_label": np.zeros(5, np.int64)}, r"train_label is int64 \(5,\), not uint8"),
        ({"test_label": np.array([0, 9, 10], np.uint8)}, r"test_label is not whole numbers from 0 to 9"),
    ],
)
def test_a_field_of_cifar10_that_is_something_else_is_named(small, tmp_path, changed, said):
    write_cifar10(tmp_path, **changed)
    with pytest.raises(small.DataError, match=r"cifar10_webp\.npz: " + said):
        small.cifar10(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scale": np.ones(512)}, r"scale is float64 \(512,\), not float32"),
        ({"scale": np.ones(511, np.float32)}, r"scale is float32 \(511,\), not float32 \(512,\)"),
        ({"scale": np.zeros(512, np.float32)}, r"scale is not positive and finite"),
        ({"scale": np.full(512, np.nan, np.float32)}, r"scale is not positive and finite"),
        ({"zero": np.array(128)}, r"zero is int64 \(\), not uint8"),
        ({"zero": np.array([128], np.uint8)}, r"zero is uint8 \(1,\), not uint8 \(\)"),
        ({"train_x": np.zeros((5, 512), np.float32)}, r"train_x is float32"),
        ({"test_x": np.zeros((3, 511), np.uint8)}, r"test_x is uint8 \(3, 511\), not uint8 \(3, 512\)"),
        ({"train_y": np.zeros((5, 1), np.uint8)}, r"train_y is uint8 \(5, 1\), not uint8 \(5,\)"),
        ({"test_y": np.array([0, 10, 0], np.uint8)}, r"test_y is not whole numbers from 0 to 9"),
    ],
)
def test_a_field_of_features_that_is_something_else_is_named(small, tmp_path, changed, said):
    write_features(tmp_path, **changed)
    with pytest.raises(small.DataError, match=r"cifar10_mobilenetv2_pca512_u8\.npz: " + said):
        small.features("cifar10", tmp_path)


PICTURES = random_pictures(32, 32, 3)[0]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([np.arange(40, dtype=np.uint8)], r"strip 0 does not decode: UnidentifiedImageError"),
        ([webp(PICTURES[:2]), webp(PICTURES[2:])[:-200]], r"strip 1 does not decode"),
        ([webp(PICTURES[:, :, :31])], r"strip 0 is \(160, 31, 3\), not pictures of \(32, 32, 3\), 5 at most"),
        ([webp(PICTURES), webp(PICTURES[:, :31])], r"strip 1 is \(155, 32, 3\), not pictures"),
        ([webp(PICTURES[:3]), webp(PICTURES[:3])], r"strip 1 is \(96, 32, 3\), not pictures of .*, 2 at most"),
        ([webp(PICTURES[:4])], r"holds 4 pictures, not 5"),
        ([webp(np.concatenate([PICTURES, PICTURES[..., :1]], axis=-1))], r"strip 0 is \(160, 32, 4\), not pictures"),
    ],
)
def test_a_strip_that_is_no_row_of_pictures_is_named(small, tmp_path, parts, said):
    write_cifar10(tmp_path, train_blob=np.concatenate(parts), train_lens=np.array([len(part) for part in parts]))
    with pytest.raises(small.DataError, match=r"cifar10_webp\.npz: train_blob,? " + said):
        small.cifar10(tmp_path)


# Where a set is looked for


def test_a_folder_that_was_asked_for_must_be_there(small, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "absent"))
    for read_one in (small.mnist, small.cifar10, lambda: small.features("cifar100")):
        with pytest.raises(small.DataError, match=r"absent is not a folder: set EXPUNGE_DATA"):
            read_one()
    with pytest.raises(small.DataError, match=r"elsewhere is not a folder"):
        small.mnist(tmp_path / "elsewhere")


def test_expunge_data_names_the_folder_and_an_empty_one_names_none(small, tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    assert len(small.mnist().train_x) == 5
    monkeypatch.setenv("EXPUNGE_DATA", "")
    assert small.folder() == Path(small.__file__).parents[3] / "shared" / "data"


def test_the_hub_stands_in_where_there_is_no_folder_of_the_set(small, hub, tmp_path, monkeypatch):
    """Both without any folder, and in a folder that holds other sets only."""
    pictures, digits = random_pictures(32, 32, 3), random_pictures(28, 28)
    hub("CIFAR10", pictures, LABELS)
    hub("MNIST", digits, LABELS)
    found = small.cifar10()
    assert torch.equal(found.train_x, torch.from_numpy(pictures[0]).permute(0, 3, 1, 2))
    assert torch.equal(found.test_x, torch.from_numpy(pictures[1]).permute(0, 3, 1, 2))
    assert found.train_x.is_contiguous()
    assert (found.train_y.dtype, found.train_y.tolist(), found.test_y.tolist()) == (
        torch.uint8,
        [0, 1, 2, 3, 4],
        [0, 1, 2],
    )
    (tmp_path / "others" / "adult").mkdir(parents=True)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "others"))
    assert torch.equal(small.mnist().train_x, torch.from_numpy(digits[0]))


def test_a_damaged_copy_is_never_replaced_by_the_hub(small, hub, tmp_path):
    hub("CIFAR10", random_pictures(32, 32, 3), LABELS)
    write_cifar10(tmp_path, test_label=np.zeros(2, np.uint8))
    with pytest.raises(small.DataError, match=r"test_label is uint8 \(2,\)"):
        small.cifar10(tmp_path)


@pytest.mark.parametrize(
    ("which", "repository", "holds"),
    [
        ("mnist", "ylecun/mnist", "mnist/ with its four files"),
        ("cifar10", "uoft-cs/cifar10", "cifar10/ with cifar10_webp.npz"),
    ],
)
def test_without_files_or_network_the_error_says_what_was_tried_and_what_to_do(
    small, hub, tmp_path, which, repository, holds
):
    said = rf"shared/data/{which} is not there, and then: {repository} cannot be read from the hub: .*"
    with pytest.raises(small.DataError, match=said + rf"Set EXPUNGE_DATA to a folder that holds {holds}"):
        getattr(small, which)()


def test_features_are_on_no_hub_and_the_error_says_how_they_are_made(small, hub):
    remedy = r"is missing: set EXPUNGE_DATA .* `python benchmarks/paper/features\.py --out FOLDER`"
    with pytest.raises(small.DataError, match=r"cifar100_mobilenetv2_pca512_u8\.npz " + remedy):
        small.features("cifar100")


def test_without_the_library_of_the_hub_the_error_names_the_extra(small, hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(small.DataError, match=r"mnist is not there, and then: .* pip install 'expunge\[paper\]'"):
        small.mnist()


def test_the_hub_without_a_test_split_is_refused(small, hub):
    hub("MNIST", random_pictures(28, 28)[:1], LABELS[:1], splits=["train"])
    with pytest.raises(small.DataError, match=r"has no split \['test'\]"):
        small.mnist()


def test_the_hub_with_other_columns_is_refused(small, hub):
    hub("CIFAR10", random_pictures(32, 32, 3), LABELS, columns=("image", "label"))
    with pytest.raises(small.DataError, match=r"split train has no column \['img'\], only \['image', 'label'\]"):
        small.cifar10()


def test_the_hub_with_another_number_of_rows_is_refused(small, hub):
    hub("MNIST", [x[:3] for x in random_pictures(28, 28)], [y[:3] for y in LABELS])
    with pytest.raises(small.DataError, match=r"split train has 3 rows, not 5"):
        small.mnist()


@pytest.mark.parametrize("shape", [(28, 29), (28, 28, 3)])
def test_the_hub_with_pictures_of_another_shape_is_refused(small, hub, shape):
    hub("MNIST", random_pictures(*shape), LABELS)
    with pytest.raises(small.DataError, match=r"split train, row 0 has uint8 .* in image, not uint8 \(28, 28\)"):
        small.mnist()


@pytest.mark.parametrize("label", [-1, 10, None])
def test_the_hub_with_a_label_that_is_no_class_is_refused(small, hub, label):
    hub("MNIST", random_pictures(28, 28), [[0, 1, 2, 3, label], [0, 1, 2]])
    with pytest.raises(small.DataError, match=r"split train: label is not whole numbers from 0 to 9"):
        small.mnist()


# The files themselves


def real(data, which):
    if not (data.folder() / which).is_dir():
        pytest.skip(f"no {which}/ under EXPUNGE_DATA or ../shared/data")


def test_mnist_has_seventy_thousand_digits(data):
    real(data, "mnist")
    found = data.mnist()
    assert (found.train_x.shape, found.test_x.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert found.train_x.mean(dtype=torch.float32) / 255 == pytest.approx(found.mean, abs=1e-4)


def test_cifar10_has_sixty_thousand_pictures_with_the_means_of_their_channels(data):
    real(data, "cifar10")
    found = data.cifar10()
    assert (found.train_x.shape, found.test_x.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert (found.train_x.dtype, found.train_x.is_contiguous()) == (torch.uint8, True)
    assert torch.bincount(found.train_y).tolist() == [5_000] * 10
    assert found.train_y[:5].tolist() == [6, 9, 9, 4, 1]  # the official order
    means = torch.stack([found.train_x[:, c].float().mean() / 255 for c in range(3)])
    torch.testing.assert_close(means, found.mean.flatten(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_a_network_sees_the_features_as_the_file_defines_them(data, name, classes):
    """That is (q - zero) * scale, to the rounding of float32, as `Rows` computes it too."""
    real(data, "features")
    found = data.features(name)
    assert (found.train_x.shape, found.test_x.shape) == ((50_000, 512), (10_000, 512))
    assert torch.bincount(found.train_y).tolist() == [50_000 // classes] * classes
    with np.load(data.features_path(name, data.folder())) as held:
        exact = (held["test_x"].astype(float) - held["zero"]) * held["scale"].astype(float)
        scale = held["scale"].astype(float)
    batch, _ = Rows(found.test_x, found.test_y, mean=found.mean, std=found.std).batch(torch.arange(10_000))
    for seen in (batch, (found.test_x / 255 - found.mean) / found.std):
        assert seen.dtype == torch.float32
        assert np.all(np.abs(seen.numpy() - exact) <= 255 * scale * 2.0**-22)


def test_the_features_of_cifar10_are_of_its_pictures_in_order(data):
    real(data, "cifar10")
    real(data, "features")
    pictures, rows = data.cifar10(), data.features("cifar10")
    assert torch.equal(pictures.train_y, rows.train_y)
    assert torch.equal(pictures.test_y, rows.test_y)


# Making features


@pytest.fixture
def features(small, paper, monkeypatch):
    monkeypatch.setattr(small, "WIDTH", 8)
    return paper("features")


def backbone(x):
    """Random weights: 24 features of an enlarged picture."""
    weights = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return F.conv2d(x, weights, stride=32).relu().mean((2, 3))


def parts(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8) for n in counts]
    y = [torch.randint(10, (n,), generator=generator, dtype=torch.uint8) for n in counts]
    return x[0], y[0], x[1], y[1]


def test_the_projection_keeps_the_leading_directions_of_largest_variance(features):
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.double))
    spread = torch.tensor([5.0, 4.0, 3.0, 0.2, 0.1, 0.05], dtype=torch.double)
    x = torch.randn(4_000, 6, generator=generator, dtype=torch.double) * spread @ rotation + 7
    centre, basis, scale = features.fit(x, 3)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.double))
    torch.testing.assert_close(centre, x.mean(0))
    torch.testing.assert_close((rotation[:3] @ basis).abs(), torch.eye(3, dtype=torch.double), rtol=0, atol=0.1)
    assert ((x - centre) @ basis).std(0).tolist() == pytest.approx([5, 4, 3], rel=0.05)
    assert (scale.dtype, scale.shape) == (torch.float32, (3,))


def test_bytes_are_within_half_a_step_of_the_projected_rows_and_clip_outside(features):
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    centre, basis, scale = features.fit(x, 4)
    z = (x.double() - centre) @ basis
    q = features.quantise(x, centre, basis, scale)
    assert q.dtype == torch.uint8
    assert (((q.double() - 128) * scale - z).abs() <= scale * (0.5 + 1e-6)).all()
    far = centre + 10 * (x.double() - centre)
    assert features.quantise(far, centre, basis, scale).aminmax() == (0, 255)


def test_rows_that_span_too_few_directions_are_refused(features):
    for rows in (torch.randn(5, 12), torch.zeros(30, 12), torch.randn(30, 7)):
        with pytest.raises(ValueError, match="do not span 8 directions"):
            features.fit(rows, 8)


def test_features_do_not_depend_on_how_pictures_are_batched(features, monkeypatch):
    pictures, *_ = parts((7, 1), 0)
    whole = features.embed(backbone, pictures, device="cpu", what="whole")
    monkeypatch.setattr(features, "BATCH", 3)
    torch.testing.assert_close(features.embed(backbone, pictures, device="cpu", what="in threes"), whole)
    assert (whole.shape, whole.dtype) == ((7, 24), torch.float32)


def test_the_files_made_are_read_back_as_projected_on_the_other_set(small, features, tmp_path, monkeypatch):
    sets = {"cifar10": parts((30, 10), 0), "cifar100": parts((40, 20), 1)}
    monkeypatch.setattr(small, "CIFAR10", replace(small.CIFAR10, counts=(30, 10)))
    monkeypatch.setattr(small, "CIFAR100", replace(small.CIFAR100, counts=(40, 20)))
    features.make(tmp_path, backbone, sets, width=8)
    for name, other in (("cifar10", "cifar100"), ("cifar100", "cifar10")):
        found = small.features(name, tmp_path)
        fitted = features.fit(features.embed(backbone, sets[other][0], device="cpu", what=other), 8)
        for q, y, pictures, labels in (
            (found.train_x, found.train_y, *sets[name][:2]),
            (found.test_x, found.test_y, *sets[name][2:]),
        ):
            assert torch.equal(y, labels)
            assert torch.equal(
                q, features.quantise(features.embed(backbone, pictures, device="cpu", what=name), *fitted)
            )
    assert sorted(path.suffix for path in (tmp_path / "features").iterdir()) == [".npz", ".npz"]


def test_a_set_has_no_part_in_its_own_projection(small, features, tmp_path, monkeypatch):
    """Change one picture of CIFAR-10, and its file changes in that row only."""
    monkeypatch.setattr(small, "CIFAR10", replace(small.CIFAR10, counts=(30, 10)))
    ten, hundred = parts((30, 10), 0), parts((40, 20), 1)
    changed = (ten[0].clone(), *ten[1:])
    changed[0][4] = 255 - changed[0][4]
    for where, first in ((tmp_path / "a", ten), (tmp_path / "b", changed)):
        features.make(where, backbone, {"cifar10": first, "cifar100": hundred}, width=8)
    a, b = small.features("cifar10", tmp_path / "a"), small.features("cifar10", tmp_path / "b")
    assert torch.equal(a.std, b.std)
    assert (a.train_x != b.train_x).any(1).nonzero().flatten().tolist() == [4]
    assert torch.equal(a.test_x, b.test_x)


def test_without_the_library_of_the_backbone_the_command_names_it_and_writes_nothing(features, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(sys, "argv", ["features.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="pip install transformers"):
        features.main()
    assert not (tmp_path / "out").exists()
