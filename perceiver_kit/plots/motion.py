"""Optical flow as colours: hue is direction, saturation is distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..checking import describe_value
from ..errors import InputError
from .style import INK, MUTED, PALE, SMALL, WIDTH, bare, figure, from_minus_one, panels, plain, title
from .style import pixels as as_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Steps of the wheel between pure colours: red, yellow, green, cyan, blue, magenta, red.
# Source: Baker et al., A Database and Evaluation Methodology for Optical Flow (2011), and its code colorcode.cpp.
STEPS = (15, 6, 4, 11, 13, 6)
PURE = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))


def flow_to_rgb(flow: Tensor, *, largest: float | int | None = None) -> Float[Tensor, "*b 3 h w"]:
    """Flow (…, 2, h, w) in pixels, x then y, as colours (…, 3, h, w) in [0, 1], on the Middlebury wheel.

    Zero motion is white; ``largest`` pixels, by default the longest vector of the tensor, have full saturation.
    Longer vectors are darkened. Non-finite flow is black.

    Raises InputError for another shape, or for ``largest`` that is not positive.

    >>> flow_to_rgb(torch.zeros(2, 1, 1)).tolist()
    [[[1.0]], [[1.0]], [[1.0]]]
    """
    if not isinstance(flow, Tensor) or flow.ndim < 3 or flow.shape[-3] != 2 or not flow.is_floating_point():
        raise InputError(f"flow must be float (…, 2, h, w), x then y, got {describe_value(flow)}")
    if largest is not None and not (isinstance(largest, int | float) and 0 < largest < math.inf):
        raise InputError(f"largest must be a positive number of pixels, got {largest!r}")
    flow = flow.detach().float()
    known = flow.isfinite().all(-3, keepdim=True)
    flow = torch.where(known, flow, 0)
    if largest is None:
        largest = float(flow.square().sum(-3).max().sqrt()) if flow.numel() else 1.0
    x, y = (flow / (largest + 1e-5)).unbind(-3)
    length = rearrange((x**2 + y**2).sqrt(), "... -> ... 1")
    wheel = _wheel().to(flow.device)
    angle = (torch.atan2(-y, -x) / math.pi + 1) / 2 * (len(wheel) - 1)
    before = angle.floor().long()
    part = rearrange(angle - before, "... -> ... 1")
    hue = (1 - part) * wheel[before] + part * wheel[(before + 1) % len(wheel)]
    # The tolerance keeps rounding from darkening the longest vector.
    colour = torch.where(length <= 1 + 1e-5, 1 - length.clamp(max=1) * (1 - hue), 0.75 * hue)
    return torch.where(known, rearrange(colour, "... h w c -> ... c h w"), 0)


def _wheel() -> Float[Tensor, "55 3"]:
    pure = torch.tensor(PURE, dtype=torch.float32)
    parts = []
    for start, end, steps in zip(pure[:-1], pure[1:], STEPS, strict=True):
        # In multiples of 1/255, as in the benchmark's code.
        change = (255 * torch.arange(steps)[:, None] / steps).floor() / 255
        parts.append(torch.where(end > start, change, torch.where(end < start, 1 - change, start)))
    return torch.cat(parts)


def flow_wheel() -> Figure:
    """The colour wheel: the colour of each displacement from the centre.

    >>> len(flow_wheel().axes)
    1
    """
    page = figure(2.6, 2.6)
    _draw_wheel(page.subplots(), "the largest")
    return page


def flow(frames: Tensor, flows: Mapping[str, Tensor], *, largest: float | int | None = None) -> Figure:
    """The first of two frames, each flow by name in colours, and the colour wheel.

    ``frames`` is (2, 3, h, w), or (3, h, w) for the first alone, in [0, 1], or in [-1, 1] if any value is negative.
    Each flow is (2, h, w) in pixels, x then y; all share one scale, ``largest`` pixels or the longest vector.

    Raises InputError for shapes that do not match.

    >>> picture = flow(torch.rand(2, 3, 16, 24), {"true": torch.randn(2, 16, 24), "zero": torch.zeros(2, 16, 24)})
    >>> [axes.get_title(loc="left") for axes in picture.axes]
    ['first frame', 'true', 'zero', '']
    """
    if not isinstance(frames, Tensor) or frames.ndim not in (3, 4) or frames.shape[-3] not in (1, 3):
        raise InputError(f"frames must be (2, 3, h, w) or (3, h, w), got {describe_value(frames)}")
    if not isinstance(flows, Mapping) or not flows:
        raise InputError("flows must map names to flow (2, h, w)")
    for name, value in flows.items():
        if not isinstance(value, Tensor) or value.ndim != 3 or value.shape[0] != 2:
            raise InputError(f"flow {name!r} must be (2, h, w), x then y, got {describe_value(value)}")
    known = {name: plain(value) for name, value in flows.items()}
    if largest is None:
        lengths = [torch.nan_to_num(value, 0, 0, 0).square().sum(0).max().sqrt() for value in known.values()]
        largest = max(1e-3, *(float(length) for length in lengths))
    first = as_pixels(frames[0] if frames.ndim == 4 else frames, from_minus_one(frames))
    across = 2 if len(known) == 2 else 3
    height = 0.4 + max(1.3, min(3.0, WIDTH / across * first.shape[0] / first.shape[1]))
    page, axes = panels(len(known) + 2, width=WIDTH / across, height=height, across=across)
    axes[0].imshow(first, interpolation="nearest")
    title(axes[0], "first frame")
    for panel, (name, value) in zip(axes[1:-1], known.items(), strict=True):
        panel.imshow(rearrange(flow_to_rgb(value, largest=largest), "c h w -> h w c").numpy(), interpolation="nearest")
        title(panel, name)
        bare(panel)
        panel.spines[:].set(visible=True, color=PALE, linewidth=0.8)  # zero motion is white, like the page
    bare(axes[0])
    _draw_wheel(axes[-1], f"{largest:.3g} pixels")
    return page


def _draw_wheel(axes: Axes, radius: str) -> None:
    side = torch.linspace(-1, 1, 201)
    y, x = torch.meshgrid(side, side, indexing="ij")
    colours = flow_to_rgb(torch.stack([x, y]), largest=1)
    inside = rearrange(x**2 + y**2 <= 1, "h w -> 1 h w")
    axes.imshow(
        rearrange(torch.cat([colours, inside]), "c h w -> h w c").numpy(),
        extent=(-1, 1, 1, -1),
        interpolation="bilinear",
    )
    axes.set_xlim(-1.75, 1.75)
    axes.set_ylim(1.6, -1.4)
    for (right, down), text in {(0, -1): "up", (1, 0): "right", (0, 1): "down", (-1, 0): "left"}.items():
        sides = {0: "center", 1: "left", -1: "right"}[right], {0: "center", 1: "top", -1: "bottom"}[down]
        axes.text(1.07 * right, 1.07 * down, text, ha=sides[0], va=sides[1], fontsize=SMALL, color=MUTED)
    axes.annotate(
        "", (math.cos(0.6), math.sin(0.6)), (0, 0), arrowprops=dict(arrowstyle="->", color=INK, shrinkA=0, shrinkB=0)
    )
    axes.set_xlabel(f"edge: {radius}", fontsize=SMALL, color=INK)
    bare(axes)
