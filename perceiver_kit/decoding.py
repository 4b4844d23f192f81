"""Decode one output: its queries pass through the decoder in chunks, and the output block maps the result."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from .checks import checks_values, describe_value
from .errors import InputError
from .folding import fold
from .masks import row_mask
from .modalities import check_names
from .outputs import Output, Outputs
from .plain import is_plain
from .queries import Queries
from .tokens import Encoded, Grid, take_rows

At = Mapping[str, Tensor | None]
Sizes = Mapping[str, Grid]
QueryMask = Mapping[str, Tensor]
READS = "the query reads the latents"

# Memory budget in bytes of one decoder call. It sets the default chunk size at inference. All queries of a published
# video (804,737 × 1,026) would take 3.3 GB, and four times that inside the decoder. On a CPU, tensors above 32 MiB cost
# a page fault for every 4 KiB, so smaller chunks are also faster.
CHUNK_BYTES = {"cpu": 2**23}
CHUNK_BYTES_ELSEWHERE = 2**28


def check_request(outputs: Outputs | None, at: At | None, chunk: int | None, size: Sizes | None) -> tuple[At, Sizes]:
    """``at`` and ``size`` with their defaults; an InputError for wrong arguments of ``PerceiverIO.decode``."""
    if outputs is None:
        raise InputError("this model has no decoder: use encode")
    blocks = outputs.blocks
    at, size = dict.fromkeys(blocks) if at is None else at, {} if size is None else size
    for argument, value in (("at", at), ("size", size)):
        if not isinstance(value, Mapping):
            raise InputError(f"{argument} must map outputs ({', '.join(blocks)}), got {describe_value(value)}")
        check_names(argument, value, blocks)
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise InputError(f"chunk must be a positive number of query rows, got {chunk!r}")
    for name, index in at.items():
        if index is not None and blocks[name].mixes_rows:
            raise InputError(f"at: the rows of output {name!r} depend on each other; decode it whole")
    return at, size


def check_query_mask(query_mask: QueryMask | None, queries: Queries, decoder: Any, at: At, size: Sizes) -> QueryMask:
    """``query_mask`` with its default; an InputError, before the encoder runs, for one that no inputs would fit.

    Where the query follows an input, ``decode`` checks the sizes.
    """
    blocks, query_mask = queries.blocks, {} if query_mask is None else query_mask
    if not isinstance(query_mask, Mapping):
        raise InputError(f"query_mask must map outputs ({', '.join(blocks)}), got {describe_value(query_mask)}")
    check_names("query_mask", query_mask, blocks)
    if query_mask and not _takes_query_mask(decoder):
        raise InputError(f"query_mask: the decoder {type(decoder).__name__} takes none; leave it out")
    for name, mask in query_mask.items():
        if name not in at:
            raise InputError(f"query_mask names {name!r}, which at leaves out")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2:
            expected = f"bool (b, rows) or (b, *grid), True = {READS}"
            raise InputError(f"query_mask of {name!r} must be {expected}; got {describe_value(mask)}")
        if name not in size and (grid := blocks[name].size) is not None:
            row_mask("query_mask", name, mask, mask.shape[0], grid, READS)
    return query_mask


def _takes_query_mask(decoder: Any) -> bool:
    parameters = inspect.signature(decoder.forward).parameters.values()
    return any(parameter.name == "query_mask" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def decode_output(
    name: str,
    queries: Queries,
    decoder: Any,
    output: Output,
    encoded: Encoded,
    *,
    index: Tensor | None = None,
    chunk: int | None = None,
    size: Grid | None = None,
    query_mask: Tensor | None = None,
) -> Tensor:
    """``output(decoder(queries, latents))``: the rows at ``index``, or all rows in the output's whole form for None.

    The decoder sees ``chunk`` queries at a time. ``decoder`` may be any block. ``query_mask`` is over the whole grid.
    """
    latents, grid = encoded.latents, queries.grid(name, encoded, size)
    if index is None:
        output.check_grid(name, grid)
    else:
        _check_index(index, name, grid, latents.shape[0])
    reading = None
    if query_mask is not None:
        reading = row_mask("query_mask", name, query_mask, latents.shape[0], grid, READS)
    inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if inference and chunk is None:
        chunk = _affordable_chunk(decoder, latents)
    folded = None
    foldable = inference and reading is None and not output.mixes_rows
    if foldable and type(queries) is Queries and is_plain(queries, accept=None):
        count = math.prod(grid) if index is None else index.shape[-1]
        folded = fold(decoder, output, latents, queries.padding_of(name), count)

    def decode_rows(some: Tensor | None) -> Tensor:
        if folded is not None:
            return folded(queries.blocks[name](grid, some, encoded))
        # Of decoders whose queries read some of the latents.
        place = getattr(decoder, "place", None)
        options = {} if place is None else dict(place(queries.blocks[name].follows, grid, some, encoded.layout))
        if reading is not None:  # decoders of others may know no such argument
            options["query_mask"] = take_rows(reading, some)
        rows = decoder(queries(name, grid, some, encoded), latents, **options)
        return rows if output.mixes_rows else output(rows)

    chunks = [decode_rows(some) for some in _split(index, math.prod(grid), chunk, latents.device)]
    rows = chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
    if output.mixes_rows:  # needs all rows at once
        rows = output(rows)
    return output.whole(rows, grid) if index is None else rows


def _check_index(index: object, name: str, grid: Grid, batch: int) -> None:
    expected = f"at of {name!r} must be int64 (k,) or ({batch}, k), flat indices into its grid {grid}"
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim not in (1, 2):
        raise InputError(f"{expected}; got {describe_value(index)}")
    if index.numel() == 0 or (index.ndim == 2 and index.shape[0] != batch):
        raise InputError(f"{expected}; got {describe_value(index)}")
    if not checks_values(index):
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= math.prod(grid):
        raise InputError(f"{expected}, 0 to {math.prod(grid) - 1}; got {low} to {high}")


def _affordable_chunk(decoder: Any, latents: Tensor) -> int:
    """Query rows of one decoder call that keep to ``CHUNK_BYTES``."""
    row = latents.shape[0] * max(decoder.query_channels, decoder.out_channels) * latents.element_size()
    return max(1, CHUNK_BYTES.get(latents.device.type, CHUNK_BYTES_ELSEWHERE) // row)


def _split(
    index: Int64[Tensor, "*b k"] | None, rows: int, chunk: int | None, device: torch.device
) -> Iterator[Tensor | None]:
    """Indices of one decoder call each; None for the whole grid at once."""
    if index is not None:
        yield from [index] if chunk is None else index.split(chunk, dim=-1)
    elif chunk is None or rows <= chunk:
        yield None
    else:
        for start in range(0, rows, chunk):
            yield torch.arange(start, min(start + chunk, rows), device=device)
