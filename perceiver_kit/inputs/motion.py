"""Video as the colour and the motion of its patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from ..checking import check_number, check_positive, check_tensor
from ..errors import InputError
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input
from .image import image_axes

# Motion is counted in eighths of a pixel: values are then of the size of position features.
UNITS = 8
# Of squared differences of neighbouring pixels: patches with less texture have no motion to speak of.
FLOOR = 1e-3


@register("inputs")
class MovingPatches(Input):
    """A video (b, t, c, h, w) in rows (t - 1, h, w) of patches of ``size`` × ``size`` pixels: mean colour and motion.

    For each pair of successive frames a row has the mean of each channel times ``colour``, and the normal flow x, y in
    eighths of a pixel: -Σ ∂I/∂x ∂I/∂t / Σ |∇I|², and the same for y, which turn their signs when time is reversed. A
    prior that published models of video do not have. With a small ``colour`` few clips teach motion rather than how
    each of them looks. ``size`` must divide h and w, and t must be at least 2.

    Source of the flow: Horn and Schunck (1981), the brightness constancy equation.

    >>> MovingPatches(4)(torch.randn(1, 5, 3, 8, 16)).rows.shape
    torch.Size([1, 32, 5])
    """

    def __init__(
        self,
        size: int,
        *,
        channels: int = 3,
        colour: float = 0.1,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("MovingPatches", size=size, channels=channels)
        check_number("MovingPatches", colour=colour)
        super().__init__(channels + 2, axes=3, grid=grid, positions=positions, combine=combine)
        self.size, self.raw_channels, self.colour = size, channels, colour

    @property
    def raw_axes(self) -> str:
        return image_axes(self.raw_channels, video=True)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        if raw.shape[1] < 2 or raw.shape[-2] % self.size or raw.shape[-1] % self.size:
            raise InputError(
                f"{name} is {tuple(raw.shape)}, but motion needs at least two frames, and height and width divisible "
                f"by {self.size}"
            )
        before, after = raw[:, :-1], raw[:, 1:]
        between = (before + after) / 2
        grey = reduce(between, "b t c h w -> b t h w", "mean")
        change = reduce(after - before, "b t c h w -> b t h w", "mean")
        wide = F.pad(grey, (1, 1, 1, 1), mode="replicate")
        across = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
        down = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2
        texture = self._mean(across.square() + down.square()) + FLOOR
        flow = [-UNITS * self._mean(slope * change) / texture for slope in (across, down)]
        colours = reduce(between, "b t c (h y) (w x) -> b t h w c", "mean", y=self.size, x=self.size)
        return torch.cat([self.colour * colours, rearrange(torch.stack(flow), "xy b t h w -> b t h w xy")], dim=-1)

    def _mean(self, values: Tensor) -> Tensor:
        return reduce(values, "b t (h y) (w x) -> b t h w", "mean", y=self.size, x=self.size)
