"""Files of a folder: find them, split them into training and held-out files, read pictures."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ..errors import InputError, MissingPackage
from ..flags import checked_flags
from .image_processor import ImageProcessor

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ogv")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".gsm")
TEXTS = (".txt",)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Accepted contents of a picture file. Pillow reads more formats, some by starting other programs."""
MAX_PIXELS = 2**26
CACHE_BYTES = 2**29
"""Decoded pictures of a folder are cached in memory up to this size."""
MAX_BYTES = 2**32
"""Decoded sounds and videos of a folder, which are held in memory, take at most this size."""

Reader = Callable[[Path], object]
"""Reads a file as training does; raises InputError for an unreadable file."""


class FolderTooLarge(InputError):
    """Files that together do not fit into memory. It is no fault of one file, which could be skipped."""


class FileSplit(NamedTuple):
    """Training and held-out files sorted by name, their labels, and the names of the classes."""

    train: list[Path]
    held_out: list[Path]
    train_labels: list[int]
    held_out_labels: list[int]
    classes: tuple[str, ...]


def find_files(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these lower-case suffixes at any depth, sorted by name.

    Links are followed, each folder once; hidden files and folders are skipped. A warning lists files with other
    suffixes. Raises InputError if the folder does not exist or contains no such files.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder" if root.exists() else f"no such folder: {root}")
    files = sorted(path for path in _walk(root) if path.is_file())
    wanted = [path for path in files if path.suffix.lower() in suffixes]
    other = [path for path in files if path.suffix.lower() not in suffixes]
    kinds = ", ".join(suffixes)
    if not wanted:
        raise InputError(
            f"{root} has no files ending in {kinds}" + (f", only {list_names(other, root)}" if other else "")
        )
    if other:
        _warn(f"{root}: skipped files that do not end in {kinds}: {list_names(other, root)}")
    return wanted


def top_level_files(folder: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Files directly in the folder, not in its subfolders."""
    return sorted(path for path in Path(folder).glob("[!.]*") if path.suffix.lower() in suffixes and path.is_file())


def split_files(folder: str | Path, suffixes: Sequence[str], reader: Reader) -> FileSplit:
    """Split the files of a folder, all of class "": a tenth is held out.

    The split depends on a hash of each path below the folder, so a growing folder keeps its split (except for the
    one file that is always held out of a few). A warning lists unreadable files.

    Raises InputError as ``find_files`` does, and for fewer than two readable files.
    """
    root = Path(folder)
    files = readable_files(find_files(root, suffixes), reader, root)
    train, held_out = hold_out(files, root, str(root))
    return FileSplit(train, held_out, [0] * len(train), [0] * len(held_out), ("",))


def split_by_class(folder: str | Path, suffixes: Sequence[str], reader: Reader) -> FileSplit:
    """As ``split_files``, with one class per subfolder: a tenth of each class is held out, at least one file.

    Raises InputError as ``find_files`` does, for files outside the subfolders, for fewer than two subfolders, and
    for a subfolder with fewer than two readable files.
    """
    root = Path(folder)
    expected = f"{root} must have one subfolder per class"
    paths = find_files(root, suffixes)
    if outside := top_level_files(root, suffixes):
        raise InputError(f"{expected}, but has files outside them: {list_names(outside, root)}")
    classes = sorted({path.relative_to(root).parts[0] for path in paths})
    if len(classes) < 2:
        raise InputError(f"{expected}, at least two, got only {classes[0]!r}")
    files = readable_files(paths, reader, root)
    parts: tuple[list[tuple[Path, int]], ...] = ([], [])
    for label, name in enumerate(classes):
        members = [path for path in files if path.relative_to(root).parts[0] == name]
        for part, chosen in zip(parts, hold_out(members, root, f"class {name!r} of {root}"), strict=True):
            part += [(path, label) for path in chosen]
    (train, held_out), (labels, held_out_labels) = ([[row[i] for row in part] for part in parts] for i in (0, 1))
    return FileSplit(train, held_out, labels, held_out_labels, tuple(classes))  # type: ignore[arg-type]


def hold_out(paths: list[Path], root: Path, owner: str) -> tuple[list[Path], list[Path]]:
    """Training and held-out files of ``owner``: a tenth, at least one. Raises InputError for fewer than two."""
    if len(paths) < 2:
        raise InputError(f"{owner} has {len(paths)} readable files, expected at least two: one is held out")
    order = sorted(paths, key=lambda path: _hash(path, root))
    count = sum(_hash(path, root) < 0.1 for path in order)
    held_out = set(order[: min(len(order) - 1, max(1, count))])
    return [path for path in paths if path not in held_out], [path for path in paths if path in held_out]


def _walk(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()  # links may form a cycle
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in files if not name.startswith("."))


def _hash(path: Path, root: Path) -> float:
    """A hash in [0, 1) of the path relative to the root."""
    digest = hashlib.sha256(path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7]) / 2**56


def readable_files(paths: Sequence[Path], reader: Reader, root: Path) -> list[Path]:
    """The readable files; a warning lists the others. Raises InputError if none is readable."""

    def failure(path: Path) -> str | None:
        try:
            reader(path)
        except FolderTooLarge:
            raise
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        failures = [*pool.map(failure, paths)]
    errors = [error for error in failures if error]
    if len(errors) == len(paths):
        raise InputError(f"none of the {len(paths)} files of {root} can be read; the first: {errors[0]}")
    if errors:
        _warn(f"{root}: skipped {len(errors)} of {len(paths)} files that cannot be read: " + "; ".join(errors))
    return [path for path, error in zip(paths, failures, strict=True) if not error]


def check_held(folder: Path, held: int, lower: str) -> None:
    """Raise FolderTooLarge if so many bytes of a folder are more than ``MAX_BYTES``; ``lower`` names the remedy."""
    if held > MAX_BYTES:
        raise FolderTooLarge(f"{folder} takes more than {MAX_BYTES / 2**30:.0f} GiB; lower {lower}")


def list_names(paths: Collection[Path], root: Path, most: int = 20) -> str:
    """Names of files for a message, at most ``most``, and the number of the others."""
    names = [path.relative_to(root).as_posix() for path in list(paths)[:most]]
    return ", ".join(names) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


@checked_flags
def read_picture(
    path: Path, size: tuple[int, int], *, cover: float | None = None, crop: bool = True, channels: int = 3
) -> UInt8[Tensor, "c h w"]:
    """A picture file, rotated as its EXIF data say, of 1, 3 or 4 channels.

    It is centre-cropped to the aspect ratio of ``size`` and resized to it.

    Without ``crop`` the whole picture, which changes its aspect ratio. With ``cover``, the whole picture, resized to
    cover ``cover`` times the size.

    Raises as ``open_picture``, and InputError for a picture that is too narrow to be resized.
    """
    image = open_picture(path)
    if cover is not None:
        factor = cover * max(size[0] / image.height, size[1] / image.width)
        size = max(1, round(image.height * factor)), max(1, round(image.width * factor))
        if size[0] * size[1] > MAX_PIXELS:
            raise InputError(
                f"{path} has {image.width} × {image.height} pixels: too narrow to be resized to height {size[0]}"
            )
    processor = ImageProcessor(size, crop=1.0 if crop and cover is None else None, mean=0.0, std=1.0, channels=channels)
    return processor(image)[0].mul(255).round().byte()


def open_picture(path: Path) -> PILImage:
    """A picture file as a PIL image, rotated as its EXIF data say; more than 8 bits are scaled to the file's range.

    Raises InputError, naming the file, if it is missing or damaged, its format is not in ``FORMATS``, it has more
    than ``MAX_PIXELS`` pixels, or a pixel is not finite; MissingPackage without Pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingPackage("reading pictures needs Pillow: pip install Pillow") from None
    if not os.path.isfile(path):  # opening a pipe would block; False for a name longer than any
        raise InputError(f"no such file: {path}")
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:  # from the header, before decoding
                raise InputError(f"{path} has {file.width} × {file.height} pixels; at most {MAX_PIXELS:,} are read")
            image = ImageOps.exif_transpose(file)
            image.load()
    except InputError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own types
        raise InputError(f"{path} cannot be read as a picture ({error or type(error).__name__})") from error
    if image.mode.startswith(("I", "F")):  # 16 bits or more, white level unknown: scale the file's range
        values = np.asarray(image, np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{path} has NaN or infinite pixels, so its range is unknown")
        low, high = values.min(), values.max()
        image = Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    return image


def read_text(path: Path) -> str:
    """A UTF-8 text file; InputError, naming it, if it is missing, empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error})") from error
    if not text.strip():
        raise InputError(f"{path} is empty")
    return text


class Pictures(Sequence[Tensor]):
    """Picture files as uint8 tensors (channels, h, w), read lazily and cached up to ``CACHE_BYTES``."""

    @checked_flags
    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        *,
        cover: float | None = None,
        crop: bool = True,
        channels: int = 3,
    ) -> None:
        self.paths, self.size, self.cover, self.crop, self.channels = tuple(paths), size, cover, crop, channels
        self.cache: dict[int, Tensor] = {}
        self.cached_bytes = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        if index in self.cache:
            return self.cache[index]
        options: dict[str, Any] = dict(cover=self.cover, crop=self.crop, channels=self.channels)
        picture = read_picture(self.paths[index], self.size, **options)
        if self.cached_bytes + picture.nbytes <= CACHE_BYTES:
            self.cache[index] = picture
            self.cached_bytes += picture.nbytes
        return picture
