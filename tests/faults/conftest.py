"""Faults are injected into whole calls: what types arguments have is the kit's own business here, as for a user."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from . import injecting

collect_ignore = ["saver.py"]  # a script, which other processes run
if not (find_spec("pytorch_lightning") and find_spec("torchmetrics")):
    collect_ignore += ["test_training.py"]


@pytest.fixture(autouse=True)
def _unchecked(unchecked: None) -> None:
    """As in tests/fuzz."""


@pytest.fixture(scope="module")
def saver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[injecting.Saver]:
    with injecting.Saver(tmp_path_factory.mktemp("saver") / "stderr") as started:
        yield started


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = os.environ.get("FAULT_COUNTS")
    if path:
        record = {"passed": exitstatus == 0, "cases": dict(sorted(injecting.counts.items()))}
        Path(path).write_text(json.dumps(record, indent=1) + "\n")
