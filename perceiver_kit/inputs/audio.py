"""Audio: waveforms in patches, and log-mel spectrograms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from ..checking import check_flag, check_number, check_positive, check_probability, check_tensor
from ..errors import AssemblyError, InputError
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class AudioPatches(Input):
    """A waveform (b, samples) in rows of ``samples_per_patch`` samples, which must divide its length.

    A mask may be over rows or samples: a row of which any sample may be read is read, the other samples as zeros.

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

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return _masked(raw, mask, self.samples_per_patch)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, hint="mono, without a channel axis")
        if raw.shape[1] % self.samples_per_patch:
            raise InputError(
                f"{name} is {tuple(raw.shape)} but patches need a number of samples divisible by "
                f"{self.samples_per_patch}: crop or pad"
            )
        return rearrange(raw, "b (n samples) -> b n samples", samples=self.samples_per_patch)


@register("inputs")
class LogMel(Input):
    """A waveform (b, samples) as its log-mel spectrogram: a row of ``bands`` for every ``hop`` samples.

    Windows of ``window`` samples (Hann) are centred on the hops, with zeros beyond the ends; samples after the last
    whole hop enter no row of their own. The triangular bands are equally wide on the mel scale 2595 log₁₀(1 + f / 700)
    from ``low`` to ``high`` Hz (default: half of ``rate``). A value is log(power + 1e-6), computed in float32. A
    mask may be over rows or samples, as for ``AudioPatches``.

    Two options help with few sounds:

    - ``standardise``: the values of each sound are shifted and scaled to mean 0 and deviation 1, so that its volume is
      no clue. Rows of zeros alone, such as those that pad a sound, are scaled too, but do not count.
    - ``span_masks``, a share in [0, 1]: training replaces two spans of rows and two of bands by the mean of the sound,
      each of a random width up to this share (SpecAugment, Park et al. 2019). Evaluation replaces nothing.

    >>> LogMel(16_000)(torch.zeros(2, 16_000)).rows.shape
    torch.Size([2, 100, 64])
    >>> rows = LogMel(16_000, standardise=True)(torch.randn(1, 16_000)).rows
    >>> bool(rows.mean().abs() < 1e-4), round(float(rows.std()), 2)
    (True, 1.0)
    """

    def __init__(
        self,
        rate: int,
        *,
        bands: int = 64,
        window: int = 400,
        hop: int = 160,
        low: float = 0.0,
        high: float | None = None,
        standardise: bool = False,
        span_masks: float = 0.0,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("LogMel", rate=rate, bands=bands, window=window, hop=hop)
        top = rate / 2 if high is None else high
        check_number("LogMel", low=low, high=top)
        check_flag("LogMel", standardise=standardise)
        check_probability("LogMel", span_masks=span_masks)
        if not low < top <= rate / 2 or hop > window:
            raise AssemblyError(
                f"LogMel: expected low < high <= rate / 2 and hop <= window, got low={low}, high={top}, rate={rate}, "
                f"hop={hop}, window={window}"
            )
        super().__init__(bands, grid=grid, positions=positions, combine=combine)
        self.rate, self.bands, self.window, self.hop, self.low, self.high = rate, bands, window, hop, low, top
        self.standardise, self.span_masks = standardise, span_masks

    @property
    def raw_axes(self) -> str:
        return "b samples"

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return _masked(raw, mask, self.hop)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, hint="mono, without a channel axis")
        if raw.shape[1] < self.hop:
            raise InputError(f"{name} is {tuple(raw.shape)} but a row needs {self.hop} samples; pad with zeros")
        around = self.window - self.hop
        wave = F.pad(raw.float(), (around // 2, around - around // 2))
        hann = torch.hann_window(self.window, dtype=torch.float32, device=raw.device)
        spectrum = torch.stft(wave, self.window, self.hop, window=hann, center=False, return_complex=True)
        power = rearrange(spectrum.abs().square(), "b f n -> b n f") @ self._filters(raw.device)
        rows = (power + 1e-6).log()
        if self.standardise:
            weight = (reduce(power, "b n f -> b n 1", "sum") > 0) + 1e-6  # not 0: a sound may be silent as a whole
            count = self.bands * reduce(weight, "b n 1 -> b 1 1", "sum")
            rows = rows - reduce(weight * rows, "b n f -> b 1 1", "sum") / count
            rows = rows / (reduce(weight * rows.square(), "b n f -> b 1 1", "sum") / count + 1e-6).sqrt()
        if self.training and self.span_masks:
            mean = reduce(rows, "b n f -> b 1 1", "mean")
            for _ in range(2):
                for axis in (1, 2):
                    rows = torch.where(_span(rows, axis, self.span_masks), mean, rows)
        return rows.to(raw.dtype)

    def _filters(self, device: torch.device) -> Float[Tensor, "f bands"]:
        """The triangle of each band over the frequencies of the transform. Computed at each call: nothing is cached."""
        options = dict(dtype=torch.float32, device=device)
        low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (self.low, self.high))
        mels = low + (high - low) * torch.linspace(0, 1, self.bands + 2, **options)  # type: ignore[arg-type]
        hertz = 700 * (10 ** (mels / 2595) - 1)
        left, centre, right = hertz[:-2], hertz[1:-1], hertz[2:]
        frequency = self.rate / self.window * torch.arange(self.window // 2 + 1, **options)  # type: ignore[arg-type]
        frequency = rearrange(frequency, "f -> f 1")
        rising, falling = (frequency - left) / (centre - left), (right - frequency) / (right - centre)
        return torch.minimum(rising, falling).clamp(min=0)


def _span(rows: Tensor, axis: int, share: float) -> Bool[Tensor, "b n f"]:
    """True in a random span along an axis of each sample, of a random width up to this share of it."""
    size = rows.shape[axis]
    width, start = torch.rand(2, rows.shape[0], 1, 1, device=rows.device)
    width = (width * (int(share * size) + 1)).floor()
    start = (start * (size - width + 1)).floor()
    place = rearrange(torch.arange(size, device=rows.device), "n -> 1 n 1" if axis == 1 else "n -> 1 1 n")
    return (start <= place) & (place < start + width)


def _masked(raw: Tensor, mask: Tensor, hop: int) -> tuple[Tensor, Tensor]:
    """Samples without those that may not be read, and the mask of the rows of ``hop`` samples."""
    # Not len(), which would fix a batch size that an exported graph leaves open.
    if mask.dtype != torch.bool or raw.ndim != 2 or mask.ndim != 2 or mask.shape[0] != raw.shape[0]:
        return raw, mask  # refused later
    rows = raw.shape[1] // hop
    if mask.shape[1] == raw.shape[1]:
        kept, mask = mask, reduce(mask[:, : rows * hop].float(), "b (n hop) -> b n", "max", hop=hop) > 0
    elif mask.shape[1] == rows:
        kept = repeat(mask, "b n -> b (n hop)", hop=hop)
        kept = F.pad(kept, (0, raw.shape[1] - kept.shape[1]), value=True)
    else:
        return raw, mask
    return torch.where(kept, raw, 0), mask
