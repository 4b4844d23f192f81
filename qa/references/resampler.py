"""Reference numbers of resamplers and gated cross-attention, computed with the kit."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from perceiver_kit.hub.resamplers import gated_from_state, gated_state, resampler_from_state, resampler_state

from .comparing import Reference, Tensors


def run(file: Any) -> dict[str, float]:
    """The largest relative difference of each output and gradient in a ``resampler_*`` or ``gated_*`` file."""
    reference = Reference(file)
    if "Gated" in reference.config["model"]:
        return _gated(reference)
    config = reference.config
    options = config.get("options", config)
    heads = next((options[name] for name in ("resampler_n_heads", "n_heads", "heads") if name in options), 8)
    model = resampler_from_state(
        reference.parameters, heads=heads, eps=options.get("rms_norm_eps"), activation=options.get("hidden_act")
    )
    expected = options.get("num_key_value_heads", heads)
    assert model.layers[0].attention.kv_heads == expected, f"expected {expected} heads of keys"
    rows: Tensor = reference.inputs["x" if "x" in reference.inputs else "context"]
    mask = reference.inputs.get("attention_mask")

    def call(model: nn.Module) -> Tensors:
        return {"latents": model(rows, None if mask is None else mask.bool())}

    return reference.compare(model, resampler_state(reference.parameters, heads=heads)[0], call)


def _gated(reference: Reference) -> dict[str, float]:
    options = reference.config["options"]
    model = gated_from_state(
        reference.parameters,
        heads=options.get("heads", 8),
        latest_only=options.get("only_attend_immediate_media", True),
    )
    inputs = reference.inputs
    behind = reference.config.get("use_cached_media", False)

    def call(model: nn.Module) -> Tensors:
        return {"x": model(inputs["x"], inputs["media"], inputs.get("media_locations"), behind=behind)}

    return reference.compare(model, gated_state(reference.parameters), call)
