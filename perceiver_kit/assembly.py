"""``assemble``: a model from its inputs and outputs. Queries and widths are chosen; the result is plain blocks."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from .block import Block, completed
from .checking import describe_value
from .decoders import Decoder
from .encoders import Encoder
from .errors import AssemblyError
from .inputs import Input, Inputs
from .modalities import check_names, named
from .model import Labels, PerceiverIO
from .outputs import Output, Outputs
from .positions import Fourier
from .queries import InputQuery, LearnedQuery, PositionQuery, Queries, Query
from .specs import assembly, from_spec

MAX_BANDS = 64  # Fourier bands of a chosen query, as of the published ones on images


def assemble(
    inputs: Mapping[str, Input] | Inputs,
    outputs: Mapping[str, Output] | Outputs,
    *,
    queries: Mapping[str, Query] | Queries | None = None,
    encoder: Block | None = None,
    decoder: Block | None = None,
    labels: Labels | None = None,
    **sizes: Any,
) -> PerceiverIO:
    """A model that reads ``inputs`` and gives ``outputs``: a plain ``PerceiverIO``, with the same spec.

    Widths that blocks leave out are read off their neighbours. The query of each output that ``queries`` does not name
    is chosen by its form: a learned query for an output of one row; positions of its declared ``size``; or one query
    for each row of the input that it shares its name or its embedding with. A mapping of queries is padded to at least
    the width of the latents; a ``Queries`` block is taken as it is.

    ``sizes`` are arguments of ``Encoder`` (``num_latents``, ``latent_dim``, ``layers``, …), unless ``encoder`` is
    given. ``decoder`` is ``Decoder()`` unless given. ``labels`` names classes, as in ``PerceiverIO``.

    Raises AssemblyError for widths that contradict a neighbour, an output that no query can serve, and unknown sizes.

    >>> model = assemble(
    ...     inputs=dict(depth=Patches((4, 4), channels=1, positions=Fourier(bands=16)), points=Features(3)),
    ...     outputs=dict(room=Classify(10), track=Project(3, size=(50,))),
    ...     num_latents=32,
    ...     latent_dim=64,
    ...     layers=2,
    ... )
    >>> out = model({"depth": torch.rand(2, 1, 64, 64), "points": torch.rand(2, 500, 3)})
    >>> out["room"].shape, out["track"].shape
    (torch.Size([2, 10]), torch.Size([2, 50, 3]))
    """
    if encoder is not None and not isinstance(encoder, Block):
        raise AssemblyError(f"assemble: encoder must be a block, such as Encoder(…), got {describe_value(encoder)}")
    if encoder is not None and sizes:
        raise AssemblyError(f"assemble: expected an encoder or its sizes, got both: encoder and {', '.join(sizes)}")
    inputs = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
    heads: Outputs = outputs if isinstance(outputs, Outputs) else Outputs(outputs)
    made = SimpleNamespace(inputs=inputs)
    made.encoder = completed(Encoder(**sizes) if encoder is None else encoder, made)
    decoder = Decoder(out_channels=_out_channels(heads)) if decoder is None else decoder
    if getattr(decoder, "query_channels", None) == 0:  # it pools the latents
        if queries:
            raise AssemblyError(f"assemble: {type(decoder).__name__} reads no queries, but queries were given")
        return PerceiverIO(inputs, made.encoder, None, decoder, heads, labels=labels)
    if not isinstance(queries, Queries):
        blocks = named(heads)
        wanted = {heads.query_of(name): name for name in blocks}
        check_names("assemble: queries", queries or {}, wanted)
        chosen = {
            query: _query(name, blocks[name], inputs) for query, name in wanted.items() if query not in (queries or {})
        }
        chosen = completed({**chosen, **(queries or {})}, made)
        padding = max(0, made.encoder.latent_dim - max(query.channels for query in chosen.values()))
        queries = Queries(chosen, min_padding=padding)
    return PerceiverIO(inputs, made.encoder, queries, decoder, heads, labels=labels)


def _query(name: str, output: Output, inputs: Inputs) -> Query:
    """The query that fits the form of an output."""
    size = output.size
    if size == (1,):
        return LearnedQuery(1)
    if size is not None:
        return PositionQuery(Fourier(bands=min(MAX_BANDS, max(1, max(size) // 2))), size=size)
    parts = {id(part) for part in output.children()}
    same = [other for other in inputs.blocks if id(inputs.blocks[other]) in parts]  # a tied embedding
    follows = next(iter(same), name)
    if follows not in inputs.blocks:
        raise AssemblyError(
            f"assemble: output {name!r} has no size, and no input has its name, so that no query can be chosen; give "
            f"{type(output).__name__}(…, size=…) or queries={{{name!r}: …}}"
        )
    positions = inputs.blocks[follows].positions
    if positions is None:
        return InputQuery(follows)
    return PositionQuery(from_spec(assembly(positions)), follows=follows)  # type: ignore[arg-type]


def _out_channels(outputs: Outputs) -> int | None:
    """The width of decoded rows that the outputs ask for; None if they leave it open."""
    given = {name: block.in_channels for name, block in named(outputs).items() if block.in_channels is not None}
    if len(set(given.values())) > 1:
        raise AssemblyError(f"assemble: outputs must read rows of one width, got in_channels {given}; leave them out")
    return next(iter(given.values()), None)
