"""A wrapper in place of any linear layer, convolution or embedding acts as the merged weight does.

The wrapper has the attributes of the layer that it wraps, as those of adapter libraries have, so that code which reads
``weight`` instead of calling the layer gives a wrong result, not an error.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perceiver_kit import attention_backends, registry
from perceiver_kit.registry import find

from ..assemblies import Assembly, assemblies
from ..blocks import CONTAINERS, drawable
from ..models.properties import WHOLE
from ..strategies import assert_close

LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)
KINDS = ["inputs", "positions", "queries", "encoders", "decoders", "outputs"]
# Blocks that stay registered beside the tested one, so that a model can be drawn.
OTHERS = {"positions": ["Learned"], "queries": ["InputQuery"], "outputs": ["Rows"]}


class Wrapper(nn.Module):
    """A layer plus another of the same kind without bias, whose weight is ``delta``."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.delta = nn.Parameter(0.3 * torch.randn_like(base.weight))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, rows: Tensor) -> Tensor:
        base = self.base
        if isinstance(base, nn.Embedding):
            return base(rows) + F.embedding(rows, self.delta)
        if isinstance(base, nn.Linear):
            return base(rows) + F.linear(rows, self.delta)
        return base(rows) + F.conv2d(rows, self.delta, None, base.stride, base.padding, base.dilation, base.groups)


def layers_of(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, LAYERS)]


def wrapped_and_merged(model: nn.Module, names: list[str]) -> tuple[nn.Module, nn.Module]:
    """Two copies: one with wrappers around these layers, one with their weights changed."""
    wrapped, merged = copy.deepcopy(model), copy.deepcopy(model)
    for name in names:
        wrapper = Wrapper(wrapped.get_submodule(name))
        for alias in [alias for alias, layer in wrapped.named_modules(remove_duplicate=False) if layer is wrapper.base]:
            wrapped.set_submodule(alias, wrapper)
        with torch.no_grad():
            merged.get_submodule(name).weight += wrapper.delta
    return wrapped, merged


def outputs_and_gradients(model: nn.Module, raw: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)  # dropout and hidden inputs
    output = model(raw)
    sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in output.values()).backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    scale = max(float(value.detach().abs().max()) for value in wanted.values())
    for name in wanted:
        assert ((found[name] - wanted[name]).abs() <= 1e-9 * max(scale, 1e-3)).all(), name


def acts_as_merged(model: nn.Module, raw: dict[str, Tensor], names: list[str], at: dict[str, Tensor]) -> None:
    """Outputs and gradients, in training and in evaluation; whole, some rows, chunks."""
    wrapped, merged = wrapped_and_merged(model, names)
    for training in (True, False):
        found, gradients = outputs_and_gradients(wrapped.train(training), raw)
        wanted, wanted_gradients = outputs_and_gradients(merged.train(training), raw)
        assert_same(found, wanted)
        # The gradient of ``delta`` is that of the weight to which it is added.
        deltas = {name.replace(".delta", ".weight"): g for name, g in gradients.items() if name.endswith(".delta")}
        gradients = {n.replace(".base.", "."): g for n, g in gradients.items() if not n.endswith(".delta")}
        assert_same(gradients, wanted_gradients)
        assert_same(deltas, {name: wanted_gradients[name] for name in deltas})
        for module in (wrapped, merged):
            module.zero_grad()
    with torch.no_grad():
        for options in ({}, {"chunk": 2}, {"at": at}):
            assert_same(wrapped(raw, **options), merged(raw, **options))


def some_rows(case: Assembly) -> dict[str, Tensor]:
    """The first row, the last and the first again, of each output whose rows are independent."""
    queries, outputs = case.model.queries.blocks, case.model.outputs.blocks
    rows = {name: torch.Size(queries[name].size or case.grids[queries[name].follows]).numel() for name in outputs}
    return {name: torch.tensor([0, rows[name] - 1, 0]) for name in outputs if not outputs[name].mixes_rows}


@contextlib.contextmanager
def drawing(kind: str, name: str) -> Iterator[None]:
    """Draws only this block of its kind, as far as a model can consist of it."""
    keep = {name, *OTHERS.get(kind, []), *CONTAINERS}
    entries = {other: entry for other, entry in registry._entries[kind].items() if other in keep}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._entries, kind, entries)
        yield


BLOCKS = [(kind, name) for kind in KINDS for name in drawable(kind)]


@pytest.mark.parametrize(("kind", "name"), BLOCKS, ids=".".join)
def test_each_layer_of_each_block_may_be_wrapped(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "RECOMPUTE_MIN_BYTES", 0)

    @settings(WHOLE, max_examples=2)
    @given(case=assemblies())
    def each_layer(case: Assembly) -> None:
        owners = [n for n, block in case.model.named_modules() if type(block) is find(kind, name)]
        assume(owners)
        for layer in layers_of(case.model.get_submodule(owners[0])):
            acts_as_merged(case.model, case.raw, [f"{owners[0]}.{layer}"], some_rows(case))

    with drawing(kind, name):
        each_layer()
