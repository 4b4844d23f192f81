"""Optical flow, and a clip of video and sound."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.data import warps
from perceiver_kit.demo import objective, psnr

from ..training import Row, Run, directory, named, opened, recipes_for, row, train


def flow(preset: str, seed: int) -> list[Row]:
    run, said = named("flow", preset)
    (recipe,) = recipes_for("flow")
    task = opened(recipe, "flow", preset, seed=seed)
    metrics = train(run, recipe, task, preset=preset, seed=seed)
    return flow_rows(run, seed, task, metrics, f"`{recipe}`{said}")


def flow_rows(run: str, seed: int, task: Any, metrics: Row, what: str) -> list[Row]:
    """Warped photos, as ``metrics`` tell, and the Middlebury pair."""
    metric = "end-point error, pixels"
    mean = reduce([task.train[i]["targets"]["flow"] for i in range(200)], "n c h w -> c", "mean")
    held_out = [task.held_out[i]["targets"] for i in range(len(task.held_out))]
    pair = warps.middlebury(scale=0.125)
    with torch.no_grad():
        predicted = kit.load(directory(run, seed))(pair["inputs"]["frames"][None])["flow"][0]
    error = float(flow_error(predicted, pair["targets"]).mean())
    known, unseen = f"flow of warped photos, {what}", f"flow of the Middlebury pair at 1/8 (never trained on), {what}"
    return [
        row(known, metric, "epe", metrics, flow_baselines(held_out, mean)),
        row(unseen, metric, error, metrics, flow_baselines([pair["targets"]], mean)),
    ]


def flow_error(predicted: Tensor, target: dict[str, Tensor]) -> Tensor:
    return (predicted - target["flow"]).norm(dim=0)[target["valid"]]


def flow_baselines(targets: Iterable[dict[str, Tensor]], mean: Tensor) -> dict[str, float]:
    """Errors of zero flow and of the mean flow of training, over all valid pixels."""
    guesses = {"zero flow": torch.zeros(2, 1, 1), "mean flow of training": rearrange(mean, "c -> c 1 1")}
    return {
        name: float(torch.cat([flow_error(guess, target) for target in targets]).mean())
        for name, guess in guesses.items()
    }


# Of the demo: sound in units of its deviation; as many steps as in its minute.
CLIP: dict[str, dict[str, Any]] = dict(quick=dict(gain=160.0, augment=True))


def clip(preset: str, seed: int) -> list[Row]:
    (recipe,), (run, said) = recipes_for("clip"), named("clip", preset)
    task = opened(recipe, "clip", preset, seed=seed, **CLIP.get(preset, {}))
    options = dict(objective=objective(), steps=700) if preset in CLIP else {}  # about the minute of `make demo`
    metrics = train(run, recipe, task, preset=preset, seed=seed, **options)
    train_set, held_out = ([part[i]["targets"] for i in range(len(part))] for part in (task.train, task.held_out))
    mean = reduce([target["image"] for target in train_set], "n t c h w -> c h w", "mean")
    images, sound = (torch.stack([target[name] for target in held_out]) for name in ("image", "audio"))
    return [
        row(f"{part}, `{recipe}`{said}", name, key, metrics, baseline)
        for part, name, key, baseline in (
            ("video windows", "image PSNR", "image_psnr", {"mean frame": psnr(images - mean)}),
            ("their sound", "audio PSNR", "audio_psnr", {"silence": psnr(sound)}),
            ("their part of the clip", "accuracy", "label_accuracy", {"chance": 1 / len(task.classes)}),
        )
    ]


RUNS = {
    "flow": Run(functools.partial(flow, "tiny")),
    "clip": Run(functools.partial(clip, "tiny")),
    "clip_quick": Run(functools.partial(clip, "quick"), seeds=(0, 1, 2)),
    "flow_quick": Run(functools.partial(flow, "quick"), seeds=(0, 1, 2)),
}
