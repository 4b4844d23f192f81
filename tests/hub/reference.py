"""Hugging Face's Perceiver as the oracle: models of any size with random numbers, asked and answering as the kit is.

Numbers are drawn so that a comparison means something. A linear layer's weights have variance ``gain² / fan-in``
whatever its width, and everything looked up (latents, positions, tokens) is a standard normal: attention then picks
and positions matter, but no softmax is so sharp that it would blow up rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from einops import rearrange
from torch import Tensor, nn
from transformers.utils import logging

import perceiver_kit as kit
from perceiver_kit.hub.huggingface import convertible, tensor_names

logging.disable_progress_bar()

Tensors = dict[str, Tensor]

# What attention writes is twice what it reads: the latents are not the sum of many small, alike steps.
GAIN = 1.5


def architecture(recipe: str) -> type[nn.Module]:
    return getattr(transformers, convertible()[recipe].architecture)


def configured(recipe: str, **config: Any) -> nn.Module:
    """The reference of a recipe in evaluation mode, as Hugging Face initialises it."""
    config = transformers.PerceiverConfig(**config)
    config._attn_implementation = "eager"  # the only one, and without it no attention maps are given
    return architecture(recipe)(config).eval()


@torch.no_grad()
def randomised(model: nn.Module, gain: float = GAIN) -> nn.Module:
    """Every parameter and every statistic drawn at random, none left at the zero or one that it starts with."""
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
    """The kit's model of what the reference saves."""
    reference.save_pretrained(directory)
    return kit.load(directory)


def parameters(recipe: str, model: nn.Module) -> dict[str, str]:
    """Name of every saved tensor in the kit → in Hugging Face's Perceiver."""
    return tensor_names(convertible()[recipe], model)


# ---- asking the reference what the kit is asked


def _text(model: nn.Module, raw: Tensors, **options: Any) -> tuple[Tensors, Any]:
    out = model(raw["text"], **options)
    # Always as many rows as the longest text, whatever its length: those beyond it are nobody's.
    return {"text": out.logits[:, : raw["text"].shape[1]]}, out


def _label(model: nn.Module, raw: Tensors, **options: Any) -> tuple[Tensors, Any]:
    out = model(*raw.values(), **options)
    return {"label": out.logits}, out


def _learned(model: nn.Module, raw: Tensors, **options: Any) -> tuple[Tensors, Any]:
    return _label(model, raw, interpolate_pos_encoding=True, **options)


def neighbourhoods(frames: Tensor) -> Tensor:
    """(b, t, 3, h, w) → (b, t, 27, h, w), values ordered (y, x, channel): its caller's job in Hugging Face."""
    b, t, c, h, w = frames.shape
    unfolded = F.unfold(frames.flatten(0, 1), 3, padding=1)
    return rearrange(unfolded, "(b t) (c k) (h w) -> b t (k c) h w", b=b, t=t, c=c, h=h, w=w)


def _flow(model: nn.Module, raw: Tensors, **options: Any) -> tuple[Tensors, Any]:
    out = model(neighbourhoods(raw["frames"]), **options)
    return {"flow": 20 * rearrange(out.logits, "b h w c -> b c h w")}, out


def _video(model: nn.Module, raw: Tensors, *, at: Mapping[str, Tensor], **options: Any) -> tuple[Tensors, Any]:
    inputs = raw | {"audio": raw["audio"][..., None]}
    points = {"audio": at["audio"], "image": at["image"], "label": None}
    out = model(inputs, subsampled_output_points=points, **options)
    patch = model.config.samples_per_patch
    return dict(out.logits) | {"audio": out.logits["audio"].unflatten(1, (-1, patch))}, out


ASK: dict[str, Callable[..., tuple[Tensors, Any]]] = {
    "masked_lm": _text,
    "sequence_classification": _label,
    "image_classification_learned": _learned,
    "image_classification_fourier": _label,
    "image_classification_conv": _label,
    "optical_flow": _flow,
    "multimodal_autoencoding": _video,
}


def ask(
    recipe: str, model: nn.Module, raw: Tensors, mask: Tensors | None = None, **options: Any
) -> tuple[Tensors, Any]:
    """The reference's outputs in the kit's form, and all that it returned. Masks are the kit's, by modality."""
    if mask is not None:
        options["attention_mask"] = torch.cat([mask[name].flatten(1) for name in sorted(mask)], dim=1)
    return ASK[recipe](model, raw, **options)


# ---- comparing


def relative(found: Mapping[str, Tensor] | Tensor, wanted: Mapping[str, Tensor] | Tensor) -> float:
    """The largest difference, relative to the largest value wanted; of several outputs, the worst."""
    if isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys()
        return max(relative(found[name], wanted[name]) for name in wanted)
    assert found.shape == wanted.shape, f"{tuple(found.shape)} is not {tuple(wanted.shape)}"
    assert wanted.isfinite().all() and float(wanted.detach().abs().max()) > 0
    return float((found.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max())


def loss(outputs: Mapping[str, Tensor]) -> Tensor:
    """Every output in one number, each of its elements with a weight of its own."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(outputs[name].shape, generator=generator) for name in sorted(outputs)}
    return sum((outputs[name] * weights[name]).sum() for name in weights)


def gradients(model: nn.Module, names: Mapping[str, str] | None = None) -> Tensors:
    """The gradient of every parameter that has one, under its name in Hugging Face's Perceiver."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found if names is None else {names[name]: gradient for name, gradient in found.items()}


def joined(tensors: Tensors, like: Tensors) -> Tensor:
    """All gradients end to end: alone, the one of a key bias is rounding about a true value of zero."""
    return torch.cat([tensors[name].flatten() for name in sorted(like)])
