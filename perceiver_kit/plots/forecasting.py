"""Series with forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..flags import checked_flags
from .style import COLOURS, INK, MUTED, SMALL, WIDTH, figure, open_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked_flags
def forecasts(
    times: Float[Tensor, "n"],
    values: Float[Tensor, "n series"],
    future: Float[Tensor, "k"],
    quantiles: Float[Tensor, "k series quantiles"],
    *,
    truth: Float[Tensor, "k series"] | None = None,
    names: Sequence[str] = (),
    dates: bool = False,
) -> Figure:
    """A panel for each series: readings, then the middle quantile within a band from the first to the last one.

    ``truth`` are the later readings, where they are known. With ``dates``, times are seconds since 1970.

    >>> hours = torch.arange(30.0)
    >>> page = forecasts(hours[:24], torch.rand(24, 2), hours[24:], torch.rand(6, 2, 3).sort().values, names=["a", "b"])
    >>> [axes.get_ylabel() for axes in page.axes]
    ['a', 'b']
    """
    count = values.shape[-1]
    page = figure(WIDTH, 1.9 * count)
    past, later = (_clock(part, dates) for part in (times, future))
    panels = page.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for i, axes in enumerate(panels):
        bands = quantiles[:, i].detach().cpu()
        middle = bands.shape[-1] // 2
        axes.plot(past, values[:, i].numpy(), color=MUTED, linewidth=1.1, marker=".", markersize=3, label="readings")
        axes.fill_between(later, bands[:, 0].numpy(), bands[:, -1].numpy(), color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.plot(later, bands[:, middle].numpy(), color=COLOURS[0], linewidth=1.6, label="forecast")
        if truth is not None:
            axes.plot(later, truth[:, i].numpy(), color=INK, linewidth=0.9, linestyle=":", label="later readings")
        axes.set_ylabel(names[i] if names else f"series {i + 1}", fontsize=SMALL, color=INK)
        open_frame(axes)
    if dates:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=8)
        panels[-1].xaxis.set_major_locator(locator)
        panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    handles, labels = panels[0].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=SMALL, labelcolor=INK)
    return page


def _clock(times: Tensor, dates: bool) -> np.ndarray:
    values = times.cpu().numpy()
    return values.round().astype("datetime64[s]") if dates else values
