"""Decode the outputs of one query: it passes through the decoder in chunks, and output blocks map the result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from .checking import describe_value
from .errors import InputError
from .folding import fold
from .masks import row_mask
from .outputs import Outputs
from .plain import is_plain
from .queries import Queries
from .request import READS, At, QueryMask, QueryTensors, Sizes, check_index
from .tokens import Encoded, Grid, take_rows

# Memory budget in bytes of one decoder call. It sets the default chunk size at inference. All queries of a published
# video (804,737 × 1,026) would take 3.3 GB, and four times that inside the decoder. On a CPU, tensors above 32 MiB cost
# a page fault for every 4 KiB, so smaller chunks are also faster.
CHUNK_BYTES = {"cpu": 2**23}
CHUNK_BYTES_ELSEWHERE = 2**28


def decode_outputs(
    model: Any, encoded: Encoded, at: At, chunk: int | None, size: Sizes, query_mask: QueryMask, asked: QueryTensors
) -> dict[str, Tensor]:
    """All outputs in ``at``. Those that share a query, with equal sizes and the same tensors, are decoded together."""
    outputs: Outputs = model.outputs

    def alike(one: str, other: str) -> bool:
        same_query = outputs.query_of(one) == outputs.query_of(other)
        same_mask = query_mask.get(one) is query_mask.get(other)
        return same_query and same_mask and at[one] is at[other] and size.get(one) == size.get(other)

    groups: list[list[str]] = []
    for name in outputs.blocks:
        if name in at:
            together = (group for group in groups if alike(group[0], name))
            group = next(together, None)
            if group is None:
                groups.append([name])
            else:
                group.append(name)
    decoded: dict[str, Tensor] = {}
    for group in groups:
        query = outputs.query_of(group[0])
        given = replace(encoded, asked=asked.get(query))
        decoded |= decode_query(
            query,
            model.queries,
            model.decoder,
            {name: outputs.blocks[name] for name in group},
            given,
            index=at[group[0]],
            chunk=chunk,
            size=size.get(group[0]),
            query_mask=query_mask.get(group[0]),
        )
    return {name: decoded[name] for name in outputs.blocks if name in decoded}


def decode_query(
    query: str,
    queries: Queries,
    decoder: Any,
    outputs: Mapping[str, Any],  # foreign modules may wrap them
    encoded: Encoded,
    *,
    index: Tensor | None = None,
    chunk: int | None = None,
    size: Grid | None = None,
    query_mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """Decode one query for its outputs: ``output(decoder(query, latents))`` at the rows ``index``.

    None decodes all rows, and ``output.whole`` gives them their form. ``chunk`` queries pass through the decoder at a
    time. ``decoder`` may be any block. ``query_mask`` covers the whole grid.
    """
    latents, grid = encoded.latents, queries.grid(query, encoded, size)
    for name, output in outputs.items():
        if index is None:
            output.check_grid(name, grid)
        else:
            check_index(index, name, grid, latents.shape[0])
    if encoded.asked is not None and encoded.asked.ndim == 3 and encoded.asked.shape[0] != latents.shape[0]:
        expected = f"one batch size with inputs, {latents.shape[0]}"
        raise InputError(f"queries: {query!r} must have {expected}, got {describe_value(encoded.asked)}")
    reading = None
    if query_mask is not None:
        reading = row_mask("query_mask", next(iter(outputs)), query_mask, latents.shape[0], grid, READS)
    inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if inference and chunk is None and not getattr(decoder, "mixes_rows", False):
        chunk = _affordable_chunk(decoder, latents)
    folded = None
    only = next(iter(outputs.values()))
    foldable = inference and reading is None and len(outputs) == 1 and not only.mixes_rows
    if foldable and type(queries) is Queries and is_plain(queries, accept=None):
        count = math.prod(grid) if index is None else index.shape[-1]
        folded = fold(decoder, only, latents, queries.padding_of(query), count)

    def decode_rows(some: Tensor | None) -> list[Tensor]:
        if folded is not None:
            return [folded(queries.blocks[query](grid, some, encoded))]
        # Options of decoders in which a query reads some of the latents only, such as those with groups.
        place = getattr(decoder, "place", None)
        options = {} if place is None else dict(place(queries.blocks[query].follows, grid, some, encoded.layout))
        if reading is not None:  # a user's own decoder may not accept query_mask
            options["query_mask"] = take_rows(reading, some)
        rows = decoder(queries(query, grid, some, encoded), latents, **options)
        return [rows if output.mixes_rows else output(rows) for output in outputs.values()]

    chunks = [decode_rows(some) for some in _split(index, math.prod(grid), chunk, latents.device)]
    decoded: dict[str, Tensor] = {}
    for (name, output), *parts in zip(outputs.items(), *chunks, strict=True):
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if output.mixes_rows:  # needs all rows at once
            rows = output(rows)
        decoded[name] = output.whole(rows, grid) if index is None else rows
    return decoded


def _affordable_chunk(decoder: Any, latents: Tensor) -> int:
    """The largest number of query rows for which a decoder call stays below ``CHUNK_BYTES``."""
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
