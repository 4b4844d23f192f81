"""``kit.load`` refuses sources that are not models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import perceiver_kit as kit


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("source", "got"), [(3, "int"), (None, "NoneType"), (b"model", "bytes"), (["model"], "list")])
def test_sources_must_be_paths(source: Any, got: str) -> None:
    with pytest.raises(kit.CheckpointError, match=f"^load takes a directory or the id of a hub .*, got an? {got}$"):
        kit.load(source)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(kit.CheckpointError, match="nowhere"):
        kit.load(tmp_path / "nowhere")
    kit.save(kit.build("masked_lm", preset="tiny"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(kit.CheckpointError, match=r"no checkpoint at .*model\.safetensors"):
        kit.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(kit.CheckpointError, match=r"config\.json"):
        kit.load(tmp_path)
