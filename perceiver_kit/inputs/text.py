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

RECALL = 2**16
"""Buckets of the hashes by which ``recalled_ids`` compares ids."""


@register("inputs")
class TextTokens(Input):
    """Token ids (b, n) int64 below ``vocabulary``, each embedded as a row of ``channels``.

    A byte is a poor row: it knows no neighbours, and cross-attention sums functions of single rows. Four options, off
    by default, give a row its context:

    - ``ngrams``, such as (3, 5): each place adds the embedding of the n ids around it, found in one table of
      ``buckets`` rows by a hash.
    - ``stride``: this many places are summed to one row.
    - ``convolutions``: this many residual convolutions of ``kernel`` rows.
    - ``recall``, such as (2, 4, 8), for a text of two parts, such as a question and its context: each place after the
      first ``separator`` adds the embedding of the id that follows the same n ids in the first part, and of the id that
      precedes the same n ids there, or else of id 0. Where the parts agree, a row then knows what the other one says.

    Beyond the text, and where a mask hides it, these read id 0, padding. A mask may be over ids or over rows; a row may
    be read if any of its ids may. To hide a byte that is to be predicted, replace its id: hashes see what is given.

    Source of hashed n-grams: CANINE (Clark et al. 2022), Byte Latent Transformer (Pagnoni et al. 2024). Of ``recall``:
    none; DrQA (Chen et al. 2017) tells each word of a context whether it is in the question.

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
        recall: tuple[int, ...] = (),
        separator: int = 5,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "add",
    ) -> None:
        check_positive("TextTokens", vocabulary=vocabulary, channels=channels, buckets=buckets, stride=stride)
        check_positive("TextTokens", convolutions=convolutions, least=0)
        for option, sizes in (("ngrams", ngrams), ("recall", recall)):
            if not isinstance(sizes, tuple | list):
                raise AssemblyError(f"TextTokens: {option} must be a tuple of sizes such as (3, 5), got {sizes!r}")
            check_positive(f"TextTokens: {option}", **{f"of {n}": n for n in sizes})
        check_positive("TextTokens", separator=separator, least=0, **({"most": vocabulary - 1} if recall else {}))
        if kernel % 2 == 0:
            raise AssemblyError(f"TextTokens: kernel must be odd, so that a row is in the centre, got {kernel}")
        super().__init__(channels, grid=grid, positions=positions, combine=combine)
        self.vocabulary, self.ngrams, self.buckets, self.stride = vocabulary, tuple(ngrams), buckets, stride
        self.embedding = nn.Embedding(vocabulary, channels, _weight=learned(vocabulary, channels))
        self.table = (
            nn.EmbeddingBag(buckets, channels, mode="sum", _weight=learned(buckets, channels)) if ngrams else None
        )
        self.recall, self.separator = tuple(recall), separator
        recalled = 2 * len(recall) * vocabulary
        self.recalled = (
            nn.EmbeddingBag(recalled, channels, mode="sum", _weight=learned(recalled, channels)) if recall else None
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
        if self.stride == 1 and self.table is None and self.recalled is None and not self.convolutions:
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
            rows = rows + self._sums(
                self.table, [hash_ngrams(raw, n, self.before(n), self.buckets) for n in self.ngrams]
            )
        if self.recalled is not None:
            found = [recalled_ids(raw, n, self.separator, after=after) for n in self.recall for after in (True, False)]
            rows = rows + self._sums(self.recalled, [ids + k * self.vocabulary for k, ids in enumerate(found)])
        for layer in self.convolutions:
            rows = layer(rows)
        return rows

    def _sums(self, table: nn.EmbeddingBag, of: list[Int64[Tensor, "b n"]]) -> Float[Tensor, "b r c"]:
        """For each row, the sum of what its places have in a table."""
        bags = rearrange(torch.stack(of, dim=-1), "b (r s) of -> (b r) (s of)", s=self.stride)
        return rearrange(table(bags), "(b r) c -> b r c", b=of[0].shape[0])

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


def recalled_ids(ids: Int64[Tensor, "b n"], size: int, separator: int, *, after: bool) -> Int64[Tensor, "b n"]:
    """For each place after the first separator, the id that follows the same ``size`` ids in the part before it.

    With ``after=False``: the id that precedes there the ``size`` ids that follow the place. Of several the last; 0 for
    none. Ids are compared by a hash into ``RECALL`` buckets: of 40,000 pairs of different ids, about one is taken for
    equal.

    >>> recalled_ids(torch.tensor([[7, 8, 9, 5, 6, 7, 8, 6]]), 2, 5, after=True)
    tensor([[0, 0, 0, 0, 0, 0, 0, 9]])
    >>> recalled_ids(torch.tensor([[7, 8, 9, 5, 6, 8, 9, 6]]), 2, 5, after=False)
    tensor([[0, 0, 0, 0, 7, 0, 0, 0]])
    """
    keys = hash_ngrams(ids, size, size if after else -1, RECALL)
    separators = (ids == separator).cumsum(dim=1)
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * (separators == 0)
    latest = places.new_zeros(ids.shape[0], RECALL).scatter_reduce(1, keys, places, "amax")
    found = latest.gather(1, keys) * (separators > 0)
    return F.pad(ids, (1, 0)).gather(1, found)
