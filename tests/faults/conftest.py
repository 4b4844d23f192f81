"""Fixtures of the injected faults."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

import pytest

from . import injecting

collect_ignore = ["saver.py"]  # a script that other processes run
if not (find_spec("pytorch_lightning") and find_spec("torchmetrics")):
    collect_ignore += ["test_training.py"]


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here."""
    if find_spec("pytorch_lightning"):
        monkeypatch.setattr(import_module("perceiver_kit.training.fit"), "curves", lambda _, picture: picture.touch())


@pytest.fixture(scope="module")
def saver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[injecting.Saver]:
    with injecting.Saver(tmp_path_factory.mktemp("saver") / "stderr") as started:
        yield started
