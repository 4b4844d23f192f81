"""Models of perceiver-pytorch as models of the kit, with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..checking import describe_value
from ..decoders import Decoder, MeanPool
from ..encoders import Encoder
from ..errors import CheckpointError
from ..inputs import Features, Inputs, TextTokens
from ..model import PerceiverIO
from ..outputs import Classify, Outputs, Project, Rows
from ..positions import Fourier, Learned
from ..queries import InputQuery, LearnedQuery, Queries
from ..variants import GatedMLP, LayerNorm

State = Mapping[str, Tensor]
MLP = GatedMLP(4)


def from_perceiver_pytorch(module: nn.Module, *, queries: Tensor | None = None) -> PerceiverIO:
    """A model with the weights of perceiver-pytorch's ``Perceiver``, ``PerceiverIO`` or ``PerceiverLM`` 0.11.

    The result computes the same, in evaluation mode:

    - ``Perceiver``: ``data`` (b, *axes, channels) → ``logits`` (b, classes); without a head it only encodes.
    - ``PerceiverIO``: ``data`` (b, n, dim) → ``logits`` (b, o, logits_dim) for the ``queries`` (o, queries_dim), which
      become a parameter. For other queries: ``model.decoder(rows, model.encode(data).latents)``.
    - ``PerceiverLM``: ``text`` (b, n) int64 → ``text`` (b, n, num_tokens). A padded row, masked, is empty as a query.

    Only a sample whose rows are all masked differs: there it reads zeros, and perceiver-pytorch the mean of its rows.

    Shared layers stay shared. ``ff_dropout`` becomes ``residual_dropout``; ``seq_dropout_prob`` is left out: mask rows.
    CheckpointError for other modules, for ``attn_residual``, and for a ``max_freq`` that is no whole number.

    >>> from perceiver_pytorch import PerceiverLM
    >>> theirs = PerceiverLM(num_tokens=20, dim=8, max_seq_len=16, depth=1, num_latents=4, latent_dim=8)
    >>> model = from_perceiver_pytorch(theirs.eval())
    >>> ids = torch.randint(20, (2, 7))
    >>> torch.allclose(model(ids)["text"], theirs(ids), atol=1e-5)
    True
    """
    module_: Any = module
    core = getattr(module_, "perceiver_io", module_)
    if not all(hasattr(core, name) for name in ("layers", "latents", "to_logits")):
        kinds = "Perceiver, PerceiverIO or PerceiverLM of perceiver-pytorch 0.11"
        raise CheckpointError(f"from_perceiver_pytorch takes a {kinds}, got {describe_value(module)}")
    if getattr(core, "has_attn_residual", False):
        raise CheckpointError("from_perceiver_pytorch: attn_residual has no counterpart here")
    if not len(core.layers):
        raise CheckpointError("from_perceiver_pytorch: depth must be at least 1, got a module without layers")
    if queries is not None and (core is not module_ or hasattr(module_, "input_axis")):
        raise CheckpointError("from_perceiver_pytorch: queries are of a PerceiverIO alone; leave them out")
    if hasattr(module_, "token_emb"):
        model = _language_model(module_)
    else:
        model = _classifier(module_) if hasattr(module_, "input_axis") else _general(module_, queries)
    state = perceiver_pytorch_state(module, {name: value.detach() for name, value in module.named_parameters()})
    if queries is not None and model.queries is not None:
        state["queries.blocks.logits.positions.table"] = queries.detach()
    try:
        model.load_state_dict(_with_ties(model, state))
    except RuntimeError as error:
        raise CheckpointError(f"from_perceiver_pytorch: the weights do not fit: {error}") from error
    return model.eval()


def perceiver_pytorch_state(module: nn.Module, state: State) -> dict[str, Tensor]:
    """Our parameters as functions of theirs, by the first names of shared ones."""
    core: Any = getattr(module, "perceiver_io", module)
    prefix = "perceiver_io." if core is not module else ""
    ours = {"encoder.latents": state[f"{prefix}latents"]}
    blocks = _distinct(core.layers)
    first = [f"layers.{[*core.layers].index(block)}" for block in blocks]
    crosses = ["cross_attend_block"] if hasattr(core, "cross_attend_block") else first
    for i, name in enumerate(crosses):
        ours |= _cross(f"encoder.cross.{i}", state, f"{prefix}{name}.cross_attn", f"{prefix}{name}.cross_ff")
    number = 0
    for block, name in zip(blocks, first, strict=True):
        for j in range(len(block.self_attns)):
            part = f"{prefix}{name}.self_attns.{j}"
            layer = _cross(f"encoder.transformer.{number}", state, f"{part}.0", f"{part}.1")
            ours |= {key.replace(".query_norm.", ".norm."): value for key, value in layer.items()}
            number += 1
    if hasattr(core, "decoder_cross_attn"):
        ours |= _cross("decoder.cross", state, f"{prefix}decoder_cross_attn", f"{prefix}decoder_ff")
    if getattr(core, "fourier_encode_data", False):
        order = _fourier_order(core)
        for name in [name for name in ours if ".cross." in name and ("key" in name or "value" in name)]:
            if name.startswith("encoder.cross") and "attention.key_norm" not in name:
                ours[name] = ours[name][..., order]
    output = "text" if core is not module else "logits"
    for leaf in ("weight", "bias"):
        if isinstance(core.to_logits, nn.Sequential):
            ours[f"decoder.norm.{leaf}"] = state[f"to_logits.1.{leaf}"]
            ours[f"outputs.blocks.logits.project.{leaf}"] = state[f"to_logits.2.{leaf}"]
        elif isinstance(core.to_logits, nn.Linear):
            ours[f"outputs.blocks.{output}.project.{leaf}"] = state[f"{prefix}to_logits.{leaf}"]
    if core is not module:
        ours["inputs.blocks.text.embedding.weight"] = state["token_emb.weight"]
        ours["inputs.blocks.text.positions.table"] = state["pos_emb.weight"]
    return ours


def _encoder(core: Any, channels: int) -> Encoder:
    blocks, depth = _distinct(core.layers), len(core.layers)
    repeated = not hasattr(core, "cross_attend_block")
    cross = core.layers[0] if repeated else core.cross_attend_block
    attend = cross.cross_attn.fn
    own, sharing = len(blocks), {1: "all", depth: "none"}.get(len(blocks), "after_first")
    pattern = [*range(own), *[own - 1] * (depth - own)]
    if [[*map(id, blocks)].index(id(block)) for block in core.layers] != pattern:
        raise CheckpointError("from_perceiver_pytorch: layers are shared in a pattern that is none of the library's")
    inverted: Any = core.inverted_cross_attn
    if repeated:
        flags = [{core.inverted_cross_attn[i] for i in range(depth) if pattern[i] == number} for number in range(own)]
        if any(len(flag) > 1 for flag in flags):
            raise CheckpointError("from_perceiver_pytorch: inverted_cross_attn differs between layers of equal weights")
        inverted = tuple(flag.pop() for flag in flags)
    first = blocks[0].self_attns[0][0].fn if len(blocks[0].self_attns) else attend
    layers = len(blocks[0].self_attns)
    single = not repeated and own == depth  # one block of all layers, as the kit writes it
    return Encoder(
        channels,
        num_latents=core.latents.shape[0],
        latent_dim=core.latents.shape[1],
        layers=depth * layers if single else layers,
        blocks=1 if single else depth,
        share_blocks=True if single else {"all": True, "none": False}.get(sharing, "after_first"),  # type: ignore[arg-type]
        cross_attends=depth if repeated else 1,
        share_cross_attends=sharing,  # type: ignore[arg-type]
        cross_heads=attend.heads,
        self_heads=first.heads,
        qk_channels=first.to_q.weight.shape[0],
        cross_qk_channels=attend.to_q.weight.shape[0],
        cross_v_channels=attend.to_q.weight.shape[0],
        dropout=_probability(attend, "dropout"),
        residual_dropout=_probability(cross.cross_ff.fn.net, "3"),
        bias="output",
        compete=inverted,
        mlp=MLP,
    )


def _decoder(core: Any) -> Decoder:
    attend = core.decoder_cross_attn.fn
    width = attend.to_q.weight.shape[1]
    mlp = dict(widening=0) if core.decoder_ff is None else dict(mlp=MLP)
    sizes: dict[str, Any] = dict(heads=attend.heads, qk_channels=attend.to_q.weight.shape[0], bias="output")
    return Decoder(width, core.latents.shape[1], **sizes, **mlp)  # type: ignore[arg-type]


def _classifier(module: Any) -> PerceiverIO:
    whole = float(module.max_freq).is_integer()
    if module.fourier_encode_data and not whole:
        raise CheckpointError(f"from_perceiver_pytorch: max_freq must be a whole number, got {module.max_freq}")
    width = module.layers[0].cross_attn.norm_context.normalized_shape[0]
    positions, axes = None, module.input_axis
    if module.fourier_encode_data:
        positions = Fourier(bands=module.num_freq_bands, max_resolution=(int(module.max_freq),) * axes)
        width -= positions.channels
    inputs = Inputs(data=Features(width, axes=axes, positions=positions))
    encoder = _encoder(module, inputs.channels)
    if not isinstance(module.to_logits, nn.Sequential):
        return PerceiverIO(inputs, encoder)
    outputs = Outputs(logits=Classify(module.to_logits[2].out_features, in_channels=encoder.latent_dim))
    return PerceiverIO(inputs, encoder, None, MeanPool(encoder.latent_dim, norm=LayerNorm()), outputs)


def _general(module: Any, queries: Tensor | None) -> PerceiverIO:
    decoder = _decoder(module)
    good = isinstance(queries, Tensor) and queries.ndim == 2 and queries.shape[1] == decoder.query_channels
    if not good or not len(queries) or not queries.is_floating_point():  # type: ignore[arg-type, union-attr]
        got = f"(o, {decoder.query_channels}), got {describe_value(queries)}"
        raise CheckpointError(f"from_perceiver_pytorch: a PerceiverIO needs queries, floats {got}")
    assert queries is not None
    inputs = Inputs(data=Features(module.cross_attend_block.cross_attn.norm_context.normalized_shape[0]))
    width = decoder.out_channels
    linear = isinstance(module.to_logits, nn.Linear)
    output = Project(module.to_logits.out_features, in_channels=width) if linear else Rows(width)
    asked = Queries(logits=LearnedQuery(queries.shape[0], width))
    return PerceiverIO(inputs, _encoder(module, inputs.channels), asked, decoder, Outputs(logits=output))


def _language_model(module: Any) -> PerceiverIO:
    vocabulary, width = module.token_emb.weight.shape
    positions = Learned((module.pos_emb.num_embeddings,), width)
    inputs = Inputs(text=TextTokens(vocabulary, width, positions=positions))
    core = module.perceiver_io
    queries = Queries(text=InputQuery("text", channels=width))
    outputs = Outputs(text=Project(core.to_logits.out_features, in_channels=width))
    return PerceiverIO(inputs, _encoder(core, width), queries, _decoder(core), outputs)


def _distinct(layers: Any) -> list[Any]:
    return [*{id(block): block for block in layers}.values()]


def _cross(ours: str, state: State, attention: str, mlp: str) -> dict[str, Tensor]:
    """A layer's parameters: those of a pre-norm attention and of a pre-norm MLP."""
    names = {
        f"{attention}.norm": "query_norm",
        f"{attention}.norm_context": "key_norm",
        f"{attention}.fn.to_q": "attention.query",
        f"{attention}.fn.to_out": "attention.output",
        f"{mlp}.norm": "mlp_norm",
        f"{mlp}.fn.net.0": "mlp.0",
        f"{mlp}.fn.net.2": "mlp.2",
    }
    found = {
        f"{ours}.{names[module]}.{leaf}": state[f"{module}.{leaf}"]
        for module in names
        for leaf in ("weight", "bias")
        if f"{module}.{leaf}" in state
    }
    key, value = rearrange(state[f"{attention}.fn.to_kv.weight"], "(two c) d -> two c d", two=2)
    return found | {f"{ours}.attention.key.weight": key, f"{ours}.attention.value.weight": value}


def _fourier_order(module: Any) -> Tensor:
    """Their column for each of ours: they go axis by axis, we by coordinates, sines and cosines."""
    bands, axes = module.num_freq_bands, module.input_axis
    own = 2 * bands + 1  # columns of an axis: sines, cosines, coordinate
    width = module.layers[0].cross_attn.norm_context.normalized_shape[0]
    content = width - axes * own
    starts = [content + axis * own for axis in range(axes)]
    coordinates = [start + 2 * bands for start in starts]
    sines = [start + band for start in starts for band in range(bands)]
    cosines = [start + bands + band for start in starts for band in range(bands)]
    return torch.tensor([*range(content), *coordinates, *sines, *cosines])


def _probability(module: Any, name: str) -> float:
    dropout = getattr(module, name, None)
    return dropout.p if isinstance(dropout, nn.Dropout) else 0.0


def _with_ties(model: nn.Module, state: State) -> dict[str, Tensor]:
    """The state under every name of a shared parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: state[names[id(parameter)]]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if names[id(parameter)] in state
    }
