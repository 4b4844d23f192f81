"""What a call asks of the decoder: ``at``, ``size``, ``query_mask`` and ``queries``, checked before work starts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .checking import checks_values, describe_value
from .errors import InputError
from .masks import row_mask
from .modalities import check_names
from .outputs import Outputs
from .queries import Queries
from .tokens import Grid

# The arguments ``at``, ``size`` and ``query_mask`` by output, and ``queries`` by query: see ``PerceiverIO.decode``.
At = Mapping[str, Tensor | None]
Sizes = Mapping[str, Grid]
QueryMask = Mapping[str, Tensor]
QueryTensors = Mapping[str, Tensor]

READS = "the query reads the latents"


def check_request(
    model: Any, *, at: At | None, chunk: int | None, size: Sizes | None, queries: QueryTensors | None
) -> tuple[At, Sizes, QueryTensors]:
    """``at``, ``size`` and ``queries`` with their defaults; an InputError for wrong arguments of ``model.decode``."""
    outputs: Outputs | None = model.outputs
    if outputs is None:
        raise InputError("this model has no decoder: use encode")
    blocks = outputs.blocks
    at, size = dict.fromkeys(blocks) if at is None else at, {} if size is None else size
    queries = {} if queries is None else queries
    for argument, value, known in (
        ("at", at, blocks),
        ("size", size, blocks),
        ("queries", queries, model.queries.blocks),
    ):
        if not isinstance(value, Mapping):
            kind = "queries" if argument == "queries" else "outputs"
            raise InputError(f"{argument} must map {kind} ({', '.join(known)}), got {describe_value(value)}")
        check_names(argument, value, known)
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise InputError(f"chunk must be a positive number of query rows, got {chunk!r}")
    mixing = getattr(model.decoder, "mixes_rows", False)
    if chunk is not None and mixing:
        raise InputError(f"chunk: the queries of {type(model.decoder).__name__} read each other; leave chunk out")
    for name, index in at.items():
        if index is not None and (mixing or blocks[name].mixes_rows):
            raise InputError(f"at: the rows of output {name!r} depend on each other; decode it whole")
    _check_asked(model.queries, {outputs.query_of(name) for name in at}, queries)
    return at, size, queries


def check_query_mask(query_mask: QueryMask | None, model: Any, at: At, size: Sizes) -> QueryMask:
    """``query_mask`` with its default; an InputError, before the encoder runs, for one that fits no input.

    If the query follows an input, the number of its rows is not known yet: ``decode`` checks the size.
    """
    blocks, query_mask = model.outputs.blocks, {} if query_mask is None else query_mask
    if not isinstance(query_mask, Mapping):
        raise InputError(f"query_mask must map outputs ({', '.join(blocks)}), got {describe_value(query_mask)}")
    check_names("query_mask", query_mask, blocks)
    if query_mask and not _takes_query_mask(model.decoder):
        raise InputError(f"query_mask: the decoder {type(model.decoder).__name__} takes none; leave it out")
    for name, mask in query_mask.items():
        if name not in at:
            raise InputError(f"query_mask names {name!r}, which at leaves out")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2:
            expected = f"bool (b, rows) or (b, *grid), True = {READS}"
            raise InputError(f"query_mask of {name!r} must be {expected}; got {describe_value(mask)}")
        if name not in size and (grid := model.queries.blocks[model.outputs.query_of(name)].size) is not None:
            row_mask("query_mask", name, mask, mask.shape[0], grid, READS)
    return query_mask


def _takes_query_mask(decoder: Any) -> bool:
    parameters = inspect.signature(decoder.forward).parameters.values()
    return any(parameter.name == "query_mask" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _check_asked(queries: Queries, wanted: Collection[str], asked: QueryTensors) -> None:
    """Refuse tensors for queries that take none, wrong ones, and a query that lacks its tensor."""
    for name in queries.blocks:
        query = queries.blocks[name]
        if name in asked and query.takes is None:
            raise InputError(f"queries names {name!r}, whose {type(query).__name__} takes nothing from the call")
        if name in asked:
            query.check_asked(asked[name], name)
        elif name in wanted and query.takes is not None and query.default is None:
            raise InputError(f"queries lacks {name!r}: it takes {query.takes}; pass queries={{{name!r}: …}}")


def check_index(index: object, name: str, grid: Grid, batch: int) -> None:
    """Raise InputError for rows of an output that are no flat indices of its grid."""
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
