"""Boxes on a picture, and the classes of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..checking import describe_value
from ..errors import InputError
from .style import COLOURS, HIGHEST, INK, SMALL, WIDTH, bare, figure, from_minus_one, pixels, plain, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def boxes(picture: Tensor, boxes: Tensor, names: Sequence[str], *, truth: Tensor | None = None) -> Figure:
    """A picture (3, h, w) with boxes (m, 4), centre and size as shares of it, and a name for each.

    Pixels are in [0, 1], or in [-1, 1] if any is negative. Boxes of one name have one colour; those of ``truth``
    (k, 4) are dotted. Raises InputError for shapes that do not match.

    >>> len(boxes(torch.rand(3, 32, 48), torch.full((1, 4), 0.5), ["cat 0.93"]).axes[0].patches)
    1
    """
    for name, value in (("boxes", boxes), ("truth", boxes if truth is None else truth)):
        if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[1] != 4:
            raise InputError(f"{name} must be (m, 4), centre and size, got {describe_value(value)}")
    if len(names) != len(boxes):
        raise InputError(f"names must be {len(boxes)}, one for each box, got {len(names)}")
    from matplotlib.patches import Rectangle

    image = _image(picture)
    height, width = image.shape[:2]
    page = figure(WIDTH, min(HIGHEST, WIDTH * height / width))
    axes = page.subplots()
    axes.imshow(image, interpolation="nearest")
    colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(sorted({_kind(name) for name in names}))}
    scale = torch.tensor([width, height, width, height])
    for box, name in zip(plain(boxes) * scale, names, strict=True):
        x, y, w, h = box.tolist()
        colour = colours[_kind(name)]
        axes.add_patch(Rectangle((x - w / 2 - 0.5, y - h / 2 - 0.5), w, h, fill=False, color=colour, linewidth=2))
        left, top = max(x - w / 2, 0), max(y - h / 2, 0)
        side = "bottom" if top > height / 12 else "top"  # above the box where there is room
        label = dict(facecolor=colour, edgecolor="none", pad=1.2)
        axes.text(left, top, name, fontsize=SMALL, color="white", va=side, bbox=label, clip_on=True)
    for box in [] if truth is None else plain(truth) * scale:
        x, y, w, h = box.tolist()
        axes.add_patch(Rectangle((x - w / 2 - 0.5, y - h / 2 - 0.5), w, h, fill=False, color="white", ls=":"))
    bare(axes)
    return page


def segments(picture: Tensor, classes: Tensor, names: Sequence[str]) -> Figure:
    """A picture (3, h, w), and the class (h, w) int64 of each pixel in colours with their names.

    Pixels are in [0, 1], or in [-1, 1] if any is negative; a negative class is none.

    >>> len(segments(torch.rand(3, 32, 48), torch.zeros(32, 48).long(), ["sky"]).axes)
    2
    """
    if not isinstance(classes, Tensor) or classes.ndim != 2 or classes.dtype != torch.int64:
        raise InputError(f"classes must be int64 (h, w), got {describe_value(classes)}")
    if (most := int(classes.max())) >= len(names):
        raise InputError(f"names must be at least {most + 1}, one for each class, got {len(names)}")
    from matplotlib.patches import Patch

    image = _image(picture)
    page = figure(WIDTH, 0.7 + min(HIGHEST, WIDTH / 2 * image.shape[0] / image.shape[1]))
    left, right = page.subplots(1, 2)
    left.imshow(image, interpolation="nearest")
    colours = rearrange(class_colours(classes, len(names)), "c h w -> h w c").numpy()
    right.imshow(colours, interpolation="nearest")
    title(left, "picture")
    title(right, "classes")
    bare(left)
    bare(right)
    present = [one for one in classes.unique().tolist() if one >= 0]
    handles = [Patch(facecolor=_palette(len(names))[one], edgecolor=INK, label=names[one]) for one in present[:16]]
    page.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=SMALL, frameon=False)
    return page


def class_colours(classes: Tensor, count: int) -> Float[Tensor, "3 h w"]:
    """Classes (h, w) of ``count`` as colours (3, h, w) in [0, 1]; a negative class is white.

    >>> class_colours(torch.tensor([[-1]]), 2).unique().item()
    1.0
    """
    palette = torch.tensor([*_palette(count), (1.0, 1.0, 1.0)], dtype=torch.float32)
    return rearrange(palette[torch.where(classes < 0, count, classes).cpu()], "h w c -> c h w")


def _palette(count: int) -> list[tuple[float, float, float]]:
    """Distinct colours: dark for the first class, often the background, then hues of alternating lightness."""
    from matplotlib.colors import hsv_to_rgb

    golden = 0.61803398875
    hues = [((0.58 + i * golden) % 1, 0.85 - 0.3 * (i % 2), 0.95 - 0.25 * (i % 3 == 2)) for i in range(count - 1)]
    return [(0.12, 0.14, 0.18), *(tuple(np.asarray(hsv_to_rgb(hue)).tolist()) for hue in hues)][:count]  # type: ignore[list-item]


def _image(picture: Tensor):
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] not in (1, 3):
        raise InputError(f"picture must be (3, h, w), got {describe_value(picture)}")
    return pixels(picture, from_minus_one(picture))


def _kind(name: str) -> str:
    """A name without the score after it."""
    return name.rsplit(" ", 1)[0]
