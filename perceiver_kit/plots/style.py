"""Shared style of plots: colour-blind safe colours, panels, and pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, the darker ones first: they differ in lightness too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, MUTED, PALE = "#1f2933", "#5b6470", "#c9ced6"
# Inches, at 100 pixels each, and points: on a phone, 360 pixels wide, the smallest letters are 9 pixels high.
WIDTH = 5.2
SMALL = 9.5
HIGHEST = 6.0
"""The most inches of one picture: a narrow one would take gigabytes."""
LEAST = 0.2
"""The least height: a picture of one row would have none."""


def figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, max(height, LEAST)), dpi=100, layout="constrained", facecolor="white")


def panels(count: int, *, width: float, height: float, across: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels of this size in inches, ``across`` per row."""
    columns = min(across, count)
    rows = -(-count // columns)
    page = figure(width * columns, height * rows)
    grid = [*page.subplots(rows, columns, squeeze=False).flat]
    for axes in grid[count:]:
        axes.remove()
    return page, grid[:count]


def bare(axes: Axes) -> None:
    """Remove ticks and frame, for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def open_frame(axes: Axes) -> None:
    """Keep the left and bottom sides and small ticks, for curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK)


def title(axes: Axes, text: str) -> None:
    """Set a panel's title, at the left."""
    axes.set_title(text, fontsize=SMALL, color=INK, loc="left", pad=4)


def check_titles(titles: Sequence[str] | None, count: int, kind: str) -> list[str]:
    """One title for each of ``count`` panels; numbered if None."""
    if titles is None:
        return [f"{kind} {i}" for i in range(count)] if count > 1 else [""]
    if isinstance(titles, str) or len(titles) != count:
        raise InputError(f"titles must be {count}, one for each {kind}, got {titles!r}")
    return [str(text) for text in titles]


def plain(tensor: Tensor) -> Tensor:
    """Detached, on the CPU, in float32."""
    return tensor.detach().to("cpu", torch.float32)


def from_minus_one(like: Tensor) -> bool:
    """Whether pixels are in [-1, 1] rather than [0, 1]: any is negative."""
    return bool(like.amin() < 0)


def pixels(image: Tensor, signed: bool) -> Any:
    """An image (c, h, w), c = 1 or 3, as an array (h, w, 3) in [0, 1]."""
    image = plain(image)
    image = (image + 1) / 2 if signed else image
    return rearrange(image.nan_to_num().clamp(0, 1).expand(3, -1, -1), "c h w -> h w c").numpy()
