"""What each change adds, one after another, from the published form on: one seed, about two minutes a line."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

import perceiver_kit as kit
from perceiver_kit import demo
from perceiver_kit.data.clips import one_clip
from perceiver_kit.data.video import load_clip
from perceiver_kit.registry import find

from ..training import Row, Run, opened, recipes_for, row, train
from .texts import word_baselines
from .videos import flow_rows

# Of each line: what is added, then changes of the recipe's parameters, settings of the training, options of the data.
Line = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]

SENTIMENT: tuple[Line, ...] = (
    ("published form", dict(max_length=2048), dict(steps=250, batch=32, rate=1e-3), {}),
    ("eight bytes a row", dict(stride=8), {}, {}),
    ("hashed n-grams", dict(ngrams=(3, 4, 5, 6)), {}, {}),
    ("Muon", {}, dict(optimizer="muon"), {}),
)
FLOW: tuple[Line, ...] = (
    ("published form", {}, dict(steps=250, batch=16), {}),
    ("Muon", {}, dict(optimizer="muon", rate=2e-3, weight_decay=0.05), {}),
    ("matches in, patches out", dict(matches=6, patch_size=2, bands=8, channels=48), {}, {}),
    ("rows in the output", dict(decoder_residual=True, flow_scale=1.0), {}, {}),
    ("competing latents, quiet start", dict(compete=True, quiet_start=True), {}, {}),
    ("larger flows in training", {}, {}, dict(train_reach=0.2)),
)
CLIP: tuple[Line, ...] = (
    ("pixels out", dict(anchored=False, decoder_residual=False, output_patch_size=None), {}, {}),
    ("patches out", dict(output_patch_size=8), {}, {}),
    ("rows in the output", dict(decoder_residual=True), {}, {}),
    ("augmentation", {}, {}, dict(augment=True)),
    ("anchored start", dict(anchored=True), {}, {}),
)
CLIP_SECONDS = 60  # of processor time, as of `make demo`


def added(lines: tuple[Line, ...], number: int) -> Line:
    """The line's name with all changes up to it.

    >>> added(SENTIMENT, 1)[:2]
    ('+ eight bytes a row', {'max_length': 2048, 'stride': 8})
    """
    changes: list[dict[str, Any]] = [{}, {}, {}]
    for _, *new in lines[: number + 1]:
        changes = [old | one for old, one in zip(changes, new, strict=True)]
    return (f"{'+ ' if number else ''}{lines[number][0]}", *changes)  # type: ignore[return-value]


def sentiment(number: int, seed: int) -> list[Row]:
    (recipe,), (name, parameters, settings, _) = recipes_for("reviews"), added(SENTIMENT, number)
    task: Any = opened(recipe, "reviews", seed=seed, max_length=2048)
    metrics = train(f"ablation_sentiment_{number}", recipe, task, parameters=parameters, seed=seed, **settings)
    words = {"TF-IDF + logistic regression": word_baselines(2048)["TF-IDF + logistic regression"]}
    label = f"sentiment of whole reviews, {name}"
    return [row(label, "accuracy", metrics["accuracy"], metrics, words, samples=len(task.held_out))]


def flow(number: int, seed: int) -> list[Row]:
    (recipe,), (name, parameters, settings, data) = recipes_for("flow"), added(FLOW, number)
    task, run = opened(recipe, "flow", seed=seed, **data), f"ablation_flow_{number}"
    metrics = train(run, recipe, task, parameters=parameters, seed=seed, **settings)
    return flow_rows(run, seed, task, metrics, name)


def clip(number: int, seed: int) -> list[Row]:
    """Trained as `make demo` trains, from its sizes and rates on."""
    (recipe,), (name, parameters, _, data) = recipes_for("clip"), added(CLIP, number)
    entry = find("recipes", recipe)
    sizes, settings = entry.parameters(demo.PRESET, {}), entry.settings(demo.PRESET)
    frames, rate = sizes["num_frames"], sizes["audio_samples"] // sizes["num_frames"] * demo.FPS
    video = load_clip(size=sizes["image_size"], fps=demo.FPS, rate=rate, seconds=demo.MAX_SECONDS)
    windows: dict[str, Any] = dict(num_frames=frames, parts=demo.PARTS)
    deviation = demo.whole(one_clip(video, **windows)[0])["audio"].std()
    video = replace(video, audio=video.audio / deviation)
    train_set, held_out = one_clip(video, **windows, seed=seed, **data)
    torch.manual_seed(seed)
    model: Any = kit.build(entry.name, preset=demo.PRESET, num_labels=demo.PARTS, **parameters)
    start, cpu_start = time.time(), time.process_time()
    history = demo.fit(model, train_set, settings, seconds=CLIP_SECONDS, progress=functools.partial(tqdm, disable=True))
    metrics = dict(seconds=time.time() - start, processor_seconds=time.process_time() - cpu_start)
    metrics |= dict(steps=len(history), batch=settings["batch"], threads=torch.get_num_threads())
    wanted = demo.whole(held_out)
    with torch.no_grad():
        out = model.eval()({part: wanted[part] for part in ("image", "audio")})
    silence, error = wanted["audio"].square().mean(), (out["audio"] - wanted["audio"]).square().mean()
    mean = demo.whole(train_set)["image"].mean((0, 1))
    right = (out["label"].argmax(-1) == wanted["label"]).float().mean().item()
    image, baseline = (demo.psnr(guess - wanted["image"]) for guess in (out["image"], mean))
    sound = 10 * math.log10(silence / error)
    return [
        row(f"a clip's image, {name}", "image PSNR", image, metrics, {"mean frame": baseline}),
        row(f"its sound, {name}", "dB over silence", sound, metrics, {"silence": 0.0}),
        row(f"its part, {name}", "accuracy", right, metrics, {"chance": 1 / demo.PARTS}),
    ]


_RUNS: tuple[tuple[Callable[[int, int], list[Row]], tuple[Line, ...]], ...] = (
    (sentiment, SENTIMENT),
    (flow, FLOW),
    (clip, CLIP),
)
RUNS = {
    f"ablation_{function.__name__}_{number}": Run(functools.partial(function, number))
    for function, lines in _RUNS
    for number in range(len(lines))
}
