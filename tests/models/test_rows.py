"""Any drawn model: whole, partial and chunked outputs agree; masked, missing and unrequested rows have no effect;
samples are independent, and so is the order of rows."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import queries

from ..assemblies import Assembly
from ..strategies import assert_close, distance, rows_of
from .holding import holds_for_chunks, holds_for_some, holds_whatever_masked_rows_hold, random_masks
from .properties import DOUBLE, holds

pytestmark = pytest.mark.usefixtures("checked")


@holds(masked=True, attached=True)
def test_chunks_equal_the_whole(case: Assembly, data: st.DataObject) -> None:
    with torch.no_grad():
        holds_for_chunks(case.model, case.raw, data, DOUBLE, case.masks)


@holds(masked=True, attached=True)
def test_at_equals_rows_of_the_whole(case: Assembly, data: st.DataObject) -> None:
    with torch.no_grad():
        holds_for_some(case.model, case.raw, data, DOUBLE, case.masks)


@holds(masked=True, attached=True)
def test_outputs_are_the_same_with_and_without_gradients(case: Assembly) -> None:
    """Without gradients: folded layers, chunks, other attention backends."""
    wanted = case.model(case.raw, **case.masks)
    with torch.no_grad():
        for name, value in case.model(case.raw, **case.masks).items():
            assert_close(value, wanted[name], DOUBLE)


@holds()
def test_unrequested_outputs_are_not_computed(case: Assembly, data: st.DataObject) -> None:
    model = case.model
    names = [*model.outputs.blocks]
    requested = data.draw(st.lists(st.sampled_from(names), unique=True), label="requested")
    called: set[int] = set()
    for block in {block for name in names for block in (case.query(name), model.outputs.blocks[name])}:
        block.register_forward_pre_hook(lambda block, _: called.add(id(block)))
    assert sorted(model(case.raw, at=dict.fromkeys(requested))) == sorted(requested)
    assert called == {id(block) for name in requested for block in (case.query(name), model.outputs.blocks[name])}


@holds()
def test_a_query_is_decoded_once_for_all_its_outputs(case: Assembly) -> None:
    calls: list[int] = []
    case.model.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    case.model.requires_grad_()(case.raw)
    assert len(calls) == len(case.model.queries.blocks)


@holds()
def test_encode_keeps_only_rows_that_queries_read(case: Assembly) -> None:
    encoded = case.model.encode(case.raw)
    blocks = [case.model.queries.blocks[name] for name in case.model.queries.blocks]
    assert set(encoded.rows) == {block.follows for block in blocks if isinstance(block, queries.InputQuery)}
    of_content = queries.ContentQuery | queries.PooledQuery
    assert set(encoded.content) == {block.follows for block in blocks if isinstance(block, of_content)}


# ---- masks


@holds()
def test_masked_content_has_no_effect(case: Assembly, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*case.raw]), min_size=1, unique=True), label="masked")
    holds_whatever_masked_rows_hold(case.model, case.raw, names, data.draw(st.booleans(), label="mask a whole sample"))


@holds()
def test_an_all_true_mask_has_no_effect(case: Assembly) -> None:
    masks = {name: mask | True for name, mask in random_masks(case.model, case.raw, [*case.raw], False).items()}
    wanted = case.model(case.raw)
    for name, value in case.model(case.raw, mask=masks).items():
        assert_close(value, wanted[name], DOUBLE)


@holds()
def test_fully_masked_inputs_have_no_effect(case: Assembly) -> None:
    masks = {name: mask & False for name, mask in random_masks(case.model, case.raw, [*case.raw], False).items()}
    wanted = case.model(case.raw, mask=masks)
    for name, value in case.model({name: value.flip(-1) for name, value in case.raw.items()}, mask=masks).items():
        assert value.isfinite().all()
        assert torch.equal(value, wanted[name])


@holds(masked=True)
def test_a_masked_query_reads_no_latents(case: Assembly) -> None:
    """Its row is the same for any latents, and other rows are as without the mask."""
    masks = case.masks.get("query_mask")
    assume(masks)
    encoded = case.model.encode(case.raw)
    other = dataclasses.replace(encoded, latents=encoded.latents.flip(-1))
    found, without = case.model.decode(encoded, query_mask=masks), case.model.decode(encoded)
    unread = case.model.decode(other, query_mask=masks)
    for name, mask in masks.items():
        block = case.model.outputs.blocks[name]
        assume(not block.mixes_rows)
        rows, reading = rows_of(block, found[name]), mask.flatten(1)
        assert_close(rows[~reading], rows_of(block, unread[name])[~reading], DOUBLE) if not reading.all() else None
        assert_close(rows[reading], rows_of(block, without[name])[reading], DOUBLE) if reading.any() else None


@holds()
def test_encoders_take_masks_of_every_kind(case: Assembly, data: st.DataObject) -> None:
    """Rows that no latent may read have no effect, with and without gradients."""
    encoder, tokens = case.model.encoder, case.model.inputs(case.raw)[0]
    assume(type(encoder) is kit.Encoder)
    b, n, m = case.batch, tokens.layout.rows, encoder.num_latents
    mask = torch.rand(data.draw(st.sampled_from([(b, n), (1, m, n), (b, m, n)]))) < 0.6
    causal = data.draw(st.booleans(), label="causal")
    unread = ~(mask if mask.ndim == 2 else mask.any(1)).expand(b, n)
    other = dataclasses.replace(tokens, rows=tokens.rows.masked_fill(unread[..., None], torch.nan))
    wanted = encoder(tokens, mask, causal=causal)
    assert_close(encoder(other, mask, causal=causal), wanted, DOUBLE)
    with torch.no_grad():
        assert_close(encoder(other, mask, causal=causal), wanted, DOUBLE)


@holds()
def test_masks_change_the_latents(case: Assembly, data: st.DataObject) -> None:
    """Otherwise the mask tests would pass for a model that reads nothing."""
    name = data.draw(st.sampled_from([*case.raw]))
    assume(case.model.inputs.channels > 2)  # a norm of one or two channels leaves only signs
    mask = torch.arange(torch.Size(case.grids[name]).numel()).expand(case.batch, -1) > 0
    assume(case.model.inputs.hide.get(name, (0, 0))[1] == 0)  # otherwise every row is the mask token
    wanted = case.model.encode(case.raw).latents
    assert distance(case.model.encode(case.raw, mask={name: mask}).latents, wanted) > 1e-9


# Inputs whose rows hold values of their neighbours.
NEIGHBOURS = (kit.inputs.LogMel, kit.inputs.Matches, kit.inputs.PastTokens)


def reads_sets(case: Assembly) -> bool:
    """Whether the encoder reads rows as a set: their order, and rows that are masked as a whole, have no effect."""
    return getattr(case.model.encoder, "reads_sets", True)


# ---- missing modalities


def answerable(case: Assembly, missing: list[str]) -> list[str]:
    """The outputs whose queries follow no input that is missing."""
    return [name for name in case.model.outputs.blocks if case.follows(name) not in missing]


@holds(least=2)
def test_missing_modalities_become_mask_tokens_or_no_rows(case: Assembly, data: st.DataObject) -> None:
    optional = [*case.model.inputs.hide]
    assume(optional and len(case.raw) > 1 and reads_sets(case))
    missing = data.draw(st.lists(st.sampled_from(optional), min_size=1, max_size=len(case.raw) - 1, unique=True))
    present = {name: value for name, value in case.raw.items() if name not in missing}
    blocks = case.model.inputs.blocks
    # Mask tokens fill a declared grid; without one there are no rows, as if all were masked.
    hidden = {name: torch.ones(case.batch) > 0 for name in missing if blocks[name].grid is not None}
    layout = case.model.inputs(case.raw)[0].layout
    unread = {name: torch.zeros(case.batch, *layout.grid(name)) > 0 for name in missing if blocks[name].grid is None}
    at = dict.fromkeys(answerable(case, missing))
    wanted = case.model(case.raw, hidden=hidden, mask=unread, at=at)
    for name, value in case.model(present, at=at).items():
        assert_close(value, wanted[name], DOUBLE)


@holds(least=2)
def test_outputs_that_follow_a_missing_input_are_refused(case: Assembly) -> None:
    follows = {name: case.follows(name) for name in case.model.outputs.blocks}
    refused = {name: follow for name, follow in follows.items() if follow in case.model.inputs.hide}
    assume(refused and len(case.raw) > 1)
    for name, follow in refused.items():
        present = {other: value for other, value in case.raw.items() if other != follow}
        with pytest.raises(kit.InputError) as caught:
            case.model(present, at={name: None})
        assert str(caught.value) == f"this output's query follows the input {follow!r}, which was left out"


@holds(hide=False, least=2)
def test_missing_required_modalities_are_named(case: Assembly) -> None:
    required = [name for name in case.raw if name not in case.model.inputs.hide]
    assume(required and len(case.raw) > 1)
    missing = required[0]
    present = {name: value for name, value in case.raw.items() if name != missing}
    optional = ", ".join(case.model.inputs.hide) or "none"
    with pytest.raises(kit.InputError) as caught:
        case.model(present)
    assert str(caught.value) == f"inputs lacks {missing!r}, which has no mask token (may be left out: {optional})"


# ---- samples and rows


@holds(masked=True, attached=True)
def test_samples_of_a_batch_are_independent(case: Assembly) -> None:
    together = case.model(case.raw, **case.masks)
    for i in range(case.batch):
        masks = {kind: {name: mask[i : i + 1] for name, mask in of.items()} for kind, of in case.masks.items()}
        alone = case.model({name: value[i : i + 1] for name, value in case.raw.items()}, **masks)
        for name, value in alone.items():
            assert_close(value, together[name][i : i + 1], DOUBLE)


def moved(model: nn.Module, name: str, order: Tensor) -> nn.Module:
    """A copy that reads one modality's rows, with their positions, in another order."""
    twin, back = copy.deepcopy(model), order.argsort()
    block = twin.inputs.blocks[name]
    embed, place, coordinates = block.embed, block.place, block.coordinates

    def embedded(raw: Tensor, modality: str) -> Tensor:
        content = embed(raw, modality)
        return content.flatten(1, -2)[:, order].view_as(content) if modality == name else content

    def located(raw: Tensor, modality: str) -> Tensor | None:
        places = coordinates(raw, modality)
        return None if places is None else places[:, order]

    def placed(content: Tensor, grid: tuple[int, ...], places: Tensor | None, modality: str) -> Tensor:
        if places is not None:
            return place(content, grid, places, modality)
        return place(content[:, back], grid, None, modality)[:, order]

    block.coordinates = located
    block.embed, block.place = embedded, placed
    return twin


@holds()
def test_the_order_of_rows_with_positions_has_no_effect(case: Assembly, data: st.DataObject) -> None:
    """Except on outputs whose queries are these rows: they change order too."""
    name = data.draw(st.sampled_from([*case.raw]))
    # Masked samples of sound are zeros before they become rows, so that rows cannot be moved apart from them.
    assume(not isinstance(case.model.inputs.blocks[name], (*NEIGHBOURS, kit.inputs.AudioPatches)))
    alone = [other for other in case.raw if case.model.inputs.blocks[other] is case.model.inputs.blocks[name]]
    assume(alone == [name] and reads_sets(case))  # a shared block would move the other input's rows too
    rows = torch.Size(case.grids[name]).numel()
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    mask = random_masks(case.model, case.raw, [name], False)[name].flatten(1)
    wanted = case.model(case.raw, mask={name: mask})
    twin = moved(case.model, name, order)
    found = twin(case.raw, mask={name: mask[:, order]})
    assert_close(
        twin.encode(case.raw, mask={name: mask[:, order]}).latents,
        case.model.encode(case.raw, mask={name: mask}).latents,
        DOUBLE,
    )
    for output, value in found.items():
        query, block = case.query(output), case.model.outputs.blocks[output]
        if query.reads is None or query.follows != name:
            assert_close(value, wanted[output], DOUBLE)
        elif query.reads == "rows" and not block.mixes_rows:
            assert_close(rows_of(block, value), rows_of(block, wanted[output])[:, order], DOUBLE)


@holds(places=False)
def test_the_order_of_rows_without_positions_has_no_effect(case: Assembly, data: st.DataObject) -> None:
    """Permutes raw values, for inputs of one axis whose raw tensor divides into rows."""
    plain = [name for name, grid in case.grids.items() if len(grid) == 1 and case.raw[name].shape[1] % grid[0] == 0]
    plain = [name for name in plain if not isinstance(case.model.inputs.blocks[name], NEIGHBOURS)]
    plain = [name for name in plain if case.model.inputs.blocks[name].positions is None and case.grids[name] != (1,)]
    assume(plain and reads_sets(case))
    name = data.draw(st.sampled_from(plain))
    value, (rows,) = case.raw[name], case.grids[name]
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    other = case.raw | {name: value.unflatten(1, (rows, -1))[:, order].flatten(1, 2)}
    assert_close(case.model.encode(other).latents, case.model.encode(case.raw).latents, DOUBLE)
