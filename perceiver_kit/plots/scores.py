"""The best classes of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InputError
from .style import COLOURS, INK, SMALL, WIDTH, bare, figure, open_frame, pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def class_scores(scores: Mapping[str, float], picture: Tensor | None = None) -> Figure:
    """A bar for each class, in the order of ``scores``, beside the picture (3, h, w) in [0, 1] that was classified.

    Raises InputError for no scores.

    >>> page = class_scores({"cat": 0.9, "dog": 0.1}, torch.rand(3, 16, 16))
    >>> [label.get_text() for label in page.axes[-1].get_yticklabels()]
    ['cat', 'dog']
    """
    if not scores:
        raise InputError("scores must map classes to numbers, got none")
    height = max(0.35 * len(scores) + 0.5, 1.2 if picture is None else 1.8)
    page = figure(WIDTH, height)
    *left, bars = page.subplots(1, 1 if picture is None else 2, squeeze=False)[0]
    if picture is not None:
        left[0].imshow(pixels(picture, signed=False), interpolation="nearest")
        bare(left[0])
    names = [name if len(name) <= 28 else f"{name[:27]}…" for name in scores]
    places = range(len(names))
    bars.barh(places, [*scores.values()], color=COLOURS[0], height=0.7)
    bars.set_yticks(places, names)
    bars.invert_yaxis()
    if all(0 <= value <= 1 for value in scores.values()):
        bars.set_xlim(0, 1)
        bars.set_xlabel("probability", fontsize=SMALL, color=INK)
    open_frame(bars)
    return page
