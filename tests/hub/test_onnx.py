"""Models as ONNX files: names, order, masks, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def run(file: Path, wanted: list[str], **arguments: Any) -> dict[str, Tensor]:
    """Outputs of a file whose inputs are exactly these, named after argument and modality."""
    session = onnxruntime.InferenceSession(file)
    feed = {f"{argument}_{name}": x.numpy() for argument, own in arguments.items() for name, x in own.items()}
    assert [node.name for node in session.get_inputs()] == wanted == [*feed]
    names = [node.name.removeprefix("outputs_") for node in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, feed)), strict=True))


@torch.no_grad()
def test_queries_of_the_call_and_their_mask_are_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = kit.assemble(
        inputs=dict(history=kit.inputs.Points(axes=1, channels=2)),
        outputs=dict(future=kit.outputs.Project(3)),
        queries=dict(future=kit.queries.CoordinateQuery(kit.positions.Fourier(bands=2, max_resolution=(9,)))),
        num_latents=3,
        latent_dim=8,
        layers=1,
    ).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    given, asked = {"history": torch.rand(2, 7, 3)}, {"future": torch.rand(2, 4, 1)}
    reads = {"future": torch.tensor([[True, False, True, True], [True] * 4])}
    names = ["inputs_history", "query_mask_future", "queries_future"]
    file = kit.to_onnx(ours, tmp_path / "m.onnx", given, query_mask=reads, queries=asked)
    for mask, places in ((reads, asked), ({"future": ~reads["future"]}, {"future": 1 - asked["future"]})):
        found = run(file, names, inputs=given, query_mask=mask, queries=places)
        assert_close(found["future"], ours(given, query_mask=mask, queries=places)["future"], 1e-4)
    assert not torch.equal(found["future"], ours(given, queries=places)["future"])


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
