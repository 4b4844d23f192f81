"""Directories in Hugging Face's format, as the reference saves them."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What the reference of a recipe saves; sequence_classification unless a test asks for another."""
    from .test_parity import CASES, models  # not above: shapes are checked only in modules imported by tests

    recipe = getattr(request, "param", "sequence_classification")
    case = next(case for case in CASES if case.recipe == recipe)
    models(case)[0].save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
