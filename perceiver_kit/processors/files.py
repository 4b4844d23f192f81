"""Write files of answers without replacing any."""

from __future__ import annotations

import io
from itertools import count
from pathlib import Path

from einops import rearrange
from torch import Tensor

from ..checking import writing
from ..errors import InputError, MissingPackage


def write_file(stem: Path, ending: str, content: bytes) -> Path:
    """Write ``stem`` + ``ending``, or with ``_2``, ``_3`` … between them where there is such a file."""
    for number in count(1):
        path = stem.with_name(f"{stem.name}{'' if number == 1 else f'_{number}'}{ending}")
        with writing("predict", path):
            try:
                with open(path, "xb") as file:
                    file.write(content)
                return path
            except FileExistsError:
                continue
    raise InputError(f"{stem}: no name is free")  # count never ends


def picture_bytes(picture: Tensor) -> bytes:
    """A picture (3, h, w) in [0, 1] as a PNG file. Raises MissingPackage without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingPackage("writing pictures needs Pillow: pip install Pillow") from None
    pixels = rearrange(picture.detach().cpu().float().clamp(0, 1) * 255, "c h w -> h w c").round().byte()
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
