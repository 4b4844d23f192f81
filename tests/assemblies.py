"""Hypothesis strategies for whole models of registered blocks, with matching raw inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, queries
from perceiver_kit.registry import find

from .attached.attaching import attach
from .blocks import Pool, arguments, drawable, encoders, input_blocks, made, output_blocks, query_blocks, takes
from .strategies import NAMES, Grid, composite, noisy, raw

# A modality name is any text but "".
any_name = st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=6))
HIDE = [0.0, 1.0, 0.3, (1.0, 0.0), (0.5, 1.0)]


@kit.register("models")
class Asking(kit.PerceiverIO):
    """A model that gives its queries their coordinates, so that every property is tested on one."""

    def __init__(
        self,
        inputs: kit.Inputs,
        encoder: kit.Block,
        queries: kit.Queries,
        decoder: kit.Block,
        outputs: kit.Outputs,
        *,
        asked: dict[str, list[list[float]]],
        labels: Any = None,
    ) -> None:
        super().__init__(inputs, encoder, queries, decoder, outputs, labels=labels)
        self.asked = asked

    def _with(self, options: dict[str, Any]) -> dict[str, Any]:
        device = next(self.parameters()).device
        return {"queries": {name: torch.tensor(rows, device=device) for name, rows in self.asked.items()}} | options

    def forward(self, inputs: Any, **options: Any) -> dict[str, Tensor]:
        return super().forward(inputs, **self._with(options))

    def decode(self, encoded: kit.Encoded, **options: Any) -> dict[str, Tensor]:
        return super().decode(encoded, **self._with(options))


@dataclass
class Assembly:
    """A drawn model, in float64 and in evaluation mode, and raw inputs for it."""

    model: nn.Module
    raw: dict[str, Tensor]
    batch: int
    grids: dict[str, Grid] = field(default_factory=dict)
    masks: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # the arguments mask and query_mask of a call

    def __repr__(self) -> str:
        return f"batch {self.batch}, inputs {self.grids}:\n{kit.describe(self.model)}\n{self.model}"

    @property
    def blocks(self) -> list[kit.Block]:
        """The distinct blocks of the model."""
        return [module for module in self.model.modules() if isinstance(module, kit.Block)]

    def of_type(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The raw inputs, with floats cast to this type."""
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in self.raw.items()}

    def follows(self, name: str) -> str | None:
        """The input that an output's query follows."""
        return self.query(name).follows

    def query(self, name: str) -> kit.queries.Query:
        """The query of an output."""
        return self.model.queries.blocks[self.model.outputs.query_of(name)]


@composite
def _several(
    draw: st.DrawFn, least: int, blocks: Callable[[Pool], st.SearchStrategy]
) -> dict[str, tuple[nn.Module, Grid]]:
    """Blocks by name, each with its grid; sometimes one block under two names."""
    drawn: dict[str, tuple[nn.Module, Grid]] = {}
    for name in draw(st.lists(any_name, min_size=least, max_size=3, unique=True)):
        reuse = drawn and draw(st.integers(0, 5)) == 5
        drawn[name] = draw(st.sampled_from([*drawn.values()])) if reuse else draw(blocks(_pool(drawn)))
    return drawn


def _pool(blocks: dict[str, tuple[nn.Module, Grid]]) -> Pool:
    """Blocks that the rest of the model may share: these and their positions."""
    own = [(grid, block) for block, grid in blocks.values()]
    positions = [(grid, getattr(block, "positions", None)) for grid, block in own]
    return own + [(grid, block) for grid, block in positions if block is not None]


@composite
def assemblies(
    draw: st.DrawFn,
    *,
    hide: bool = True,
    least: int = 1,
    places: bool = True,
    masked: bool = False,
    attached: bool = False,
) -> Assembly:
    """A model of one to three inputs and outputs of any kind, width and name, with raw inputs.

    ``hide``: some inputs may be optional. ``least``: the minimum number of inputs. ``places``: some have positions.
    ``masked``: rows of some inputs and queries of some outputs are masked. ``attached``: some layers have hooks,
    adapters or parametrizations.
    """
    torch.manual_seed(draw(st.integers(0, 2**16)))
    drawn = draw(_several(least, lambda others: input_blocks(others, places)))
    given = {name: grid for name, (_, grid) in drawn.items()}
    hidden = {name: draw(st.sampled_from(HIDE)) for name in drawn if hide and draw(st.booleans())}
    least_padding = int(max(block.channels for block, _ in drawn.values()) == 1)  # one channel carries nothing
    inputs_block = inputs.Inputs(
        {name: block for name, (block, _) in drawn.items()},
        hide=hidden,
        min_padding=draw(st.integers(least_padding, 2)),
    )
    batch = draw(st.integers(1, 3))
    tensors = {name: raw(inputs_block.blocks[name], batch, grid) for name, grid in given.items()}
    encoder = draw(encoders(inputs_block.channels))
    queries_block, decoder, sizes = draw(_queries_and_decoder(inputs_block, given, _pool(drawn), encoder))
    query_names, of = draw(_names_of_outputs(sizes))
    grids = {name: sizes[query] for name, query in query_names.items()}
    by_name: dict[str, nn.Module] = {}
    for name, grid in grids.items():
        fitting = [by_name[other] for other in by_name if grids[other] == grid]
        reuse = fitting and draw(st.integers(0, 3)) == 3
        new = output_blocks(decoder.out_channels, grid, _pool(drawn))
        by_name[name] = draw(st.sampled_from(fitting)) if reuse else draw(new)
    asked = {name: draw(_places(queries_block.blocks[name], sizes[name])) for name in queries_block.blocks}
    asked = {name: places for name, places in asked.items() if places}
    parts = (queries_block if queries_block.channels else None, decoder, outputs.Outputs(by_name, of=of))
    kind = functools.partial(Asking, asked=asked) if asked else kit.PerceiverIO
    model = noisy(kind(inputs_block, encoder, *parts)).double().eval()
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    case = Assembly(model, tensors, batch, given)
    if masked:
        case.masks["mask"] = draw(row_masks(batch, given))
        case.masks["query_mask"] = draw(row_masks(batch, grids)) if isinstance(decoder, kit.Decoder) else {}
    if attached:
        draw(attach(model))
    return case


@composite
def row_masks(draw: st.DrawFn, batch: int, grids: dict[str, Grid]) -> dict[str, Tensor]:
    """Random masks of some modalities, by row or by place; one sample may be masked as a whole."""
    masks = {}
    for name in draw(st.lists(st.sampled_from([*grids]), unique=True)):
        mask = torch.rand(batch, *grids[name]) < draw(st.sampled_from([0.5, 0.9]))
        mask[-1] &= draw(st.booleans())
        masks[name] = mask.flatten(1) if draw(st.booleans()) else mask
    return masks


@composite
def _names_of_outputs(draw: st.DrawFn, sizes: dict[str, Grid]) -> tuple[dict[str, str], dict[str, str]]:
    """The query of each output, and those that are not of their own name: one query may serve two outputs."""
    of = {name: name for name in sizes}
    for query in sizes:
        if draw(st.integers(0, 3)) == 3:
            names = draw(st.lists(any_name, min_size=1, max_size=2, unique=True))
            if not {*names} & {*of}:
                del of[query]
                of |= dict.fromkeys(names, query)
    return of, {name: query for name, query in of.items() if name != query}


@composite
def _places(draw: st.DrawFn, query: queries.Query, grid: Grid) -> list[list[float]]:
    """Coordinates for a query that takes them; else none."""
    if query.takes is None:
        return []
    place = st.lists(st.floats(-2, 2, width=32), min_size=query.axes, max_size=query.axes)
    return draw(st.lists(place, min_size=grid[0], max_size=grid[0]))


@composite
def _queries_and_decoder(
    draw: st.DrawFn, inputs_block: inputs.Inputs, given: dict[str, Grid], pool: Pool, encoder: nn.Module
) -> tuple[queries.Queries, nn.Module, dict[str, Grid]]:
    """A decoder, queries for it, and their grids; ``NoQuery`` for a decoder without queries."""
    # Decoders with queries are drawn three times as often: the others have a single row for every output.
    with_queries = [name for name in drawable("decoders") if "query_channels" in takes(find("decoders", name))]
    name = draw(st.sampled_from([*drawable("decoders"), *with_queries, *with_queries]))
    chosen: dict[str, Any] = {"latent_dim": encoder.latent_dim}
    if isinstance(encoder, kit.HierarchicalEncoder):
        chosen |= {"groups": encoder.groups[-1], "order": encoder.order}
    texts = [block.content_channels for _, block in pool if isinstance(block, inputs.TextTokens)]
    if texts and draw(st.booleans()):
        chosen["out_channels"] = draw(st.sampled_from(texts))  # the width of logits tied to the text
    if name not in with_queries:
        names = draw(st.lists(any_name, min_size=1, max_size=2, unique=True))
        sizes = dict.fromkeys(names, (1,))
        queries_block = queries.Queries({name: queries.NoQuery() for name in names})
    else:
        drawn = draw(_several(1, lambda others: query_blocks(inputs_block, given, pool + others)))
        padding = draw(st.integers(max(0, 2 - max(block.channels for block, _ in drawn.values())), 2))
        queries_block = queries.Queries({name: block for name, (block, _) in drawn.items()}, min_padding=padding)
        chosen["query_channels"] = queries_block.channels
        sizes = {name: grid for name, (_, grid) in drawn.items()}
    return queries_block, made("decoders", name, draw(arguments("decoders", name, chosen))), sizes
