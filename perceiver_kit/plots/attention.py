"""Attention over an image and over a waveform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import unpack
from torch import Tensor

from ..checking import check_tensor, describe_value
from ..errors import InputError
from ..tokens import Grid
from .style import (
    COLOURS,
    INK,
    MUTED,
    SMALL,
    WIDTH,
    bare,
    check_titles,
    from_minus_one,
    open_frame,
    panels,
    plain,
)
from .style import pixels as as_pixels
from .style import title as set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention_over_image(
    image: Tensor, weights: Tensor, *, grid: Grid, frame: int = 0, titles: Sequence[str] | None = None
) -> Figure:
    """Attention over an image or one frame of a video: the picture, then one panel per map.

    ``image`` is (3, h, w) or (t, 3, h, w), in [0, 1], or in [-1, 1] if any value is negative. ``weights`` is (k, n),
    with n the rows of that modality on its ``grid``, (h', w') or (t', h', w'). Each map is scaled to its own largest
    weight, written below it as a multiple of the mean weight 1/n.

    Raises InputError for shapes that do not match.

    >>> picture = attention_over_image(torch.rand(3, 32, 32), torch.rand(2, 64).softmax(-1), grid=(8, 8))
    >>> len(picture.axes)
    3
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or image.shape[-3] not in (1, 3):
        raise InputError(f"image must be (3, h, w) or (t, 3, h, w), got {describe_value(image)}")
    grid = _check_grid(grid)
    weights = check_weights(weights, math.prod(grid), f"the grid {grid}")
    frames = image.shape[0] if image.ndim == 4 else grid[0] if len(grid) == 3 else 1
    if not isinstance(frame, int) or not 0 <= frame < frames:
        raise InputError(f"frame must be 0 to {frames - 1}, got {frame!r}")
    if len(grid) == 3 and frames % grid[0]:
        raise InputError(f"image has {frames} frames, expected a multiple of the {grid[0]} frames of the grid {grid}")
    [maps] = unpack(weights, [grid], "k *")
    if len(grid) == 3:
        maps = maps[:, frame * grid[0] // frames]
    shown = as_pixels(image[frame] if image.ndim == 4 else image, from_minus_one(image))
    height, width = shown.shape[:2]
    page, axes = panels(len(maps) + 1, width=WIDTH / 3, height=0.55 + min(2.6, WIDTH / 3 * height / width), across=3)
    axes[0].imshow(shown, interpolation="nearest")
    set_title(axes[0], "picture")
    grey = shown.mean(-1)
    for panel, seen, text in zip(axes[1:], maps, check_titles(titles, len(maps), "map"), strict=True):
        panel.imshow(0.25 + 0.6 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        strength = (seen / seen.max().clamp(min=1e-30)).numpy()
        panel.imshow(
            strength,
            cmap="plasma",
            vmin=0,
            vmax=1,
            alpha=0.15 + 0.75 * strength,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
        set_title(panel, text)
        panel.set_xlabel(largest_weight(seen, weights.shape[1]), fontsize=SMALL, color=MUTED)
    for panel in axes:
        bare(panel)
    return page


def attention_over_waveform(
    waveform: Tensor, weights: Tensor, *, rate: float | int | None = None, titles: Sequence[str] | None = None
) -> Figure:
    """Attention over the patches of a waveform (samples,), drawn behind the waveform.

    ``weights`` is (k, n); n must divide the number of samples. Each of the k maps has a panel and its own scale. The
    axis is in seconds if ``rate``, in samples per second, is given.

    Raises InputError for shapes that do not match.

    >>> picture = attention_over_waveform(torch.randn(480), torch.rand(2, 30), rate=8000)
    >>> [axes.get_xlabel() for axes in picture.axes]
    ['', 'seconds']
    """
    check_tensor(waveform, "waveform", "samples")
    samples = waveform.shape[0]
    weights = check_weights(weights, None, "the patches of the waveform")
    count, patches = weights.shape
    if samples % patches:
        raise InputError(f"weights have {patches} patches, expected a divisor of the {samples} samples of the waveform")
    sound = plain(waveform)
    sound = sound / sound.abs().max().clamp(min=1e-12)
    # Draw the minimum and maximum of at most 600 bins, so that long waveforms draw as fast as short ones.
    bins = min(600, samples)
    parts = sound.tensor_split(bins)
    low, high = (torch.stack([getattr(part, end)() for part in parts]).numpy() for end in ("min", "max"))
    step = 1 if rate is None else 1 / rate
    at = (torch.arange(bins) + 0.5) * (samples / bins) * step
    edges = torch.arange(patches + 1) * (samples / patches) * step
    page, axes = panels(count, width=WIDTH, height=1.25 + 0.3 / count, across=1)
    for panel, seen, text in zip(axes, weights, check_titles(titles, count, "map"), strict=True):
        strength = seen / seen.max().clamp(min=1e-30)
        panel.stairs(2.1 * strength.numpy() - 1.05, edges.numpy(), baseline=-1.05, fill=True, color="#f3b27a")
        panel.fill_between(at.numpy(), low, high, color=COLOURS[0], linewidth=0.5, alpha=0.9)
        panel.set_ylim(-1.05, 1.1)
        panel.set_xlim(0, samples * step)
        open_frame(panel)
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        set_title(panel, text)
        panel.set_title(largest_weight(seen, patches), fontsize=SMALL, color=MUTED, loc="right", pad=4)
        if panel is not axes[-1]:
            panel.set_xticklabels([])
    axes[-1].set_xlabel("samples" if rate is None else "seconds", fontsize=SMALL, color=INK)
    return page


def _check_grid(grid: object) -> Grid:
    if not isinstance(grid, tuple | list) or len(grid) not in (2, 3) or any(not isinstance(n, int) for n in grid):
        raise InputError(f"grid must be ints (h, w) or (t, h, w), got {grid!r}")
    return tuple(grid)


def check_weights(weights: object, rows: int | None, of: str) -> Tensor:
    """Detached weights (k, n); InputError for a single map (n,), where the mean over heads is easily forgotten."""
    if (
        not isinstance(weights, Tensor)
        or weights.ndim != 2
        or 0 in weights.shape
        or not weights.is_floating_point()
        or (rows is not None and weights.shape[1] != rows)
    ):
        raise InputError(
            f"weights must be float (k, {'n' if rows is None else rows}), a map over {of} in each row (of one "
            f"sample, one head or their mean), got {describe_value(weights)}"
        )
    if not (weights >= 0).all():
        raise InputError("weights must be at least 0 and not NaN; give attention maps, not scores")
    return plain(weights)


def largest_weight(seen: Tensor, rows: int) -> str:
    """The caption of a map: its largest weight as a multiple of the mean."""
    times = float(seen.max()) * rows
    return f"largest {times:.1f} × mean" if times < 100 else f"largest {times:,.0f} × mean"
