"""Compilation and export of few recipes; ``make graphs`` checks all (``qa/graphs.py``)."""

from __future__ import annotations

import json

import pytest

from . import fresh

# Text with a tied table; a convolution with batch statistics; several inputs and outputs, some hidden.
CHECKED = [
    "masked_lm/compiled",
    "masked_lm/exported_masked",
    "image_classification_conv/exported_masked",
    "multimodal_autoencoding/exported_masked",
]


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Tracebacks by check, empty for those that pass."""
    code = f"from qa.graphs import main; main({CHECKED})"
    status, out, errors = fresh.run(code)
    assert status == 0, errors[-3000:]
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    return {f"{recipe}/{check}": failure for recipe, check, failure in lines}


@pytest.mark.parametrize("check", CHECKED)
def test_graphs(check: str, failures: dict[str, str]) -> None:
    assert not failures[check], failures[check]
