"""The whole: inputs → encoder → queries × latents → outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from .block import Block
from .checks import describe_value
from .errors import AssemblyError, InputError
from .folding import fold
from .inputs import Inputs
from .modalities import check_names
from .outputs import Output, Outputs
from .queries import NoQuery, Queries
from .registry import register
from .tokens import Encoded, Grid

Raw = Mapping[str, Tensor] | Tensor
At = Mapping[str, Tensor | None]
Sizes = Mapping[str, Grid]

# Bytes of the rows of one decoder call, at their widest, when nobody says how many and no gradient is wanted: a
# published video's queries (804,737 × 1,026) would be 3.3 GB at once and four times that on the way. On a CPU tensors
# above 32 MiB cost a page fault for every 4 KiB, so that smaller chunks are also quicker.
CHUNK = {"cpu": 2**23}
CHUNK_ELSEWHERE = 2**28


@register("models")
class PerceiverIO(Block):
    """Raw inputs by name → a dict of outputs by name, through a fixed array of latents.

    ``encoder`` is any block ``Tokens`` → (b, m, d), ``decoder`` any block (queries (b, o, c), latents (b, m, d)) →
    (b, o, d'). Without ``queries`` every output is one row that asks nothing (mean pooling). Without decoder and
    outputs the model encodes only.

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
            queries = Queries({name: NoQuery() for name in outputs.blocks})
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
            check_names("PerceiverIO: outputs", self.outputs.blocks, self.queries.blocks)
            check_names("PerceiverIO: queries", self.queries.blocks, self.outputs.blocks)
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
    ) -> dict[str, Tensor]:
        """Encode and decode. Training goes through here: distributed wrappers hook nothing else."""
        at, size = self._checked(at, chunk, size)
        return self.decode(self.encode(inputs, mask=mask, hidden=hidden), at=at, chunk=chunk, size=size)

    def encode(self, inputs: Raw, *, mask: Raw | None = None, hidden: Mapping[str, Tensor] | None = None) -> Encoded:
        """Latents (b, m, d), and of the inputs only what some query reads.

        ``inputs`` maps modality to raw tensor (a tensor alone where there is one modality); ``mask`` maps it to bool
        (b, rows) or (b, *grid), True where a row may be read; ``hidden`` to bool (b,) or (b, rows), True where the
        mask token stands in, instead of a draw. Raises InputError for tensors that do not fit.
        """
        reading = {what: set() if self.queries is None else self.queries.reading(what) for what in ("rows", "content")}
        tokens, content = self.inputs(inputs, mask, hidden=hidden, content=reading["content"])
        given = tuple(inputs) if isinstance(inputs, Mapping) else tuple(tokens.layout)
        rows = {name: tokens[name] for name in reading["rows"] if name in given}
        return Encoded(self.encoder(tokens), tokens.layout, given, rows, content)

    def decode(
        self, encoded: Encoded, *, at: At | None = None, chunk: int | None = None, size: Sizes | None = None
    ) -> dict[str, Tensor]:
        """Outputs by name; without ``at`` all of them, whole.

        ``at`` maps an output to int64 flat indices into its grid (row-major), (k,) for the whole batch or (b, k) for
        each sample, and gives rows (b, k, channels); None means all rows in their whole form. Outputs that it does
        not name cost nothing. ``chunk`` is the number of query rows of one decoder call: memory is bounded, the
        result the same within rounding. ``size`` maps an output to a grid in place of its own.
        """
        at, size = self._checked(at, chunk, size)
        wanted = [name for name in self.outputs.blocks if name in at]  # type: ignore[union-attr]
        return {name: self._decode(name, encoded, at[name], chunk, size.get(name)) for name in wanted}

    def _checked(self, at: At | None, chunk: int | None, size: Sizes | None) -> tuple[At, Sizes]:
        if self.outputs is None:
            raise InputError("this model has no decoder: use encode")
        blocks = self.outputs.blocks
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

    def _decode(
        self, name: str, encoded: Encoded, index: Tensor | None, chunk: int | None, size: Grid | None
    ) -> Tensor:
        assert self.queries is not None and self.decoder is not None and self.outputs is not None
        output: Output = self.outputs.blocks[name]
        grid = self.queries.grid(name, encoded, size)
        if index is None:
            output.check_grid(name, grid)
        else:
            _check_index(index, name, grid, encoded.latents.shape[0])
        count = math.prod(grid) if index is None else index.shape[-1]
        folded = None
        if not (self.queries._forward_hooks or self.queries._forward_pre_hooks):
            folded = fold(self.decoder, output, encoded.latents, self.queries.padding_of(name), count)
        if chunk is None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            chunk = self._affordable(encoded.latents)
        parts = []
        for part in _parts(index, math.prod(grid), chunk, encoded.latents.device):
            if folded is None:
                rows = self.decoder(self.queries(name, grid, part, encoded), encoded.latents)
                parts.append(rows if output.mixes_rows else output(rows))
            else:
                parts.append(folded(self.queries.blocks[name](grid, part, encoded)))
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if output.mixes_rows and folded is None:
            rows = output(rows)  # which may not see one chunk at a time
        return output.whole(rows, grid) if index is None else rows

    def _affordable(self, latents: Tensor) -> int:
        """How many query rows one decoder call may have."""
        decoder: Any = self.decoder  # of which these are known to be ints
        row = latents.shape[0] * max(decoder.query_channels, decoder.out_channels) * latents.element_size()
        return max(1, CHUNK.get(latents.device.type, CHUNK_ELSEWHERE) // row)

    def stages(self) -> list[str]:
        """One line a stage, with shapes in the letters of the legend: the body of ``kit.describe``."""
        return [*_stages(self)]


def _check_index(index: object, name: str, grid: Grid, batch: int) -> None:
    wanted = f"at of {name!r} must be int64 (k,) or ({batch}, k), flat indices into its grid {grid}"
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim not in (1, 2):
        raise InputError(f"{wanted}; got {describe_value(index)}")
    if index.numel() == 0 or (index.ndim == 2 and index.shape[0] != batch):
        raise InputError(f"{wanted}; got {describe_value(index)}")
    if torch.compiler.is_compiling() or index.is_meta:
        return  # values are not known while a graph is traced
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= math.prod(grid):
        raise InputError(f"{wanted}, 0 to {math.prod(grid) - 1}; got {low} to {high}")


def _parts(
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


def _stages(model: PerceiverIO) -> Iterator[str]:
    def line(stage: str, name: str, block: object, shape: str) -> str:
        return f"  {stage:<8} {name:<10} {type(block).__name__:<14} {shape}"

    total = 0
    for name in model.inputs.blocks:
        block = model.inputs.blocks[name]
        rows = "n" if block.grid is None else f"{math.prod(block.grid):,}"
        total = None if block.grid is None or total is None else total + math.prod(block.grid)
        grid = "" if block.grid is None else f", grid {block.grid}"
        yield line("input", name, block, f"{rows} rows × {block.channels}{grid}")
    yield line("", "", model.inputs, f"{'n' if total is None else f'{total:,}'} rows × {model.inputs.channels}")
    yield line("encoder", "", model.encoder, model.encoder.extra_repr())
    if model.queries is None or model.decoder is None or model.outputs is None:
        return
    for name in model.queries.blocks:
        block = model.queries.blocks[name]
        rows = f"as input {block.follows}" if block.size is None else f"{math.prod(block.size):,} rows"
        grid = "" if block.size is None else f", grid {block.size}"
        yield line("query", name, block, f"{rows} × {block.channels}{grid}")
    yield line("", "", model.queries, f"rows × {model.queries.channels}")
    yield line("decoder", "", model.decoder, f"rows × {model.decoder.out_channels}")
    for name in model.outputs.blocks:
        block = model.outputs.blocks[name]
        width = getattr(block, "channels", block.in_channels)
        yield line("output", name, block, f"rows × {width}")
