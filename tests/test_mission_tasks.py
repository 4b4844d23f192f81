"""Tasks and systems beyond Hugging Face's classes, one short test each; numbers are rows of the table of goals.

Their own tests say more: of data, objectives, answers, and equality with the published code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import perceiver_kit as kit
from perceiver_kit.data.flow_files import read_flo, read_kitti_flow, write_flo, write_kitti_flow
from perceiver_kit.declarations import objective_for

from .strategies import tiny


def test_30_question_answering() -> None:
    answer: Any = kit.predict(tiny("question_answering"), ("Who wrote it?", "It was written by Ada."))
    assert answer.best is None or answer.best == answer.context[answer.start : answer.end]


def test_31_named_entity_recognition() -> None:
    text = "Ada wrote it."
    answer: Any = kit.predict(tiny("token_classification"), text)
    assert all(span.text == text[span.start : span.end] for span in answer.best)
    names = ("O", "B-person", "I-person")
    model = kit.build("token_classification", preset="tiny", labels=names)
    assert "f1" in objective_for("token_classification", model=model).meters()


def test_32_object_detection() -> None:
    found = tiny("object_detection")({"image": torch.rand(2, 3, 32, 32)})
    assert found["class"].shape == (2, 8, 11) and found["box"].shape == (2, 8, 4)
    assert ((found["box"] >= 0) & (found["box"] <= 1)).all()


def test_33_audio_classification() -> None:
    model = tiny("audio_classification")
    for seconds in (0.5, 3.0):  # any length and rate
        answer: Any = kit.predict(model, torch.rand(int(seconds * 8000)) - 0.5)
        assert answer.best in answer.scores


def test_34_and_36_video_classification_with_or_without_sound() -> None:
    model = kit.build("video_classification", preset="tiny", problem_type="multi_label_classification").eval()
    sizes: Any = model.recipe["parameters"]  # type: ignore[union-attr]
    side = sizes["image_size"] if isinstance(sizes["image_size"], tuple) else (sizes["image_size"],) * 2
    clip = {
        "video": torch.rand(2, sizes["num_frames"], 3, *side),
        "audio": torch.rand(2, sizes["audio_samples"]),
    }
    for given in (clip, {"video": clip["video"]}, {"audio": clip["audio"]}):
        assert model(given)["label"].isfinite().all()


def test_35_glue_multi_task() -> None:
    model = kit.build("multitask_text", preset="tiny", tasks=dict(entails=("no", "yes"), similar=1))
    found = model({"text": torch.randint(6, 262, (2, 30))})
    assert {name: value.shape for name, value in found.items()} == {"entails": (2, 2), "similar": (2, 1)}


def test_37_and_38_points_and_sets_have_no_order() -> None:
    for recipe, name, width in (
        ("point_cloud_classification", "points", 3),
        ("set_classification", "entities", None),
    ):
        model = tiny(recipe)
        rows = torch.rand(2, 20, width or model.inputs.blocks[name].content_channels)  # type: ignore[union-attr]
        order = torch.randperm(20)
        torch.testing.assert_close(model({name: rows})["label"], model({name: rows[:, order]})["label"])


def test_39_sintel_and_kitti_files(tmp_path: Path) -> None:
    flow = torch.rand(2, 6, 8) * 40 - 20
    np.testing.assert_array_equal(read_flo(write_flo(tmp_path / "a.flo", flow)).flow, flow)
    found = read_kitti_flow(write_kitti_flow(tmp_path / "a.png", flow))
    torch.testing.assert_close(found.flow, flow, atol=1 / 64, rtol=0)
    assert "fl_all" in kit.objectives.EndPointError().meters()


def test_40_the_first_perceiver() -> None:
    with torch.device("meta"):
        model = kit.build("perceiver_image_classification")
    assert sum(parameter.numel() for parameter in model.parameters()) == 44_912_254


def test_41_perceiver_ar() -> None:
    model = tiny("causal_lm")
    assert kit.generate(model, "In", length=5, seed=0) == kit.generate(model, "In", length=5, seed=0)


def test_42_hierarchical_perceiver() -> None:
    rows = {"image": torch.rand(1, 1, 28, 28), "label": torch.rand(1, 1, 10)}
    found = tiny("hierarchical_autoencoding")(rows, mask={"image": torch.rand(1, 28, 28) > 0.85})
    assert found["image"].shape == (1, 1, 28, 28)


def test_43_resampler_and_gated_cross_attention() -> None:
    few = kit.Resampler(16, num_latents=4, layers=1, heads=2)(torch.randn(2, 9, 16))
    assert few.shape == (2, 4, 16)
    text = torch.randn(2, 5, 8)
    layer = kit.GatedCrossAttention(8, 16, heads=2)
    starts = torch.zeros(2, 5, dtype=torch.bool)
    starts[:, 0] = True
    assert torch.equal(layer(text, few[:, None], starts), text)  # its gates start at zero


def test_44_segmentation_and_forecasting() -> None:
    assert tiny("semantic_segmentation")({"image": torch.rand(1, 3, 45, 61)})["label"].shape == (1, 5, 45, 61)
    model = tiny("forecasting")
    history = torch.rand(1, 9, 2)
    ahead = model({"history": history}, queries={"future": torch.tensor([[1.0], [2.5]])})["future"]
    assert ahead.shape[:2] == (1, 2)


def test_45_perceiver_pytorch() -> None:
    from perceiver_pytorch import PerceiverIO

    theirs = PerceiverIO(
        dim=8, queries_dim=6, depth=1, num_latents=4, latent_dim=8, latent_heads=2, logits_dim=3
    ).eval()
    rows, asked = torch.randn(2, 7, 8), torch.randn(5, 6)
    model = kit.from_perceiver_pytorch(theirs, queries=asked)
    torch.testing.assert_close(model({"data": rows})["logits"], theirs(rows, queries=asked))
