"""Text as token ids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..checking import check_positive, check_tensor, checks_values
from ..errors import AssemblyError, InputError
from ..initialisation import learned, linear
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class TextTokens(Input):
    """Token ids (b, n) int64 below ``vocabulary``, each embedded as a row of ``channels``.

    A byte is a poor row: it knows no neighbours, and cross-attention sums functions of single rows. Three options, off
    by default, give a row its context:

    - ``ngrams``, such as (3, 5): each place adds the embedding of the n ids around it, found in one table of
      ``buckets`` rows by a hash.
    - ``stride``: this many places are summed to one row.
    - ``convolutions``: this many residual convolutions of ``kernel`` rows.

    Beyond the text, and where a mask hides it, these read id 0, padding. A mask may be over ids or over rows; a row may
    be read if any of its ids may. To hide a byte that is to be predicted, replace its id: hashes see what is given.

    Source of hashed n-grams: CANINE (Clark et al. 2022), Byte Latent Transformer (Pagnoni et al. 2024).

    >>> TextTokens(262, 32)(torch.zeros(2, 7, dtype=torch.int64)).rows.shape
    torch.Size([2, 7, 32])
    >>> TextTokens(262, 32, ngrams=(3, 4), stride=8)(torch.zeros(2, 100, dtype=torch.int64)).rows.shape
    torch.Size([2, 13, 32])
    """

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        *,
        ngrams: tuple[int, ...] = (),
        buckets: int = 2**16,
        stride: int = 1,
        convolutions: int = 0,
        kernel: int = 5,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "add",
    ) -> None:
        check_positive("TextTokens", vocabulary=vocabulary, channels=channels, buckets=buckets, stride=stride)
        check_positive("TextTokens", convolutions=convolutions, least=0)
        if not isinstance(ngrams, tuple | list):
            raise AssemblyError(f"TextTokens: ngrams must be a tuple of sizes such as (3, 5), got {ngrams!r}")
        check_positive("TextTokens: ngrams", **{f"of {n}": n for n in ngrams})
        if kernel % 2 == 0:
            raise AssemblyError(f"TextTokens: kernel must be odd, so that a row is in the centre, got {kernel}")
        super().__init__(channels, grid=grid, positions=positions, combine=combine)
        self.vocabulary, self.ngrams, self.buckets, self.stride = vocabulary, tuple(ngrams), buckets, stride
        self.embedding = nn.Embedding(vocabulary, channels, _weight=learned(vocabulary, channels))
        self.table = (
            nn.EmbeddingBag(buckets, channels, mode="sum", _weight=learned(buckets, channels)) if ngrams else None
        )
        self.reach = kernel // 2
        self.convolutions = nn.ModuleList(RowConvolution(channels, kernel) for _ in range(convolutions))

    @property
    def raw_axes(self) -> str:
        return "b n"

    def before(self, size: int) -> int:
        """How many ids of an n-gram of this size precede its place."""
        return (size - 1) // 2

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.stride == 1 and self.table is None and not self.convolutions:
            return raw, mask
        if mask.dtype != torch.bool or raw.ndim != 2 or mask.ndim != 2:
            return raw, mask  # refused later
        length, rows = raw.shape[1], -(-raw.shape[1] // self.stride)
        if mask.shape[1] == length:
            ids = mask
            mask = reduce(F.pad(mask, (0, rows * self.stride - length)).float(), "b (n s) -> b n", "max", n=rows) > 0
        elif mask.shape[1] == rows:
            ids = repeat(mask, "b n -> b (n s)", s=self.stride)[:, :length]
        else:
            return raw, mask
        return raw.masked_fill(~ids, 0) if ids.shape[0] == raw.shape[0] else raw, mask

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, kind="int64", hint="token ids, such as kit.ByteTokenizer makes")
        if checks_values(raw):
            self.check_values(raw, name)
        if self.stride > 1:
            raw = F.pad(raw, (0, -raw.shape[1] % self.stride))
        # Padding outside the text is convolved like padding within it.
        margin = len(self.convolutions) * self.reach
        raw = F.pad(raw, (margin * self.stride, margin * self.stride)) if margin else raw
        rows = self.embedding(raw)
        if self.stride > 1:
            rows = reduce(rows, "b (n s) c -> b n c", "sum", s=self.stride)
        if self.table is not None:
            hashes = torch.stack([hash_ngrams(raw, n, self.before(n), self.buckets) for n in self.ngrams], dim=-1)
            bags = rearrange(hashes, "b (n s) grams -> (b n) (s grams)", s=self.stride)
            rows = rows + rearrange(self.table(bags), "(b n) c -> b n c", b=raw.shape[0])
        for layer in self.convolutions:
            rows = layer(rows)
        return rows

    def check_values(self, raw: Tensor, name: str) -> None:
        low, high = (int(bound) for bound in raw.aminmax())
        if low < 0 or high >= self.vocabulary:
            raise InputError(f"{name} must be ids from 0 to {self.vocabulary - 1}, got {low} to {high}")


class RowConvolution(nn.Module):
    """Rows (b, n, c) → (b, n - 2 · reach, c): each adds a function of its ``kernel`` neighbours."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.norm = nn.LayerNorm(channels)
        self.convolution = nn.Conv1d(channels, channels, kernel)
        self.output = linear(channels, channels)

    def forward(self, rows: Float[Tensor, "b n c"]) -> Float[Tensor, "b k c"]:
        mixed = self.convolution(rearrange(self.norm(rows), "b n c -> b c n"))
        mixed = self.output(F.gelu(rearrange(mixed, "b c n -> b n c")))
        return rows[:, self.reach : rows.shape[1] - self.reach] + mixed


def hash_ngrams(ids: Int64[Tensor, "b n"], size: int, before: int, buckets: int) -> Int64[Tensor, "b n"]:
    """The bucket of the ``size`` ids at each place, of which the first ``before`` precede it; zeros outside.

    >>> hash_ngrams(torch.tensor([[7, 8, 9, 7, 8, 9]]), 3, 1, 1000)[0, [1, 4]].unique().numel()
    1
    """
    padded = F.pad(ids, (before, size - 1 - before))
    code = torch.full_like(ids, size)
    for offset in range(size):  # products of int64 wrap
        code = (code ^ padded[:, offset : offset + ids.shape[1]]) * 0x9E3779B97F4A7C1
        code = code ^ (code >> 29)
    return code % buckets
