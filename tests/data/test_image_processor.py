"""ImageProcessor: parity with the published processor, or with Pillow where the published one fails; errors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver_kit.data.image_processor import IMAGENET_MEAN, IMAGENET_STD, ImageProcessor
from perceiver_kit.errors import AssemblyError, InputError, MissingPackage

Image = pytest.importorskip("PIL.Image")

patient = settings(deadline=None, max_examples=max(40, settings().max_examples))
SIDES = st.integers(2, 60)
SEEDS = st.integers(0, 1000)
SMALL = ImageProcessor(size=24)


def noise(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def step_by_step(rgb: Any, size: tuple[int, int], box: tuple[int, int, int, int] | None) -> Tensor:
    """The expected result for an RGB image cropped to ``box``, with the default mean and std."""
    image = rgb.crop(box) if box else rgb
    pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)).astype(np.float64) / 255
    return torch.from_numpy((pixels - IMAGENET_MEAN) / IMAGENET_STD).permute(2, 0, 1).float()[None]


def same(ours: Tensor, expected: Tensor) -> bool:
    return ours.shape == expected.shape and torch.allclose(ours, expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def reference() -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil

    processor = PerceiverImageProcessorPil()
    return lambda images, **options: processor(images, return_tensors="pt", **options).pixel_values


@pytest.mark.parametrize("height_width", [(2, 2), (3, 9), (31, 33), (224, 224), (480, 641), (700, 40)])
def test_the_defaults_equal_the_reference(reference: Any, height_width: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*height_width, 3))
    ours = ImageProcessor()(image)
    assert ours.shape == (1, 3, 224, 224)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, reference(image))


@patient
@given(SIDES, SIDES, SEEDS, st.integers(1, 40), st.integers(0, 30))
def test_any_size_and_crop_equal_the_reference(
    reference: Any, height: int, width: int, seed: int, size: int, more: int
) -> None:
    if int(size / (size + more) * min(height, width)) == 0:
        more = 0  # the reference crops to nothing: see test_thin_images_keep_at_least_one_pixel
    image = Image.fromarray(noise(height, width, 3, seed=seed))
    theirs = reference(
        image, size={"height": size, "width": size}, crop_size={"height": size + more, "width": size + more}
    )
    assert torch.equal(ImageProcessor(size, crop=size / (size + more))(image), theirs)


@patient
@given(SIDES.filter(lambda n: n not in (3, 4)), SIDES.filter(lambda n: n not in (3, 4)), SEEDS)
def test_every_layout_equals_the_reference(reference: Any, height: int, width: int, seed: int) -> None:
    last = noise(2, height, width, 3, seed=seed)
    first = np.moveaxis(last, -1, 1)
    size = {"size": {"height": 24, "width": 24}, "crop_size": {"height": 28, "width": 28}}
    expected = reference([Image.fromarray(image) for image in last], **size)
    for images in (
        [Image.fromarray(image) for image in last],
        last,
        first,
        list(last),
        tuple(first),
        torch.from_numpy(last),
        torch.from_numpy(first),
        list(torch.from_numpy(first)),
    ):
        assert torch.equal(ImageProcessor(24, crop=24 / 28)(images), expected)
        assert torch.equal(reference(images, **size), expected)
        assert torch.equal(ImageProcessor(24, crop=24 / 28)(images[1]), expected[1:])


def test_mean_std_and_no_crop_equal_the_reference(reference: Any) -> None:
    image = Image.fromarray(noise(37, 20, 3))
    mean, std = [0.1, 0.2, 0.3], [0.7, 0.8, 0.9]
    theirs = reference(image, do_center_crop=False, image_mean=mean, image_std=std)
    assert torch.equal(ImageProcessor(crop=None, mean=mean, std=std)(image), theirs)
    theirs = reference(image, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    ours = ImageProcessor(mean=0.5, std=0.5)(image)
    assert torch.equal(ours, theirs)
    assert ours.abs().max() <= 1
    theirs = reference(image, do_normalize=False)
    assert torch.equal(ImageProcessor(mean=0.0, std=1.0)(image), theirs)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_mode_equals_the_reference(reference: Any, mode: str) -> None:
    image = Image.fromarray(noise(20, 30, 4))
    image = image.convert(mode if mode in ("LA", "PA", "RGBA", "P") else "RGB").convert(mode)
    assert image.mode == mode
    assert torch.equal(ImageProcessor()(image), reference(image, do_convert_rgb=True))


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_arrays_equal_the_reference(reference: Any, channels: int) -> None:
    image = noise(20, 30, channels)
    theirs = reference(image, do_convert_rgb=True)
    # Pillow blends alpha in integers, the reference's arrays in floats: up to one step of 255 apart.
    one_step = 1 / 255 / min(IMAGENET_STD)
    assert torch.allclose(ImageProcessor()(image), theirs, rtol=0, atol=2 * one_step if channels == 4 else 0)


def test_floats_are_rounded_where_the_reference_truncates(reference: Any) -> None:
    image = np.random.default_rng(0).random((3, 30, 20), dtype=np.float32)
    assert torch.equal(ImageProcessor()(image), ImageProcessor()(np.rint(image * 255).astype(np.uint8)))
    theirs = reference(image, do_rescale=False)  # without this it divides by 255 twice
    assert same(ImageProcessor()((image * 255).astype(np.uint8)), theirs)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1)])
def test_thin_images_keep_at_least_one_pixel(reference: Any, shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), (200, 100, 50), np.uint8)
    assert same(ImageProcessor()(Image.fromarray(image)), step_by_step(Image.fromarray(image), (224, 224), None))
    black = (-torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD))[None, :, None, None]
    assert same(reference(Image.fromarray(image)), black.expand(1, 3, 224, 224))  # every pixel is lost


def test_results_that_are_not_square_keep_the_aspect_ratio() -> None:
    image = Image.fromarray(noise(60, 60, 3))
    # the largest box of 16 by 32 is 30 by 60; 0.5 of it 15 by 30
    assert same(ImageProcessor((16, 32), crop=0.5)(image), step_by_step(image, (16, 32), (15, 22, 45, 37)))
    # the largest box is 20 high
    wide = Image.fromarray(noise(20, 90, 3))
    assert same(ImageProcessor([16, 32], crop=1.0)(wide), step_by_step(wide, (16, 32), (25, 0, 65, 20)))
    assert same(ImageProcessor((16, 32), crop=None)(wide), step_by_step(wide, (16, 32), None))


def test_transparent_pixels_become_white() -> None:
    white = SMALL(np.full((9, 9, 3), 255, np.uint8))
    rgba = noise(9, 9, 4)
    rgba[..., 3] = 0
    palette = Image.new("P", (9, 9), 5)
    palette.info["transparency"] = 5
    table = Image.new("P", (9, 9), 5)
    table.info["transparency"] = bytes([255] * 5 + [0])  # as a PNG file has it
    keyed = Image.new("RGB", (9, 9), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    opened = Image.fromarray(rgba)
    for image in (rgba, opened, opened.convert("LA"), Image.new("RGBa", (9, 9)), palette, table, keyed):
        assert torch.equal(SMALL(image), white)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_sixteen_bits_are_rounded_to_eight(mode: str) -> None:
    eight = noise(12, 15)
    sixteen = eight.astype(np.uint16) * 257
    sixteen[:, 1:][eight[:, 1:] < 255] += 128  # rounds down to the same byte
    sixteen[:, :1][eight[:, :1] > 0] -= 128  # rounds up to it
    data = sixteen.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    image = Image.frombytes(mode, (15, 12), data)
    assert torch.equal(SMALL(image), SMALL(eight))
    assert torch.equal(SMALL(sixteen / 65535), SMALL(eight))


@patient
@given(SIDES, SIDES, SEEDS)
def test_grey_is_rgb_with_equal_channels(height: int, width: int, seed: int) -> None:
    grey = noise(height, width, seed=seed)
    expected = SMALL(Image.fromarray(np.stack([grey] * 3, axis=-1)))
    images = [grey, torch.from_numpy(grey), Image.fromarray(grey)]
    if height not in (1, 3, 4) and width not in (1, 3, 4):
        images += [grey[None], grey[..., None]]
    for image in images:
        assert torch.equal(SMALL(image), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_equal_bytes(dtype: Any) -> None:
    image = noise(20, 30, 3)
    image[0, :2, 0] = 0, 255
    floats = (image / 255).astype(dtype)
    assert torch.equal(SMALL(floats), SMALL(image))
    tensor = torch.from_numpy(floats).permute(2, 0, 1).requires_grad_()
    assert torch.equal(SMALL(tensor), SMALL(image))
    assert torch.equal(SMALL(torch.ones(3, 9, 9).bfloat16()), SMALL(torch.ones(3, 9, 9)))


def test_views_work_and_inputs_are_unchanged() -> None:
    image = noise(20, 30, 3)
    before = image.copy()
    flipped = image[::-1, ::-1]
    assert torch.equal(SMALL(flipped), SMALL(flipped.copy()))
    assert not torch.equal(SMALL(flipped), SMALL(image))
    assert np.array_equal(image, before)


@patient
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4), SEEDS)
def test_a_batch_equals_single_images(sizes: list[tuple[int, int]], seed: int) -> None:
    images = [Image.fromarray(noise(*size, 3, seed=seed)) for size in sizes]
    batch = SMALL(images)
    assert batch.shape == (len(images), 3, 24, 24)
    assert batch.is_contiguous()
    assert batch.isfinite().all()
    for row, image in zip(batch, images, strict=True):
        assert torch.equal(row[None], SMALL(image))


def test_channels_resolves_an_ambiguous_shape() -> None:
    image = noise(3, 20, 3)
    assert torch.equal(SMALL(image, channels="last"), SMALL(Image.fromarray(image)))
    first = Image.fromarray(np.moveaxis(image, 0, -1).copy())
    assert torch.equal(SMALL(image, channels="first"), SMALL(first))
    assert torch.equal(SMALL(torch.from_numpy(image)[None], channels="first"), SMALL(first))


def test_odd_margins_round_down_or_up() -> None:
    """Down as the reference, up as the original code; even margins are the same."""
    image = Image.fromarray(noise(65, 67, 3))  # 56 of 65: margins of 9 and 11
    down = step_by_step(image, (24, 24), (5, 4, 61, 60))
    up = step_by_step(image, (24, 24), (6, 5, 62, 61))
    assert same(SMALL(image), down)
    assert same(ImageProcessor(24, crop_rounding="up")(image), up)
    assert not same(down, up)
    even = Image.fromarray(noise(64, 64, 3))
    assert same(ImageProcessor(24, crop_rounding="up")(even), SMALL(even))


def test_repr() -> None:
    made = "ImageProcessor(size=(24, 24), crop=0.875, mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3))"
    assert repr(ImageProcessor(24, mean=0.5, std=(0.1, 0.2, 0.3))) == made
    assert repr(ImageProcessor(24, crop_rounding="up")).startswith("ImageProcessor(size=(24, 24), crop=0.875, crop_r")


# Errors

KINDS = "a PIL image (PIL.Image.open reads a file), a numpy array, a torch tensor or a list of them"
WHITE = "its white level is unknown: convert it"
HINT = "pass a float array in [0, 1], such as np.asarray(image) / 65535 for 16 bits"
MODE = f"whose white level is unknown; {HINT}"
BAD: list[tuple[Any, str]] = [
    ([], "images is empty; give at least one image"),
    (np.zeros((0, 3, 8, 8), np.uint8), "images is empty; give at least one image"),
    ("cat.png", f"images must be {KINDS}, got a str"),
    (None, f"images must be {KINDS}, got None"),
    ([[0.0, 1.0]], f"images[0] must be {KINDS}, got a list"),
    ([noise(8, 8), "cat.png"], f"images[1] must be {KINDS}, got a str"),
    ([noise(8, 8), torch.zeros(8, 8)], "images[1] is a torch tensor but images[0] is a numpy array; give one type"),
    ([Image.new("L", (8, 8)), noise(8, 8)], "images[1] is a numpy array but images[0] is a PIL image; give one type"),
    (noise(8), "images must be (h, w), (h, w, c) or (c, h, w), got uint8 (8,)"),
    (torch.zeros(1, 1, 3, 8, 8), "images must be (h, w), (h, w, c) or (c, h, w), got float32 (1, 1, 3, 8, 8)"),
    ([noise(1, 8, 8, 3)], "images[0] must be (h, w), (h, w, c) or (c, h, w), got uint8 (1, 8, 8, 3)"),
    (noise(0, 8, 3), "images is uint8 (0, 8, 3); give a non-empty image"),
    (Image.new("RGB", (0, 5)), "images is 0 by 5 pixels; give a non-empty image"),
    (noise(8, 8, 2), "images must have 1, 3 or 4 channels on its first or last axis, got uint8 (8, 8, 2)"),
    (noise(2, 5, 8, 8), "images[0] must have 1, 3 or 4 channels on its first or last axis, got uint8 (5, 8, 8)"),
    (noise(3, 8, 3), 'images is uint8 (3, 8, 3): either axis may hold channels; pass channels="first" or "last"'),
    (noise(1, 8, 4), 'images is uint8 (1, 8, 4): either axis may hold channels; pass channels="first" or "last"'),
    (noise(8, 8, dtype=np.uint16), f"images must be uint8, or float in [0, 1], got uint16 (8, 8); {WHITE}"),
    (torch.zeros(3, 8, 8).long(), f"images must be uint8, or float in [0, 1], got int64 (3, 8, 8); {WHITE}"),
    (np.zeros((8, 8), bool), f"images must be uint8, or float in [0, 1], got bool (8, 8); {WHITE}"),
    (
        [np.zeros((8, 8)), np.full((8, 8), np.nan)],
        "images[1] contains NaN or infinite values; replace them, e.g. by np.nan_to_num",
    ),
    (torch.full((8, 8), torch.inf), "images contains NaN or infinite values; replace them, e.g. by np.nan_to_num"),
    (np.linspace(-1, 1, 64).reshape(8, 8), "images is float and must lie in [0, 1], got -1 to 1; rescale or clip it"),
    (torch.full((8, 8), 255.0), "images is float and must lie in [0, 1], got 255 to 255; rescale or clip it"),
    (Image.new("I", (8, 8)), f'images has mode "I", {MODE}'),
    (Image.new("F", (8, 8)), f'images has mode "F", {MODE}'),
]


@pytest.mark.parametrize(("images", "message"), BAD)
def test_bad_images_are_refused(images: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        SMALL(images)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((8, 8, 3), "chw", 'channels must be "first", "last" or None, got \'chw\''),
        ((8, 8, 3), "first", "images must have 1, 3 or 4 channels on its first axis, got uint8 (8, 8, 3)"),
        ((3, 8, 8), "last", "images must have 1, 3 or 4 channels on its last axis, got uint8 (3, 8, 8)"),
    ],
)
def test_bad_channels_are_refused(shape: Any, channels: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        SMALL(noise(*shape), channels=channels)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 0}, "size must be an int of at least 1, got 0"),
        ({"size": (8, 8, 8)}, "size must be an int or (height, width), got (8, 8, 8)"),
        ({"size": "224"}, "size must be a tuple of positive ints, one per axis, got '224'"),
        ({"crop": 0}, "crop must be a number in (0, 1] or None, got 0"),
        ({"crop": 1.1}, "crop must be a number in (0, 1] or None, got 1.1"),
        ({"crop": True}, "crop must be a number in (0, 1] or None, got True"),
        ({"mean": (0.5, 0.5)}, "mean must be a number or one for each of 3 channels, got (0.5, 0.5)"),
        ({"mean": float("nan")}, "mean must be a number or one for each of 3 channels, got nan"),
        ({"std": "one"}, "std must be a number or one for each of 3 channels, got 'one'"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be above 0, got (0.5, 0.0, 0.5)"),
    ],
)
def test_bad_arguments_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(AssemblyError) as refusal:
        ImageProcessor(**keywords)
    assert str(refusal.value) == f"ImageProcessor: {message}"


def test_without_pillow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackage) as refusal:
        SMALL(Image.new("L", (8, 8)))
    message = "ImageProcessor needs Pillow, which is not installed; pip install 'perceiver-kit[images]'"
    assert str(refusal.value) == message
