"""Numbers of the original implementations, reproduced with the kit: outputs, gradients, masks, losses, tokens.

Each file of tests/references holds parameters, inputs, outputs and gradients that the published code computed in
float32, and its configuration. Perceiver IO, Perceiver AR and HiP are under Apache-2.0, the others under MIT or
Apache-2.0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qa.references import __main__ as references

FILES = sorted((Path(__file__).parent / "references").glob("*.npz"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_originals_numbers_are_reproduced(file: Path, capsys: pytest.CaptureFixture) -> None:
    assert references.main([str(file)]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5, "an output or a gradient is a line"


def test_another_number_fails_and_other_names_are_known_by_their_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arrays = dict(np.load(FILES[0]))
    changed = json.loads(str(arrays["config"])) | {"fraction_to_rotate": 0.25, "encoder_use_query_residual": False}
    file = tmp_path / "unnamed.npz"
    np.savez(file, **(arrays | {"config": np.array(json.dumps(changed))}))
    assert references.main([str(file), "--short"]) == 1
    assert capsys.readouterr().out.startswith("unnamed: ")
