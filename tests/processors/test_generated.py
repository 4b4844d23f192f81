"""Texts that are continued, modalities that are reconstructed, pictures of other channels; every recipe answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import perceiver_kit as kit
from perceiver_kit import processors
from perceiver_kit.declarations import processor_of
from perceiver_kit.registry import find

from ..data.making import picture

pytestmark = pytest.mark.usefixtures("checked")


def built(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    model = kit.build(name, preset="tiny", **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape)


@pytest.mark.parametrize("recipe", kit.list())
def test_every_recipe_declares_a_processor(recipe: str) -> None:
    entry = find("recipes", recipe)
    for preset in entry.presets:
        sizes = entry.data_sizes(entry.parameters(preset, {}))
        assert isinstance(entry.make_processor(sizes), kit.Processor)


def test_a_text_is_continued(tmp_path: Path) -> None:
    model, text = built("causal_lm"), "In the beginning"
    model.processor = kit.Processor(processor_of(model).readers, processors.Continued(length=9))
    answer = kit.predict(model, text)
    assert model.training
    assert answer.best == kit.generate(model.eval(), text, length=9, temperature=0.8, top_k=40, seed=0)
    ids = torch.tensor([list(text.encode())]) + 6
    probs = model({"text": ids})["text"][0, -1].softmax(-1)
    assert [*answer.scores.values()] == pytest.approx(probs.sort(descending=True)[0].tolist())
    assert f"{text}<mark>" in answer._repr_html_()
    assert len(answer.json()["scores"]) == 5
    (tmp_path / "a.txt").write_text("x" * 300 + text)
    read = processor_of(model).item(tmp_path / "a.txt").inputs["text"]
    assert bytes(read - 6).decode() == ("x" * 300 + text)[-256:], "the end of a long text"
    texts = ["one", text, "two"]
    for one, together in zip(texts, kit.predict(model, texts, progress=False), strict=True):
        assert together.best == kit.predict(model, one).best


def test_hidden_rows_are_reconstructed(tmp_path: Path) -> None:
    model = built("hierarchical_autoencoding")
    path = picture(tmp_path / "a.png", size=(28, 28))
    answer = kit.predict(model, path)
    grey = torch.from_numpy(np.array(Image.open(path).convert("L")))[None] / 127.5 - 1
    seen = answer.mask["image"]
    assert 50 < seen.sum() < 200
    mask = {"image": seen[None], "label": torch.zeros(1, 1, dtype=torch.bool)}
    wanted = model.requires_grad_(False).eval()({"image": grey[None], "label": torch.ones(1, 1, 10)}, mask=mask)
    torch.testing.assert_close(answer.best["image"], wanted["image"][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answer.best["label"], wanted["label"][0], atol=1e-4, rtol=1e-4)
    error = (wanted["image"][0] - grey)[:, ~seen].square().mean()
    assert answer.scores == {"image": pytest.approx(float(error), rel=1e-3)}
    assert f"image from {int(seen.sum())} of 784 rows, mean squared error" in str(answer)
    assert [path.name for path in answer.write(tmp_path / "out")] == ["out_image.png", "out_label.npy"]
    assert len(answer.figure().axes) == 3
    assert kit.load(kit.save(model, tmp_path / "m")).recipe == model.recipe
    model.processor = processor_of(model)
    loaded = kit.load(kit.save(model, tmp_path / "n"))
    assert loaded.processor == model.processor
    both = kit.predict(loaded, {"image": path, "label": torch.ones(1, 10)})
    assert both.mask["label"].shape == (1,)
    with pytest.raises(kit.InputError, match="no reader for 'imag'"):
        kit.predict(model, {"imag": path})


def test_several_data_sets_are_told_apart() -> None:
    modalities = (dict(a=(16, 3), b=(4, 1)), dict(c=(16, 2)))
    model = built("hierarchical_autoencoding", modalities=modalities)
    answer = kit.predict(model, {"a": rows(16, 3)})
    assert answer.outputs.keys() == {"a", "b"}
    assert kit.predict(model, {"c": rows(16, 2)}).outputs.keys() == {"c"}
    with pytest.raises(kit.InputError, match="expected modalities among a, b or c, got a, c"):
        kit.predict(model, {"a": rows(16, 3), "c": rows(16, 2)})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_have_the_channels_of_the_model(channels: int, tmp_path: Path) -> None:
    pixels = torch.randint(256, (28, 28, 4), dtype=torch.uint8)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = Image.fromarray(pixels.numpy()[..., :channels].squeeze(), mode)
    image.save(tmp_path / "a.png")
    read = processors.recipes.classify_picture(28, channels).item(tmp_path / "a.png").inputs["image"]
    wanted = pixels[..., :channels].permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(read, wanted)
    model = built("image_classification_fourier", image_channels=channels)
    answers = [kit.predict(model, source) for source in (tmp_path / "a.png", image, np.array(image))]
    torch.testing.assert_close(answers[0].outputs["label"], model.eval()(wanted[None])["label"][0])
    assert {answer.best for answer in answers} == {answers[0].best}
    assert answers[0].picture().shape[0] == 3


def test_pictures_of_another_kind_are_converted(tmp_path: Path) -> None:
    """Colour to grey as Pillow does; what has no alpha is opaque."""
    path = picture(tmp_path / "a.png", size=(8, 8))
    image = Image.open(path)
    grey = processors.Picture((8, 8), channels=1).read(path)
    torch.testing.assert_close(grey[0], torch.from_numpy(np.array(image.convert("L"))) / 127.5 - 1)
    colours = processors.Picture((8, 8), channels=4).read(path)
    assert (colours[3] == 1).all()
    torch.testing.assert_close(colours[:3], processors.Picture((8, 8)).read(path))
    with pytest.raises(kit.AssemblyError, match=r"channels must be 1 \(grey\) or 3 .* got 7"):
        processors.Picture(channels=7)


def test_pictures_of_many_channels_are_arrays() -> None:
    model = built("image_classification_fourier", image_channels=7)
    values = rows(7, 28, 28)
    answer = kit.predict(model, values)
    torch.testing.assert_close(
        answer.outputs["label"], model.eval()(torch.from_numpy(values).float()[None])["label"][0]
    )
