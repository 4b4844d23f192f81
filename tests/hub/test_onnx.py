"""Models as ONNX files: names, order, masks, refusals."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import perceiver_kit as kit

from ..strategies import assert_close


def model() -> nn.Module:
    """Names that Python refuses, and one name on both sides."""
    torch.manual_seed(0)
    inputs = kit.Inputs({"b": kit.inputs.Features(3), "a.b": kit.inputs.Features(2), "名前": kit.inputs.Features(1)})
    encoder = kit.Encoder(inputs.channels, num_latents=3, latent_dim=8, layers=1)
    queries = kit.Queries(b=kit.queries.LearnedQuery(2, 4), a=kit.queries.LearnedQuery(1, 4))
    outputs = kit.Outputs(b=kit.outputs.Project(3, in_channels=4), a=kit.outputs.Classify(2, in_channels=4))
    return kit.PerceiverIO(inputs, encoder, queries, kit.Decoder(4, 8), outputs).eval()


def raw(batch: int = 2) -> dict[str, Tensor]:
    return {"b": torch.randn(batch, 5, 3), "名前": torch.randn(batch, 2, 1), "a.b": torch.randn(batch, 4, 2)}


@torch.no_grad()
def test_inputs_masks_and_outputs_are_named_after_modalities(tmp_path: Path) -> None:
    ours, given, keep = model(), raw(), {"b": torch.rand(2, 5) < 0.5}
    session = onnxruntime.InferenceSession(kit.to_onnx(ours, tmp_path / "model.onnx", given, mask=keep))
    assert [node.name for node in session.get_inputs()] == ["inputs_a.b", "inputs_b", "inputs_名前", "mask_b"]
    assert [node.name for node in session.get_outputs()] == ["outputs_a", "outputs_b"]
    feed = {f"inputs_{name}": value.numpy() for name, value in given.items()} | {"mask_b": keep["b"].numpy()}
    for name, wanted in ours(given, mask=keep).items():
        (found,) = session.run([f"outputs_{name}"], feed)
        assert_close(torch.from_numpy(found), wanted, 1e-4)


def test_unsupported_models_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(kit.AssemblyError, match=r"must be in evaluation mode, got training mode; call model\.eval\(\)"):
        kit.to_onnx(model().train(), tmp_path / "m.onnx", raw())
    with pytest.raises(kit.InputError, match=r"m\.onnx cannot be written"):
        kit.to_onnx(model(), tmp_path / "nowhere" / "m.onnx", raw())
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(kit.MissingPackage, match="to_onnx needs onnx and onnxscript"):
        kit.to_onnx(model(), tmp_path / "m.onnx", raw())
