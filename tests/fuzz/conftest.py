"""Fuzzing makes models of nonsense: shapes in signatures are not checked at every call, which would hide what is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from . import harness


@pytest.fixture(autouse=True)
def _unchecked(unchecked: None) -> None:
    """Types of arguments are the kit's own business here, as they are for a user."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = os.environ.get("FUZZ_COUNTS")
    if path:
        record = {"passed": exitstatus == 0, "cases": dict(sorted(harness.counts.items()))}
        Path(path).write_text(json.dumps(record, indent=1) + "\n")
