"""Hugging Face's Perceiver as the reference: models of any size with random weights, called like the kit.

Weights of linear layers have variance ``gain² / fan-in``; tables (latents, positions, tokens) are standard normal. So
attention is selective and positions matter, but no softmax is sharp enough to amplify rounding.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from einops import rearrange
from torch import Tensor, nn
from transformers.utils import logging

import perceiver_kit as kit
from perceiver_kit.errors import CheckpointError
from perceiver_kit.hub.huggingface import convertible, tensor_names

logging.disable_progress_bar()

Tensors = dict[str, Tensor]

# Attention writes twice the variance that it reads, so that layers differ in their effect.
GAIN = 1.5


def architecture(recipe: str) -> type[nn.Module]:
    return getattr(transformers, convertible()[recipe].architecture)


def configured(recipe: str, **config: Any) -> nn.Module:
    """The reference of a recipe in evaluation mode, with Hugging Face's initialisation."""
    config = transformers.PerceiverConfig(**config)
    config._attn_implementation = "eager"  # needed for attention maps
    return architecture(recipe)(config).eval()


@torch.no_grad()
def randomised(model: nn.Module, gain: float = GAIN) -> nn.Module:
    """Random values for every parameter and statistic; none keeps its initial 0 or 1."""
    norms = (nn.LayerNorm, nn.BatchNorm2d)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Linear | nn.Conv2d) and name == "weight":
                parameter.normal_(0, gain * parameter[0].numel() ** -0.5)
            elif isinstance(module, norms) or name == "bias":
                parameter.normal_(float(name == "weight"), 0.3)
            else:
                parameter.normal_()
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def converted(reference: nn.Module, directory: Path) -> nn.Module:
    """The kit's model loaded from the saved reference."""
    reference.save_pretrained(directory)
    return kit.load(directory)


def parameters(recipe: str, model: nn.Module) -> dict[str, str]:
    """Name of every saved tensor in the kit → in Hugging Face's Perceiver."""
    return tensor_names(convertible()[recipe], model)


# ---- calling the reference like the kit


@functools.cache
def blocks(recipe: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Input and output blocks of the published model: they determine the reference's inputs and outputs."""
    with torch.device("meta"):
        model = kit.build(recipe)
    return tuple({name: stage.blocks[name] for name in stage.blocks} for stage in (model.inputs, model.outputs))


def neighbourhoods(frames: Tensor) -> Tensor:
    """(b, t, 3, h, w) → (b, t, 27, h, w) in the order (y, x, channel), which Hugging Face leaves to the caller."""
    b, t, c, h, w = frames.shape
    unfolded = F.unfold(rearrange(frames, "b t c h w -> (b t) c h w"), 3, padding=1)
    return rearrange(unfolded, "(b t) (c k) (h w) -> b t (k c) h w", b=b, t=t, c=c, h=h, w=w)


def prepared(
    recipe: str,
    model: nn.Module,
    raw: Tensors,
    mask: Tensors | None = None,
    *,
    at: Mapping[str, Tensor | None] | None = None,
    **options: Any,
) -> Callable[[], tuple[Tensors, Any]]:
    """A call of the reference that gives its outputs in the kit's form, and its full return value.

    Inputs, mask and ``at`` are the kit's.
    """
    inputs, outputs = blocks(recipe)
    given = dict(raw)
    for name, value in raw.items():
        if isinstance(inputs[name], kit.inputs.Neighbourhoods):
            given[name] = neighbourhoods(value)
        elif isinstance(inputs[name], kit.inputs.AudioPatches):
            given[name] = value[..., None]
    if mask is not None:
        options["attention_mask"] = torch.cat([mask[name].flatten(1) for name in sorted(mask)], dim=1)
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        options["interpolate_pos_encoding"] = True
    if len(outputs) > 1:
        options["subsampled_output_points"] = {name: (at or {}).get(name) for name in outputs}

    def several() -> tuple[Tensors, Any]:
        out = model(given, **options)
        patched = [name for name in outputs if isinstance(inputs[name], kit.inputs.AudioPatches)]
        rows = {name: out.logits[name].unflatten(1, (-1, model.config.samples_per_patch)) for name in patched}
        return dict(out.logits) | rows, out

    def single() -> tuple[Tensors, Any]:
        ((name, block),), (only,) = outputs.items(), given.values()
        out = model(only, **options)
        logits = out.logits
        if isinstance(block, kit.outputs.Flow):  # the reference divides by 100
            logits = 100 * block.scale * rearrange(logits, "b h w c -> b c h w")
        elif logits.ndim == 3:  # the reference decodes the longest possible text
            logits = logits[:, : only.shape[1]]
        return {name: logits}, out

    return several if len(outputs) > 1 else single


def ask(recipe: str, model: nn.Module, raw: Tensors, *mask: Tensors, **options: Any) -> tuple[Tensors, Any]:
    """The reference's outputs in the kit's form, and its full return value."""
    return prepared(recipe, model, raw, *mask, **options)()


# ---- comparing


def relative(found: Mapping[str, Tensor] | Tensor, wanted: Mapping[str, Tensor] | Tensor) -> float:
    """The largest difference, relative to the largest value of ``wanted``; the maximum over several outputs."""
    if isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys()
        return max(relative(found[name], wanted[name]) for name in wanted)
    assert found.shape == wanted.shape, f"expected shape {tuple(wanted.shape)}, got {tuple(found.shape)}"
    assert wanted.isfinite().all() and float(wanted.detach().abs().max()) > 0
    return float((found.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max())


def loss(outputs: Mapping[str, Tensor]) -> Tensor:
    """A sum of all output elements with random weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(outputs[name].shape, generator=generator) for name in sorted(outputs)}
    return sum((outputs[name] * weights[name]).sum() for name in weights)


def gradients(model: nn.Module, names: Mapping[str, str] | None = None) -> Tensors:
    """Gradients by parameter, optionally renamed."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found if names is None else {names[name]: gradient for name, gradient in found.items()}


def joined(tensors: Tensors, like: Tensors) -> Tensor:
    """All gradients concatenated: the gradient of a key bias alone is rounding around zero."""
    return torch.cat([tensors[name].flatten() for name in sorted(like)])


def refused(source: object, *words: str) -> str:
    """``load`` refuses in one line that has these words."""
    with pytest.raises(CheckpointError) as caught:
        kit.load(source)
    message = str(caught.value)
    assert all(word in message for word in words), message
    return message
