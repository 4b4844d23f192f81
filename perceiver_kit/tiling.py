"""Images of any size through a model of one size: overlapping tiles, blended."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from .block import Block
from .checking import check_positive, check_sizes, describe_value
from .errors import AssemblyError, InputError
from .inputs import Inputs
from .modalities import check_names
from .model import At, Labels, PerceiverIO, QueryMask, QueryTensors, RawInputs, Sizes
from .outputs import Outputs
from .queries import Queries
from .registry import register


@register("models")
class Tiled(PerceiverIO):
    """A PerceiverIO with one image-like input (b, …, h, w) and one output (b, c, h, w) of the same height and width.

    An input of size ``tile`` takes one forward pass. A larger one is cut into tiles that overlap by at least
    ``min_overlap``, the last in each row and column flush with the edge; overlapping results are averaged with
    weights that decrease towards a tile's edges, min(i + 1, size - i). A smaller one is padded with masked rows, and
    the result is cropped. ``encode`` and ``decode`` do not tile.

    Source: deepmind-research/perceiver, colabs/optical_flow.ipynb.

    >>> model = build("optical_flow", preset="tiny")
    >>> model.tile, model({"frames": torch.zeros(1, 2, 3, 40, 100)})["flow"].shape
    ((32, 48), torch.Size([1, 2, 40, 100]))
    """

    def __init__(
        self,
        inputs: Inputs,
        encoder: Block,
        queries: Queries,
        decoder: Block,
        outputs: Outputs,
        *,
        tile: tuple[int, int],
        min_overlap: int,
        labels: Labels | None = None,
    ) -> None:
        super().__init__(inputs, encoder, queries, decoder, outputs, labels=labels)
        check_positive("Tiled", min_overlap=min_overlap, least=0)
        self.tile, self.min_overlap = check_sizes("Tiled", "tile", tile), min_overlap
        if len(self.tile) != 2 or min_overlap >= min(self.tile):
            raise AssemblyError(f"Tiled: tile is (height, width), both above min_overlap, got {tile} and {min_overlap}")
        if len(inputs.blocks) != 1 or len(self.outputs.blocks) != 1:
            raise AssemblyError(
                f"Tiled: expected one input and one output, got {len(inputs.blocks)} and {len(self.outputs.blocks)}"
            )

    def forward(
        self,
        inputs: RawInputs,
        *,
        mask: RawInputs | None = None,
        hidden: Mapping[str, Tensor] | None = None,
        at: At | None = None,
        chunk: int | None = None,
        size: Sizes | None = None,
        query_mask: QueryMask | None = None,
        queries: QueryTensors | None = None,
    ) -> dict[str, Tensor]:
        """The output at the input's height and width; for an input of another size only ``mask`` and ``chunk``."""
        name = next(iter(self.inputs.blocks))
        raw = inputs.get(name) if isinstance(inputs, Mapping) else inputs
        one_tile = dict(hidden=hidden, at=at, size=size, query_mask=query_mask)
        if not isinstance(raw, Tensor) or raw.ndim < 3 or tuple(raw.shape[-2:]) == self.tile or 0 in raw.shape:
            return super().forward(inputs, mask=mask, chunk=chunk, queries=queries, **one_tile)  # type: ignore[arg-type]
        if any(value is not None for value in one_tile.values()):
            raise InputError(
                f"at, size, hidden and query_mask need an input of one tile {self.tile}, "
                f"got {name} {tuple(raw.shape)}; leave them out"
            )
        height, width = raw.shape[-2:]
        keep = self._keep(mask, name, raw)
        # Pad to at least one tile, with masked zeros.
        below, right = max(0, self.tile[0] - height), max(0, self.tile[1] - width)
        if below or right:
            keep = raw.new_ones(raw.shape[0], height, width, dtype=torch.bool) if keep is None else keep
            raw, keep = (F.pad(part, (0, right, 0, below)) for part in (raw, keep))
        output = next(iter(self.outputs.blocks))  # type: ignore[union-attr]
        weight = self._weight(raw.device)
        dtype = raw.dtype
        blended = weights = torch.zeros((), device=raw.device)
        for rows, columns in self._tiles(*raw.shape[-2:]):
            tile_mask = None if keep is None else {name: keep[:, rows, columns]}
            tile = {name: raw[..., rows, columns]}
            part = super().forward(tile, mask=tile_mask, chunk=chunk, queries=queries)[output]
            dtype = part.dtype
            around = (columns.start, raw.shape[-1] - columns.stop, rows.start, raw.shape[-2] - rows.stop)
            blended = blended + F.pad(part * weight, around)
            weights = weights + F.pad(weight, around)
        return {output: (blended / weights)[..., :height, :width].to(dtype)}

    def _tiles(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        starts = [
            # Starts beyond the last tile collapse into it.
            sorted({min(start, whole - part) for start in range(0, whole, part - self.min_overlap)})
            for whole, part in zip((height, width), self.tile, strict=True)
        ]
        for top, left in itertools.product(*starts):
            yield slice(top, top + self.tile[0]), slice(left, left + self.tile[1])

    def _weight(self, device: torch.device) -> Float[Tensor, "h w"]:
        """In float32, and so are the sums: times 184, a flow of 360 pixels overflows float16."""
        ramps = []
        for size in self.tile:
            index = torch.arange(size, device=device, dtype=torch.float32)
            ramps.append(torch.minimum(index + 1, size - index))
        return torch.minimum(rearrange(ramps[0], "h -> h 1"), ramps[1])

    def _keep(self, mask: RawInputs | None, name: str, raw: Tensor) -> Bool[Tensor, "b h w"] | None:
        if isinstance(mask, Mapping):
            check_names("mask", mask, self.inputs.blocks)
        keep = mask.get(name) if isinstance(mask, Mapping) else mask
        if keep is None:
            return None
        batch, (height, width) = raw.shape[0], raw.shape[-2:]
        if (
            not isinstance(keep, Tensor)
            or keep.dtype != torch.bool
            or tuple(keep.shape) not in ((batch, height * width), (batch, height, width))
        ):
            raise InputError(
                f"mask of {name!r} must be bool {(batch, height * width)} or {(batch, height, width)}, True = may be "
                f"read; got {describe_value(keep)}"
            )
        return keep if keep.ndim == 3 else rearrange(keep, "b (h w) -> b h w", h=height)
