"""Compilation and export of few recipes; ``make graphs`` checks all (``qa/graphs.py``)."""

from __future__ import annotations

import json

import pytest
import torch

import perceiver_kit as kit

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


@torch.no_grad()
def test_a_text_with_every_option_is_exported_with_any_batch_and_length() -> None:
    options = dict(ngrams=(2,), convolutions=1, recall=(2,))
    model = kit.build("question_answering", preset="tiny", max_length=64, **options).eval()
    dynamic = {"inputs": {"text": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim("length", min=2, max=64)}}}
    ids = torch.randint(3, 9, (2, 40))
    exported = torch.export.export(model, ({"text": ids},), dynamic_shapes=dynamic).module()
    for text in (ids[:1], ids[:, :24], ids.repeat(2, 1)):
        torch.testing.assert_close(exported({"text": text}), model({"text": text}))
