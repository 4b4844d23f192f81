"""Outputs and gradients of the original implementations, reproduced with the kit."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from qa.references.__main__ import BOUND, family

FILES = sorted((Path(__file__).parent / "references").glob("*.npz"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_outputs_and_gradients_equal_the_originals(file: Path) -> None:
    differences = importlib.import_module(f"qa.references.{family(file)}").run(file)
    assert any(name.startswith("grad/") for name in differences)
    assert max(differences.values()) <= BOUND, differences
