"""Warps: the meaning of a flow, its smoothness, and the Middlebury pair."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from perceiver_kit.data.sampling import generator
from perceiver_kit.data.tasks import open_task
from perceiver_kit.data.warps import (
    HELD_OUT_PHOTOS,
    TRAIN_PHOTOS,
    Warps,
    _to_photo,
    flow,
    inside,
    middlebury,
    random_flow,
    read_at,
)
from perceiver_kit.errors import AssemblyError, InputError

pytestmark = pytest.mark.usefixtures("checked")

SIZES = st.tuples(st.integers(8, 40), st.integers(8, 40))


def smooth(seed: int = 0, size: tuple[int, int] = (120, 160)) -> Tensor:
    """A photo without detail, so that interpolation errors are small."""
    noise = torch.rand(1, 3, 5, 6, generator=generator(seed)) * 255
    return F.interpolate(noise, size=size, mode="bicubic", align_corners=True)[0].clamp(0, 255).round().byte()


def warp_back(frames: Tensor, field: Tensor) -> Tensor:
    """frame2(p + flow(p)) by explicit bilinear interpolation, independent of ``read_at``."""
    _, h, w = field.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    x, y = columns + field[0], rows + field[1]
    left, top = x.floor().clamp(0, w - 2).long(), y.floor().clamp(0, h - 2).long()
    right, low = x - left, y - top
    second = frames[1]
    upper = second[:, top, left] * (1 - right) + second[:, top, left + 1] * right
    lower = second[:, top + 1, left] * (1 - right) + second[:, top + 1, left + 1] * right
    return upper * (1 - low) + lower * low


@given(SIZES, st.integers(0, 50), st.integers(0, 5))
def test_flow_maps_the_first_frame_to_the_second(size: tuple[int, int], index: int, seed: int) -> None:
    data = Warps([smooth(seed)], size=size, seed=seed, items=51)
    for item in (data[index], data[index, 3]):
        frames, field, valid = item["inputs"]["frames"], item["targets"]["flow"], item["targets"]["valid"]
        assert frames.shape == (2, 3, *size) and field.shape == (2, *size) and valid.shape == size
        assert frames.abs().max() <= 1
        inner = (frames.abs() < 1).all(0).all(0) & valid  # clipping is not linear
        error = (warp_back(frames, field) - frames[0]).abs().amax(0)[inner]
        assert not len(error) or error.max() < 0.06


def test_warping_back_removes_most_of_the_difference_on_real_photos() -> None:
    _, held_out = real((64, 64))
    differences = []
    for index in range(20):
        frames, field, valid = unpacked(held_out[index])
        warped = (warp_back(frames, field) - frames[0]).abs().mean(0)[valid].mean()
        wrong = (warp_back(frames, -field) - frames[0]).abs().mean(0)[inside(-field)].mean()
        still = (frames[1] - frames[0]).abs().mean(0)[valid].mean()
        differences.append(torch.stack([warped, still, wrong]))
    warped, still, wrong = torch.stack(differences).mean(0).tolist()
    assert warped < 0.15 * still and warped < 0.1 * wrong


@given(SIZES, st.integers(0, 10_000))
def test_frames_are_rotated_zoomed_and_mirrored_but_not_sheared(size: tuple[int, int], seed: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing="ij")
    at = _to_photo(torch.stack([columns, rows])[None].float(), size, (120, 160), generator(seed))[0].double()
    right, down = at[:, :, 1:] - at[:, :, :-1], at[:, 1:] - at[:, :-1]
    lengths = torch.cat([right.norm(dim=0).flatten(), down.norm(dim=0).flatten()])
    assert lengths.max() - lengths.min() < 1e-4
    assert 0.749 < lengths.min() < 1.501
    assert (right[:, 1:] * down[:, :, 1:]).sum(0).abs().max() < 1e-4, "right angles"


def real(size: tuple[int, int]) -> tuple[Warps, Warps]:
    pytest.importorskip("skimage", reason="the photos ship in scikit-image: pip install scikit-image")
    pytest.importorskip("PIL")
    return flow(image_size=size, items=100)


def unpacked(item: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    return item["inputs"]["frames"], item["targets"]["flow"], item["targets"]["valid"]


@given(SIZES, st.integers(0, 10_000))
def test_flows_are_bounded_and_do_not_fold(size: tuple[int, int], seed: int) -> None:
    for share in (0.05, 0.15, 0.25):
        reach = share * min(size)
        field = random_flow(size, reach, generator(seed))
        assert field.norm(dim=0).max() < 2 * reach
        across = field[:, :-1, 1:] - field[:, :-1, :-1]
        down = field[:, 1:, :-1] - field[:, :-1, :-1]
        area = (1 + across[0]) * (1 + down[1]) - across[1] * down[0]
        assert area.min() > 0.3


def test_flows_cover_every_direction() -> None:
    fields = torch.stack([random_flow((8, 12), 5.0, generator(seed)) for seed in range(300)])
    means = fields.mean((2, 3))
    assert (means > 1).float().mean(0).min() > 0.1 and (means < -1).float().mean(0).min() > 0.1
    assert 1.5 < fields.norm(dim=1).mean() < 4
    assert (fields - means[..., None, None]).norm(dim=1).mean() > 0.4  # not only shifts


def test_inside_is_true_where_a_pixel_stays_on_the_frame() -> None:
    field = torch.zeros(2, 4, 6)
    field[0] = 2
    field[1, 0] = -0.5
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1:, :4] = True
    assert inside(field).equal(expected)


def test_read_at_interpolates_and_reflects() -> None:
    picture = torch.arange(20, dtype=torch.uint8).reshape(1, 4, 5)
    at = rearrange(torch.tensor([[1.5, 2.0], [0.0, 0.25], [-1.0, 0.0], [5.0, 3.0], [4.0, 4.5]]), "n i -> 1 i 1 n")
    expected = [11.5, 1.25, 1.0, 18.0, 11.5]  # (5, 3) is (3, 3); (4, 4.5) is (4, 1.5)
    assert read_at(picture, at).flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert read_at(torch.full((3, 1, 1), 7, dtype=torch.uint8), at).unique().tolist() == [7]


def test_photos_are_large_disjoint_and_fast() -> None:
    train, held_out = real((32, 48))
    assert not {*TRAIN_PHOTOS} & {*HELD_OUT_PHOTOS}
    assert (len(train.photos), len(held_out.photos)) == (9, 2)
    assert all(min(photo.shape[1] / 32, photo.shape[2] / 48) >= 1.99 for photo in train.photos)
    assert all(photo.float().std() > 10 for photo in (*train.photos, *held_out.photos))
    started = time.process_time()
    for index in range(100):
        train[index, 0]
    assert (time.process_time() - started) / 100 < 0.02


def test_training_may_reach_further_than_held_out_warps() -> None:
    sets = flow(image_size=(16, 24)), flow(image_size=(16, 24), train_reach=0.25)
    for index in (0, 7):
        near, far = (part[0][index, 3]["targets"]["flow"] for part in sets)
        torch.testing.assert_close(far, near * (0.25 / 0.15))
        held_out = [part[1][index]["targets"]["flow"] for part in sets]
        assert held_out[0].equal(held_out[1])
    assert open_task("flow", recipe="optical_flow", preset="quick").train.reach == 0.2
    assert open_task("flow", recipe="optical_flow", preset="tiny").train.reach == 0.15


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="at least one photo"):
        Warps([], size=(8, 8))
    with pytest.raises(InputError, match=r"reach must be above 0 and at most 0\.25"):
        Warps([smooth()], size=(8, 8), reach=0.5)
    with pytest.raises(AssemblyError, match="items must be"):
        Warps([smooth()], size=(8, 8), items=0)
    for scale in (0.0, 1.5):
        with pytest.raises(InputError, match="scale must be above 0"):
            middlebury(scale)


@pytest.mark.parametrize(("scale", "size"), [(1.0, (500, 741)), (0.25, (125, 185))])
def test_middlebury_flow_maps_the_left_picture_to_the_right(scale: float, size: tuple[int, int]) -> None:
    pytest.importorskip("skimage", reason="the pair ships in scikit-image: pip install scikit-image")
    frames, field, valid = unpacked(middlebury(scale))
    assert frames.shape == (2, 3, *size) and valid.shape == size
    assert 0.85 < valid.float().mean() < 0.95 and field.isfinite().all()
    warped = (warp_back(frames, field) - frames[0]).abs().mean(0)[valid].mean() * 127.5
    still = (frames[1] - frames[0]).abs().mean(0)[valid].mean() * 127.5
    assert warped < 8 and still > 30
    assert (field[1] == 0).all() and (field[0] <= 0).all()
    assert field[0][valid].mean() / scale == pytest.approx(-34.3, abs=0.3)
