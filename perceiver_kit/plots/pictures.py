"""Reconstructions side by side, and the similarity of latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..checking import check_tensor, describe_value
from ..errors import InputError
from .style import (
    COLOURS,
    HIGHEST,
    INK,
    MUTED,
    SMALL,
    WIDTH,
    bare,
    check_titles,
    figure,
    from_minus_one,
    open_frame,
    pixels,
    plain,
    title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions(rows: Mapping[str, Tensor], *, titles: Sequence[str] | None = None) -> Figure:
    """Images (k, 3, h, w) by name: one row of k pictures per name, to compare along columns.

    Pixels are in [0, 1], or in [-1, 1] if any value of the first row is negative: give the originals first. Other
    values are clamped. ``titles`` name the k columns.

    Raises InputError for no rows, or rows with different numbers of images.

    >>> picture = reconstructions({"true": torch.rand(4, 3, 8, 8), "model": torch.rand(4, 3, 8, 8)})
    >>> len(picture.axes)
    8
    """
    if not isinstance(rows, Mapping) or not rows:
        raise InputError("rows must map names to images (k, 3, h, w)")
    for name, images in rows.items():
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
            raise InputError(f"images of {name!r} must be (k, 3, h, w), got {describe_value(images)}")
    counts = {name: len(images) for name, images in rows.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"rows must have the same number of images, got {counts}")
    first = next(iter(rows.values()))
    count, signed, shape = len(first), from_minus_one(first), first.shape[-2:]
    captions = [""] * count if titles is None else check_titles(titles, count, "image")
    side = max(0.8, min(1.5, (WIDTH - 0.35) / count))
    page = figure(
        side * count + 0.35, (min(HIGHEST, side * shape[0] / shape[1]) + 0.06) * len(rows) + (0.25 if titles else 0.05)
    )
    grid = page.subplots(len(rows), count, squeeze=False)
    page.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)  # type: ignore[union-attr]
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(pixels(image, signed), interpolation="nearest")
            bare(axes)
        line[0].set_ylabel(name, fontsize=SMALL, color=INK)
    for axes, text in zip(grid[0], captions, strict=True):
        axes.set_title(text, fontsize=SMALL, color=INK, pad=3)
    return page


def latents(latents: Tensor) -> Figure:
    """Latents (m, d) of one sample: the cosine similarity of each pair, and the norm of each.

    Raises InputError for another shape.

    >>> len(latents(torch.randn(32, 64)).axes)
    3
    """
    check_tensor(latents, "latents", "m d", hint="those of one sample: enc.latents[0]")
    rows = plain(latents)
    similarity = F.normalize(rows, dim=-1) @ F.normalize(rows, dim=-1).T
    page = figure(WIDTH, 2.6)
    left, right = page.subplots(1, 2, width_ratios=(1, 1.05))
    shown = left.imshow(similarity.clamp(-1, 1).numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    bar = page.colorbar(shown, ax=left, shrink=0.8, ticks=[-1, 0, 1])
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK)
    title(left, "cosine similarity")
    left.set_ylabel("latent", fontsize=SMALL, color=INK)
    right.stairs(rows.norm(dim=-1).numpy(), fill=True, color=COLOURS[0])
    title(right, "norm")
    right.set_xlim(0, len(rows))
    for axes in (left, right):
        axes.set_xlabel("latent", fontsize=SMALL, color=INK)
        open_frame(axes)
    return page
