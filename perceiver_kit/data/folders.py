"""Loaders of a user's own pictures, texts and videos. A recipe names its loader under ``data["path"]``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checking import check_image_size, check_probability
from ..errors import InputError
from ..flags import checked_flags
from . import clips, images, warps
from .files import PICTURES, TEXTS, Pictures, read_picture, read_text, split_by_class, split_files
from .image_processor import check_channels
from .next_bytes import NextBytes
from .task import Task
from .texts import MaskedBytes, Texts
from .video import load_clip

FPS = 25.0
"""Frames per second of the multimodal recipe: 1,920 samples per frame are 48 kHz."""

Size = int | tuple[int, int]


@checked_flags
def image_folder(
    path: Path,
    *,
    image_size: Size = 224,
    image_channels: int = 3,
    seed: int = 0,
    shift: int = 2,
    flip: bool = False,
) -> Task:
    """Pictures, one subfolder per class; training shifts by up to ``shift`` pixels and mirrors if ``flip``.

    ``image_channels``: 1 (grey), 3 (RGB) or 4 (RGBA).
    """
    size = check_image_size("image_folder", image_size)
    channels = check_channels("image_folder: image_channels", image_channels)
    files = split_by_class(path, PICTURES, lambda file: read_picture(file, size))
    train, held_out = (Pictures(part, size, channels=channels) for part in (files.train, files.held_out))
    overrides = dict(num_labels=len(files.classes), image_size=size, image_channels=channels)
    return Task(
        path.name,
        images.Images(train, torch.tensor(files.train_labels), seed=seed, shift=shift, flip=flip, channels=channels),
        images.Images(held_out, torch.tensor(files.held_out_labels), seed=seed, channels=channels),
        overrides,
        str(path),
        files.classes,
    )


def photo_folder(
    path: Path,
    *,
    image_size: Size = (368, 496),
    image_channels: int = 3,
    seed: int = 0,
    items: int = 4096,
    reach: float = 0.15,
    train_reach: float | None = None,
) -> Task:
    """Pictures at any depth, grey or RGB, warped as in ``warps.Warps``."""
    size = check_image_size("photo_folder", image_size)
    channels = check_channels("photo_folder: image_channels", image_channels, (1, 3))
    files = split_files(path, PICTURES, lambda file: read_picture(file, size))
    train, held_out = (
        Pictures(part, size, cover=warps.COVER, channels=channels) for part in (files.train, files.held_out)
    )
    return Task(
        path.name,
        warps.Warps(train, size=size, items=items, reach=reach if train_reach is None else train_reach, seed=seed),
        warps.Warps(held_out, size=size, items=max(256, len(held_out)), reach=reach, seed=seed),
        dict(image_size=size, image_channels=channels),
        str(path),
    )


def labelled_texts(path: Path, *, max_length: int = 2048, seed: int = 0) -> Task:
    """UTF-8 texts, one subfolder per class, truncated to ``max_length`` ids."""
    files = split_by_class(path, TEXTS, read_text)
    train = Texts([read_text(file) for file in files.train], files.train_labels, length=max_length, seed=seed)
    held_out = Texts([read_text(file) for file in files.held_out], files.held_out_labels, length=max_length, seed=seed)
    overrides = dict(num_labels=len(files.classes), max_length=max_length)
    return Task(path.name, train, held_out, overrides, str(path), files.classes)


def masked_texts(
    path: Path, *, max_length: int = 2048, seed: int = 0, rate: float = 0.15, visible_target_prob: float = 1.0
) -> Task:
    """Concatenated texts at any depth, or one memory-mapped file with its last tenth held out.

    ``texts.MaskedBytes`` explains ``rate`` and ``visible_target_prob``.
    """
    check_probability("masked_texts", rate=rate, visible_target_prob=visible_target_prob)
    parts = _long_texts(path, max_length)
    sizes: dict[str, Any] = dict(length=max_length, seed=seed, rate=rate, visible_target_prob=visible_target_prob)
    train, held_out = (MaskedBytes(part, **sizes) for part in parts)
    return Task(path.name, train, held_out, dict(max_length=max_length), str(path))


def next_bytes(path: Path, *, max_length: int = 2048, predicted: int = 1024, seed: int = 0, short: float = 0.0) -> Task:
    """Concatenated texts at any depth, or one memory-mapped file with its last tenth held out.

    ``next_bytes.NextBytes`` explains ``predicted`` and ``short``.
    """
    sizes: dict[str, Any] = dict(length=max_length, predicted=predicted, seed=seed, short=short)
    train, held_out = (NextBytes(part, **sizes) for part in _long_texts(path, max_length, following=1))
    return Task(path.name, train, held_out, dict(context=max_length, num_latents=predicted), str(path))


def _long_texts(path: Path, max_length: int, following: int = 0) -> list[np.ndarray]:
    """Training and held-out bytes of a file or a folder, each at least a window and so many bytes after it."""
    if path.is_file():
        if path.suffix.lower() not in TEXTS or not path.stat().st_size:
            raise InputError(f"{path} must be a non-empty text file ending in {', '.join(TEXTS)}")
        whole = np.memmap(path, np.uint8, mode="r")
        parts = [whole[: len(whole) * 9 // 10], whole[len(whole) * 9 // 10 :]]
    else:
        files = split_files(path, TEXTS, read_text)
        texts = ("\n".join(read_text(file) for file in part).encode() for part in (files.train, files.held_out))
        parts = [np.frombuffer(text, np.uint8) for text in texts]
    for use, part in zip(("training", "held-out"), parts, strict=True):
        if len(part) < max_length + following:
            raise InputError(f"{path} has {len(part)} {use} bytes; lower max_length, which is {max_length}")
    return parts


@checked_flags
def videos(
    path: Path | None = None,
    *,
    num_frames: int = 16,
    image_size: Size = 224,
    image_channels: int = 3,
    audio_samples: int | None = None,
    parts: int | None = None,
    seconds: float = math.inf,
    gain: float = 1.0,
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """Windows of the first ``seconds`` of a video, grey or RGB, by default the sample clip, or of a folder of videos.

    The class is one of ``parts`` of a single video, otherwise a subfolder. ``gain`` is a factor of the sound, which the
    model's processor takes back. With ``augment``, training windows change as ``clips.Windows`` says.
    """
    size, rate = check_image_size("videos", image_size), _sample_rate(num_frames, audio_samples)
    channels = check_channels("videos: image_channels", image_channels, (1, 3))
    if path is None or path.is_file():
        video = load_clip(path, size=size, fps=FPS, rate=rate, seconds=seconds, channels=channels, gain=gain)
        train, held_out = clips.one_clip(video, num_frames=num_frames, parts=parts, augment=augment, seed=seed)
        classes = tuple(f"part {number + 1}" for number in range(train.classes))
    elif parts is not None:
        raise InputError(f"parts is for one video, but {path} is a folder")
    else:
        train, held_out, classes = clips.video_folder(
            path,
            num_frames=num_frames,
            image_size=size,
            channels=channels,
            rate=rate,
            fps=FPS,
            seconds=seconds,
            gain=gain,
            augment=augment,
            seed=seed,
        )
    samples = train[0]["inputs"]["audio"].shape[0]
    overrides = dict(num_frames=num_frames, image_size=size, num_labels=train.classes, audio_samples=samples)
    overrides |= dict(image_channels=channels)
    return Task(path.name if path else "clip", train, held_out, overrides, str(path or clips.CLIP_SOURCE), classes)


def _sample_rate(num_frames: int, audio_samples: int | None) -> int:
    """Samples per second for ``audio_samples`` in ``num_frames`` frames, by default 1,920 per frame."""
    samples = num_frames * 1920 if audio_samples is None else audio_samples
    if samples % num_frames or samples < num_frames:
        raise InputError(f"audio_samples must be a multiple of num_frames, got {samples} and {num_frames}")
    return round(samples // num_frames * FPS)
