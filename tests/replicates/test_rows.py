"""Pictures as bytes: tables of indices do what rotating, flipping and cropping do; every run gets its own rows."""

import pytest
import torch
from torch.nn import functional as F

from expunge.replicates import Rows, RunBatches, crops, rotations
from expunge.replicates import rows as pictures

COINS = torch.Generator().manual_seed(0)
GREY = torch.randint(1, 256, (40, 9, 8), dtype=torch.uint8, generator=COINS)
COLOUR = torch.randint(1, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=COINS)
LABELS = torch.arange(40)


def apply(table, image):
    flat = torch.cat([image.reshape(-1), torch.zeros(1, dtype=image.dtype)])
    return flat[table.long()].view(image.shape)


def test_no_rotation_is_the_picture_and_its_flip_is_its_mirror():
    table = rotations((9, 8), degrees=0.0, angles=1)
    assert torch.equal(apply(table[0], GREY[0]), GREY[0])
    assert torch.equal(apply(table[1], GREY[0]), GREY[0].flip(-1))


@pytest.mark.parametrize("quarter", [90.0])
def test_a_quarter_turn_is_exact_on_a_square(quarter):
    table = rotations((8, 8), degrees=quarter, angles=2, flip=False)
    image = GREY[0, :8]
    turned = {k: torch.rot90(image, k) for k in (1, -1)}
    found = [apply(t, image) for t in table]
    assert any(torch.equal(found[0], t) for t in turned.values())
    assert torch.equal(torch.rot90(found[0], 2), found[1])


def test_a_small_rotation_agrees_with_torch_on_nearly_every_pixel():
    image = torch.randint(1, 256, (28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = apply(rotations((28, 28), degrees=10.0, angles=2, flip=False)[1], image).float()
    angle = torch.tensor(10.0).deg2rad()
    best = 0.0
    for sign in (1, -1):
        turn = torch.tensor([[angle.cos(), -sign * angle.sin(), 0.0], [sign * angle.sin(), angle.cos(), 0.0]])
        grid = F.affine_grid(turn[None], [1, 1, 28, 28], align_corners=False)
        sampled = F.grid_sample(image[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
        best = max(best, float((sampled == found).double().mean()))
    assert best > 0.98


def test_crops_are_those_of_a_black_frame():
    tables = crops((3, 8, 8), padding=2)
    assert len(tables) == 2 * 25
    framed = F.pad(COLOUR[0], (2, 2, 2, 2))
    expected = [framed[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    for k, crop in enumerate(expected):
        assert torch.equal(apply(tables[2 * k], COLOUR[0]), crop)
    assert len({tuple(t.tolist()) for t in tables}) == len(tables)
    mirrored = F.pad(COLOUR[0].flip(-1), (2, 2, 2, 2))
    flipped = [apply(t, COLOUR[0]) for t in tables[1::2]]
    for crop in (mirrored[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)):
        assert any(torch.equal(crop, f) for f in flipped)


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_both_ways_to_augment_give_the_same_pictures(images):
    """The one for accelerators and the one for the CPU."""
    data = Rows(images, LABELS, tables=crops(images.shape[1:], padding=1))
    index = torch.randint(40, (300,), generator=COINS)
    ways = torch.randint(18, (300,), generator=COINS)
    fast = pictures._way_by_way(data._rows, index, data._tables, ways)
    assert torch.equal(fast, pictures._at_once(data._rows, index, data._tables, ways))
    for k in (0, 7, 299):
        assert torch.equal(fast[k].view(images.shape[1:]), apply(data._tables[ways[k]], images[index[k]]))


def test_a_batch_is_normalised_and_shaped_as_asked():
    data = Rows(COLOUR, LABELS, mean=0.5, std=0.25)
    index = torch.tensor([[3, 1], [0, 39]])
    x, y = data.batch(index)
    assert x.shape == (2, 2, 3, 8, 8)
    torch.testing.assert_close(x, (COLOUR[index].float() / 255 - 0.5) / 0.25)
    assert torch.equal(y, index)


@pytest.mark.parametrize("ahead", [1, 1 << 15])
def test_every_run_sees_each_of_its_rows_once_an_epoch(ahead, monkeypatch):
    monkeypatch.setattr(pictures, "_AHEAD", ahead)
    rows = torch.stack([torch.arange(0, 12), torch.arange(20, 32)])
    stream = RunBatches(Rows(GREY, LABELS), rows, batch_size=4, seed=1)
    assert stream.per_epoch == 3
    batches = iter(stream)
    epochs = [torch.cat([next(batches)[1] for _ in range(3)], dim=1) for _ in range(2)]
    for epoch in epochs:
        assert torch.equal(epoch.sort(dim=1).values, rows)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0][0] + 20, epochs[0][1])


def test_pictures_and_labels_stay_together_under_augmentation():
    data = Rows(GREY, LABELS, tables=rotations((9, 8), degrees=0.0, angles=1))
    stream = iter(RunBatches(data, torch.arange(40)[None], batch_size=8, seed=1))
    for _ in range(10):
        x, y = next(stream)
        for picture, label in zip((x[0] * 255).round(), y[0], strict=True):
            original = GREY[label].float()
            assert torch.equal(picture, original) or torch.equal(picture, original.flip(-1))


def test_the_same_seed_gives_the_same_batches():
    data, rows = Rows(GREY, LABELS, tables=rotations((9, 8))), torch.arange(40)[None]
    streams = [iter(RunBatches(data, rows, batch_size=8, seed=s)) for s in (1, 1, 2)]
    first, again, other = (next(s)[0] for s in streams)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_mean_and_deviation_for_each_channel_normalise_as_torchvision_does():
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 0.2]).view(3, 1, 1)
    index = torch.tensor([[3, 5], [0, 39]])
    x, _ = Rows(COLOUR, LABELS, mean=mean, std=std).batch(index)
    torch.testing.assert_close(x, (COLOUR[index] / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_rows_of_quantised_features_come_back_as_what_they_stand_for():
    coins = torch.Generator().manual_seed(2)
    quantised, scale = torch.randint(256, (40, 6), dtype=torch.uint8, generator=coins), torch.rand(6, generator=coins)
    features = Rows(quantised, LABELS, mean=128 / 255, std=1 / (255 * scale))
    torch.testing.assert_close(features.batch(LABELS)[0], (quantised.float() - 128) * scale, rtol=1e-5, atol=1e-6)


def test_rows_of_floats_are_taken_as_they_are_and_augmented_alike():
    tables = crops((9, 8), padding=1)
    as_bytes, as_floats = Rows(GREY, LABELS, tables=tables), Rows(GREY / 255, LABELS, tables=tables)
    index = torch.arange(40)
    assert torch.equal(as_floats.batch(index)[0], GREY / 255)
    one, other = (p.batch(index, generator=torch.Generator().manual_seed(5))[0] for p in (as_bytes, as_floats))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Rows(GREY.double(), LABELS), TypeError, "uint8 or float32"),
        (lambda: Rows(GREY, LABELS[:3]), ValueError, "do not agree"),
        (lambda: Rows(GREY, LABELS, tables=rotations((8, 8))), ValueError, r"tables must have shape \(ways, 72\)"),
        (lambda: Rows(GREY, LABELS, std=0.0), ValueError, "std"),
        (
            lambda: Rows(COLOUR, LABELS, std=torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)),
            ValueError,
            "std must be pos",
        ),
        (lambda: Rows(COLOUR, LABELS, mean=torch.zeros(3)), ValueError, r"mean must .* shape \(3, 8, 8\)"),
        (lambda: Rows(COLOUR, LABELS, mean=torch.zeros(40, 3, 8, 8)), ValueError, "mean must"),
        (lambda: Rows(GREY, LABELS, mean=float("nan")), ValueError, "mean must be finite"),
        (lambda: Rows(LABELS.byte(), LABELS), ValueError, "do not agree"),
        (lambda: RunBatches(Rows(GREY, LABELS), LABELS, batch_size=4, seed=0), ValueError, "rows must have"),
        (lambda: RunBatches(Rows(GREY, LABELS), LABELS[None], batch_size=41, seed=0), ValueError, "batch_size=41"),
        (lambda: rotations((8, 8), angles=0), ValueError, "angles"),
        (lambda: crops((8, 8), padding=-1), ValueError, "padding"),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
