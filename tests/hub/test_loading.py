"""What is no model is refused in words of the kit: other things than paths, weights of other types, files that go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import inputs, outputs
from perceiver_kit.hub import checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model with counters: of the batches that its norm has seen."""
    return kit.save(kit.build("image_classification_conv", preset="tiny"), tmp_path / "model")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("source", "got"), [(3, "int"), (None, "NoneType"), (b"model", "bytes"), (["model"], "list")])
def test_what_is_no_path_is_refused(source: Any, got: str) -> None:
    with pytest.raises(kit.CheckpointError, match=f"^load takes a directory or the id of a hub .*, got an? {got}$"):
        kit.load(source)


@pytest.mark.parametrize(
    ("part", "kind", "says"),
    [
        ("encoder.latents", torch.int64, "as I64; it must be one of F64, F32, F16, BF16$"),
        ("num_batches_tracked", torch.float32, "as F32; it must be one of I64, I32, I16, I8, U8, BOOL$"),
    ],
)
def test_a_tensor_of_a_type_that_no_model_has_is_named(part: str, kind: torch.dtype, says: str, saved: Path) -> None:
    """Of the right name and shape, its numbers would be taken for something else."""
    path = saved / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors: dict[str, Tensor] = load_file(path)
    name = next(name for name in tensors if name.endswith(part))
    save_file(tensors | {name: tensors[name].to(kind)}, path, metadata=metadata)
    with pytest.raises(kit.CheckpointError, match=rf"model\.safetensors has {name} {says}"):
        kit.load(saved)


def test_weights_that_are_removed_while_they_are_opened_are_missing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved / "model.safetensors"

    def open_slowly(path: Path, framework: str) -> safe_open:
        weights = safe_open(path, framework=framework)
        path.unlink()
        return weights

    monkeypatch.setattr(checkpoint, "safe_open", open_slowly)
    with pytest.raises(kit.CheckpointError, match=f"^no checkpoint at {path}$"):
        checkpoint.open_weights(path)


def test_text_that_no_file_can_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class CheckedDataset(outputs.Rows):
        def __init__(self, in_channels: int, title: str) -> None:
            super().__init__(in_channels)

    def model(title: str) -> kit.PerceiverIO:
        return kit.PerceiverIO(
            inputs.Inputs(points=inputs.Features(3)),
            kit.Encoder(3, num_latents=2, latent_dim=8, layers=0),
            decoder=kit.MeanPool(8, out_channels=5),
            outputs=outputs.Outputs(label=CheckedDataset(5, title)),
        )

    registered = kit.registry._entries["outputs"]
    registered["CheckedDataset"] = CheckedDataset
    try:
        kit.save(model("\U0001f642"), tmp_path / "whole")
        with pytest.raises(kit.CheckpointError, match="has half of a surrogate pair, which UTF-8 cannot write"):
            kit.save(model("\ud83d"), tmp_path / "half")
    finally:
        del registered["CheckedDataset"]
    assert "\U0001f642" in (tmp_path / "whole" / "config.json").read_text(encoding="utf-8")
    assert not (tmp_path / "half").exists()
