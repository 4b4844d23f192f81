"""What every fuzzed case must do: end in a result or in one of the kit's errors, within bounded time and memory.

A case is a function of its test's name and its number, which a failure names. ``FUZZ=1000`` is how many each test
has, a few by default; ``make fuzz`` runs tens of thousands and keeps the counts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import perceiver_kit as kit

CASES = int(os.environ.get("FUZZ", "40"))
SECONDS, MEBIBYTES = 20, 2048
counts: Counter[str] = Counter()

# What breaks readers of JSON: huge numbers, NaN, surrogates, nulls, other people's keys and names.
SCALARS = [None, True, False, -1, 0, 1, 2, 7, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, -(2**63)]
SCALARS += [10**30, 10**400, "", "x", "\0", "\ud800", "__class__", "../x", "os.system", "inputs.Patches", "a" * 10_000]
KEYS = ["tuple", "dict", "block", "arguments", "id", "same_as", "model", "recipe", "perceiver_kit", "", "__init__"]


def fuzzed(*, share: float = 1.0) -> Callable:
    """A test over cases, ``share`` of the usual number, each held to the bounds; it is given the case's ``Random``."""

    def wrap(test: Callable[[Random], None]) -> Callable[[], None]:
        name = f"{test.__module__.rpartition('.')[2].removeprefix('test_')}: {test.__name__.removeprefix('test_')}"

        @functools.wraps(test)
        def every() -> None:
            for case in range(max(3, round(CASES * share))):
                try:
                    with bounded():
                        test(Random(f"{name} {case}"))
                except BaseException as error:  # pytest's own are no Exception
                    error.add_note(f"case {case} of {name}")
                    raise
                counts[name] += 1

        del every.__wrapped__  # pytest would look for a fixture called rng
        return every

    return wrap


@contextlib.contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """At most so many seconds: nothing waits for ever."""

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
    """At most so many seconds, and so much memory above what the process has."""
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
    """What a user does wrong ends in an error of the family, with a message."""
    try:
        yield
    except kit.PerceiverKitError as error:
        if not str(error).strip():
            raise AssertionError(f"{type(error).__name__} says nothing") from error


def json_of_any_kind(rng: Random, depth: int = 3) -> Any:
    kind = rng.random()
    if depth == 0 or kind < 0.5:
        return rng.choice(SCALARS)
    size = rng.randrange(4)
    if kind < 0.75:
        return [json_of_any_kind(rng, depth - 1) for _ in range(size)]
    return {rng.choice(KEYS): json_of_any_kind(rng, depth - 1) for _ in range(size)}


def damaged(rng: Random, content: bytes) -> bytes:
    """A file as disks, networks and strangers leave it: cut, extended, bits flipped, pieces moved, or other bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        # Near the front half of the time: that is where headers are.
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
    """JSON with one to three of its values replaced, dropped, exchanged, or wrapped in many lists."""
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
