"""Atomic writes of several files, and reading of JSON objects."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..checking import describe_value
from ..errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SUFFIX = ".saving"
MOST_JSON = 2**24
"""Bytes of the largest config.json that is read: the published ones have a few thousand."""


def write_atomically(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write files so that each keeps its old content or gets the new one: temporary files are flushed, then renamed.

    Temporary files of killed writers are removed; those of running processes are kept. Raises OSError.
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
        with suppress(OSError):  # some systems cannot flush folders
            flush(folder)


def flush(path: Path) -> None:
    """Flush a file or folder to the disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[int, Path]]:
    """A new open file in the folder of ``path``: locked by this process, removed at the end unless renamed."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
        lock = os.dup(descriptor)  # keeps the lock until after the rename, when the file is closed
        if fcntl is not None:
            with suppress(OSError):  # file systems without locks: leftovers stay
                fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(name):
            break
        os.close(descriptor)  # another process removed it before it was locked
        os.close(lock)
    try:
        yield descriptor, Path(name)
    finally:
        try:
            with suppress(OSError):  # the next save removes it
                os.unlink(name)
        finally:
            os.close(lock)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of dead processes: their locks are free."""
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
        if path.exists() and not path.is_file():  # a device may be endless
            raise CheckpointError(f"{path} must be a file")
        if path.stat().st_size > MOST_JSON:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_JSON:,} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {describe_value(content)}")
    return content
