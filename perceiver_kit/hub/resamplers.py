"""Resamplers and gated cross-attention with the weights of OpenFlamingo, IDEFICS and IDEFICS-2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..activations import Activation
from ..encoders import Resampler
from ..errors import CheckpointError
from ..flags import checked_flags
from ..gated import GatedCrossAttention
from ..variants import GatedMLP, LayerNorm, PlainMLP, RMSNorm

State = Mapping[str, Tensor]

_OPEN_FLAMINGO = {
    "norm_media": "key_norm",
    "norm_latents": "query_norm",
    "to_q": "attention.query",
    "to_out": "attention.output",
}
_IDEFICS = {
    "0.context_layer_norm": "key_norm",
    "0.latents_layer_norm": "query_norm",
    "0.q_layer_norm": "attention.query_norm",
    "0.k_layer_norm": "attention.key_norm",
    "0.q_proj": "attention.query",
    "0.k_proj": "attention.key",
    "0.v_proj": "attention.value",
    "0.output_proj": "attention.output",
    "1.ln": "mlp_norm",
    "1.fc": "mlp.0",
    "1.c_proj": "mlp.2",
}
_IDEFICS_2 = {
    "input_context_norm": "key_norm",
    "input_latents_norm": "query_norm",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
    "post_attention_layernorm": "mlp_norm",
    "mlp.down_proj": "mlp.2",
}


def resampler_from_state(
    state: State, *, heads: int, prefix: str = "", eps: float | None = None, activation: Activation | None = None
) -> Resampler:
    """A ``Resampler`` with the weights of OpenFlamingo's, IDEFICS' or IDEFICS-2's, in evaluation mode.

    ``state`` is a state dict: of the resampler, or of a whole model with the ``prefix`` of the resampler's names. The
    weights do not say the number of ``heads`` of queries; those of keys follow from it. ``eps`` of the norms and the
    ``activation`` are the published ones by default: GELU, ReLU and SiLU. CheckpointError for other names or shapes.

    >>> block = Resampler(8, num_latents=2, layers=1, heads=2, head_channels=4)
    >>> resampler_from_state({"latents": torch.zeros(2, 8)}, heads=2)
    Traceback (most recent call last):
    perceiver_kit.errors.CheckpointError: no resampler of OpenFlamingo, IDEFICS or IDEFICS-2 has these names: latents
    """
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    mapped, options = resampler_state(own, heads=heads)
    norm = RMSNorm(eps or 1e-6) if options.pop("rms") else LayerNorm(eps or 1e-5)
    mlp = (GatedMLP if options.pop("gated") else PlainMLP)(
        options.pop("widening"), activation=activation or options.pop("activation"), bias=False
    )
    options.pop("activation", None)
    qk_norm = LayerNorm(eps or 1e-5) if options.pop("qk_norm") else None
    resampler = Resampler(**options, heads=heads, qk_norm=qk_norm, norm=norm, mlp=mlp)
    return _loaded(resampler, mapped)


@checked_flags
def gated_from_state(state: State, *, heads: int, prefix: str = "", latest_only: bool = True) -> GatedCrossAttention:
    """A ``GatedCrossAttention`` with the weights of OpenFlamingo's ``GatedCrossAttentionBlock``.

    Arguments as in ``resampler_from_state``; ``latest_only`` is their ``only_attend_immediate_media``.
    """
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    mapped = gated_state(own)
    query, value = mapped["attention.query.weight"], mapped["attention.value.weight"]
    channels, wide = mapped["mlp.2.weight"].shape
    layer = GatedCrossAttention(
        channels,
        value.shape[1],
        heads=heads,
        head_channels=_divided(query.shape[0], heads, "heads"),
        latest_only=latest_only,
        mlp=PlainMLP(_divided(wide, channels, "the width of the MLP"), bias=False),
    )
    return _loaded(layer, mapped)


def resampler_state(state: State, *, heads: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of a ``Resampler`` from that of another library's, and the arguments that make it."""
    kinds = {"norm_media": "flamingo", "context_layer_norm": "idefics", "input_context_norm": "idefics2"}
    kind = next((kind for part, kind in kinds.items() for name in state if f".{part}." in name), None)
    if kind is None:
        raise CheckpointError(
            f"no resampler of OpenFlamingo, IDEFICS or IDEFICS-2 has these names: {', '.join([*state][:5])}"
        )
    mapped: dict[str, Tensor] = {}
    for name, value in state.items():
        found = re.fullmatch(r"(?:layers|blocks)\.(\d+)\.(.*)\.(weight|bias)", name)
        if found is None:
            mapped |= _outer(name, value)
            continue
        number, part, leaf = found.groups()
        ours = f"layers.{number}."
        if part.endswith("to_kv"):
            key, value = rearrange(value, "(two c) d -> two c d", two=2)
            mapped |= {f"{ours}attention.key.{leaf}": key, f"{ours}attention.value.{leaf}": value}
        elif kind == "flamingo":
            names = {f"0.{left}": right for left, right in _OPEN_FLAMINGO.items()} | _FEED_FORWARD
            mapped[f"{ours}{names.get(part, part)}.{leaf}"] = value
        elif part in ("mlp.up_proj", "mlp.gate_proj"):
            mapped.setdefault(f"{ours}mlp.0.{leaf}", value)
        else:
            names = _IDEFICS if kind == "idefics" else _IDEFICS_2
            mapped[f"{ours}{names.get(part, part)}.{leaf}"] = value
    layers = 1 + max(int(name.split(".")[1]) for name in mapped if name.startswith("layers."))
    if kind == "idefics2":
        for i in range(layers):  # the half that is multiplied comes first
            halves = [state[f"layers.{i}.mlp.{half}_proj.weight"] for half in ("up", "gate")]
            mapped[f"layers.{i}.mlp.0.weight"] = torch.cat(halves)
    channels, wide = mapped["layers.0.mlp.2.weight"].shape
    head_channels = _divided(mapped["layers.0.attention.query.weight"].shape[0], heads, "heads")
    return mapped, dict(
        channels=channels,
        num_latents=mapped["latents"].shape[0],
        layers=layers,
        head_channels=head_channels,
        kv_heads=_divided(mapped["layers.0.attention.key.weight"].shape[0], head_channels, "the width of a head"),
        frames=len(mapped["frame_embedding"]) if "frame_embedding" in mapped else None,
        media=len(mapped["media_embedding"]) if "media_embedding" in mapped else None,
        qk_norm="layers.0.attention.query_norm.weight" in mapped,
        widening=_divided(wide, channels, "the width of the MLP"),
        gated=kind == "idefics2",
        rms=kind == "idefics2",
        activation={"flamingo": "gelu", "idefics": "relu", "idefics2": "silu"}[kind],
    )


_FEED_FORWARD = {"1.0": "mlp_norm", "1.1": "mlp.0", "1.3": "mlp.2"}


def gated_state(state: State) -> dict[str, Tensor]:
    """The state of a ``GatedCrossAttention`` from that of OpenFlamingo's block."""
    names = {
        "attn_gate": "attention_gate.gate",
        "ff_gate": "mlp_gate.gate",
        "attn.norm.weight": "query_norm.weight",
        "attn.norm.bias": "query_norm.bias",
        "attn.to_q.weight": "attention.query.weight",
        "attn.to_out.weight": "attention.output.weight",
        "ff.0.weight": "mlp_norm.weight",
        "ff.0.bias": "mlp_norm.bias",
        "ff.1.weight": "mlp.0.weight",
        "ff.3.weight": "mlp.2.weight",
    }
    missing = sorted({*names, "attn.to_kv.weight"} - {*state})
    if missing:
        raise CheckpointError(f"no gated cross-attention of OpenFlamingo: it lacks {', '.join(missing)}")
    key, value = rearrange(state["attn.to_kv.weight"], "(two c) d -> two c d", two=2)
    return {ours: state[theirs] for theirs, ours in names.items()} | {
        "attention.key.weight": key,
        "attention.value.weight": value,
    }


def _outer(name: str, value: Tensor) -> dict[str, Tensor]:
    """Parameters outside the layers."""
    if name == "media_time_embs":
        return {"media_embedding": rearrange(value, "media 1 c -> media c")}
    module, _, leaf = name.rpartition(".")
    names = {"layer_norm": "norm", "frame_embs": "frame_embedding"}
    return {f"{names.get(module, module)}.{leaf}" if module else names.get(name, name): value}


def _divided(width: int, parts: int, what: str) -> int:
    if parts < 1 or width % parts:
        raise CheckpointError(f"{what}: a width of {width} is not a multiple of {parts}")
    return width // parts


def _loaded(block: Any, state: State) -> Any:
    try:
        block.load_state_dict({name: value.detach() for name, value in state.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{type(block).__name__}: the weights do not fit: {error}") from error
    return block.eval()
