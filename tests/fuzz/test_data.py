"""Random texts, ids, arrays, pictures and folders."""

from __future__ import annotations

import io
import tempfile
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

import perceiver_kit as kit
from perceiver_kit.data.files import read_picture
from perceiver_kit.data.folders import masked_texts
from perceiver_kit.data.tasks import open_task

from .harness import damaged, fuzzed, result_or_documented_error, written

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]
SUFFIXES = [".txt", ".TXT", ".md"]
MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I", "F", "YCbCr", "HSV", "LAB"]


def text(rng: Random) -> str:
    """Random code points, also lone surrogates, special strings and words."""
    pieces = [
        lambda: chr(rng.randrange(0x110000)),
        lambda: rng.choice(["[MASK]", "[CLS]", "[PAD]", "[", "]", "[MASK", "\0", "\r\n", "é", "名", "🙂", "‏", "word "]),
    ]
    return "".join(rng.choice(pieces)() for _ in range(rng.choice([0, 1, 5, 40])))


@fuzzed(share=4)
def test_tokenizer_on_any_text(rng: Random) -> None:
    tokenizer = kit.ByteTokenizer(rng.choice([3, 8, 2048]))
    with result_or_documented_error():
        batch = tokenizer([text(rng) for _ in range(rng.randint(1, 3))])
        assert batch.ids.shape == batch.keep.shape
        assert 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < 262
        for row in batch.ids:
            assert isinstance(tokenizer.decode(row, skip_special=rng.random() < 0.5), str)


@fuzzed(share=4)
def test_decoding_of_any_ids(rng: Random) -> None:
    values = [0, 1, 5, 6, 100, 261, 262, -1, 2**40, 1.5, "6", None, True, [6], float("nan")]
    ids: Any = [rng.choice(values[: rng.choice([6, 6, len(values)])]) for _ in range(rng.randrange(12))]
    with result_or_documented_error():
        kit.ByteTokenizer().decode(ids)


def picture(rng: Random) -> bytes:
    """A small file of a random format and mode; PNG if the format lacks the mode."""
    size = rng.choice([(1, 1), (1, 9), (9, 1), (13, 8), (40, 30)])
    mode = rng.choice(MODES)
    pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, rng.choice(FORMATS))
    except (OSError, ValueError):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    return file.getvalue()


@fuzzed(share=3)
def test_damaged_pictures(rng: Random) -> None:
    content = picture(rng)
    content = content if rng.random() < 0.3 else damaged(rng, content)
    with written(content, "a.png") as path, result_or_documented_error():
        pixels = read_picture(path, (rng.choice([1, 5, 32]), 16))
        assert pixels.dtype == torch.uint8
        assert pixels.shape[::2] == (3, 16)


@fuzzed(share=3)
def test_image_processor_on_any_array(rng: Random) -> None:
    shape = [rng.choice([0, 1, 2, 3, 4, 7, 30]) for _ in range(rng.randint(0, 5))]
    dtype = rng.choice(["uint8", "uint16", "int64", "float16", "float32", "float64", "bool", "complex64"])
    values = (np.random.default_rng(rng.randrange(99)).random(shape) * rng.choice([1, 255])).astype(dtype)
    if values.size and values.ndim and rng.random() < 0.2 and dtype.startswith("float"):
        values.flat[0] = rng.choice([np.nan, np.inf, -6e4])
    images: Any = rng.choice([values, [values, values], torch.as_tensor(values.real.astype(np.float32))])
    with result_or_documented_error():
        out = kit.ImageProcessor(rng.choice([1, 8, (4, 9)]))(images, channels=rng.choice([None, "first", "last"]))
        assert out.isfinite().all()


@fuzzed(share=0.5)
def test_folders_of_texts(rng: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rng.randint(0, 6)):
            path = Path(folder, rng.choice(["", "good", "bad", "bad/deeper"]), f"{i}{rng.choice(SUFFIXES)}")
            path.parent.mkdir(parents=True, exist_ok=True)
            written = text(rng).encode("utf-8", "surrogatepass")
            path.write_bytes(rng.choice([b"", rng.randbytes(50), written, b"plain " * 99]))
        recipe = rng.choice(["masked_lm", "sequence_classification"])
        with result_or_documented_error(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of skipped files
            task = open_task(folder, recipe=recipe, preset="tiny")
            sample = task.train[0, 0]
            assert set(sample) >= {"inputs", "targets", "draw"}


@fuzzed()
def test_text_files_of_any_bytes(rng: Random) -> None:
    """A text file may hold any bytes; the tokenizer decodes them."""
    content = rng.choice(
        [b"", b"\xff\xfe", text(rng).encode("utf-8", "surrogatepass"), rng.randbytes(rng.randrange(999))]
    )
    with written(content, f"a{rng.choice(SUFFIXES)}") as path, result_or_documented_error():
        task = masked_texts(path, max_length=rng.choice([1, 8, 64]), rate=rng.choice([0.0, 0.15, 1.0, -1, 2]))
        ids = task.train[0, 0]["inputs"]["text"]
        assert 0 <= int(ids.min()) <= int(ids.max()) < 262
    ids = [6 + byte for byte in content]
    assert kit.ByteTokenizer().decode(ids) == content.decode("utf-8", errors="replace")
