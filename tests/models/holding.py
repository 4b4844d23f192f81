"""Properties of any model, drawn or of a recipe: subsets of rows, chunks, masks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit

from ..strategies import assert_close, composite, rows_of

Masks = Mapping[str, dict[str, Tensor]]  # the arguments mask and query_mask of a call


def output_grids(model: nn.Module, encoded: kit.Encoded) -> dict[str, tuple[int, ...]]:
    given = getattr(model, "asked", {})
    grids = {}
    for name in model.outputs.blocks:
        query = model.outputs.query_of(name)
        grids[name] = (len(given[query]),) if query in given else model.queries.grid(query, encoded)
    return grids


def mixes_rows(model: nn.Module, name: str) -> bool:
    """Whether the rows of an output depend on each other."""
    return model.outputs.blocks[name].mixes_rows or getattr(model.decoder, "mixes_rows", False)


@composite
def indices(draw: st.DrawFn, rows: int, batch: int) -> Tensor:
    """Flat indices in any order, with repetition: (k,) for the batch or (b, k) for each sample."""
    k = draw(st.integers(1, 5))
    one = st.lists(st.integers(0, rows - 1), min_size=k, max_size=k)
    if draw(st.booleans()):
        return torch.tensor(draw(one))
    return torch.tensor(draw(st.lists(one, min_size=batch, max_size=batch)))


def taken(rows: Tensor, index: Tensor) -> Tensor:
    """The rows (b, k, c) at indices (k,) or (b, k), sample by sample."""
    return torch.stack([sample[i] for sample, i in zip(rows, index.expand(len(rows), -1), strict=True)])


def holds_for_chunks(
    model: nn.Module, tensors: dict, data: st.DataObject, within: float, masks: Masks = MappingProxyType({})
) -> None:
    encoded, reads = model.encode(tensors, mask=masks.get("mask")), masks.get("query_mask") or {}
    whole, sizes = model.decode(encoded, query_mask=reads), output_grids(model, encoded)
    if getattr(model.decoder, "mixes_rows", False):
        with pytest.raises(kit.InputError, match="read each other; leave chunk out"):
            model.decode(encoded, chunk=1)
        return
    for name, result in whole.items():
        count = math.prod(sizes[name])
        assert result.isfinite().all()
        chunk = data.draw(st.integers(max(1, count // 20), count + 1), label="chunk")
        only = dict(at={name: None}, query_mask={name: reads[name]} if name in reads else None)
        assert_close(model.decode(encoded, chunk=chunk, **only)[name], result, within)
        assert_close(model(tensors, chunk=chunk, mask=masks.get("mask"), **only)[name], result, within)
    together = model(tensors, chunk=max(map(math.prod, sizes.values())) // 3 + 1, **masks)
    for name, result in whole.items():
        assert_close(together[name], result, within)


def holds_for_some(
    model: nn.Module, tensors: dict, data: st.DataObject, within: float, masks: Masks = MappingProxyType({})
) -> None:
    encoded, reads = model.encode(tensors, mask=masks.get("mask")), masks.get("query_mask") or {}
    whole, sizes = model.decode(encoded, query_mask=reads), output_grids(model, encoded)
    batch = len(encoded.latents)
    assert [*whole] == sorted(whole) == [*model.outputs.blocks]
    through_forward = model(tensors, **masks)
    for name, result in whole.items():
        assert torch.equal(through_forward[name], result)
        rows = rows_of(model.outputs.blocks[name], result)
        count = math.prod(sizes[name])
        assert rows.shape[:2] == (batch, count)
        index = data.draw(indices(count, batch), label=f"at of {name}")
        if mixes_rows(model, name):
            with pytest.raises(kit.InputError, match="depend on each other; decode it whole"):
                model.decode(encoded, at={name: index})
            continue
        of_name = {name: reads[name]} if name in reads else None
        subset = model.decode(encoded, at={name: index}, query_mask=of_name)
        assert [*subset] == [name]
        assert_close(subset[name], taken(rows, index), within)
        some = model(tensors, at={name: index}, chunk=2, mask=masks.get("mask"), query_mask=of_name)
        assert_close(some[name], subset[name], within)
        assert_close(model.decode(encoded, at={name: None}, query_mask=of_name)[name], result, within)


def loss(found: dict[str, Tensor]) -> Tensor:
    """A weighted sum of all output values, with different weights."""
    return sum((value * torch.linspace(-1, 2, value.numel()).view_as(value)).sum() for value in found.values())


def poison(model: nn.Module, masks: dict[str, Tensor], value: float) -> None:
    """Replaces the embedded content by this value wherever it is masked."""

    def poisoned(block: nn.Module) -> None:
        def embed(raw: Tensor, name: str) -> Tensor:
            content = type(block).embed(block, raw, name)
            return torch.where(masks[name].view(*content.shape[:-1], 1), content, value) if name in masks else content

        block.embed = embed

    for block in {id(block): block for block in map(model.inputs.blocks.__getitem__, masks)}.values():
        poisoned(block)


def random_masks(model: nn.Module, tensors: dict, names: list[str], whole_sample: bool) -> dict[str, Tensor]:
    """Random masks (b, *grid); with ``whole_sample`` the last sample is fully masked."""
    layout = model.inputs(tensors)[0].layout
    batch = len(next(iter(tensors.values())))
    masks = {name: torch.rand(batch, *layout.grid(name)) < 0.6 for name in names}
    for mask in masks.values():
        mask[-1] = mask[-1] & (not whole_sample)
    return masks


def holds_whatever_masked_rows_hold(model: nn.Module, tensors: dict, names: list[str], whole_sample: bool) -> None:
    """Results and gradients are bitwise the same when masked content becomes NaN."""
    masks = random_masks(model, tensors, names, whole_sample)
    flat = {name: mask.flatten(1) for name, mask in masks.items()}
    results = []
    for value in (0.0, 7.0, float("nan")):
        poisoned = copy.deepcopy(model).requires_grad_()
        poison(poisoned, masks, value)
        found = poisoned(tensors, mask=flat)
        assert all(value.isfinite().all() for value in found.values())
        loss(found).backward()
        gradients = {name: p.grad for name, p in poisoned.named_parameters()}
        results.append(found | {name: gradient for name, gradient in gradients.items() if gradient is not None})
    for other in results[1:]:
        assert results[0].keys() == other.keys()
        for name, wanted in results[0].items():
            assert wanted.isfinite().all(), name
            assert torch.equal(wanted, other[name]), name
    by_row, by_place = model(tensors, mask=flat), model(tensors, mask=masks)
    for name, wanted in by_row.items():
        assert torch.equal(wanted, by_place[name])
