"""The model: latents = encoder(inputs), then outputs = decoder(queries, latents)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from .attention_backends import keep_in_graph
from .block import Block
from .decoding import Asked, At, Sizes, check_request, decode_outputs
from .errors import AssemblyError
from .inputs import Inputs
from .modalities import check_names
from .observing import joined
from .outputs import Outputs
from .queries import NoQuery, Queries
from .registry import register
from .tokens import Encoded, Grid

Raw = Mapping[str, Tensor] | Tensor


@register("models")
class PerceiverIO(Block):
    """A mapping of raw inputs → a dict of outputs, through a fixed array of latents.

    ``encoder`` is any block ``Tokens`` → (b, m, d), ``decoder`` any block (queries (b, o, c), latents (b, m, d)) →
    (b, o, d'); one whose queries read each other sets ``mixes_rows``. Without ``queries``, each output has one query of
    no channels, for decoders that pool the latents (``MeanPool``). Without decoder and outputs the model only encodes.

    Source: Perceiver IO (Jaegle et al. 2022).

    >>> model = PerceiverIO(
    ...     Inputs(points=Features(3)),
    ...     Encoder(3, num_latents=4, latent_dim=16, layers=1),
    ...     Queries(label=LearnedQuery(1, 8)),
    ...     Decoder(8, 16),
    ...     Outputs(label=Classify(8, 10)),
    ... )
    >>> model({"points": torch.randn(2, 100, 3)})["label"].shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        inputs: Inputs,
        encoder: Block,
        queries: Queries | None = None,
        decoder: Block | None = None,
        outputs: Outputs | None = None,
    ) -> None:
        super().__init__()
        if (decoder is None) != (outputs is None) or (decoder is None and queries is not None):
            raise AssemblyError("PerceiverIO: a decoder needs outputs and outputs need a decoder; queries need both")
        if queries is None and outputs is not None:
            queries = Queries({outputs.query_of(name): NoQuery() for name in outputs.blocks})
        for name, block, kind in (
            ("inputs", inputs, Inputs),
            ("encoder", encoder, Block),
            ("queries", queries, Queries),
            ("decoder", decoder, Block),
            ("outputs", outputs, Outputs),
        ):
            if not isinstance(block, kind) and (block is not None or name in ("inputs", "encoder")):
                raise AssemblyError(f"PerceiverIO: {name} must be {kind.__name__}, got a {type(block).__name__}")
        for name, block, widths in (
            ("encoder", encoder, ("channels", "latent_dim")),
            ("decoder", decoder, ("query_channels", "latent_dim", "out_channels")),
        ):
            lacking = [w for w in widths if block is not None and not isinstance(getattr(block, w, None), int)]
            if lacking:
                raise AssemblyError(f"PerceiverIO: {name} {type(block).__name__} must have {', '.join(lacking)}: int")
        self.inputs = inputs
        self.encoder: Any = encoder  # a block of any class
        self.queries = queries
        self.decoder, self.outputs = decoder, outputs
        self._check_widths()

    def _check_widths(self) -> None:
        joints = [("inputs.channels", self.inputs.channels, "encoder.channels", self.encoder.channels)]
        if self.queries is not None and self.decoder is not None and self.outputs is not None:
            wanted = [self.outputs.query_of(name) for name in self.outputs.blocks]
            check_names("PerceiverIO: outputs", wanted, self.queries.blocks)
            check_names("PerceiverIO: queries", self.queries.blocks, wanted)
            queries, decoder = self.queries, self.decoder
            joints.append(("queries.channels", queries.channels, "decoder.query_channels", decoder.query_channels))
            joints.append(("encoder.latent_dim", self.encoder.latent_dim, "decoder.latent_dim", decoder.latent_dim))
            for name in self.outputs.blocks:
                width = self.outputs.blocks[name].in_channels
                joints.append(("decoder.out_channels", decoder.out_channels, f"outputs {name!r} in_channels", width))
            for name in queries.blocks:
                query = queries.blocks[name]
                if query.follows is not None:
                    check_names(f"PerceiverIO: query {name!r} follows", [query.follows], self.inputs.blocks)
                if query.reads is not None:
                    block = self.inputs.blocks[query.follows]
                    whole = query.reads == "rows"
                    own = query.channels if whole else query.content_channels
                    width = self.inputs.channels if whole else block.content_channels
                    joints.append((f"{query.reads} of input {query.follows!r}", width, f"query {name!r}", own))
        for left, width, right, wanted in joints:
            if width != wanted:
                raise AssemblyError(f"PerceiverIO: {left} is {width}, but {right} is {wanted}; they must be equal")

    def forward(
        self,
        inputs: Raw,
        *,
        mask: Raw | None = None,
        hidden: Mapping[str, Tensor] | None = None,
        at: At | None = None,
        chunk: int | None = None,
        size: Sizes | None = None,
        queries: Asked | None = None,
    ) -> dict[str, Tensor]:
        """``decode(encode(inputs))``. Train through ``forward``: distributed wrappers hook only this method.

        In a process group, outputs that ``at`` leaves out have zero gradients, since DDP raises for missing ones;
        without a group they have none.
        """
        # Refuse a wrong request before the encoder runs.
        at, size, queries = check_request(self, at=at, chunk=chunk, size=size, queries=queries)
        encoded = self.encode(inputs, mask=mask, hidden=hidden)
        decoded = self.decode(encoded, at=at, chunk=chunk, size=size, queries=queries)
        if len(at) < len(self.outputs.blocks) and dist.is_available() and dist.is_initialized():  # type: ignore[union-attr]
            parameters = (*self.queries.parameters(), *self.outputs.parameters())  # type: ignore[union-attr]
            unused = [parameter for parameter in parameters if parameter.requires_grad]
            decoded = {name: keep_in_graph(rows, *unused) for name, rows in decoded.items()}
        return decoded

    def encode(self, inputs: Raw, *, mask: Raw | None = None, hidden: Mapping[str, Tensor] | None = None) -> Encoded:
        """Latents (b, m, d) = encoder(inputs), with those input rows that a query reads.

        ``inputs`` maps modality to raw tensor (one tensor where there is one modality). ``mask`` maps it to bool
        (b, rows) or (b, *grid), True where a row may be read. ``hidden`` maps it to bool (b,) or (b, rows), True where
        the mask token replaces a row, in place of a random draw. Raises InputError for tensors that do not fit.
        """
        read: dict[str, set[str]] = {"rows": set(), "content": set()}
        if self.queries is not None:
            read = {"rows": self.queries.reading("rows"), "content": self.queries.reading("content")}
        tokens, content = self.inputs(inputs, mask, hidden=hidden, content=read["content"])
        latents = self.encoder(tokens)
        given = tuple(inputs) if isinstance(inputs, Mapping) else tuple(tokens.layout)
        rows = {name: tokens[name] for name in sorted(read["rows"]) if name in given}
        return Encoded(latents, tokens.layout, given, rows, content)

    @joined
    def decode(
        self,
        encoded: Encoded,
        *,
        at: At | None = None,
        chunk: int | None = None,
        size: Sizes | None = None,
        queries: Asked | None = None,
    ) -> dict[str, Tensor]:
        """Each output = output(decoder(queries, latents)); without ``at`` all outputs, whole.

        ``at`` maps an output to int64 flat indices into its grid (row-major), (k,) for the whole batch or (b, k) for
        each sample, and gives rows (b, k, channels); None means all rows in their whole form. Outputs that it does
        not name are not decoded. ``chunk`` is the number of query rows of one decoder call: memory is bounded, the
        result the same within rounding. A decoder whose queries read each other (``mixes_rows``) refuses both.
        ``size`` maps an output to a grid in place of its own. ``queries`` maps a query to what only the call knows,
        such as the coordinates (k, axes) or (b, k, axes) of a ``CoordinateQuery``. Raises InputError for a request that
        does not fit.
        """
        at, size, queries = check_request(self, at=at, chunk=chunk, size=size, queries=queries)
        return decode_outputs(self, encoded, at, chunk, size, queries)

    def stages(self) -> list[str]:
        """One line a stage, with shapes in the letters of the legend: the body of ``kit.describe``."""

        def line(stage: str, name: str, block: object, shape: str) -> str:
            return f"  {stage:<8} {name:<10} {type(block).__name__:<14} {shape}"

        lines = []
        grids = {name: self.inputs.blocks[name].grid for name in self.inputs.blocks}
        for name, grid in grids.items():
            block = self.inputs.blocks[name]
            rows = "n rows" if grid is None else f"{math.prod(grid):,} rows"
            lines.append(line("input", name, block, f"{rows} × {block.channels}{_on(grid)}"))
        total = "n" if None in grids.values() else f"{sum(map(math.prod, grids.values())):,}"
        lines.append(line("", "", self.inputs, f"{total} rows × {self.inputs.channels}"))
        lines.append(line("encoder", "", self.encoder, self.encoder.extra_repr()))
        if self.queries is None or self.decoder is None or self.outputs is None:
            return lines
        for name in self.queries.blocks:
            block = self.queries.blocks[name]
            rows = "o rows" if block.size is None else f"{math.prod(block.size):,} rows"
            rows = f"as input {block.follows}" if block.follows is not None else rows
            given = f", at {block.takes}" if block.takes is not None else ""
            lines.append(line("query", name, block, f"{rows} × {block.channels}{_on(block.size)}{given}"))
        lines.append(line("", "", self.queries, f"rows × {self.queries.channels}"))
        lines.append(line("decoder", "", self.decoder, f"rows × {self.decoder.out_channels}"))
        for name in self.outputs.blocks:
            block = self.outputs.blocks[name]
            shared = self.outputs.query_of(name)
            of = "" if shared == name else f", of query {shared}"
            lines.append(line("output", name, block, f"rows × {getattr(block, 'channels', block.in_channels)}{of}"))
        return lines


def _on(grid: Grid | None) -> str:
    return "" if grid is None else f", grid {grid}"
