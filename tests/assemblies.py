"""Whole models drawn at random from what is registered, with raw inputs that they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, queries
from perceiver_kit.registry import find

from .blocks import Pool, arguments, drawable, encoders, input_blocks, made, output_blocks, query_blocks, takes
from .strategies import NAMES, Grid, composite, noisy, raw

# A name of a modality is any text but none.
any_name = st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=6))
HIDE = [0.0, 1.0, 0.3, (1.0, 0.0), (0.5, 1.0)]


@dataclass
class Assembly:
    """A model of blocks drawn at random, in float64 and in evaluation mode, and raw inputs that it reads."""

    model: nn.Module
    raw: dict[str, Tensor]
    batch: int
    grids: dict[str, Grid] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"batch {self.batch}, inputs {self.grids}:\n{kit.describe(self.model)}\n{self.model}"

    @property
    def blocks(self) -> list[kit.Block]:
        """All blocks of the model, each once."""
        return [module for module in self.model.modules() if isinstance(module, kit.Block)]

    def of_type(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The raw inputs, those that are floats in another type."""
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in self.raw.items()}

    def follows(self, name: str) -> str | None:
        """The input that the query of an output follows."""
        return self.model.queries.blocks[name].follows


@composite
def _several(
    draw: st.DrawFn, least: int, blocks: Callable[[Pool], st.SearchStrategy]
) -> dict[str, tuple[nn.Module, Grid]]:
    """Blocks by name, each with its grid; now and then one that is there already again, under another name."""
    drawn: dict[str, tuple[nn.Module, Grid]] = {}
    for name in draw(st.lists(any_name, min_size=least, max_size=3, unique=True)):
        again = drawn and draw(st.integers(0, 5)) == 5
        drawn[name] = draw(st.sampled_from([*drawn.values()])) if again else draw(blocks(_pool(drawn)))
    return drawn


def _pool(blocks: dict[str, tuple[nn.Module, Grid]]) -> Pool:
    """Blocks that others of the model may share: these, and their positions."""
    own = [(grid, block) for block, grid in blocks.values()]
    places = [(grid, getattr(block, "positions", None)) for grid, block in own]
    return own + [(grid, block) for grid, block in places if block is not None]


@composite
def assemblies(draw: st.DrawFn, *, hide: bool = True, least: int = 1, places: bool = True) -> Assembly:
    """A model of one to three inputs and outputs of any kind, any width and any name, and inputs that it reads.

    ``hide``: some of these may be left out. ``least``: so many at least. ``places``: some have positions.
    """
    torch.manual_seed(draw(st.integers(0, 2**16)))
    drawn = draw(_several(least, lambda others: input_blocks(others, places)))
    given = {name: grid for name, (_, grid) in drawn.items()}
    hidden = {name: draw(st.sampled_from(HIDE)) for name in drawn if hide and draw(st.booleans())}
    every = inputs.Inputs(
        {name: block for name, (block, _) in drawn.items()}, hide=hidden, min_padding=draw(st.integers(0, 2))
    )
    batch = draw(st.integers(1, 3))
    tensors = {name: raw(every.blocks[name], batch, grid) for name, grid in given.items()}
    encoder = draw(encoders(every.channels))
    ask, decoder = draw(_asking(every, given, _pool(drawn), encoder.latent_dim))
    grids = {name: ask.blocks[name].size or given[ask.blocks[name].follows] for name in ask.blocks}
    answers: dict[str, nn.Module] = {}
    for name, grid in grids.items():
        fitting = [answers[other] for other in answers if grids[other] == grid]
        again = fitting and draw(st.integers(0, 3)) == 3
        new = output_blocks(decoder.out_channels, grid, _pool(drawn))
        answers[name] = draw(st.sampled_from(fitting)) if again else draw(new)
    model = kit.PerceiverIO(every, encoder, ask if ask.channels else None, decoder, outputs.Outputs(answers))
    model = noisy(model).double().eval()
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    return Assembly(model, tensors, batch, given)


@composite
def _asking(
    draw: st.DrawFn, every: inputs.Inputs, given: dict[str, Grid], pool: Pool, latent_dim: int
) -> tuple[queries.Queries, nn.Module]:
    """Queries and the decoder that reads them; of a decoder that asks nothing, queries of nothing."""
    # Three times as often one that asks: the other has a single row for every output.
    asking = [name for name in drawable("decoders") if "query_channels" in takes(find("decoders", name))]
    name = draw(st.sampled_from([*drawable("decoders"), *asking, *asking]))
    known: dict[str, Any] = {"latent_dim": latent_dim}
    texts = [block.content_channels for _, block in pool if isinstance(block, inputs.TextTokens)]
    if texts and draw(st.booleans()):
        known["out_channels"] = draw(st.sampled_from(texts))  # wide enough for logits that are tied to the text
    if "query_channels" not in takes(find("decoders", name)):
        names = draw(st.lists(any_name, min_size=1, max_size=2, unique=True))
        ask = queries.Queries({name: queries.NoQuery() for name in names})
    else:
        asked = draw(_several(1, lambda others: query_blocks(every, given, pool + others)))
        least = 0 if any(block.channels for block, _ in asked.values()) else 1
        padding = draw(st.integers(least, 2))
        ask = queries.Queries({name: block for name, (block, _) in asked.items()}, min_padding=padding)
        known["query_channels"] = ask.channels
    return ask, made("decoders", name, draw(arguments("decoders", name, known)))
