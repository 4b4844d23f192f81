"""Drawings of a model are complete, legible and correct; models/test_made.py draws any assembly."""

from __future__ import annotations

import functools
import itertools
import math
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

import perceiver_kit as kit
from perceiver_kit.diagrams.drawing import WIDTH
from perceiver_kit.diagrams.svg import LETTER, PADDING, SMALL, Box, place, readable, wide, wrapped, written

from .strategies import NAMES, RECIPES, tiny

SVG = "{http://www.w3.org/2000/svg}"
STAGES = ["model", "input", "rows", "encoder", "latents", "query", "decoder", "output"]


def check(model: nn.Module) -> kit.Drawing:
    """Check what holds for the drawing of any model."""
    drawing = kit.draw(model)
    root = ET.fromstring(drawing.svg)
    assert root.tag == f"{SVG}svg"
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    boxes = drawing.boxes
    assert kit.draw(model).svg == drawing.svg, "the drawing is not deterministic"

    kinds = [box.kind for box in boxes]
    assert sorted(kinds, key=STAGES.index) == kinds, "stages are not in the order of the data"
    named = {kind: [box.name for box in boxes if box.kind == kind] for kind in STAGES}
    assert named["input"] == [*model.inputs.blocks]
    if model.outputs is not None:
        assert named["output"] == [*model.outputs.blocks]
        assert named["query"] == ([*model.queries.blocks] if model.queries.channels else [])
    for box in boxes:
        assert "".join(readable(box.name).split()) in "".join("".join(texts).split())
        room = box.width - 2 * PADDING
        assert all(wide(line) * SMALL * LETTER <= room + 1e-6 for line in box.lines)

    for first, second in itertools.combinations(boxes, 2):
        apart = (
            first.x + first.width < second.x
            or second.x + second.width < first.x
            or first.bottom < second.y
            or second.bottom < first.y
        )
        assert apart, f"{first.kind} {first.name!r} overlaps {second.kind} {second.name!r}"
    height = float(root.get("viewBox", "").split()[3])
    assert all(box.x >= 0 and box.x + box.width <= WIDTH and box.bottom <= height for box in boxes)

    total = sum(parameter.numel() for parameter in model.parameters())
    assert boxes[0].parameters == total
    assert sum(box.parameters for box in boxes[1:]) == total, "a parameter is in no stage, or in two"
    return drawing


def lines(drawing: kit.Drawing, kind: str, name: str) -> tuple[str, ...]:
    (box,) = [box for box in drawing.boxes if (box.kind, box.name) == (kind, name)]
    return box.lines


@functools.cache
def published(name: str) -> kit.Drawing:
    with torch.device("meta"):
        return check(kit.build(name))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_drawn_at_both_sizes(name: str) -> None:
    check(tiny(name))
    assert published(name).boxes[0].name == name


def test_shapes_of_published_models_are_the_documented_ones() -> None:
    video = published("multimodal_autoencoding")
    assert lines(video, "input", "image")[0] == "(b, t, 3, h, w)"
    assert "50,176 rows × 243" in lines(video, "input", "image")
    assert lines(video, "rows", "")[0] == "(b, 52,097, 704)"
    assert "802,816 rows × 195" in lines(video, "query", "image")
    assert lines(video, "output", "audio")[-1] == "(b, 30720)"
    assert lines(video, "output", "image")[-1] == "(b, 16, 3, 224, 224)"
    flow = published("optical_flow")
    assert lines(flow, "input", "frames")[0] == "(b, 2, 3, h, w)"
    assert lines(flow, "output", "flow")[-1] == "(b, 2, h, w)"
    assert "rows of input frames" in lines(flow, "query", "flow")
    assert "stroke-dasharray" in flow.svg, "no line from the input's rows to the query"
    assert "stroke-dasharray" not in video.svg
    text = published("masked_lm")
    assert lines(text, "output", "text")[-1] == "(b, n, 262)"
    (output,) = [box for box in text.boxes if box.kind == "output"]
    assert output.parameters == 262, "the tied table is counted again"


def test_models_without_queries_or_decoder_are_drawn() -> None:
    inputs = kit.Inputs(points=kit.inputs.Features(3))
    encoder = kit.Encoder(3, num_latents=4, latent_dim=16, layers=1)
    assert [box.kind for box in check(kit.PerceiverIO(inputs, encoder)).boxes][-1] == "latents"
    pooled = kit.PerceiverIO(
        inputs,
        encoder,
        None,
        kit.MeanPool(16, out_channels=8),
        kit.Outputs(label=kit.outputs.Classify(3, in_channels=8)),
    )
    assert "query" not in [box.kind for box in check(pooled).boxes]


@pytest.mark.parametrize("name", [*NAMES, "<b>&\"'", "x\ny\x00", "w" * 200, "名" * 60, "e\u0301" * 30])
def test_any_name_is_drawn(name: str) -> None:
    inputs = kit.Inputs({name: kit.inputs.Features(3), "other": kit.inputs.OneHot(4)}, hide={name: 0.5})
    encoder = kit.Encoder(inputs.channels, num_latents=4, latent_dim=16, layers=0)
    queries = kit.Queries({name: kit.queries.InputQuery(name, channels=inputs.channels)})
    decoder = kit.Decoder(queries.channels, 16)
    check(kit.PerceiverIO(inputs, encoder, queries, decoder, kit.Outputs({name: kit.outputs.Rows(queries.channels)})))


class Unshaped(kit.outputs.Output):
    """A custom output whose shape depends on its values."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 4

    def forward(self, rows):
        return rows

    def whole(self, rows, grid):
        return rows[rows > 0]


class Raw(kit.inputs.Input):
    """A custom input that does not declare the axes of its raw tensor."""

    def __init__(self) -> None:
        super().__init__(4)


class Mean(kit.Block):
    """A custom encoder with other arguments than the kit's."""

    channels = latent_dim = 4

    def forward(self, tokens):
        return tokens.rows.mean(1, keepdim=True)


def test_custom_blocks_are_drawn() -> None:
    queries = kit.Queries(a=kit.queries.PositionQuery(kit.positions.Learned((3,), 4), follows="a"))
    model = kit.PerceiverIO(kit.Inputs(a=Raw()), Mean(), queries, kit.Decoder(4, 4), kit.Outputs({"a": Unshaped()}))
    drawing = check(model)
    assert lines(drawing, "output", "a")[-1] == "(b, o, 4)"
    assert drawing.boxes[-2].kind == "decoder"


def test_a_drawing_shows_itself_and_is_written(tmp_path) -> None:
    drawing = kit.draw(tiny("masked_lm"), tmp_path / "model.svg")
    assert (tmp_path / "model.svg").read_text(encoding="utf-8") == drawing.svg == drawing._repr_svg_()
    assert repr(drawing) == f"Drawing({drawing.svg.count('<g>')} boxes)"


def test_a_path_that_cannot_be_written_is_named(tmp_path) -> None:
    with pytest.raises(kit.InputError, match=r"draw: .*nowhere.model\.svg cannot be written \(No such file"):
        kit.draw(tiny("masked_lm"), tmp_path / "nowhere" / "model.svg")


def test_sound_of_any_length_is_drawn_in_patches() -> None:
    sound = kit.inputs.AudioPatches(16)
    model = kit.PerceiverIO(
        kit.Inputs(sound=sound),
        kit.Encoder(16, num_latents=4, latent_dim=16, layers=0),
        kit.Queries(
            sound=kit.queries.PositionQuery(kit.positions.Fourier(bands=2, max_resolution=(8,)), follows="sound")
        ),
        kit.Decoder(5, 16),
        kit.Outputs(sound=kit.outputs.ToWaveform(16, in_channels=5)),
    )
    drawing = check(model)
    assert lines(drawing, "input", "sound")[0] == "(b, samples)"
    assert lines(drawing, "output", "sound")[-1] == "(b, 16n)"


def test_other_modules_are_refused() -> None:
    with pytest.raises(kit.InputError, match="PerceiverIO"):
        kit.draw(nn.Linear(2, 2))


def test_wrapped_text_fits_and_is_complete() -> None:
    for text in ("a b c", "abcdefgh", "名前 名前", "one two, three", " x", "e\u0301" * 9):
        for room in (2, 3, 5, 40):
            parts = wrapped(text, room)
            assert all(wide(part) <= room for part in parts)
            assert "".join(parts).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.0k"), (99_940, "99.9k"), (99_960, "100k"), (10**9, "1.0G")]
)
def test_numbers_have_at_most_five_letters(number: int, text: str) -> None:
    assert written(number) == text
    assert len(written(number)) <= 5


def test_boxes_grow_with_their_lines() -> None:
    short, long = (place("input", "a", ["x"] * count, 0, 0.0, 0.0, 100.0) for count in (1, 4))
    assert isinstance(short, Box)
    assert math.isclose(long.height - short.height, 3 * 17)
