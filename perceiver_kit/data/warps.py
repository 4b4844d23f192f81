"""Optical flow with ground truth: photos warped by smooth flows, and a Middlebury pair with measured flow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from ..checking import check_image_size, check_positive
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
"""A photo is resized to cover this multiple of the frame size."""


class Warps(Samples):
    """Pairs of warped photos: ``frames`` float32 (2, 3, h, w) in [-1, 1] → ``flow`` (2, h, w) in pixels, x then y.

    frame2(p + flow(p)) = frame1(p), exactly: both frames sample one bilinearly interpolated photo. ``valid``
    bool (h, w) is False where p + flow(p) lies outside the second frame.

    A flow is a random affine map plus a smooth random field. It moves no corner of a frame by more than about
    ``reach`` of the shorter side; it neither folds nor occludes. The second frame has a random position, rotation,
    zoom and reflection in the photo. Training also draws contrast and colours, the same for both frames.

    Args:
        photos: uint8 (3, H, W) each, preferably twice the size of a frame; may be a lazy sequence.
        size: (h, w).
        items: length of the data set; item i uses photo i modulo their number.
        reach: maximum displacement as a fraction of the shorter side, up to 0.25.

    Raises InputError for no photos or a reach outside its range, AssemblyError for sizes that are not positive.

    >>> item = Warps([torch.zeros(3, 64, 64, dtype=torch.uint8)], size=(16, 24))[0]
    >>> [tuple(value.shape) for value in (item["inputs"]["frames"], *item["targets"].values())]
    [(2, 3, 16, 24), (2, 16, 24), (16, 24)]
    """

    def __init__(
        self,
        photos: Sequence[UInt8[Tensor, "c _ _"]],
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
            raise InputError(f"Warps: reach must be above 0 and at most 0.25, so that flows do not fold, got {reach!r}")
        self.photos, self.items, self.reach, self.seed = photos, items, reach, seed

    def __len__(self) -> int:
        return self.items

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        photo = self.photos[index % len(self.photos)]
        flow = random_flow(self.size, self.reach * min(self.size), random)
        second = _pixel_grid(self.size)
        pixels = torch.stack([second + flow, second])
        frames = to_unit(read_at(photo, _to_photo(pixels, self.size, photo.shape[-2:], random)))
        if training:
            contrast, light = (torch.rand(2, generator=random) * torch.tensor([1.0, 0.4])).tolist()
            sign = 1 if torch.rand((), generator=random) < 0.5 else -1
            frames = frames[:, torch.randperm(frames.shape[1], generator=random)] * (sign * (0.5 + contrast)) + (
                light - 0.2
            )
        return {"inputs": {"frames": frames.clamp(-1, 1)}, "targets": {"flow": flow, "valid": inside(flow)}}


def random_flow(size: tuple[int, int], reach: float, random: Generator) -> Float[Tensor, "2 h w"]:
    """A smooth flow in pixels: a shift of up to ``reach``, an affine map and a wavy field."""
    h, w = size
    centred = _pixel_grid(size) - _per_axis((w - 1) / 2, (h - 1) / 2)
    shift, *affine = (torch.rand(3, 2, generator=random) * 2 - 1).unbind()
    matrix = torch.stack(affine) * (reach / math.hypot(h, w))
    waviness, strength = torch.rand(2, generator=random)
    field = torch.rand(1, 2, 4, 4, generator=random) * 2 - 1
    waves = F.interpolate(field, size=size, mode="bicubic", align_corners=True)[0] * (0.4 * reach * waviness)
    affine_flow = einsum(matrix, centred, "i j, j h w -> i h w")
    return (rearrange(0.6 * reach * shift, "i -> i 1 1") + affine_flow + waves) * (0.25 + 0.75 * strength)


def inside(flow: Float[Tensor, "2 h w"]) -> Bool[Tensor, "h w"]:
    """True where p + flow(p) lies on the second frame."""
    _, h, w = flow.shape
    x, y = _pixel_grid((h, w)) + flow
    return (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)


def _per_axis(x: float, y: float) -> Float[Tensor, "2 1 1"]:
    return rearrange(torch.tensor([x, y]), "i -> i 1 1")


def _pixel_grid(size: tuple[int, int]) -> Float[Tensor, "2 h w"]:
    h, w = size
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    return torch.stack([x, y])


def _to_photo(
    pixels: Float[Tensor, "f 2 h w"], size: tuple[int, int], photo: Sequence[int], random: Generator
) -> Float[Tensor, "f 2 h w"]:
    """Map pixels of the frames to the photo, by a random position, rotation, zoom and reflection."""
    draws = torch.rand(5, generator=random).tolist()
    angle, zoom = math.pi / 6 * (2 * draws[0] - 1), 0.75 * 2 ** draws[1]
    mirrored = -1.0 if draws[2] < 0.5 else 1.0
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * zoom
    half = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])
    room = torch.tensor([photo[1] - 1.0, photo[0] - 1.0])
    margin = torch.minimum(rotation.abs() @ half, room / 2)
    centre = margin + (room - 2 * margin) * torch.tensor(draws[3:])
    centred = (pixels - _per_axis(*half.tolist())) * _per_axis(mirrored, 1.0)
    return einsum(rotation, centred, "i j, f j h w -> f i h w") + rearrange(centre, "i -> i 1 1")


def read_at(picture: UInt8[Tensor, "c H W"], at: Float[Tensor, "f 2 h w"]) -> Float[Tensor, "f c h w"]:
    """Sample a picture at (x, y): bilinear, reflected at the border; values 0 to 255."""
    bounds = _per_axis(picture.shape[-1] - 1.0, picture.shape[-2] - 1.0)
    at = bounds - (bounds - at.remainder((2 * bounds).clamp(min=1))).abs()
    low = at.amin(dim=(0, 2, 3)).floor().long()
    high = at.amax(dim=(0, 2, 3)).ceil().long() + 1
    part = picture[:, low[1] : high[1], low[0] : high[0]].float()
    extent = _per_axis(part.shape[-1] - 1.0, part.shape[-2] - 1.0).clamp(min=1)
    grid = rearrange((at - rearrange(low, "i -> i 1 1")) * (2 / extent) - 1, "f i h w -> f h w i")
    return F.grid_sample(part.expand(len(at), -1, -1, -1), grid, align_corners=True, padding_mode="border")


def photos(size: tuple[int, int], channels: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """The training and held-out photos of scikit-image, uint8 (channels, H, W), for frames of ``size``.

    Nothing is downloaded. Raises MissingPackage without scikit-image or Pillow.
    """
    names = (TRAIN_PHOTOS, HELD_OUT_PHOTOS)
    train, held_out = (
        [read_picture(_skimage(name), size, cover=COVER, channels=channels) for name in part] for part in names
    )
    return train, held_out


def flow(
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    items: int = 4096,
    seed: int = 0,
    reach: float = 0.15,
    train_reach: float | None = None,
) -> tuple[Warps, Warps]:
    """Warps of the training photos, and 256 warps of the held-out photos.

    ``train_reach`` is the reach of training, if another.
    """
    reaches = (reach if train_reach is None else train_reach, reach)
    parts = zip(photos(image_size, channels), (items, 256), reaches, strict=True)
    train, held_out = (Warps(part, size=image_size, items=n, reach=r, seed=seed) for part, n, r in parts)
    return train, held_out


def middlebury(scale: float = 0.25) -> dict[str, Any]:
    """The Middlebury pair as an item of ``Warps``: 500 × 741 pixels times ``scale``, with its measured flow.

    The camera moves to the right, so every flow points left. ``valid`` is False where nothing was measured and
    where a pixel leaves the frame. Pixels that are occluded in the second frame are valid.

    Raises MissingPackage without scikit-image or Pillow, InputError for a scale outside (0, 1].
    """
    if not 0 < scale <= 1:
        raise InputError(f"middlebury: scale must be above 0 and at most 1, got {scale!r}")
    with np.load(_skimage("motorcycle_disp.npz")) as file:
        disparity = torch.from_numpy(file["arr_0"])
    h, w = (round(scale * side) for side in disparity.shape)
    paths = (_skimage("motorcycle_left.png"), _skimage("motorcycle_right.png"))
    frames = to_unit(torch.stack([read_picture(path, (h, w)) for path in paths]))
    # Nearest: an average across an edge is the flow of neither side.
    resized = F.interpolate(rearrange(disparity, "h w -> 1 1 h w"), size=(h, w), mode="nearest-exact")
    moved = rearrange(resized, "1 1 h w -> h w") * (w / disparity.shape[1])
    known = moved.isfinite()
    field = torch.stack([torch.where(known, -moved, 0), torch.zeros(h, w)])
    return {"inputs": {"frames": frames}, "targets": {"flow": field, "valid": known & inside(field)}}


def _skimage(name: str) -> Any:
    return packaged("scikit-image", "skimage", "data", name, purpose="a photo")
