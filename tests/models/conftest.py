"""Writes how many models each property was tested on, for docs/robustness.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from . import properties


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = os.environ.get("MODELS_COUNTS")
    if path:
        record = {"passed": exitstatus == 0, "cases": dict(sorted(properties.counts.items()))}
        Path(path).write_text(json.dumps(record, indent=1) + "\n")
