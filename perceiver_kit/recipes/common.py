"""What several recipes share: sources by name, and reading of a size."""

from __future__ import annotations

from ..checks import check_positive, short
from ..errors import AssemblyError

PAPER = "Perceiver IO (Jaegle et al. 2022)"
ORIGINAL = "deepmind-research/perceiver"
REFERENCE = "Hugging Face's PerceiverConfig and modeling_perceiver.py"


def height_width(recipe: str, image_size: int | tuple[int, int]) -> tuple[int, int]:
    """An image size given as one number or as (height, width)."""
    size = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(size) != 2:
        raise AssemblyError(f"{recipe}: image_size is an int or (height, width), got {short(image_size)}")
    for side in size:
        check_positive(recipe, image_size=side)
    return size
