"""Boxes (…, 4) as centre and size: corners, generalised intersection over union."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def corners(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Boxes (x, y, width, height) of centre and size as (left, top, right, bottom).

    >>> corners(torch.tensor([0.5, 0.5, 0.2, 0.4])).tolist()
    [0.4000000059604645, 0.30000001192092896, 0.6000000238418579, 0.699999988079071]
    """
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def generalised_iou(one: Float[Tensor, "*#b 4"], other: Float[Tensor, "*#b 4"]) -> Float[Tensor, "*b"]:
    """Generalised intersection over union in [-1, 1] of boxes of centre and size; leading axes broadcast.

    It is the intersection over union, less the share of the smallest enclosing box that neither covers: boxes that do
    not meet have a gradient, too.

    Source: Rezatofighi et al. 2019, algorithm 1.

    >>> generalised_iou(torch.tensor([0.25, 0.5, 0.5, 1.0]), torch.tensor([0.75, 0.5, 0.5, 1.0])).item()
    0.0
    """
    one, other = corners(one), corners(other)
    both = _area(torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:]))
    union = _area(one[..., :2], one[..., 2:]) + _area(other[..., :2], other[..., 2:]) - both
    around = _area(torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:]))
    least = torch.finfo(union.dtype).tiny
    return both / union.clamp(min=least) - (around - union) / around.clamp(min=least)


def pairwise(function, one: Float[Tensor, "*b k 4"], other: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b k m"]:
    """``function`` of each box of one set and each of the other."""
    return function(rearrange(one, "... k c -> ... k 1 c"), rearrange(other, "... m c -> ... 1 m c"))


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)
