"""Masked autoencoding: the hierarchical Perceiver beside a flat one of equal cost, and the mean."""

from __future__ import annotations

import functools
from typing import Any

import torch
from einops import reduce
from torch import Tensor, nn

import perceiver_kit as kit

from ..training import Row, Run, opened, recipes_for, row, train

FLAT: dict[str, Any] = dict(num_latents=64, latent_dim=64, layers=2, self_heads=4)
"""Within a tenth of the multiply-adds of a sample of ``quick``, on either data."""


def masked(data: str, said: str, steps: int, seed: int) -> list[Row]:
    (recipe,) = recipes_for(data)
    task = opened(recipe, data, "quick", seed=seed)
    options: dict[str, Any] = dict(preset="quick", seed=seed, steps=steps)
    metrics = train(data, recipe, task, **options)
    flat = train(f"{data}_flat", recipe, task, prepare=flattened, **options)
    baselines = {"a flat Perceiver IO": flat["image_mse"], "mean of training": mean_error(task.train, task.held_out)}
    label = f"hidden pixels of {said}, `{recipe}`, preset `quick`"
    return [row(label, "mean squared error", "image_mse", metrics, baselines)]


def flattened(model: Any) -> nn.Module:
    """The same inputs, queries and outputs about a flat encoder and its decoder."""
    encoder = kit.Encoder(model.inputs.channels, **FLAT)
    decoder = kit.Decoder(model.queries.channels, encoder.latent_dim)
    return kit.PerceiverIO(model.inputs, encoder, model.queries, decoder, model.outputs)


def mean_error(train_set: Any, held_out: Any) -> float:
    """The error of each pixel's mean over the training pictures."""
    mean = reduce([train_set[i]["inputs"]["image"] for i in range(len(train_set))], "n ... -> ...", "mean")
    errors: list[Tensor] = [held_out[i]["targets"]["image"] - mean for i in range(len(held_out))]
    return float(torch.stack(errors).square().nanmean())


RUNS = {
    name: Run(functools.partial(masked, name, said, steps), seeds=(0, 1, 2))
    for name, said, steps in (("masked_digits", "digits", 800), ("masked_clip", "a clip", 400))
}
