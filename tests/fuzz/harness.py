"""Fuzz cases: each must end in a result or one of the kit's errors, within bounded time and memory.

A case is a function of its test's name and its number, which a failure names. ``FUZZ=1000`` sets the number of cases
of each test; ``make fuzz`` runs tens of thousands.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import perceiver_kit as kit

from ..counting import counts, name_of

CASES = int(os.environ.get("FUZZ", "20"))
SECONDS, MEBIBYTES = 60, 2048

# Values that break JSON readers: huge numbers, NaN, surrogates, nulls, keys of the spec format.
SCALARS = [None, True, False, -1, 0, 1, 2, 7, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, -(2**63)]
SCALARS += [10**30, 10**400, "", "x", "\0", "\ud800", "__class__", "../x", "os.system", "inputs.Patches", "a" * 10_000]
KEYS = ["tuple", "dict", "block", "arguments", "id", "same_as", "model", "recipe", "perceiver_kit", "", "__init__"]


def fuzzed(*, share: float = 1.0) -> Callable:
    """Run a test for each case, within the bounds, with its ``Random``; ``share`` scales the number of cases."""

    def wrap(test: Callable[[Random], None]) -> Callable[[], None]:
        name = name_of(test)

        @functools.wraps(test)
        def every() -> None:
            for case in range(max(3, round(CASES * share))):
                try:
                    with bounded():
                        test(Random(f"{name.partition('/')[2]} {case}"))
                except BaseException as error:  # pytest's outcomes are no Exception
                    error.add_note(f"case {case} of {name}")
                    raise
                counts[name] += 1

        del every.__wrapped__  # pytest would look for a fixture called rng
        return every

    return wrap


@contextlib.contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Fail after so many seconds."""

    def late(*_: Any) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Limit the time, and the memory allocated above what the process has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with in_time(SECONDS):
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEBIBYTES * 2**20, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def result_or_documented_error() -> Iterator[None]:
    """Allow a result, or an error of the kit with a message."""
    try:
        yield
    except kit.PerceiverKitError as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} has no message") from error


@contextlib.contextmanager
def written(content: bytes, name: str) -> Iterator[Path]:
    """A temporary file; warnings are ignored."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def json_of_any_kind(rng: Random, depth: int = 3) -> Any:
    kind = rng.random()
    if depth == 0 or kind < 0.5:
        return rng.choice(SCALARS)
    size = rng.randrange(4)
    if kind < 0.75:
        return [json_of_any_kind(rng, depth - 1) for _ in range(size)]
    return {rng.choice(KEYS): json_of_any_kind(rng, depth - 1) for _ in range(size)}


def damaged(rng: Random, content: bytes) -> bytes:
    """A damaged file: cut, extended, bits flipped, bytes overwritten, parts moved."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        # Half of the time near the front, where headers are.
        place = rng.randint(0, min(len(content), 64) if rng.random() < 0.5 else len(content))
        match rng.choice(["cut", "flip", "fill", "insert", "move"]):
            case "cut":
                del content[place:]
            case "flip" if place < len(content):
                content[place] ^= 1 << rng.randrange(8)
            case "fill":
                length = rng.choice([1, 4, 8, 100])
                content[place : place + length] = bytes([rng.choice([0, 255, 127, 34])]) * length
            case "insert":
                content[place:place] = rng.randbytes(rng.randint(1, 16))
            case "move":
                content = content[place:] + content[:place]
    return bytes(content)


def edited(rng: Random, document: Any) -> Any:
    """JSON with one to three values replaced, dropped or swapped; sometimes one wrapped in many lists."""
    for _ in range(rng.randint(1, 3)):
        places = [*_places(document)]
        if not places:
            return json_of_any_kind(rng)
        holder, key = rng.choice(places)
        match rng.choice(["replace", "replace", "drop", "exchange"]):
            case "replace":
                holder[key] = json_of_any_kind(rng)
            case "drop":
                del holder[key]
            case "exchange":
                other, place = rng.choice(places)
                if not _within(holder[key], other) and not _within(other[place], holder):
                    holder[key], other[place] = other[place], holder[key]
    places = [*_places(document)]
    if places and rng.random() < 0.1:
        holder, key = rng.choice(places)
        for _ in range(rng.choice([1, 50, 900])):
            holder[key] = [holder[key]]
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = [*value.items()] if isinstance(value, dict) else [*enumerate(value)] if isinstance(value, list) else []
    for key, item in pairs:
        yield value, key
        yield from _places(item)


def _within(value: Any, holder: Any) -> bool:
    return value is holder or any(inner[key] is holder for inner, key in _places(value))
