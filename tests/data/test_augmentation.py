"""Augmentation of pictures: moves of boxes and masks, RandAugment's operations, mixing, seeds."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from perceiver_kit.cli import main
from perceiver_kit.data.augmentation import Augmentation, Augmented, augmented
from perceiver_kit.data.images import Images
from perceiver_kit.data.objects import Objects
from perceiver_kit.data.randaugment import MOVES, OPERATIONS, Affine, move, recolour
from perceiver_kit.data.segments import Segments
from perceiver_kit.data.tasks import open_task
from perceiver_kit.errors import AssemblyError, InputError, UnknownName
from perceiver_kit.objectives import Classification
from tests.data.making import pictures

pytestmark = pytest.mark.usefixtures("checked")

ALL = Augmentation.named("all")
UNMIXED = Augmentation.named("crop", "flip", "randaugment")
SIZE = (60, 90)
INSIDE = (20, 45, 30, 70)  # top, bottom, left, right


def noise(n: int = 4, channels: int = 3, size: tuple[int, int] = (20, 28)) -> Tensor:
    return torch.randint(256, (n, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def labelled(channels: int = 3, **options: Any) -> Images:
    return Images(noise(channels=channels), torch.arange(4), channels=channels, **options)


def rectangle() -> tuple[Tensor, Tensor, Tensor]:
    """A picture that is white in a rectangle, its mask, and its box."""
    top, bottom, left, right = INSIDE
    mask = torch.zeros(1, *SIZE, dtype=torch.int64)
    mask[0, top:bottom, left:right] = 1
    box = torch.tensor([[(left + right) / 2 / 90, (top + bottom) / 2 / 60, (right - left) / 90, (bottom - top) / 60]])
    return rearrange(mask, "1 h w -> 1 1 h w").expand(-1, 3, -1, -1).byte() * 255, mask, box


@pytest.mark.parametrize("changes", [UNMIXED, Augmentation(flip=True), Augmentation(crop=True)], ids=str)
def test_boxes_and_masks_move_alike(changes: Augmentation) -> None:
    picture, mask, box = rectangle()
    masks = Augmented(Segments(picture, mask), changes)
    boxes = Augmented(Objects(picture, [torch.tensor([7])], [box], most=2), changes)
    seen = 0
    for step in range(60):
        one, other = masks[0, step], boxes[0, step]
        assert one["inputs"]["image"].equal(other["inputs"]["image"])
        found = (one["targets"]["label"] == 1).nonzero()
        x, y, w, h = (other["targets"]["box"][0] * torch.tensor([90, 60, 90, 60])).tolist()
        assert other["targets"]["class"][1] == -100
        if other["targets"]["class"][0] == -100:
            assert np.isnan(x)
            continue
        assert other["targets"]["class"][0] == 7 and len(found)
        (top, left), (bottom, right) = found.amin(0).tolist(), (found.amax(0) + 1).tolist()
        low, high = np.array([x - w / 2, y - h / 2]), np.array([x + w / 2, y + h / 2])
        # Each further operation moves the upright box around the box, which holds the object loosely.
        slack = 1.5 if changes.randaugment is None else 40
        assert ((low <= [left + 1.5, top + 1.5]) & (low >= [left - slack, top - slack])).all()
        assert ((high >= [right - 1.5, bottom - 1.5]) & (high <= [right + slack, bottom + slack])).all()
        seen += 1
    assert seen > 30


@pytest.mark.parametrize("name", MOVES)
def test_one_move_encloses_the_object_tightly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perceiver_kit.data.augmentation.OPERATIONS", (name,))
    picture, mask, box = rectangle()
    changes = Augmentation(randaugment=(1, 6))
    masks = Augmented(Segments(picture, mask), changes)
    boxes = Augmented(Objects(picture, [torch.tensor([7])], [box], most=1), changes)
    extents = set()
    for step in range(8):
        target = masks[0, step]["targets"]["label"]
        found = (target == 1).nonzero().float()
        x, y, w, h = (boxes[0, step]["targets"]["box"][0] * torch.tensor([90, 60, 90, 60])).tolist()
        wanted = [*found.amin(0).flip(0).tolist(), *(found.amax(0) + 1).flip(0).tolist()]
        assert np.allclose([x - w / 2, y - h / 2, x + w / 2, y + h / 2], wanted, atol=1.6), name
        assert (target == -100).any() and not (target == -100).all()
        extents.add(tuple(wanted))
    assert len(extents) == 2, "both directions are drawn"


def test_masks_follow_their_picture() -> None:
    picture, mask, _ = rectangle()
    data = Augmented(Segments(picture, mask), Augmentation(crop=True, flip=True))
    for step in range(20):
        sample = data[0, step]
        agree = (sample["inputs"]["image"][0] > 0) == (sample["targets"]["label"] == 1)
        assert agree.float().mean() > 0.97
    assert data[0]["targets"]["label"].equal(mask[0]), "evaluation is not changed"


@pytest.mark.parametrize("name", MOVES)
def test_magnitude_zero_moves_nothing(name: str) -> None:
    assert move(name, 0, (20, 30), torch.Generator()) == Affine()


def test_operations_equal_their_restatement() -> None:
    """At the published magnitude 5: the numbers of deepmind-research/perceiver/train/autoaugment.py."""
    pixels = rearrange(noise(1)[0], "c h w -> h w c").numpy()
    wide = pixels.astype(np.int64)
    low, high = wide.min((0, 1)), wide.max((0, 1))
    wanted = {
        "posterize": wide >> 6 << 6,
        "solarize": np.where(wide < 128, wide, 255 - wide),
        "solarize_add": np.where(wide < 128, (wide + 55).clip(max=255), wide),
        "invert": 255 - wide,
        "auto_contrast": (wide - low) * 255 / (high - low),
        **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), wide),
    }
    for name, values in wanted.items():
        found = np.asarray(recolour(name, Image.fromarray(pixels), 5, torch.Generator()), np.int64)
        assert np.abs(found - values).max() <= (1 if name == "auto_contrast" else 0), name
    bright = np.asarray(recolour("brightness", Image.fromarray(pixels), 0, torch.Generator()), np.float64)
    assert np.abs(bright - 0.1 * wide).max() <= 1
    flat = np.asarray(recolour("equalize", Image.fromarray(pixels // 8), 5, torch.Generator()))
    assert flat.max() > 200
    hole = np.asarray(recolour("cutout", Image.fromarray(pixels), 5, torch.Generator().manual_seed(3)))
    changed = (hole != pixels).any(-1)
    assert (hole[changed] == 128).all() and 2 <= changed.sum() <= 5 * 7
    assert {*wanted, "equalize", "cutout", *MOVES} == {*OPERATIONS}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_channels_stay_in_range(channels: int) -> None:
    data = Augmented(labelled(channels), ALL, classes=4)
    for index, step in itertools.product(range(4), range(5)):
        sample = data[index, step]
        image = sample["inputs"]["image"]
        assert image.shape == (channels, 20, 28) and image.abs().max() <= 1
        label = sample["targets"]["label"]
        assert label.shape == (4,) and label.min() >= 0 and abs(label.sum() - 1) < 1e-6


def test_colours_leave_alpha_as_it_is() -> None:
    pixels = rearrange(noise(1, 4)[0], "c h w -> h w c").numpy()
    changed = np.asarray(recolour("invert", Image.fromarray(pixels), 5, torch.Generator()))
    assert (changed[..., 3] == pixels[..., 3]).all() and (changed[..., :3] == 255 - pixels[..., :3]).all()


def test_random_numbers_depend_on_seed_step_and_index() -> None:
    data = Augmented(labelled(shift=2), ALL, classes=4, seed=1)
    again = Augmented(labelled(shift=2), ALL, classes=4, seed=1)
    other = Augmented(labelled(shift=2), ALL, classes=4, seed=2)
    torch.manual_seed(torch.seed())
    first = data[1, 5]
    assert first["inputs"]["image"].equal(again[1, 5]["inputs"]["image"])
    assert first["targets"]["label"].equal(again[1, 5]["targets"]["label"])
    for key, where in (((1, 6), data), ((2, 5), data), ((1, 5), other)):
        assert not first["inputs"]["image"].equal(where[key]["inputs"]["image"])
    assert first["draw"].tolist() == [5, 1]
    plain = labelled()[1]
    assert data[1]["inputs"]["image"].equal(plain["inputs"]["image"]) and data[1]["targets"]["label"] == 1


def test_classes_are_mixed_as_their_pictures() -> None:
    """Picture i is of brightness 40·i, so that the brightness tells the shares."""
    levels = torch.arange(4, dtype=torch.uint8) * 40
    flat = Images(rearrange(levels, "n -> n 1 1 1").expand(-1, 1, 16, 24), torch.arange(4))
    brightness = levels.float() / 127.5 - 1
    shares = []
    for changes in (Augmentation(mixup=0.2), Augmentation(cutmix=True), Augmentation(mixup=0.2, cutmix=True)):
        data = Augmented(flat, changes, classes=4)
        levels_seen = []
        for step in range(200):
            sample = data[3, step]
            image, label = sample["inputs"]["image"], sample["targets"]["label"]
            assert abs(image.mean() - label @ brightness) < 1e-5
            levels_seen.append(len(image.unique()))
            if changes.cutmix is False and label[3] < 1:
                shares.append(float(label[3]))
        one_level = sum(level == 1 for level in levels_seen) / 200
        low, high = (0.15, 0.95) if changes.cutmix else (1, 1)
        assert low <= one_level <= high, (changes, one_level)
    # Of Beta(0.2, 0.2): mean 1/2, variance 1/(4 · 1.4); label 3 meets itself in a quarter, which is left out here.
    assert abs(np.mean(shares) - 0.5) < 0.12 and abs(np.var(shares) - 0.179) < 0.05


def test_mixed_classes_are_trained_on() -> None:
    logits = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    loss, _ = Classification()({"label": logits}, {"label": torch.tensor([[0.3, 0.0, 0.7, 0.0]])})
    own, other = (Classification()({"label": logits}, {"label": torch.tensor([k])})[0] for k in (0, 2))
    assert torch.allclose(loss, 0.3 * own + 0.7 * other)
    unknown = Images(noise(), torch.full((4,), -100))
    label = Augmented(unknown, Augmentation(mixup=0.2), classes=4)[0, 0]["targets"]["label"]
    assert label.isnan().all(), "a missing class stays missing"


def test_unfit_data_and_settings_are_refused() -> None:
    picture, mask, box = rectangle()
    for data in (Segments(picture, mask), Objects(picture, [torch.tensor([7])], [box], most=2)):
        with pytest.raises(InputError, match=r"mix the classes of whole pictures, got a (mask|box)"):
            Augmented(data, Augmentation(cutmix=True), classes=8)
    flow = open_task("flow", recipe="optical_flow", preset="tiny")
    with pytest.raises(InputError, match=r"expected one input image .* got frames"):
        augmented(flow, Augmentation(flip=True))
    with pytest.raises(InputError, match="need the number of classes"):
        Augmented(labelled(), Augmentation(mixup=0.2))
    with pytest.raises(UnknownName, match="did you mean 'mixup'"):
        Augmentation.named("mixpu")
    for wrong in (dict(mixup=0.0), dict(randaugment=(4, 11)), dict(randaugment=(0, 5))):
        with pytest.raises(AssemblyError, match="Augmentation"):
            Augmentation(**wrong)


def test_command_line_trains_on_augmented_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "pets", "cat", "dog")
    train = ["train", "image_classification_fourier", "--data", str(root), "--out", str(tmp_path / "run")]
    assert main([*train, "--steps", "2", "--batch", "2", "--augment", "all"]) == 0
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert main([*train, "--steps", "2", "--augment", "flipp"]) == 2
    assert "no augmentation 'flipp'; did you mean 'flip'" in capsys.readouterr().err
