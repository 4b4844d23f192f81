"""Audio."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ..checks import check_positive, check_tensor
from ..errors import InputError
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class AudioPatches(Input):
    """A waveform (b, samples) in rows of ``samples_per_patch`` samples, which must divide its length.

    >>> AudioPatches(16)(torch.zeros(2, 480)).rows.shape
    torch.Size([2, 30, 16])
    """

    def __init__(
        self,
        samples_per_patch: int,
        *,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("AudioPatches", samples_per_patch=samples_per_patch)
        super().__init__(samples_per_patch, grid=grid, positions=positions, combine=combine)
        self.samples_per_patch = samples_per_patch

    @property
    def raw_axes(self) -> str:
        return "b samples"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, hint="mono, without a channel axis")
        if raw.shape[1] % self.samples_per_patch:
            raise InputError(
                f"{name} is {tuple(raw.shape)} but patches need a number of samples divisible by "
                f"{self.samples_per_patch}: crop or pad"
            )
        return rearrange(raw, "b (n samples) -> b n samples", samples=self.samples_per_patch)
