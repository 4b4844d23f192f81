"""Matches between two frames: a shift is found, masks are reduced to rows, and flow leaves as patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.inputs import Matches
from perceiver_kit.outputs import Flow

pytestmark = pytest.mark.usefixtures("checked")


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(("y", "x"), [(1, 3), (-2, 0), (0, -4)])
def test_a_shift_is_found_whatever_the_light(stride: int, y: int, x: int) -> None:
    torch.manual_seed(0)
    picture = torch.randn(3, 24, 32)
    moved = picture.roll((y, x), (1, 2))
    block = Matches(4, radius=4, stride=stride)
    rows = block._matches(torch.stack([picture, moved])[None])
    assert rows.shape == (1, 24 // stride, 32 // stride, 81)
    assert torch.allclose(rows.mean(-1), torch.full(rows.shape[:-1], 1 / 9), atol=1e-5)
    best = rows.argmax(-1)[0]
    inner = best[4 // stride + 1 : -4 // stride - 1, 4 // stride + 1 : -4 // stride - 1]
    assert ((inner == (4 + y) * 9 + 4 + x).float().mean() > 0.95).item()
    other = block._matches((3 * torch.stack([picture, moved]) + 7)[None])
    assert torch.equal(other.argmax(-1)[0][best == best.median()], best[best == best.median()])


@pytest.mark.parametrize(("stride", "radius"), [(1, 1), (2, 3), (4, 2)])
def test_matches_are_a_softmax_of_squared_differences_patch_by_patch(stride: int, radius: int) -> None:
    frames = torch.randn(1, 2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    found = Matches(4, radius=radius, stride=stride)._matches(frames)[0].numpy()
    grey = frames[0].mean(1).double().numpy()
    first, second = (grey - grey.mean()) / (grey.std() + 1e-2)
    wide, side = np.pad(second, radius, mode="edge"), 2 * radius + 1
    for row, column in np.ndindex(found.shape[:2]):
        top, left = row * stride - 1, column * stride - 1
        ys, xs = (range(max(0, low), min(size, low + stride + 2)) for low, size in ((top, 8), (left, 12)))
        cost = np.array(
            [
                np.mean([(first[y, x] - wide[y + dy, x + dx]) ** 2 for y in ys for x in xs])
                for dy in range(side)
                for dx in range(side)
            ]
        )
        wanted = np.exp(-cost / (cost.mean() / 8 + 0.02))
        np.testing.assert_allclose(found[row, column], side * wanted / wanted.sum(), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_masks_may_be_over_pixels_or_patches() -> None:
    inputs = kit.Inputs(frames=Matches(4, radius=2, stride=2))
    frames = torch.randn(2, 2, 3, 8, 12)
    patches = torch.rand(2, 4, 6) < 0.6
    pixels = patches.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found, _ = inputs({"frames": frames}, {"frames": patches})
    hidden = torch.where(pixels[:, None, None], frames, torch.randn_like(frames))
    for mask in (patches, patches.flatten(1), pixels, pixels.flatten(1)):
        same, _ = inputs({"frames": hidden}, {"frames": mask})
        assert torch.equal(same.mask, patches.flatten(1))
        assert torch.equal(same.rows, found.rows)
    pixels[0, 0, 0] = True
    assert inputs({"frames": frames}, {"frames": pixels})[0].mask[0, 0], "a patch with one readable pixel is readable"


def test_wrong_sizes_are_refused() -> None:
    inputs = kit.Inputs(frames=Matches(4, radius=2, stride=2))
    with pytest.raises(kit.InputError, match="must be divisible by 2"):
        inputs({"frames": torch.zeros(1, 2, 3, 7, 8)})
    with pytest.raises(kit.InputError, match="mask of 'frames' must be bool"):
        inputs({"frames": torch.zeros(1, 2, 3, 8, 8)}, {"frames": torch.ones(1, 5, dtype=torch.bool)})
    with pytest.raises(kit.AssemblyError, match="patch_size must divide image_size"):
        kit.build("optical_flow", preset="quick", patch_size=5)
    with pytest.raises(kit.AssemblyError, match="be 1 without matches"):
        kit.build("optical_flow", preset="quick", matches=None)


@torch.no_grad()
def test_flow_of_patches_is_that_of_their_pixels() -> None:
    block = Flow(6, patch=(2, 3), scale=0.5)
    block.project.weight.normal_()
    rows = torch.randn(2, 8, 6)
    whole = block.whole(block(rows), (2, 4))
    assert whole.shape == (2, 2, 4, 12)
    assert torch.equal(block.rows_of(whole), block(rows))
    values = block(rows)[0, 5].reshape(2, 3, 2)  # of the patch at (1, 1): y, x, component
    assert torch.equal(whole[0, :, 2:4, 3:6], values.permute(2, 0, 1))


@torch.no_grad()
def test_the_quick_preset_takes_frames_of_any_size() -> None:
    model = kit.build("optical_flow", preset="quick", layers=1)
    for size in ((32, 48), (40, 60), (17, 23)):
        assert model({"frames": torch.randn(1, 2, 3, *size)})["flow"].shape == (1, 2, *size)
