"""A folder of one's own: which files, which class, which are held out, and which cannot be read."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ..errors import InputError, MissingPackage
from .image_processor import ImageProcessor

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ogv")
TEXTS = (".txt",)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What a picture's content may be, whatever its name says: Pillow knows more, some of which start other programs."""
MOST_PIXELS = 2**26
KEPT_BYTES = 2**29
"""Decoded pictures of a folder stay in memory up to this size; more are read again each time."""


Readable = Callable[[Path], object]
"""Opens a file as training will; raises InputError where it cannot."""


class Divided(NamedTuple):
    """Files to train on and held out in the order of their names, the class of each, and the names of classes."""

    train: list[Path]
    held_out: list[Path]
    train_labels: list[int]
    held_out_labels: list[int]
    classes: tuple[str, ...]


def found(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these suffixes (in lower case) at any depth, in the order of their names.

    Links are followed, each folder once. Hidden files and folders are left alone; a warning lists the files with other
    suffixes. InputError, naming the folder, where it does not exist or holds no such files.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is no folder" if root.exists() else f"no such folder: {root}")
    files = sorted(path for path in _walk(root) if path.is_file())
    wanted = [path for path in files if path.suffix.lower() in suffixes]
    other = [path for path in files if path.suffix.lower() not in suffixes]
    kinds = ", ".join(suffixes)
    if not wanted:
        raise InputError(f"{root} holds no files that end in {kinds}" + (f" but {named(other, root)}" if other else ""))
    if other:
        _warn(f"{root}: not used, for their names do not end in {kinds}: {named(other, root)}")
    return wanted


def loose(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Files that the folder itself holds, not in a sub-folder."""
    return sorted(path for path in Path(folder).glob("[!.]*") if path.suffix.lower() in suffixes and path.is_file())


def divided(folder: str | Path, suffixes: Sequence[str], readable: Readable) -> Divided:
    """The files of a folder, of one class ("") all, a tenth of them held out.

    A file's part follows from its name below the folder and nothing else, so a folder that grows keeps its split
    (but for so few files that no name holds one of them out). A warning lists files that cannot be read.

    Raises InputError as ``found`` does, and for fewer than two readable files.
    """
    root = Path(folder)
    good = all_readable(found(root, suffixes), readable, root)
    train, held_out = _held_out(good, root, str(root))
    return Divided(train, held_out, [0] * len(train), [0] * len(held_out), ("",))


def divided_by_class(folder: str | Path, suffixes: Sequence[str], readable: Readable) -> Divided:
    """As ``divided``, where each sub-folder is a class, of any depth; of each a tenth is held out, at least a file.

    Raises InputError as ``found`` does, for files beside the sub-folders, fewer than two sub-folders, and one with
    fewer than two readable files.
    """
    root = Path(folder)
    paths = found(root, suffixes)
    beside = loose(root, suffixes)
    if beside:
        raise InputError(f"{root} must hold one sub-folder for each class, but has files beside: {named(beside, root)}")
    classes = sorted({path.relative_to(root).parts[0] for path in paths})
    if len(classes) < 2:
        raise InputError(f"{root} must hold one sub-folder for each class, at least two, got only {classes[0]!r}")
    good = all_readable(paths, readable, root)
    parts: tuple[list[tuple[Path, int]], ...] = ([], [])
    for label, name in enumerate(classes):
        members = [path for path in good if path.relative_to(root).parts[0] == name]
        for part, chosen in zip(parts, _held_out(members, root, f"class {name!r} of {root}"), strict=True):
            part += [(path, label) for path in chosen]
    (train, held_out), (labels, held_out_labels) = ([[row[i] for row in part] for part in parts] for i in (0, 1))
    return Divided(train, held_out, labels, held_out_labels, tuple(classes))  # type: ignore[arg-type]


def _held_out(paths: list[Path], root: Path, what: str) -> tuple[list[Path], list[Path]]:
    if len(paths) < 2:
        raise InputError(f"{what} has {len(paths)} readable files; at least two are needed, one of them to hold out")
    order = sorted(paths, key=lambda path: _hash(path, root))
    number = sum(_hash(path, root) < 0.1 for path in order)
    chosen = set(order[: min(len(order) - 1, max(1, number))])
    return [path for path in paths if path not in chosen], [path for path in paths if path in chosen]


def _walk(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()  # links may lead round in a circle
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in files if not name.startswith("."))


def _hash(path: Path, root: Path) -> float:
    """In [0, 1), from the file's name below the root."""
    digest = hashlib.sha256(path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7]) / 2**56


def all_readable(paths: Sequence[Path], read: Readable, root: Path) -> list[Path]:
    """Those that can be read; a warning lists the others. InputError where none can."""

    def reason(path: Path) -> str | None:
        try:
            read(path)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = [*pool.map(reason, paths)]
    bad = {path: why for path, why in zip(paths, reasons, strict=True) if why}
    if len(bad) == len(paths):
        raise InputError(f"none of the {len(paths)} files of {root} can be read; the first: {next(iter(bad.values()))}")
    if bad:
        _warn(f"{root}: {len(bad)} of {len(paths)} files cannot be read and are not used: " + "; ".join(bad.values()))
    return [path for path in paths if path not in bad]


def named(paths: Collection[Path], root: Path, most: int = 20) -> str:
    """Names of files for a message: all, or the first of them and how many more."""
    names = [path.relative_to(root).as_posix() for path in list(paths)[:most]]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def read_picture(path: Path, size: tuple[int, int], *, cover: float | None = None) -> UInt8[Tensor, "3 h w"]:
    """A picture file, upright, as RGB: its largest centred box of the right proportions, resized to ``size``.

    With ``cover`` the whole picture, as large as covers ``cover`` times the size.

    Raises InputError, naming the file, where it is missing, damaged, of a format that is not in ``FORMATS``, has more
    than ``MOST_PIXELS`` or NaN among them; MissingPackage without Pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingPackage("reading pictures needs Pillow: pip install Pillow") from None
    if not Path(path).is_file():  # a pipe would be waited for
        raise InputError(f"no such file: {path}")
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MOST_PIXELS:  # as its header says, before they are decoded
                raise InputError(f"{path} has {file.width} × {file.height} pixels; at most {MOST_PIXELS:,} are read")
            image = ImageOps.exif_transpose(file)
            image.load()
    except InputError:
        raise
    except Exception as error:  # of any kind: Pillow's readers of each format raise their own
        raise InputError(f"{path} cannot be read as a picture ({error or type(error).__name__})") from error
    if image.mode.startswith(("I", "F")):  # 16 bits or more: what is white is not said, so the file's own range is
        values = np.asarray(image, np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{path} has pixels that are NaN or infinite; which value is black or white is not said")
        low, high = values.min(), values.max()
        image = Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    if cover is not None:
        factor = cover * max(size[0] / image.height, size[1] / image.width)
        size = max(1, round(image.height * factor)), max(1, round(image.width * factor))
        if size[0] * size[1] > MOST_PIXELS:
            raise InputError(f"{path} has {image.width} × {image.height} pixels: too narrow to be made {size[0]} high")
    processor = ImageProcessor(size, crop=None if cover is not None else 1.0, mean=0.0, std=1.0)
    return processor(image)[0].mul(255).round().byte()


class Pictures(Sequence[Tensor]):
    """Picture files as uint8 tensors (3, h, w), read when asked for; kept in memory up to ``KEPT_BYTES``."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], *, cover: float | None = None) -> None:
        self.paths, self.size, self.cover = tuple(paths), size, cover
        self.kept: dict[int, Tensor] = {}
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return Pictures(self.paths[index], self.size, cover=self.cover)
        if index in self.kept:
            return self.kept[index]
        picture = read_picture(self.paths[index], self.size, cover=self.cover)
        if self.kept_bytes + picture.nbytes <= KEPT_BYTES:
            self.kept[index] = picture
            self.kept_bytes += picture.nbytes
        return picture
