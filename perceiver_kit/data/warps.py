"""Optical flow whose truth is known: photos warped by smooth fields, and a real pair measured by its makers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from ..checks import check_image_size, check_positive
from ..errors import InputError
from .files import read_picture
from .images import to_unit
from .packages import packaged
from .sampling import Samples

TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "rocket.jpg",
)
HELD_OUT_PHOTOS = ("camera.png", "coffee.png")
PHOTOS_SOURCE = (
    "photos in the package scikit-image (BSD 3-Clause), in the public domain, CC0, or with no known restrictions: "
    "NASA, SpaceX, cc0textures.com, CMMI, S. van der Walt, A. Maier, R. Michetti, L. Varshney"
)
MIDDLEBURY_SOURCE = (
    "the pair Motorcycle of Middlebury Stereo 2014 (Scharstein et al. 2014), in the package scikit-image (BSD 3-Clause)"
)
COVER = 2.0
"""How much larger than a frame a photo is kept, in the axis where it is smallest."""


class Warps(Samples):
    """A photo seen twice, the second time moved: ``frames`` float32 (2, 3, h, w) in [-1, 1] → ``flow`` (2, h, w).

    The flow says, in pixels, x then y, where each pixel of the first frame is found in the second:
    frame2(p + flow(p)) = frame1(p), exactly, for both are read from one photo (a continuous one: pixels joined
    by lines). ``valid`` bool (h, w) is False where it is found outside the second frame.

    A flow is a shift, turn, zoom and shear of everything, and a smooth field over it: no corner of a frame
    moves by more than about ``reach`` of its shorter side, and nothing folds over or is hidden. Where in the photo
    the second frame lies, turned and zoomed, is as random; in training so are contrast and colours, the same for
    both frames. Items of one photo differ in all of this: there are ``items`` of them in all.

    Args:
        photos: uint8 (3, H, W) each, best about twice as large as a frame; may be read when asked for.
        size: (h, w).

    Raises InputError for no photos, AssemblyError for sizes that are not positive.

    >>> item = Warps([torch.zeros(3, 64, 64, dtype=torch.uint8)], size=(16, 24))[0]
    >>> [tuple(value.shape) for value in (item["inputs"]["frames"], *item["targets"].values())]
    [(2, 3, 16, 24), (2, 16, 24), (16, 24)]
    """

    def __init__(
        self,
        photos: Sequence[UInt8[Tensor, "3 _ _"]],
        *,
        size: tuple[int, int],
        items: int = 4096,
        reach: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.size = check_image_size("Warps", size)
        check_positive("Warps", items=items)
        if not len(photos):
            raise InputError("Warps needs at least one photo")
        if not 0 < reach <= 0.25:
            raise InputError(f"Warps: reach must be above 0 and at most 0.25, or the flow would fold; got {reach!r}")
        self.photos, self.items, self.reach, self.seed = photos, items, reach, seed

    def __len__(self) -> int:
        return self.items

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        photo = self.photos[index % len(self.photos)]
        flow = random_flow(self.size, self.reach * min(self.size), random)
        second = _pixels(self.size)
        looked = torch.stack([second + flow, second])
        frames = to_unit(read_at(photo, _placed(looked, self.size, photo.shape[-2:], random)))
        if training:
            contrast, light = (torch.rand(2, generator=random) * torch.tensor([1.0, 0.4])).tolist()
            sign = 1 if torch.rand((), generator=random) < 0.5 else -1
            frames = frames[:, torch.randperm(3, generator=random)] * (sign * (0.5 + contrast)) + (light - 0.2)
        return {
            "inputs": {"frames": frames.clamp(-1, 1)},
            "targets": {"flow": flow, "valid": inside(flow)},
        }


def random_flow(size: tuple[int, int], reach: float, random: Generator) -> Float[Tensor, "2 h w"]:
    """A smooth flow in pixels: a shift of up to ``reach``, an affine map, and a field with waves."""
    h, w = size
    centred = _pixels(size) - torch.tensor([(w - 1) / 2, (h - 1) / 2])[:, None, None]
    shift, *affine = (torch.rand(3, 2, generator=random) * 2 - 1).unbind()
    matrix = torch.stack(affine) * (reach / math.hypot(h, w))
    amount = torch.rand(2, generator=random)  # from nearly rigid to wavy, from near to far
    field = torch.rand(1, 2, 4, 4, generator=random) * 2 - 1
    waves = F.interpolate(field, size=size, mode="bicubic", align_corners=True)[0] * (0.4 * reach * amount[0])
    affine_part = torch.einsum("ij, j h w -> i h w", matrix, centred)
    return (0.6 * reach * shift[:, None, None] + affine_part + waves) * (0.25 + 0.75 * amount[1])


def inside(flow: Float[Tensor, "2 h w"]) -> Bool[Tensor, "h w"]:
    """Where a pixel lands on the second frame."""
    _, h, w = flow.shape
    x, y = _pixels((h, w)) + flow
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


def _pixels(size: tuple[int, int]) -> Float[Tensor, "2 h w"]:
    h, w = size
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    return torch.stack([x, y])


def _placed(
    places: Float[Tensor, "f 2 h w"], size: tuple[int, int], photo: Sequence[int], random: Generator
) -> Float[Tensor, "f 2 h w"]:
    """Pixels of frames as pixels of the photo: a random place, turn, zoom, and mirror image."""
    draws = torch.rand(5, generator=random).tolist()
    angle, zoom = math.pi / 6 * (2 * draws[0] - 1), 0.75 * 2 ** draws[1]
    mirrored = -1.0 if draws[2] < 0.5 else 1.0
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * zoom
    half = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
    room = torch.tensor([photo[1] - 1.0, photo[0] - 1.0])
    margin = torch.minimum(turn.abs() @ half, room / 2)
    centre = margin + (room - 2 * margin) * torch.tensor(draws[3:])
    centred = (places - half[:, None, None]) * torch.tensor([mirrored, 1.0])[:, None, None]
    return torch.einsum("i j, f j h w -> f i h w", turn, centred) + centre[:, None, None]


def read_at(picture: UInt8[Tensor, "c H W"], at: Float[Tensor, "f 2 h w"]) -> Float[Tensor, "f c h w"]:
    """The picture, between pixels by lines and beyond its border mirrored, at x, y; values 0 to 255."""
    bounds = torch.tensor([picture.shape[-1] - 1.0, picture.shape[-2] - 1.0])[:, None, None]
    at = bounds - (bounds - at.remainder((2 * bounds).clamp(min=1))).abs()
    low = at.amin(dim=(0, 2, 3)).floor().long()
    high = at.amax(dim=(0, 2, 3)).ceil().long() + 1
    part = picture[:, low[1] : high[1], low[0] : high[0]].float()
    extent = torch.tensor([part.shape[-1] - 1.0, part.shape[-2] - 1.0]).clamp(min=1)[:, None, None]
    grid = rearrange((at - low[:, None, None]) * (2 / extent) - 1, "f i h w -> f h w i")
    return F.grid_sample(part.expand(len(at), -1, -1, -1), grid, align_corners=True, padding_mode="border")


def photos(size: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
    """The photos of scikit-image to train on and those held out, uint8 (3, H, W), for frames of ``size``.

    Only files inside the package: nothing is downloaded. Raises MissingPackage without scikit-image or Pillow.
    """
    files = [[_skimage(name) for name in names] for names in (TRAIN_PHOTOS, HELD_OUT_PHOTOS)]
    train, held_out = ([read_picture(path, size, cover=COVER) for path in part] for part in files)
    return train, held_out


def flow(*, image_size: tuple[int, int], items: int = 4096, seed: int = 0, reach: float = 0.15) -> tuple[Warps, Warps]:
    """Warped photos to train on, and 256 warps of photos held out."""
    train, held_out = photos(image_size)
    return (
        Warps(train, size=image_size, items=items, reach=reach, seed=seed),
        Warps(held_out, size=image_size, items=256, reach=reach, seed=seed),
    )


def middlebury(scale: float = 0.25) -> dict[str, Any]:
    """The real pair, as an item of ``Warps``: 500 × 741 pixels times ``scale``, with the flow that was measured.

    All movement is to the left: the camera moved to the right. ``valid`` is False where nothing was measured and
    where a pixel leaves the frame. What is hidden in the second frame has a flow and counts.

    Raises MissingPackage without scikit-image or Pillow, InputError for a scale outside (0, 1].
    """
    if not 0 < scale <= 1:
        raise InputError(f"middlebury: scale must be above 0 and at most 1, got {scale!r}")
    with np.load(_skimage("motorcycle_disp.npz")) as file:
        disparity = torch.from_numpy(file["arr_0"])
    h, w = (round(scale * side) for side in disparity.shape)
    paths = (_skimage("motorcycle_left.png"), _skimage("motorcycle_right.png"))
    frames = to_unit(torch.stack([read_picture(path, (h, w)) for path in paths]))
    # Nearest, not averaged: at an edge the mean of near and far is neither.
    moved = F.interpolate(disparity[None, None], size=(h, w), mode="nearest-exact")[0, 0] * (w / disparity.shape[1])
    known = moved.isfinite()
    field = torch.stack([torch.where(known, -moved, 0), torch.zeros(h, w)])
    return {"inputs": {"frames": frames}, "targets": {"flow": field, "valid": known & inside(field)}}


def _skimage(name: str) -> Any:
    return packaged("scikit-image", "skimage", "data", name, purpose="a photo")
