"""Files of many samples: JSON lines, and which samples are held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..checking import describe_value, short
from ..errors import InputError
from .files import find_files

T = TypeVar("T")
HELD_OUT = ("dev", "valid", "held_out", "eval", "test")
"""How names of held-out files begin. Where a folder has several, the first of these kinds is used."""


def open_records(path: Path, readers: Mapping[str, Callable[[Path], Sequence[T]]]) -> tuple[list[T], list[T]]:
    """Training and held-out samples of a file, or of a folder's files at any depth; ``readers`` by suffix.

    Held out are the files whose names begin with a word of ``HELD_OUT``; without such files a tenth of all samples, at
    least one, chosen by a hash of their content.

    Raises InputError for another suffix, and for fewer than two samples.
    """
    suffixes = tuple(readers)
    if path.is_file() and path.suffix.lower() not in suffixes:
        raise InputError(f"{path} must end in {', '.join(suffixes)}")
    files = [path] if path.is_file() else find_files(path, suffixes)
    kinds = {file: next((kind for kind in HELD_OUT if file.stem.lower().startswith(kind)), None) for file in files}
    chosen = next((kind for kind in HELD_OUT if kind in kinds.values()), None)
    if chosen is not None and None in kinds.values():
        parts = [
            [sample for file in files if kinds[file] == kind for sample in _read(file, readers)]
            for kind in (None, chosen)
        ]
    else:
        samples = [sample for file in files for sample in _read(file, readers)]
        order = sorted(range(len(samples)), key=lambda i: _hash(samples[i]))
        held_out = {*order[: max(1, len(samples) // 10)]}
        parts = [[sample for i, sample in enumerate(samples) if (i in held_out) == kind] for kind in (False, True)]
    for use, part in zip(("training", "held-out"), parts, strict=True):
        if not part:
            raise InputError(f"{path} has no {use} samples; give at least two samples")
    return parts[0], parts[1]


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file, each with the place ``file:number`` for messages.

    Raises InputError for a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        yield f"{path}:{number}", line.removesuffix("\r")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file with one JSON object a line, each with its place; blank lines are skipped.

    Raises InputError, naming file and line, for a line that is no object.
    """
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected a JSON object, got {short(line)} ({error})") from None
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a JSON object, got {describe_value(value)}")
        yield where, value


def field(record: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    """An entry of a record; InputError, naming its place, if it is missing or of another type."""
    value = record.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        got = f"only {', '.join(map(str, record))}" if name not in record else describe_value(value)
        raise InputError(f"{where}: expected {name!r}, a {kind.__name__}, got {got}")
    return value


def _read(file: Path, readers: Mapping[str, Callable[[Path], Sequence[T]]]) -> Sequence[T]:
    return readers[file.suffix.lower()](file)


def _hash(sample: object) -> str:
    return hashlib.sha256(repr(sample).encode("utf-8", "surrogatepass")).hexdigest()
