"""Answers of detection and segmentation, drawn on the picture itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.data.files import open_picture

from ..data.making import picture

pytestmark = pytest.mark.usefixtures("checked")


def test_boxes_are_drawn_on_the_picture_at_its_own_size(tmp_path: Path) -> None:
    """The model reads 32 × 32 pixels; class 3 of every query is certain, and the boxes are the middle half."""
    model = kit.build("object_detection", preset="tiny", labels=("a", "b", "cat", "dog"))
    for name, bias in (("class", torch.tensor([0.0, 0, 0, 50, 0])), ("box", torch.zeros(4))):
        project = model.outputs.blocks[name].project
        project.weight.data.zero_()
        project.bias.data = bias
    source = picture(tmp_path / "a.png", size=(30, 90))
    answer = kit.predict(model, source)
    assert answer.best == [{"class": "dog", "score": 1.0, "box": [0.5] * 4}] * 8 and answer.scores == {"dog": 8}
    assert answer.text() == ", ".join(["dog 1.00 at 0.50, 0.50 (0.50 × 0.50)"] * 5) + " and 3 more"
    axes = answer.figure().axes[0]
    assert axes.images[0].get_array().shape == (30, 90, 3)
    assert np.allclose(axes.images[0].get_array(), np.asarray(open_picture(source)) / 255, atol=1 / 255)
    assert np.allclose(axes.patches[0].get_bbox().extents + 0.5, [22.5, 7.5, 67.5, 22.5])
    assert axes.texts[0].get_text() == "dog 1.00"
    kit.save(model, tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), str(source), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "a_boxes.png").exists()
    line = json.loads((tmp_path / "out" / "answers.jsonl").read_text().splitlines()[0])
    assert len(line["best"]) == 8 and line["files"] == [str(tmp_path / "out" / "a_boxes.png")]


def test_masks_are_written_as_classes_and_as_colours(tmp_path: Path) -> None:
    model = kit.build("semantic_segmentation", preset="tiny", labels=("sky", "sea", "land", "ice", "sun"))
    source = picture(tmp_path / "a.png", size=(50, 70))
    answer = kit.predict(model, source)
    classes, colours = (open_picture(path) for path in reversed(answer.write(tmp_path / "b")))
    assert np.array_equal(np.asarray(classes), answer.best.numpy()) and colours.size == (70, 50)
    seen = {name for name, share in answer.scores.items() if share}
    legend = answer.figure().legends[0]
    assert {text.get_text() for text in legend.get_texts()} == seen and abs(sum(answer.scores.values()) - 1) < 1e-6


@pytest.mark.parametrize(("recipe", "size"), [("object_detection", (1, 600)), ("semantic_segmentation", (600, 1))])
def test_very_wide_and_very_tall_pictures_are_shown(tmp_path: Path, recipe: str, size: tuple[int, int]) -> None:
    answer = kit.predict(kit.build(recipe, preset="tiny"), picture(tmp_path / "a.png", size=size))
    page = answer.figure().get_size_inches()
    assert page.min() > 0.1 and page.max() < 10
    assert answer._repr_png_()
