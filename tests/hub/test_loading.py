"""``kit.load`` refuses sources that are not models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver_kit as kit


@pytest.mark.parametrize(("source", "got"), [(3, "int"), (None, "None"), (b"model", "bytes"), (["model"], "list")])
def test_sources_must_be_paths(source: Any, got: str) -> None:
    with pytest.raises(kit.CheckpointError, match=f"^load takes a directory or the id of a hub .*, got (an? )?{got}$"):
        kit.load(source)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(kit.CheckpointError, match="nowhere"):
        kit.load(tmp_path / "nowhere")
    kit.save(kit.build("masked_lm", preset="tiny"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(kit.CheckpointError, match=r"no checkpoint at .*model\.safetensors"):
        kit.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(kit.CheckpointError, match=r"config\.json"):
        kit.load(tmp_path)


def test_parameters_that_change_no_weights_may_be_given(tmp_path: Path) -> None:
    original = kit.build("image_classification_conv", preset="tiny").eval()
    kit.save(original, tmp_path / "kit")
    kit.save(kit.build("image_classification_learned", preset="tiny"), tmp_path / "learned")
    image = torch.rand(1, 3, 32, 32)
    wanted = kit.build("image_classification_conv", preset="tiny", conv_padding="same").eval()
    wanted.load_state_dict(original.state_dict())
    loaded = kit.load(tmp_path / "kit", conv_padding="same")
    assert not loaded.training and loaded.recipe["parameters"]["conv_padding"] == "same"
    assert torch.equal(loaded(image)["label"], wanted(image)["label"])
    assert not torch.equal(loaded(image)["label"], original(image)["label"])
    assert kit.spec(loaded) == kit.spec(wanted)
    learned = kit.load(tmp_path / "learned", decoder_residual=False, residual_dropout=0.1)
    assert not learned.decoder.cross.query_residual and learned.encoder.cross[0].dropout.p == 0.1
    with pytest.raises(kit.UnknownName, match="no parameter 'conv_pading'; did you mean 'conv_padding'"):
        kit.load(tmp_path / "kit", conv_pading="same")
    with pytest.raises(
        kit.CheckpointError, match=r"with num_latents changed, the checkpoint has mis-shaped encoder.lat"
    ):
        kit.load(tmp_path / "kit", num_latents=3)


def test_models_without_a_recipe_take_no_parameters(tmp_path: Path) -> None:
    model = kit.build("masked_lm", preset="tiny")
    model.recipe = None
    kit.save(model, tmp_path)
    with pytest.raises(kit.CheckpointError, match="dropout are parameters of a recipe, but none made this model"):
        kit.load(tmp_path, dropout=0.5)
