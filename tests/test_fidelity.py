"""Each row of the fidelity table of docs/concepts.md is what the code does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.positions import Fourier
from perceiver_kit.registry import find

from .strategies import raws, tiny

PAGE = (Path(__file__).parents[1] / "docs" / "concepts.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Fidelity to the references")[2].partition("\n## ")[0]
ROWS = {
    cells[1].strip(): cells[4].strip() for cells in (line.split("|") for line in SECTION.splitlines() if "|" in line)
}


def stem(**options: str) -> tuple[int, ...]:
    model = kit.build("image_classification_conv", preset="tiny", **options).eval()
    return model.inputs.blocks["image"].embed(torch.rand(1, 3, 224, 224), "image").shape[1:3]


def label_shown(**options: tuple[float, float]) -> bool:
    """Whether the label that is given changes the prediction in evaluation."""
    torch.manual_seed(0)
    model = kit.build("multimodal_autoencoding", preset="tiny", **options).eval()
    clip = raws(model, 1)
    other = clip | {"label": clip["label"].flip(-1)}
    one, two = (model(inputs, at={"label": None})["label"] for inputs in (clip, other))
    return not torch.equal(one, two)


def default(parameter: str, recipe: str = "masked_lm") -> object:
    return find("recipes", recipe).signature.parameters[parameter].default


def positions_of_queries() -> set[str]:
    queries = tiny("multimodal_autoencoding").queries.blocks
    return {queries[name].positions.ends for name in ("audio", "image")}


def fully_masked() -> torch.Tensor:
    attention = kit.Attention(4, 6)
    read = attention(torch.randn(1, 2, 4), torch.randn(1, 3, 6), torch.zeros(1, 3, dtype=torch.bool))
    return read - attention.output.bias


CLAIMS: dict[str, Callable[[], bool]] = {
    "positions of a whole grid": lambda: torch.equal(
        Fourier(bands=1, max_resolution=(5,))((5,))[:, 0], torch.linspace(-1, 1, 5)
    ),
    "positions of chosen output points": lambda: (
        positions_of_queries() == {"half_open"}
        and Fourier(bands=1, max_resolution=(4,), ends="half_open")((4,))[:, 0].tolist() == [-1, -0.5, 0, 0.5]
    ),
    "convolutional stem": lambda: (stem(), stem(conv_padding="same")) == ((55, 55), (56, 56)),
    "decoder's residual of `image_classification_learned`": lambda: (
        default("decoder_residual", "image_classification_learned") is True
    ),
    "GELU": lambda: default("activation") == "gelu",
    "initial weights": lambda: abs(float(kit.Attention(400, 400).query.weight.std()) - 1 / 400**0.5) < 1e-3,
    "attention dropout": lambda: default("dropout") == 0,
    "residual dropout of the encoder": lambda: (
        default("residual_dropout") == 0
        and kit.build("masked_lm", preset="tiny", residual_dropout=0.1).encoder.transformer[0].dropout.p == 0.1
    ),
    "a fully masked sample": lambda: not fully_masked().any(),
    "label in evaluation": lambda: not label_shown() and label_shown(hide_label=(0.5, 0.0)),
    "queries of padded text": lambda: (
        not torch.equal(
            tiny("masked_lm")(torch.zeros(1, 3, dtype=torch.int64))["text"],
            tiny("masked_lm")(
                torch.zeros(1, 3, dtype=torch.int64), query_mask={"text": torch.tensor([[True, True, False]])}
            )["text"],
        )
    ),
    "text logits": lambda: tiny("masked_lm")(torch.zeros(1, 7, dtype=torch.int64))["text"].shape[1] == 7,
    "flow": lambda: default("flow_scale", "optical_flow") == 0.2,
    "flow of larger images": lambda: (
        default("tile_overlap", "optical_flow") == 20
        and tiny("optical_flow")(torch.zeros(1, 2, 3, 20, 60))["flow"].shape == (1, 2, 20, 60)
    ),
}


def test_each_row_has_a_check() -> None:
    assert set(ROWS) - {"", "---"} == set(CLAIMS)


@pytest.mark.parametrize("row", CLAIMS)
def test_each_row_is_what_the_code_does(row: str) -> None:
    with torch.no_grad():
        assert CLAIMS[row]()


def test_each_option_is_a_parameter_of_a_recipe() -> None:
    known = {name for recipe in kit.list() for name in find("recipes", recipe).signature.parameters}
    named = {name for cell in ROWS.values() for name in re.findall(r"`(\w+)=", cell)}
    assert named and named <= known
    assert named <= {*re.findall(r"`(\w+)`", SECTION)}, "the paragraph below the table names each of them"
