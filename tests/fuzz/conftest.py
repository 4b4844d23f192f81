"""Fixtures of the fuzz tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _unchecked(unchecked: None) -> None:
    """The kit checks its arguments itself here, as for a user."""
