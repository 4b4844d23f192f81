"""Pictures with a mask of classes each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from ..checking import check_image_size, check_positive
from ..errors import InputError
from ..flags import checked_flags
from .files import PICTURES, Pictures, find_files, hold_out, list_names, open_picture, read_text
from .images import to_unit
from .sampling import Samples
from .task import Task

IGNORED = 255
"""The value of pixels without a class, as in VOC, Cityscapes and ADE20K."""


class Segments(Samples):
    """Pictures with masks: ``image`` float32 (3, h, w) in [-1, 1] → ``label`` int64 (h, w), -100 without a class.

    Training mirrors both with probability 0.5 if ``flip``.

    >>> picture, mask = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.int64)
    >>> Segments(picture, mask)[0]["targets"]["label"].shape
    torch.Size([8, 8])
    """

    def __init__(
        self,
        pictures: Sequence[Tensor] | Tensor,
        masks: Sequence[Int64[Tensor, "h w"]] | Tensor,
        *,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        if not len(pictures) or len(pictures) != len(masks):
            raise InputError(f"Segments needs pictures and a mask for each, got {len(pictures)} and {len(masks)}")
        self.pictures, self.masks, self.flip, self.seed = pictures, masks, flip, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        image, mask = to_unit(self.pictures[index]), self.masks[index]
        if training and self.flip and torch.rand((), generator=random) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return {"inputs": {"image": image}, "targets": {"label": mask}}


class Masks(Sequence[Tensor]):
    """Mask files as int64 tensors (h, w), read lazily and resized as their pictures, to the nearest pixel."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], ignored: int = IGNORED) -> None:
        self.paths, self.size, self.ignored = tuple(paths), size, ignored

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        from PIL import Image

        mask = open_picture(self.paths[index])
        h, w = self.size
        values = torch.from_numpy(np.array(mask.resize((w, h), Image.Resampling.NEAREST), dtype=np.int64))
        return values.masked_fill(values == self.ignored, -100)


@checked_flags
def mask_folder(
    path: Path,
    *,
    image_size: int | tuple[int, int] = 256,
    seed: int = 0,
    ignored: int = IGNORED,
    flip: bool = False,
) -> Task:
    """Pictures in ``images/`` and their masks, ``.png`` files of the same names, in ``masks/``; a tenth is held out.

    The value of a mask's pixel is its class, from 0; ``ignored`` has none. A palette's colours do not matter. A file
    ``classes.txt`` names the classes, one a line; without it they are 0 to the largest value. Pictures are resized to
    ``image_size`` as a whole. Training mirrors them if ``flip``.

    Raises InputError, naming the file, for a picture without a mask, a mask of another size, or with other classes.
    """
    size = check_image_size("mask_folder", image_size)
    check_positive("mask_folder", least=0, ignored=ignored)
    pictures = find_files(path / "images", PICTURES)
    masks = {file.relative_to(path / "masks").with_suffix(""): file for file in find_files(path / "masks", (".png",))}
    pairs = {picture: masks.get(picture.relative_to(path / "images").with_suffix("")) for picture in pictures}
    if lacking := [picture for picture, mask in pairs.items() if mask is None]:
        raise InputError(
            f"{path / 'masks'}: expected a mask for each picture, got none for {list_names(lacking, path)}"
        )
    classes = _class_names(path / "classes.txt")
    largest = 0
    for picture, mask in pairs.items():
        largest = max(largest, _largest(picture, mask, ignored, classes))  # type: ignore[arg-type]
    train, held_out = hold_out(pictures, path, str(path))

    def segments(paths: list[Path], flip: bool) -> Segments:
        own = Masks([pairs[picture] for picture in paths], size, ignored)  # type: ignore[misc]
        return Segments(Pictures(paths, size, crop=False), own, flip=flip, seed=seed)

    overrides = dict(num_labels=len(classes) or largest + 1, image_size=size)
    return Task(path.name, segments(train, flip), segments(held_out, False), overrides, str(path), classes)


def _class_names(file: Path) -> tuple[str, ...]:
    """The lines of a file; () without one. Raises InputError, naming the line, for an empty or a repeated name."""
    if not file.is_file():
        return ()
    names = tuple(line.strip() for line in read_text(file).removeprefix("\ufeff").rstrip().splitlines())
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            raise InputError(f"{file}, line {number}: expected the name of another class, got {name!r}")
    return names


def _largest(picture: Path, mask: Path, ignored: int, classes: tuple[str, ...]) -> int:
    """The largest class of a mask. Raises InputError for one that does not fit."""
    from PIL import Image

    values, size = open_picture(mask), open_picture(picture).size
    with Image.open(mask) as file:  # open_picture scales 16 bits to 8
        mode = file.mode
    if mode not in ("L", "P", "1"):
        raise InputError(f"{mask}: expected a mask of one channel of 8 bits, got mode {mode}")
    if values.size != size:
        expected = f"the size of its picture, {size[0]} × {size[1]}"
        raise InputError(f"{mask}: expected {expected}, got {values.width} × {values.height}")
    present = np.unique(np.asarray(values, np.int64))
    present = present[present != ignored]
    if len(present) and classes and present[-1] >= len(classes):
        expected = f"classes 0 to {len(classes) - 1}, those of classes.txt, or {ignored} for none"
        raise InputError(f"{mask}: expected {expected}, got {present[-1]}")
    return int(present[-1]) if len(present) else 0
