"""Trainings in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import perceiver_kit as kit

# A script that another process runs.
collect_ignore = ["worker.py"]
# These imports need the extra "train".
collect_ignore_glob = [] if find_spec("pytorch_lightning") and find_spec("torchmetrics") else ["test_*.py", "toys.py"]

HERE = Path(__file__).parent
PATHS = [str(Path(kit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}

Train = Callable[..., int]


@pytest.fixture
def curves_drawn() -> None:
    """A test with this fixture draws curves.png; others do not."""


@pytest.fixture(autouse=True)
def _no_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here."""
    if "curves_drawn" not in request.fixturenames:
        monkeypatch.setattr(import_module("perceiver_kit.training.fit"), "curves", lambda _, picture: picture.touch())


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """``toys.run`` in a process that may be killed; returns its exit code (0, or minus the signal)."""
    stderr = tmp_path_factory.mktemp("worker") / "stderr"
    with (
        open(stderr, "w") as errors,
        subprocess.Popen(
            [sys.executable, HERE / "worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=ENVIRONMENT,
        ) as worker,
    ):

        def call(directory: Path, recipe: str, *, code: int | None = 0, **config: Any) -> int:
            print(json.dumps(dict(directory=str(directory), recipe=recipe) | config), file=worker.stdin, flush=True)
            answer = worker.stdout.readline()
            assert answer, stderr.read_text()[-3000:]
            assert code is None or int(answer) == code, stderr.read_text()[-3000:]
            return int(answer)

        yield call
        worker.stdin.close()
