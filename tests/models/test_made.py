"""Any drawn model can be described, drawn, trained, saved, copied and rebuilt."""

from __future__ import annotations

import copy
import io
import json
import pickle
import tempfile

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.hub.checkpoint import shared_tensors

from ..assemblies import Assembly
from ..strategies import noisy, rows_of
from ..test_draw import check, lines
from .holding import indices, loss, mixes_rows, output_grids
from .properties import holds

pytestmark = pytest.mark.usefixtures("checked")


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Bitwise equal outputs."""
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def ties(model: nn.Module) -> list[tuple[str, ...]]:
    """The names of each shared tensor."""
    return [names for names, _ in shared_tensors(model)]


def from_its_spec(model: nn.Module) -> nn.Module:
    """Rebuilt from the spec as JSON."""
    return kit.build(json.loads(json.dumps(kit.spec(model), allow_nan=False)))


@holds()
def test_is_described(case: Assembly) -> None:
    text = kit.describe(case.model)
    for part in (case.model.inputs, case.model.queries, case.model.outputs):
        for name in part.blocks:
            assert f" {name}" in text
            assert type(part.blocks[name]).__name__ in text
    assert text.endswith(f"{sum(p.numel() for p in case.model.parameters()):,} parameters")


@holds()
def test_the_drawing_shows_the_shapes(case: Assembly) -> None:
    drawing = check(case.model)
    for name, value in case.model(case.raw).items():
        shape = lines(drawing, "output", name)[-1]
        sizes = shape.strip("()").split(", ")[1:]
        assert len(sizes) == value.ndim - 1, f"{shape} is not {tuple(value.shape)}"
        for size, found in zip(sizes, value.shape[1:], strict=True):
            assert not size.isdigit() or int(size) == found, f"{shape} is not {tuple(value.shape)}"
    rows = case.model.inputs(case.raw)[0].rows
    sizes = " ".join(lines(drawing, "rows", "")).split(")")[0].split(", ")[1:]
    for size, found in zip(sizes, rows.shape[1:], strict=True):
        assert not size.isdigit() or int(size) == found


@holds()
def test_every_parameter_has_a_finite_gradient(case: Assembly) -> None:
    """In training mode; distributed training raises for a parameter without a gradient."""
    model = case.model.train()
    found = model(case.raw)
    encoded = model.encode(case.raw)
    for name, value in found.items():
        rows = rows_of(model.outputs.blocks[name], value)
        assert rows.shape[:2] == (case.batch, torch.Size(output_grids(model, encoded)[name]).numel())
        assert value.dtype == torch.float64
        assert value.isfinite().all()
    loss(found).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@holds()
def test_is_rebuilt_from_its_spec(case: Assembly) -> None:
    rebuilt = from_its_spec(case.model).double().eval()
    assert kit.spec(rebuilt) == kit.spec(case.model)
    assert ties(rebuilt) == ties(case.model)
    rebuilt.load_state_dict(case.model.state_dict())
    assert same(rebuilt(case.raw), case.model(case.raw))


@holds()
def test_save_and_load_are_bitwise_exact(case: Assembly) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = kit.load(str(kit.save(case.model, folder)))
    assert kit.spec(loaded) == kit.spec(case.model)
    assert ties(loaded) == ties(case.model)
    for name, tensor in case.model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert same(loaded(case.raw), case.model(case.raw))


@holds()
def test_copies_are_equal_and_share_no_memory(case: Assembly) -> None:
    wanted, storages = case.model(case.raw), {p.untyped_storage().data_ptr() for p in case.model.parameters()}
    for twin in (copy.deepcopy(case.model), pickle.loads(pickle.dumps(case.model))):
        assert ties(twin) == ties(case.model)
        assert kit.spec(twin) == kit.spec(case.model)
        assert same(twin(case.raw), wanted)
        assert not storages & {p.untyped_storage().data_ptr() for p in twin.parameters()}
        noisy(twin)
        assert not same(twin(case.raw), wanted)
        assert same(case.model(case.raw), wanted)


@holds()
def test_the_state_dict_survives_torch_save(case: Assembly) -> None:
    file = io.BytesIO()
    torch.save(case.model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    wanted = case.model(case.raw)
    copied = from_its_spec(case.model).double().eval()
    copied.load_state_dict(state)
    with torch.device("meta"):
        assigned = from_its_spec(case.model).eval()
    assigned.load_state_dict(state, assign=True)
    for model in (copied, assigned):
        assert same(model(case.raw), wanted)
        assert ties(model) == ties(case.model)


@holds()
def test_has_the_same_shapes_on_the_meta_device(case: Assembly, data: st.DataObject) -> None:
    with torch.device("meta"):
        model = from_its_spec(case.model).eval()
    tensors = {name: value.to("meta") for name, value in case.of_type(torch.float32).items()}
    encoded, real = model.encode(tensors), case.model.encode(case.raw)
    assert encoded.latents.shape == real.latents.shape
    wanted, sizes = case.model(case.raw), output_grids(case.model, real)
    assert output_grids(model, encoded) == sizes
    for name, value in model(tensors).items():
        assert value.is_meta
        assert value.shape == wanted[name].shape
        if mixes_rows(model, name):
            continue
        index = data.draw(indices(torch.Size(sizes[name]).numel(), case.batch))
        found = model(tensors, at={name: index.to("meta")}, chunk=2)[name]
        assert found.shape == case.model(case.raw, at={name: index})[name].shape
