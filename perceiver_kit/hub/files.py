"""Files that are there in whole or not at all, whatever happens while they are written; and JSON that is read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SUFFIX = ".saving"
MOST_JSON = 2**24
"""Bytes of the largest config.json that is read: the published ones have a few thousand."""


def write_atomically(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Every file as it was or with its new content: all are written beside and flushed to the disk, then renamed.

    What an earlier write left beside when it was killed is removed; what another process is writing now is not.
    Raises OSError.
    """
    with ExitStack() as stack:
        beside = {}
        for path, content in contents.items():
            _remove_leftovers(path)
            descriptor, beside[path] = stack.enter_context(_beside(path))
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside[path], 0o666 & ~_umask())
        for path, temporary in beside.items():
            os.replace(temporary, path)
    for folder in {path.parent for path in contents}:
        with suppress(OSError):  # of systems that have no such thing; the files are whole all the same
            flush(folder)


def flush(path: Path) -> None:
    """What has been written to a file, or renamed in a folder, outlives a power cut from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[int, Path]]:
    """A new file, open, in the folder of ``path``: locked while this process lives, gone in the end unless renamed."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
        lock = os.dup(descriptor)  # holds the lock until after the rename, when the file itself is closed
        if fcntl is not None:
            with suppress(OSError):  # of file systems without locks, where nobody removes what is left over
                fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(name):
            break
        os.close(descriptor)  # before it was locked, another process took it for left over
        os.close(lock)
    try:
        yield descriptor, Path(name)
    finally:
        try:
            with suppress(OSError):  # what cannot be removed now, the next save removes
                os.unlink(name)
        finally:
            os.close(lock)


def _remove_leftovers(path: Path) -> None:
    """Files that a process which is gone has left beside: nobody holds their lock."""
    if fcntl is None:
        return
    for old in path.parent.glob(f".{path.name}.*{SUFFIX}"):
        with suppress(OSError), open(old, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a CheckpointError that names the file."""
    try:
        if path.exists() and not path.is_file():  # a device has no end
            raise CheckpointError(f"{path} must be a file")
        if path.stat().st_size > MOST_JSON:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_JSON:,} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content
