"""Files and models that loading and conversion refuse, each with a message that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import perceiver_kit as kit
from perceiver_kit.errors import CheckpointError
from perceiver_kit.hub.huggingface import convertible

from .reference import refused

CONVERSIONS = convertible()
each_recipe = pytest.mark.parametrize("recipe", CONVERSIONS)


def edit(directory: Path, **changes: object) -> Path:
    """A config.json with some keys changed; None takes one away."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return directory


def rewrite(directory: Path, change: Callable[[dict], object]) -> Path:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


LATENTS = "perceiver.embeddings.latents"


def test_tensors_that_do_not_fit(saved: Path) -> None:
    latents = load_file(saved / "model.safetensors")[LATENTS]
    refused(rewrite(saved, lambda t: t.pop(LATENTS)), "lacks", LATENTS)
    refused(rewrite(saved, lambda t: t.update({LATENTS: latents[1:].clone(), "more": latents})), "unexpected more")
    refused(rewrite(saved, lambda t: t.pop("more")), "mis-shaped", LATENTS, str(tuple(latents.shape)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, ["model_type", "bert", "perceiver"]),
        ({"model_type": None}, ["model_type"]),
        (
            {"architectures": ["PerceiverForMaskedLLM"]},
            ["PerceiverForMaskedLLM", "did you mean 'PerceiverForMaskedLM'"],
        ),
        ({"architectures": ["PerceiverModel"]}, ["architecture", "PerceiverModel"]),
        ({"architectures": None}, ["architecture"]),
        ({"hidden_act": "relu"}, ["hidden_act", "relu", "gelu"]),
        ({"cross_attention_shape_for_attention": "q"}, ["cross_attention_shape_for_attention", "kv"]),
        ({"num_latents": "many"}, ["num_latents"]),
        ({"architectures": 3}, ["config.json is not a Perceiver's: ", "'int' object"]),
        ({"id2label": 3}, ["config.json is not a Perceiver's: ", "'int'"]),
        ({"num_self_attention_heads": 5}, ["divisible", "heads 5"]),
    ],
)
def test_configs_of_something_else(saved: Path, changes: dict, words: list[str]) -> None:
    refused(edit(saved, **changes), *words)


@pytest.mark.parametrize("saved", ["multimodal_autoencoding"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_frames": 7}, ["num_frames 7", "output_shape"]),
        ({"image_size": 5}, ["output_shape", "image_size"]),
        ({"output_shape": [1, 2]}, ["config.json"]),
    ],
)
def test_video_sizes_that_contradict_each_other(saved: Path, changes: dict, words: list[str]) -> None:
    refused(edit(saved, **changes), *words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"model_type": "perceiver"'])
def test_a_damaged_config(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    refused(saved, "config.json")


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_damaged_weights(saved: Path, keep: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refused(saved, "model.safetensors", "damaged")


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere")
    refused("three/part/name", "three/part/name", "neither a directory nor the id of a hub repository")
    (saved / "model.safetensors").unlink()
    refused(saved, "model.safetensors")
    (saved / "config.json").unlink()
    refused(saved, "config.json")


def test_a_pickle_is_never_opened_and_the_refusal_converts_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("unpickled"))
    message = refused(saved, "pytorch_model.bin", "convert")
    monkeypatch.undo()
    command = message.partition('python -c "')[2].rpartition('"')[0]
    monkeypatch.chdir(saved.parent)
    exec(command)
    assert isinstance(kit.load(saved.parent / "converted"), kit.PerceiverIO)


@each_recipe
def test_sizes_that_hugging_face_fixes_cannot_be_exported(recipe: str, tmp_path: Path) -> None:
    fixed = {"masked_lm": dict(decoder_heads=4), "sequence_classification": None}.get(recipe, {})
    if fixed is None:
        return  # any of its sizes has a place
    with pytest.raises(CheckpointError, match="to_huggingface") as caught:
        kit.to_huggingface(kit.build(recipe, preset="tiny", **fixed), tmp_path / "written")
    assert any(key in str(caught.value) for key in CONVERSIONS[recipe].fixed), caught.value
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("image_classification_learned", dict(image_size=(8, 9), channels=256), "square"),
        ("image_classification_learned", dict(decoder_residual=False, channels=256), "decoder_residual"),
        ("multimodal_autoencoding", dict(image_size=(32, 48), image_bands=32, audio_bands=192), "square"),
        ("multimodal_autoencoding", dict(audio_samples=4000, num_frames=3, image_bands=32, audio_bands=192), "audio"),
        ("multimodal_autoencoding", dict(hide_label=(0.0, 0.0), image_bands=32, audio_bands=192), "hide_label"),
        ("multimodal_autoencoding", dict(hide_label=(1.0, 0.0), image_bands=32, audio_bands=192), "hide_label"),
        ("optical_flow", dict(bands=64, channels=64, flow_scale=1.0), "flow_scale"),
        ("sequence_classification", dict(v_channels=64), "v_channels"),
        ("sequence_classification", dict(v_channels=None, qk_channels=64), "v_channels"),
        ("image_classification_fourier", dict(bands=64, max_resolution=(224, 224), cross_heads=3), "cross_heads"),
    ],
)
def test_models_computed_differently_cannot_be_exported(
    recipe: str, overrides: dict, words: str, tmp_path: Path
) -> None:
    model = kit.build(recipe, preset="tiny", **overrides)
    with pytest.raises(CheckpointError, match=words):
        kit.to_huggingface(model, tmp_path)


def test_only_models_of_recipes_are_written(tmp_path: Path) -> None:
    model = kit.build("sequence_classification", preset="tiny")
    by_hand = kit.PerceiverIO(model.inputs, model.encoder, model.queries, model.decoder, model.outputs)
    for other in (by_hand, nn.Linear(2, 2)):
        with pytest.raises(CheckpointError, match="recipe"):
            kit.to_huggingface(other, tmp_path)
    kit.to_huggingface(model, tmp_path)
    model.decoder = kit.Decoder(128, 128, heads=2, query_residual=True)
    with pytest.raises(CheckpointError, match="changed"):
        kit.to_huggingface(model, tmp_path)


def test_an_unwritable_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot save to .*file: File exists"):
        kit.to_huggingface(kit.build("sequence_classification", preset="tiny"), tmp_path / "file")
