"""Sounds, and what plays forwards."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.data.motion import FOLDS
from perceiver_kit.data.tasks import Task
from perceiver_kit.errors import MissingPackage
from perceiver_kit.inputs import LogMel

from ..training import Row, Run, directory, opened, recipes_for, row, train


def instruments(seed: int) -> list[Row]:
    return [sounds("instruments", "family of an instrument, by recordings held out", seed)]


def speech(seed: int) -> list[Row]:
    """Prompts where Debian's packages are installed, else the sound of a film at three speeds."""
    try:
        return [sounds("prompts", "language of a telephone prompt, one speaker each, windows of 1 s", seed)]
    except MissingPackage:
        return sound_speed(seed)


def sound_speed(seed: int) -> list[Row]:
    return [sounds("sound_speed", "speed of a film's sound", seed)]


def sounds(data: str, label: str, seed: int) -> Row:
    (recipe,) = recipes_for(data)
    task = opened(recipe, data, "quick", seed=seed)
    metrics = train(data, recipe, task, preset="quick", seed=seed)
    label, samples = f"{label}, `{recipe}`, preset `quick`", len(task.held_out)  # type: ignore[arg-type]
    return row(label, "accuracy", "accuracy", metrics, spectra(task), samples=samples)


def spectra(task: Task) -> dict[str, float]:
    """Accuracy of logistic regression on log-mel spectra: their mean and deviation over time, and all values."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mel = LogMel(task.overrides["sample_rate"], bands=64, window=512, hop=256)
    parts = []
    for part in (task.train, task.held_out):
        samples = [part[i] for i in range(len(part))]  # type: ignore[arg-type]
        audio = torch.stack([sample["inputs"]["audio"] for sample in samples])
        rows = torch.cat([mel.embed(some, "audio") for some in audio.split(200)])
        labels = torch.stack([sample["targets"]["label"] for sample in samples]).numpy()
        mean = torch.cat([rows.mean(1), rows.std(1)], 1)
        parts.append((mean.numpy(), rearrange(rows, "b t f -> b (t f)").numpy(), labels))
    (mean, whole, y), (held_mean, held_whole, held_y) = parts
    scores = {}
    for name, x, held in (("mean and deviation", mean, held_mean), ("whole", whole, held_whole)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1)).fit(x, y)
        scores[f"logistic regression on log-spectra ({name})"] = float(model.score(held, held_y))
    return scores


def direction(clips: str, seed: int) -> list[Row]:
    """Each third of the clips is held out once: a training run for each, scored together."""
    (recipe,) = recipes_for("direction")
    run = "direction" if clips == "city" else f"direction_{clips}"
    options = dict(num_frames=8) if clips == "city" else {}  # more windows without common frames
    hits: list[Tensor] = []
    ordered: list[Tensor] = []
    costs: list[Row] = []
    baselines: list[float] = []
    for fold in range(FOLDS):
        task = opened(recipe, "direction", "quick", seed=seed, fold=fold, clips=clips, **options)
        costs.append(train(f"{run}_{fold}", recipe, task, preset="quick", seed=seed, steps=100))
        hit, order = directions(kit.load(directory(f"{run}_{fold}", seed)), task)
        hits.append(hit)
        ordered.append(order)
        baselines.append(differences(task))
    right, pairs = int(torch.cat(ordered).sum()), len(torch.cat(ordered))
    cost = {key: sum(one[key] for one in costs) for key in ("seconds", "processor_seconds")}
    metrics = costs[0] | cost
    named = "a clip" if clips == "city" else "two clips"
    label = f"direction of time, each third of {named} held out once, `{recipe}`, preset `quick`"
    known = {"chance": 0.5, "frame differences + logistic regression": sum(baselines) / FOLDS}
    hit, apart = torch.cat(hits), f"{label}: windows without common frames against their reversal"
    return [
        row(label, "accuracy", float(hit.float().mean()), metrics, known, samples=len(hit)),
        row(apart, f"share of {pairs}", right / pairs, metrics, {"chance": 0.5}, samples=pairs),
        row(apart, "p of a sign test", upper_tail(right, pairs), metrics, {"chance, once in 20": 0.05}),
    ]


def playback(seed: int) -> list[Row]:
    """How fast two clips are played, with the folds of ``direction``."""
    (recipe,) = recipes_for("playback")
    hits: list[Tensor] = []
    costs: list[Row] = []
    baselines: list[float] = []
    for fold in range(FOLDS):
        task = opened(recipe, "playback", "quick", seed=seed, fold=fold, num_frames=8)  # at 4× a window of 29
        costs.append(train(f"playback_{fold}", recipe, task, preset="quick", seed=seed, steps=100))
        held_out: Any = task.held_out
        hits.append(logits(kit.load(directory(f"playback_{fold}", seed)), held_out).argmax(-1) == held_out.labels)
        baselines.append(differences(task, Tensor.abs))
    metrics = costs[0] | {key: sum(one[key] for one in costs) for key in ("seconds", "processor_seconds")}
    label = f"speed of a clip, each third of two clips held out once, `{recipe}`, preset `quick`"
    known = {"chance": 1 / 3, "size of frame differences + logistic regression": sum(baselines) / FOLDS}
    hit = torch.cat(hits)
    return [row(label, "accuracy", float(hit.float().mean()), metrics, known, samples=len(hit))]


def logits(model: Any, held_out: Any) -> Tensor:
    video = torch.stack([held_out[i]["inputs"]["video"] for i in range(len(held_out))])
    with torch.no_grad():
        return torch.cat([model({"video": part})["label"] for part in video.split(50)])


def directions(model: Any, task: Task) -> tuple[Tensor, Tensor]:
    """Whether each held-out item is right, and whether each window looks more forwards than its reversal.

    Items may overlap; the windows of the second have no frame in common.
    """
    held_out: Any = task.held_out
    found = logits(model, held_out)
    margin = found[:, 0] - found[:, 1]
    apart, last = [], (-1, -held_out.num_frames)
    for i in range(0, len(held_out), 2):  # forwards and backwards follow each other
        scene, start, _ = held_out.shown[i]
        if scene != last[0] or start - last[1] >= held_out.num_frames:
            apart, last = [*apart, i], (scene, start)
    return found.argmax(-1) == held_out.labels, torch.stack([margin[i] > margin[i + 1] for i in apart])


def differences(task: Task, size: Callable[[Tensor], Tensor] = lambda change: change) -> float:
    """Accuracy of logistic regression on the mean differences, or their size, of frames at a quarter of the size."""
    from sklearn.linear_model import LogisticRegression

    parts: Any = []
    for part in (task.train, task.held_out):
        samples = [part[i] for i in range(len(part))]  # type: ignore[arg-type]
        video = torch.stack([sample["inputs"]["video"] for sample in samples])
        grey = reduce(video, "b t c (h y) (w x) -> b t h w", "mean", y=4, x=4)
        change = rearrange(size(grey.diff(dim=1)).mean(1), "b h w -> b (h w)").numpy()
        parts.append((change, torch.stack([sample["targets"]["label"] for sample in samples]).numpy()))
    return float(LogisticRegression(max_iter=300).fit(*parts[0]).score(*parts[1]))


def upper_tail(right: int, pairs: int) -> float:
    """The probability of at least so many right by chance."""
    return sum(math.comb(pairs, k) for k in range(right, pairs + 1)) / 2**pairs


RUNS = {
    "instruments": Run(instruments, seeds=(0, 1, 2)),
    "speech": Run(speech, seeds=(0, 1, 2)),
    "sound_speed": Run(sound_speed),
    "direction": Run(functools.partial(direction, "city"), seeds=(0, 1, 2)),
    "direction_two": Run(functools.partial(direction, "two"), seeds=(0, 1, 2)),
    "playback": Run(playback, seeds=(0, 1, 2)),
}
