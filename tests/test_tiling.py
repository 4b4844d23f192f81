"""Images of any size through tiles: which tiles there are, how they are blended, and what never matters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.errors import AssemblyError, InputError
from perceiver_kit.tiling import Tiled

from .hub.reference import randomised
from .strategies import assert_close

TILE, OVERLAP = (6, 8), 3
# Below, equal and above the tile in either direction; one pixel more, and many tiles; never square.
SIZES = [(6, 8), (4, 8), (6, 3), (1, 1), (5, 30), (6, 9), (7, 8), (9, 13), (12, 5), (20, 17), (16, 23)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def make(tile: tuple[int, int] = TILE, overlap: int = OVERLAP) -> Tiled:
    sizes = dict(bands=3, channels=8, num_latents=5, latent_dim=16, layers=1, self_heads=2)
    torch.manual_seed(0)
    return randomised(kit.build("optical_flow", image_size=tile, tile_overlap=overlap, **sizes)).eval()


@pytest.fixture(scope="module")
def model() -> Tiled:
    return make()


def frames(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.rand(batch, 2, 3, *size) * 2 - 1


@contextmanager
def counted(model: nn.Module) -> Iterator[list[Tensor]]:
    """The tiles that go through the model."""
    seen: list[Tensor] = []
    handle = model.inputs.register_forward_pre_hook(
        lambda module, args: seen.append(args[0]["frames"] if isinstance(args[0], dict) else args[0])
    )
    try:
        yield seen
    finally:
        handle.remove()


def starts(whole: int, tile: int, overlap: int) -> list[int]:
    """As the original: every tile - overlap from zero, the last one flush with the edge, none twice."""
    places = list(range(0, whole, tile - overlap))
    while len(places) > 1 and places[-2] + tile >= whole:
        places.pop()
    places[-1] = whole - tile
    return places


def restated(model: Tiled, raw: Tensor, keep: Tensor | None = None) -> np.ndarray:
    """Pixel by pixel: the mean of the tiles that see it, weighted by how far from their edges it is."""
    (height, width), (tall, wide) = raw.shape[-2:], model.tile
    padded = torch.zeros(*raw.shape[:-2], max(height, tall), max(width, wide))
    padded[..., :height, :width] = raw
    readable = torch.zeros(raw.shape[0], *padded.shape[-2:], dtype=torch.bool)
    readable[..., :height, :width] = True if keep is None else keep
    total, weights = np.zeros((raw.shape[0], 2, *padded.shape[-2:])), np.zeros(padded.shape[-2:])
    for top in starts(padded.shape[-2], tall, model.min_overlap):
        for left in starts(padded.shape[-1], wide, model.min_overlap):
            here = (..., slice(top, top + tall), slice(left, left + wide))
            flow = kit.PerceiverIO.forward(model, {"frames": padded[here]}, mask={"frames": readable[here]})["flow"]
            for y, x in itertools.product(range(tall), range(wide)):
                weight = min(y + 1, tall - y, x + 1, wide - x)
                total[:, :, top + y, left + x] += weight * flow[:, :, y, x].numpy()
                weights[top + y, left + x] += weight
    return (total / weights)[..., :height, :width]


@every_size
@torch.no_grad()
def test_tiles_are_blended_as_restated(model: Tiled, size: tuple[int, int]) -> None:
    raw = frames(size)
    found = model({"frames": raw})["flow"]
    assert found.shape == (2, 2, *size)
    assert_close(found.double(), torch.from_numpy(restated(model, raw)), 1e-5)
    assert_close(model(raw, chunk=7)["flow"], found, 1e-5)


@every_size
@torch.no_grad()
def test_masks_are_cut_as_the_frames_are(model: Tiled, size: tuple[int, int]) -> None:
    raw, keep = frames(size), torch.rand(2, *size) < 0.6
    found = model(raw, mask={"frames": keep})["flow"]
    assert_close(found.double(), torch.from_numpy(restated(model, raw, keep)), 1e-5)
    assert torch.equal(found, model(raw, mask=keep.flatten(1))["flow"])


@given(
    tile=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    overlap=st.integers(0, 11),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=100)
def test_tiles_cover_all_and_overlap_enough(
    model: Tiled, tile: tuple[int, int], overlap: int, size: tuple[int, int]
) -> None:
    overlap = min(overlap, min(tile) - 1)
    size = tuple(max(pair) for pair in zip(size, tile, strict=True))
    cut = make.__wrapped__ if hasattr(make, "__wrapped__") else None
    assert cut is None
    with torch.device("meta"):
        tiled = Tiled(
            model.inputs, model.encoder, model.queries, model.decoder, model.outputs, tile=tile, min_overlap=overlap
        )
    tiles = [*tiled._tiles(*size)]
    assert len({(rows.start, columns.start) for rows, columns in tiles}) == len(tiles), "no tile twice"
    seen = torch.zeros(size)
    for rows, columns in tiles:
        assert seen[rows, columns].shape == tile, "every tile is whole"
        seen[rows, columns] += 1
    assert seen.min() >= 1, "every pixel is covered"
    for axis in (0, 1):
        places = sorted({pair[axis].start for pair in tiles})
        assert places == starts(size[axis], tile[axis], overlap)
        assert all(a + tile[axis] - b >= overlap for a, b in itertools.pairwise(places)), "overlap is a minimum"


@torch.no_grad()
def test_an_image_of_one_tile_is_one_forward(model: Tiled) -> None:
    raw = frames(TILE)
    with counted(model) as seen:
        found = model(raw)["flow"]
    assert len(seen) == 1
    assert torch.equal(found, model.decode(model.encode(raw))["flow"])
    with counted(model) as seen:
        model(frames((3, 5)))
    assert [tuple(tile.shape[-2:]) for tile in seen] == [TILE], "a smaller one too"
    with counted(model) as seen:
        model(frames((6, 9)))
    assert len(seen) == 2


def test_the_published_size_needs_no_tiles_and_its_grid_repeats_none() -> None:
    with torch.device("meta"):
        published = kit.build("optical_flow")
    assert published.tile == (368, 496) and published.min_overlap == 20
    assert len([*published._tiles(368, 496)]) == 1
    sintel = [*published._tiles(436, 1024)]
    assert {rows.start for rows, _ in sintel} == {0, 68}
    assert {columns.start for _, columns in sintel} == {0, 476, 528}


@every_size
def test_constant_flow_blends_to_constant_flow(size: tuple[int, int]) -> None:
    model = make()
    nn.init.zeros_(model.outputs.blocks["flow"].project.weight)
    with torch.no_grad():
        found = model(frames(size))["flow"] / model.outputs.blocks["flow"].scale
    wanted = model.outputs.blocks["flow"].project.bias[:, None, None].expand_as(found)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("size", [(3, 5), (6, 8), (9, 13)], ids=str)
@torch.no_grad()
def test_padding_and_masked_pixels_have_no_effect(
    model: Tiled, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw pixels reach their neighbours' rows through the 3 × 3 neighbourhoods, so rows are changed, not pixels."""
    raw, keep = frames(size), torch.rand(2, *size) < 0.6
    wanted = model(raw, mask=keep)["flow"]
    padded = torch.zeros(2, *(max(pair) for pair in zip(size, TILE, strict=True)), dtype=torch.bool)
    padded[:, : size[0], : size[1]] = keep
    unread = iter([~padded[:, rows, columns] for rows, columns in model._tiles(*padded.shape[1:])])
    block = model.inputs.blocks["frames"]
    embed = block.embed
    monkeypatch.setattr(
        block, "embed", lambda raw, name: torch.where(next(unread)[..., None], torch.nan, embed(raw, name))
    )
    found = model(raw, mask=keep)["flow"]
    assert next(unread, None) is None, "every tile was poisoned"
    assert torch.equal(found, wanted)


@torch.no_grad()
def test_a_smaller_image_is_itself_and_nothing_else(model: Tiled) -> None:
    """Zeros beside it are what lies outside any image; reading them would move the flow."""
    raw = frames((4, 5))
    found = model(raw)["flow"]
    beside = torch.zeros(2, 2, 3, *TILE)
    beside[..., :4, :5] = raw
    keep = torch.zeros(2, *TILE, dtype=torch.bool)
    keep[:, :4, :5] = True
    assert_close(found, model(beside, mask=keep)["flow"][..., :4, :5], 1e-6)
    assert float((found - model(beside)["flow"][..., :4, :5]).abs().max()) > 1e-3 * float(found.abs().max())


def test_gradients_go_through_tiles(model: Tiled) -> None:
    for size in SIZES[1:8]:
        raw = frames(size).requires_grad_()
        model(raw)["flow"].square().sum().backward()
        assert raw.grad.abs().amin() >= 0 and bool((raw.grad.abs().amax((0, 1, 2)) > 0).all()), (
            "every pixel has its say"
        )
        assert all(parameter.grad is not None for parameter in model.parameters())
        model.zero_grad()


def test_rows_are_picked_of_one_tile_only(model: Tiled) -> None:
    index = torch.tensor([0, 9, 47])
    raw = frames(TILE)
    whole = model(raw)["flow"]
    assert_close(model(raw, at={"flow": index})["flow"], whole.flatten(2)[..., index].mT, 1e-5)
    for size in [(5, 8), (7, 8)]:
        with pytest.raises(InputError, match="one tile"):
            model(frames(size), at={"flow": index})
        with pytest.raises(InputError, match="one tile"):
            model(frames(size), size={"flow": TILE})


def test_refusals(model: Tiled) -> None:
    blocks = (model.inputs, model.encoder, model.queries, model.decoder, model.outputs)
    for tile, overlap in [((6, 8), 6), ((6, 8), -1), ((6,), 1), ((6, 8, 2), 1), ((0, 8), 0)]:
        with pytest.raises(AssemblyError, match=r"Tiled|tile"):
            Tiled(*blocks, tile=tile, min_overlap=overlap)
    two = kit.build("multimodal_autoencoding", preset="tiny")
    with pytest.raises(AssemblyError, match="one input and one output"):
        Tiled(two.inputs, two.encoder, two.queries, two.decoder, two.outputs, tile=TILE, min_overlap=1)
    for size in (TILE, (9, 13)):
        for raw in (frames(size)[:, :1], frames(size)[0], frames(size).long()):
            with pytest.raises(InputError, match=r"frames must be float \(b, 2, 3, h, w\)"):
                model(raw)
        for keep in (torch.ones(2, 5, dtype=torch.bool), torch.ones(2, *size), torch.ones(1, *size, dtype=torch.bool)):
            with pytest.raises(InputError, match="mask of 'frames' must be bool"):
                model(frames(size), mask=keep)
        with pytest.raises(InputError, match="no elements"):
            model(frames(size)[:0])
        with pytest.raises(kit.UnknownName, match="did you mean 'frames'"):
            model({"frame": frames(size)})
        with pytest.raises(kit.UnknownName, match="did you mean 'frames'"):
            model({"frames": frames(size)}, mask={"frame": torch.ones(2, *size, dtype=torch.bool)})
        with pytest.raises(InputError, match="chunk"):
            model(frames(size), chunk=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_tiles_have_the_type_of_one_tile_and_do_not_overflow(dtype: torch.dtype) -> None:
    model = make((24, 24))
    flow = model.outputs.blocks["flow"]
    nn.init.zeros_(flow.project.weight)
    model = model.to(dtype)
    nn.init.constant_(flow.project.bias, 30_000.0)
    flow.scale = 1.0
    raw = frames((30, 40), batch=1)
    found = model(raw.to(dtype))["flow"]
    assert found.dtype == model(frames((24, 24), batch=1).to(dtype))["flow"].dtype == dtype
    assert_close(found.float(), torch.full_like(found, 30_000.0).float(), 1e-6)
    assert model(raw)["flow"].dtype == dtype, "whatever the type of the frames"
