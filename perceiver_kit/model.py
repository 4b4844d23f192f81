"""The model: latents = encoder(inputs), then outputs = decoder(queries, latents)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from .attention_backends import keep_in_graph
from .block import Block, completed
from .checking import check_class_names, describe_value, short
from .decoding import decode_outputs
from .errors import AssemblyError
from .inputs import Inputs
from .modalities import check_names, named
from .observing import joined
from .outputs import Output, Outputs
from .queries import NoQuery, Queries
from .registry import register
from .request import At, QueryMask, QueryTensors, Sizes, check_query_mask, check_request
from .tokens import Encoded, Grid

RawInputs = Mapping[str, Tensor] | Tensor
Labels = Mapping[str, Sequence[str] | None]


@register("models")
class PerceiverIO(Block):
    """Takes a dict of raw inputs, returns a dict of outputs. Between them is an array of latents of fixed size.

    ``encoder`` is any block ``Tokens`` → (b, m, d) with the attributes ``channels`` and ``latent_dim``, ``decoder`` any
    block (queries (b, o, c), latents (b, m, d)) → (b, o, d') with ``query_channels``, ``latent_dim`` and
    ``out_channels``. A decoder whose queries read each other has the attribute ``mixes_rows = True``. Without
    ``queries`` each output has one query of zero channels, for decoders that need none (``MeanPool``). Without decoder
    and outputs the model only encodes. Widths may be left out: they are filled in from the stages before.

    ``labels`` gives names of classes for each output: ``{"label": ("cat", "dog")}``. They are saved in specs and
    checkpoints and never affect results. Assign to ``model.labels`` to change them. After an output block is replaced,
    set its names again.

    Source: Perceiver IO (Jaegle et al. 2022).

    >>> model = PerceiverIO(
    ...     Inputs(points=Features(3)),
    ...     Encoder(num_latents=4, latent_dim=16, layers=1),
    ...     Queries(label=LearnedQuery(1)),
    ...     Decoder(),
    ...     Outputs(label=Classify(10)),
    ... )
    >>> model({"points": torch.randn(2, 100, 3)})["label"].shape
    torch.Size([2, 10])
    """

    # __init__ fills in the widths that its parts left out.
    completes = True

    def __init__(
        self,
        inputs: Inputs,
        encoder: Block,
        queries: Queries | None = None,
        decoder: Block | None = None,
        outputs: Outputs | None = None,
        *,
        labels: Labels | None = None,
    ) -> None:
        super().__init__()
        if (decoder is None) != (outputs is None) or (decoder is None and queries is not None):
            raise AssemblyError("PerceiverIO: decoder and outputs must be given together, and queries only with both")
        if queries is None and outputs is not None:
            queries = Queries({outputs.query_of(name): NoQuery() for name in named(outputs)})
        for name, block, kind in (
            ("inputs", inputs, Inputs),
            ("encoder", encoder, Block),
            ("queries", queries, Queries),
            ("decoder", decoder, Block),
            ("outputs", outputs, Outputs),
        ):
            if not isinstance(block, kind) and (block is not None or name in ("inputs", "encoder")):
                raise AssemblyError(f"PerceiverIO: {name} must be {kind.__name__}, got {describe_value(block)}")
        # Widths that a stage leaves out are taken from the stages before it.
        self.inputs = inputs
        self.encoder: Any = completed(encoder, self)  # a block of any class
        self.queries: Queries | None = completed(queries, self)
        self.decoder: Any = completed(decoder, self)
        self.outputs: Outputs | None = completed(outputs, self)
        for name, block, widths in (
            ("encoder", self.encoder, ("channels", "latent_dim")),
            ("decoder", self.decoder, ("query_channels", "latent_dim", "out_channels")),
        ):
            missing = [w for w in widths if block is not None and not isinstance(getattr(block, w, None), int)]
            if missing:
                raise AssemblyError(f"PerceiverIO: {name} {type(block).__name__} must have int {', '.join(missing)}")
        self._check_widths()
        self.labels = labels or {}

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"labels": self.labels or None}

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names of the classes of each output that has names."""
        return {name: block.labels for name, block in self._output_blocks().items() if block.labels}

    @labels.setter
    def labels(self, labels: Labels) -> None:
        owner, blocks = f"{type(self).__name__}: labels", self._output_blocks()
        if not isinstance(labels, Mapping):
            expected = "a dict from output to class names, such as {'label': ('cat', 'dog')}"
            raise AssemblyError(f"{owner}: expected {expected}, got {short(labels)}")
        check_names(owner, labels, blocks)
        checked = {
            name: check_class_names(f"{owner} of {name!r}", names)
            for name, names in labels.items()
            if names is not None
        }
        for name, names in checked.items():
            width = blocks[name].width
            if len(names) != width:
                expected = f"{width} names, one for each class"
                raise AssemblyError(f"{owner} of {name!r}: expected {expected}, got {len(names)}")
        for block in blocks.values():
            block.labels = ()
        for name, names in checked.items():
            blocks[name].labels = names

    def _output_blocks(self) -> dict[str, Output]:
        return {} if self.outputs is None else {name: self.outputs.blocks[name] for name in self.outputs.blocks}

    def _check_widths(self) -> None:
        width_pairs = [("inputs.channels", self.inputs.channels, "encoder.channels", self.encoder.channels)]
        if self.queries is not None and self.decoder is not None and self.outputs is not None:
            wanted = [self.outputs.query_of(name) for name in self.outputs.blocks]
            check_names("PerceiverIO: outputs", wanted, self.queries.blocks)
            check_names("PerceiverIO: queries", self.queries.blocks, wanted)
            queries, decoder = self.queries, self.decoder
            width_pairs.append(("queries.channels", queries.channels, "decoder.query_channels", decoder.query_channels))
            width_pairs.append(
                ("encoder.latent_dim", self.encoder.latent_dim, "decoder.latent_dim", decoder.latent_dim)
            )
            for name in self.outputs.blocks:
                width, size = self.outputs.blocks[name].in_channels, self.outputs.blocks[name].size
                width_pairs.append(
                    ("decoder.out_channels", decoder.out_channels, f"outputs {name!r} in_channels", width)
                )
                own = queries.blocks[self.outputs.query_of(name)].size
                if size is not None and own is not None and own != size:
                    raise AssemblyError(f"PerceiverIO: output {name!r} has size {size}, but its query has size {own}")
            for name in queries.blocks:
                query = queries.blocks[name]
                if query.follows is not None:
                    check_names(f"PerceiverIO: query {name!r} follows", [query.follows], self.inputs.blocks)
                if query.reads == "latents":
                    width_pairs.append(
                        ("encoder.latent_dim", self.encoder.latent_dim, f"query {name!r}", query.channels)
                    )
                elif query.reads is not None:
                    block = self.inputs.blocks[query.follows]
                    whole = query.reads == "rows"
                    own = query.channels if whole else query.content_channels
                    width = self.inputs.channels if whole else block.content_channels
                    width_pairs.append((f"{query.reads} of input {query.follows!r}", width, f"query {name!r}", own))
        for left, width, right, wanted in width_pairs:
            if width != wanted:
                raise AssemblyError(f"PerceiverIO: {left} is {width}, but {right} is {wanted}; they must be equal")

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
        """``decode(encode(inputs))``. For training call the model itself: wrappers such as DDP act on ``forward`` only.

        The gradient of queries and outputs that ``at`` leaves out is None. While ``torch.distributed`` is initialised
        it is zero, because DDP raises an error for a missing gradient.
        """
        # Refuse a wrong request before the encoder runs.
        at, size, queries = check_request(self, at=at, chunk=chunk, size=size, queries=queries)
        query_mask = check_query_mask(query_mask, self, at, size)
        encoded = self.encode(inputs, mask=mask, hidden=hidden)
        decoded = self.decode(encoded, at=at, chunk=chunk, size=size, query_mask=query_mask, queries=queries)
        if len(at) < len(self.outputs.blocks) and dist.is_available() and dist.is_initialized():  # type: ignore[union-attr]
            parameters = (*self.queries.parameters(), *self.outputs.parameters())  # type: ignore[union-attr]
            unused = [parameter for parameter in parameters if parameter.requires_grad]
            decoded = {name: keep_in_graph(rows, *unused) for name, rows in decoded.items()}
        return decoded

    def encode(
        self, inputs: RawInputs, *, mask: RawInputs | None = None, hidden: Mapping[str, Tensor] | None = None
    ) -> Encoded:
        """Latents (b, m, d) = encoder(inputs). Returns them and the input rows that queries need.

        ``inputs`` maps each modality to its raw tensor, or is one tensor if there is one modality. ``mask`` maps a
        modality to bool (b, rows) or (b, *grid), True where a row may be read. ``hidden`` maps a modality to bool (b,)
        or (b, rows), True where the mask token replaces a row; by default ``Inputs(hide=…)`` decides: in training rows
        are drawn at random, evaluation hides all or none. Raises InputError for tensors that do not fit.
        """
        # Some queries are made from rows of an input, others from their content, which lacks positions.
        needed: dict[str, set[str]] = {"rows": set(), "content": set()}
        if self.queries is not None:
            needed = {"rows": self.queries.reading("rows"), "content": self.queries.reading("content")}
        tokens, content = self.inputs(inputs, mask, hidden=hidden, content=needed["content"])
        latents = self.encoder(tokens)
        given = tuple(inputs) if isinstance(inputs, Mapping) else tuple(tokens.layout)
        rows = {name: tokens[name] for name in sorted(needed["rows"]) if name in given}
        return Encoded(latents, tokens.layout, given, rows, content)

    @joined  # the attention maps that ``capture`` records of each chunk become one
    def decode(
        self,
        encoded: Encoded,
        *,
        at: At | None = None,
        chunk: int | None = None,
        size: Sizes | None = None,
        query_mask: QueryMask | None = None,
        queries: QueryTensors | None = None,
    ) -> dict[str, Tensor]:
        """Each output = output.whole(output(decoder(queries, latents))). Without ``at`` all outputs are decoded whole.

        An output block maps decoded rows to rows of values; its ``whole`` gives them the form of the output, such as
        an image.

        ``at`` maps an output to int64 indices into its flattened grid (row-major): (k,) for the whole batch or (b, k)
        for each sample. The output is then (b, k, channels). With None in place of indices it is decoded completely.
        Outputs that are not in ``at`` are not decoded. ``chunk`` is the number of query rows per decoder call: it
        limits memory, and changes results by rounding only. Without it, calls under ``torch.no_grad`` use chunks that
        fit a memory budget (``decoding.py``), others decode all rows at once. A decoder whose queries read each other
        (``mixes_rows``) accepts neither ``at`` nor ``chunk``. ``size`` maps an output to the grid to use instead of its
        own. ``query_mask`` maps an output to bool (b, rows) or (b, *grid), False for queries that read no latents, as
        the original code does for padded text; by default every query reads. ``queries`` maps a query to data that it
        needs at the call, such as the coordinates (k, axes) or (b, k, axes) of a ``CoordinateQuery``. Outputs that
        share a query are decoded in one pass if they have equal sizes and the same tensors ``at`` and ``query_mask``.
        Raises InputError for a request that does not fit.
        """
        # ``forward`` checked this already, but ``decode`` may be called alone.
        at, size, queries = check_request(self, at=at, chunk=chunk, size=size, queries=queries)
        query_mask = check_query_mask(query_mask, self, at, size)
        return decode_outputs(self, encoded, at, chunk, size, query_mask, queries)

    def stages(self) -> list[str]:
        """Lines of ``kit.describe``: one for each block with its shape, and one for all inputs and for all queries."""

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
