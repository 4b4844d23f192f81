"""Valid and damaged pictures, videos and sound in many formats."""

from __future__ import annotations

import functools
import io
import struct
import wave
import zlib
from fractions import Fraction
from random import Random
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import perceiver_kit as kit
from perceiver_kit.data.files import read_picture
from perceiver_kit.data.tasks import open_task
from perceiver_kit.data.video import Clip, load_clip, split

from .harness import damaged, fuzzed, result_or_documented_error, written
from .test_data import FORMATS, picture


def odd_picture(rng: Random) -> bytes:
    """A valid file: rotated, thin, with 16 bits, a palette, transparency, frames or NaN."""
    size = rng.choice([(1, 1), (1, 3000), (3000, 1), (7, 5)])
    noise = np.frombuffer(rng.randbytes(size[0] * size[1] * 4), np.uint8).reshape(size[1], size[0], 4)
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
    exif[rng.choice([0x010E, 0x8769, 0x927C])] = rng.choice(["x", "\0" * 9, "é" * 99])
    options: dict[str, Any] = dict(exif=exif) if rng.random() < 0.5 else {}
    match rng.choice(["grey16", "float", "palette", "cmyk", "alpha", "frames", "bits", "bigtiff"]):
        case "grey16":
            image, kind = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]), rng.choice(["PNG", "TIFF"])
        case "float":
            values = np.ones(size[::-1], np.float32)
            values[0, 0] = rng.choice([float("nan"), float("inf"), -1e38, 3e38, 0.0])
            image, kind = Image.fromarray(values), "TIFF"
        case "palette":
            image, kind = Image.fromarray(noise[..., :3]).quantize(rng.choice([1, 2, 255])), rng.choice(["PNG", "GIF"])
            options |= dict(transparency=rng.randrange(4)) if rng.random() < 0.5 else {}
        case "cmyk":
            image, kind = Image.fromarray(noise, "CMYK"), rng.choice(["JPEG", "TIFF"])
        case "alpha":
            image, kind = Image.fromarray(noise, rng.choice(["RGBA", "RGBX"])), rng.choice(["PNG", "WEBP", "TIFF"])
        case "frames":
            image, kind = Image.fromarray(noise[..., :3]), rng.choice(["GIF", "TIFF", "WEBP", "PNG"])
            options |= dict(save_all=True, append_images=[Image.fromarray(noise[..., 1:4])] * rng.randint(1, 3))
        case "bits":
            image, kind = Image.fromarray(noise[..., 0]).convert("1"), rng.choice(["PNG", "TIFF", "BMP", "GIF"])
        case _:
            image, kind = Image.fromarray(noise[..., :3]), "TIFF"
            options |= dict(compression=rng.choice(["tiff_lzw", "tiff_deflate", "jpeg", "packbits"]))
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except Exception:  # encoders raise various types for what a format lacks
        return picture(rng)
    return file.getvalue()


def claiming(rng: Random) -> bytes:
    """A small file whose header claims a large picture."""
    wide, tall = (rng.choice([1, 2**13, 2**16 - 1, 2**31 - 1]) for _ in range(2))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    match rng.choice(["png", "bmp", "gif", "jpeg", "tiff"]):
        case "png":
            bits, colour = rng.choice([(8, 2), (16, 6), (1, 0), (8, 3)])
            head = struct.pack(">IIBBBBB", wide, tall, bits, colour, 0, 0, rng.choice([0, 1]))
            body = chunk(b"IDAT", zlib.compress(b"\0" * rng.choice([0, 9, 2**20])))
            return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")
        case "bmp":
            head = struct.pack("<IiiHHIIiiII", 40, wide, tall, 1, 24, 0, 0, 1, 1, 0, 0)
            return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + b"\0" * 30
        case "gif":
            return (
                b"GIF89a" + struct.pack("<HHBBB", wide % 2**16, tall % 2**16, 0, 0, 0) + b",\0\0\0\0" + b"\1\1\0\1" * 9
            )
        case "jpeg":
            frame = struct.pack(">HBHHB", 17, 8, tall % 2**16, wide % 2**16, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
            return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0" + b"\0" * 50 + b"\xff\xd9"
    tags = {256: wide, 257: tall, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: tall, 279: 50}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + b"\0" * 50


@fuzzed(share=3)
def test_pictures_of_odd_kinds(rng: Random) -> None:
    content = odd_picture(rng)
    with (
        written(content if rng.random() < 0.6 else damaged(rng, content), "a.png") as path,
        result_or_documented_error(),
    ):
        pixels = read_picture(path, (rng.choice([1, 16]), 8), cover=rng.choice([None, None, 2.0]))
        assert pixels.dtype == torch.uint8
        assert pixels.shape[0] == 3


@fuzzed()
def test_pictures_that_claim_to_be_large(rng: Random) -> None:
    with written(claiming(rng), "a.jpg") as path, result_or_documented_error():
        read_picture(path, (8, 8))


@fuzzed()
def test_image_processor_on_opened_files(rng: Random) -> None:
    content = rng.choice([picture, odd_picture])(rng)
    processor = kit.ImageProcessor(rng.choice([1, 8, (4, 9)]), crop=rng.choice([None, 1.0, 0.1]))
    with Image.open(io.BytesIO(content), formats=FORMATS) as image, result_or_documented_error():
        assert processor(image).isfinite().all()


# ---- video and sound

CODECS = [
    ("mpeg4", "mp4"),
    ("mpeg4", "avi"),
    ("mjpeg", "mkv"),
    ("ffv1", "mkv"),
    ("libx264", "mov"),
    ("mpeg2video", "mpg"),
]
SOUNDS = ["pcm_s16le", "pcm_f32le", "pcm_u8", "pcm_s32le", "pcm_f64le", "flac", "aac", "mp2", "libopus"]


def waveform(rng: Random, samples: int, channels: int) -> np.ndarray:
    """Noise, silence, values outside [-1, 1] or not finite."""
    sound = np.random.default_rng(rng.randrange(9)).uniform(-1, 1, (channels, samples)).astype(np.float32)
    special = rng.choice([None, None, 0.0, float("nan"), float("inf"), -1e30, 5.0])
    if special is not None:
        sound[..., :: rng.choice([1, 7])] = special
    return sound


@functools.lru_cache(maxsize=256)
def film(seed: int) -> bytes:
    """A short video of a random codec, rate and timing, with or without sound."""
    rng = Random(f"film {seed}")
    codec, container = rng.choice(CODECS)
    file = io.BytesIO()
    try:
        with av.open(file, "w", format={"mkv": "matroska", "mpg": "mpeg"}.get(container, container)) as out:
            rate = rng.choice([1, 10, 25, Fraction(30000, 1001), 240])
            video = out.add_stream(codec, rate=rate)
            wide, tall = rng.choice([(16, 16), (2, 2), (64, 2), (18, 34)])
            video.width, video.height, video.pix_fmt = wide, tall, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            sound = rng.choice([None, *SOUNDS])
            channels = rng.choice([1, 2, 6])
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
            hertz = rng.choice([8000, 11025, 44100, 48000, 96000])
            audio = None if sound is None else out.add_stream(sound, rate=hertz, layout=layout)
            time = 0
            for i in range(rng.choice([0, 1, 2, 6])):
                frame = av.VideoFrame.from_ndarray(np.full((tall, wide, 3), 40 * i, np.uint8), format="rgb24")
                frame.pts, frame.time_base = time, 1 / Fraction(rate)
                time += rng.choice([1, 1, 1, 3, 10**4])
                out.mux(video.encode(frame))
            out.mux(video.encode())
            if audio is not None:
                samples = rng.choice([0, 1, 960, 5000])
                part = av.AudioFrame.from_ndarray(
                    waveform(rng, max(1, samples), channels), format="fltp", layout=layout
                )
                part.sample_rate, part.time_base = hertz, Fraction(1, hertz)
                part.pts = rng.choice([0, 0, hertz, 100 * hertz])
                if samples:
                    out.mux(audio.encode(part))
                out.mux(audio.encode())
    except (av.FFmpegError, ValueError):  # this container or build lacks the codec
        return film(seed + 1000)
    return file.getvalue()


@fuzzed(share=2)
def test_videos_of_any_kind(rng: Random) -> None:
    content = film(rng.randrange(200))
    content = damaged(rng, content) if rng.random() < 0.4 else content[: rng.randrange(len(content) + 1)]
    with written(content, "a.mkv") as path, result_or_documented_error():
        rate = rng.choice([1, 8000, 44100, 2**40])
        clip = load_clip(path, size=rng.choice([1, 8, (3, 50)]), fps=rng.choice([None, 1, 1e9]), rate=rate)
        assert len(clip.audio) == len(clip.frames) * clip.samples_per_frame
        assert clip.frames.abs().max() <= 1
        assert clip.audio.abs().max() <= 1


@fuzzed()
def test_whole_videos(rng: Random) -> None:
    """Valid files can be read; NaN in the sound becomes finite."""
    with written(film(rng.randrange(200)), "a.mkv") as path, result_or_documented_error():
        clip = load_clip(path, size=8, rate=rng.choice([400, 8000, 96000]))
        assert clip.frames.isfinite().all()
        assert clip.audio.abs().max() <= 1


def wav(rng: Random) -> bytes:
    file = io.BytesIO()
    width, channels = rng.choice([1, 2, 3, 4]), rng.choice([1, 2, 5])
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rng.choice([1, 8000, 48000, 2**20]))
        out.writeframes(rng.randbytes(width * channels * rng.choice([0, 1, 500])))
    return file.getvalue()


@fuzzed()
def test_sound_instead_of_video(rng: Random) -> None:
    """It has no pictures. FFmpeg may take a damaged file for another format."""
    content, whole = wav(rng), rng.random() < 0.3
    refused = functools.partial(pytest.raises, kit.InputError, match=r"a\.wav")
    with written(content if whole else damaged(rng, content), "a.wav") as path:
        for read in (load_clip, functools.partial(open_task, recipe="multimodal_autoencoding", preset="tiny")):
            with refused() if whole else result_or_documented_error():
                read(path)


@fuzzed(share=2)
def test_clips_of_any_values(rng: Random) -> None:
    frames, per_frame = rng.choice([0, 1, 9]), rng.choice([0, 1, 7])
    pictures = torch.rand(frames, rng.choice([3, 3, 3, 1]), 2, 2)
    sound = torch.from_numpy(waveform(rng, frames * per_frame + rng.choice([0, 0, 1]), 1)[0])
    if rng.random() < 0.3:
        sound = sound.to(rng.choice([torch.int16, torch.float64, torch.bool]))
    if rng.random() < 0.2 and pictures.numel():
        pictures.view(-1)[rng.randrange(pictures.numel())] = float("nan")
    with result_or_documented_error():
        clip = Clip(pictures, sound, fps=rng.choice([25, 0.5]), rate=rng.choice([8000, 1]), source="made up")
        assert clip.frames.isfinite().all()
        assert clip.audio.isfinite().all()
        gap, held_out = rng.choice([None, 0, -1]), rng.choice([None, 1])
        split(clip, parts=rng.choice([1, 2]), num_frames=rng.choice([0, 1, 1, 3]), gap=gap, held_out=held_out)
