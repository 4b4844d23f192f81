"""How many cases each property, fuzz and fault test has run: written to the file that ``COUNTS`` names."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

counts: Counter[str] = Counter()


def name_of(test: Callable) -> str:
    """Folder, file and test, such as ``fuzz/media: whole_videos``."""
    folder, module = test.__module__.split(".")[-2:]
    return f"{folder}/{module.removeprefix('test_')}: {test.__name__.removeprefix('test_')}"


def write_counts() -> None:
    if path := os.environ.get("COUNTS"):
        Path(path).write_text(json.dumps(dict(sorted(counts.items()))), encoding="utf-8")
