"""Faults injected around the kit. A case is a function of its number.

``FAULTS=1000`` sets the number of cases of each test; ``make fuzz`` runs many.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

import perceiver_kit as kit

from ..counting import counts, name_of
from ..fuzz.harness import in_time
from .states import state

CASES = int(os.environ.get("FAULTS", "2"))
SECONDS = 120
HERE = Path(__file__).parent


def injected(*, share: float = 1.0, least: int = 1) -> Callable:
    """Run a test for each case, with its ``Random`` and an empty folder; ``share`` scales the number of cases."""

    def wrap(test: Callable) -> Callable:
        name = name_of(test)

        def every(*fixtures: Any) -> None:
            for case in range(max(least, round(CASES * share))):
                try:
                    with tempfile.TemporaryDirectory() as folder, in_time(SECONDS):
                        test(Random(f"{name.partition('/')[2]} {case}"), Path(folder), *fixtures)
                        counts[name] += 1
                except Exception as error:
                    error.add_note(f"case {case} of {name}")
                    raise

        def with_saver(saver: Saver) -> None:
            every(saver)

        def alone() -> None:
            every()

        takes_saver = "saver" in test.__code__.co_varnames[: test.__code__.co_argcount]
        wrapped = functools.wraps(test)(with_saver if takes_saver else alone)
        del wrapped.__wrapped__  # pytest would look for a fixture called rng
        return wrapped

    return wrap


def which(directory: Path, states: int = 4) -> int:
    """The number of the state that a directory holds bit for bit; any other content fails."""
    found = kit.load(directory).state_dict()
    for number in range(states):
        wanted = state(number).state_dict()
        if found.keys() == wanted.keys() and all(
            found[name].shape == tensor.shape and torch.equal(found[name], tensor) for name, tensor in wanted.items()
        ):
            return number
    raise AssertionError(f"{directory} holds a state that was never saved")


def tidy(directory: Path) -> bool:
    """Whether the directory holds the two files and nothing else."""
    return sorted(os.listdir(directory)) == ["config.json", "model.safetensors"]


@contextlib.contextmanager
def failing(call: str, nth: int, error: BaseException) -> Iterator[list[int]]:
    """From its nth call on, a function of ``os`` raises ``error``."""
    real, calls = getattr(os, call), [0]

    @functools.wraps(real)
    def fails(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] >= nth:
            raise error
        return real(*arguments, **options)

    setattr(os, call, fails)
    try:
        yield calls
    finally:
        setattr(os, call, real)


class Saver:
    """A process that forks saving children and kills them: ``saver.py``, controlled by lines of JSON."""

    def __init__(self, stderr: Path) -> None:
        self.stderr = stderr

    def __enter__(self) -> Saver:
        paths = os.pathsep.join([str(Path(kit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        with self.stderr.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "saver.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes its pipes and waits for it
            self.process.stdin.close()  # type: ignore[union-attr]

    def __call__(self, **command: Any) -> list[dict[str, Any]]:
        """For each child: its exit code, its number of saves, and the kit's errors that it caught."""
        print(json.dumps(command), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()  # type: ignore[union-attr]
        assert answer, self.stderr.read_text()[-3000:]
        return json.loads(answer)
