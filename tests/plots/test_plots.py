"""Plots show the given values to the right scale; errors."""

from __future__ import annotations

import math

import flow_vis
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import plots

slow = settings(max_examples=max(1, settings().max_examples // 3))


def drawn(figure: Figure) -> np.ndarray:
    """The pixels of a figure. Some errors occur only when it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    assert pixels.min() < 250, "nothing is drawn"
    return pixels


def maps(axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


def test_all_directions_and_lengths_have_the_colours_of_flow_vis() -> None:
    angle = torch.linspace(-math.pi, math.pi, 721)
    for length in (0.0, 0.4, 0.999, 1.5):  # flow_vis rounds down to whole 255ths
        flow = length * torch.stack([angle.cos(), angle.sin()])[:, None]
        x, y = flow.numpy()
        wanted = flow_vis.flow_uv_to_colors(x, y) / 255
        found = plots.flow_to_rgb(flow * (1 + 1e-5), largest=1).permute(1, 2, 0).numpy()
        assert np.abs(found - wanted).max() <= 1.01 / 255


def test_flow_of_any_number_of_axes_shares_one_scale() -> None:
    flow = torch.randn(2, 3, 2, 4, 5)
    colours = plots.flow_to_rgb(flow)
    assert colours.shape == (2, 3, 3, 4, 5)
    largest = float(flow.norm(dim=2).max())
    torch.testing.assert_close(colours[1, 2], plots.flow_to_rgb(flow[1, 2], largest=largest))


def test_unknown_flow_is_black_and_changes_no_other_pixel() -> None:
    flow = torch.randn(2, 3, 3)
    holed = flow.clone()
    holed[0, 1, 1] = torch.nan
    largest = float(flow.norm(dim=0).max())
    colours = plots.flow_to_rgb(holed, largest=largest)
    assert (colours[:, 1, 1] == 0).all()
    colours[:, 1, 1] = plots.flow_to_rgb(flow, largest=largest)[:, 1, 1]
    torch.testing.assert_close(colours, plots.flow_to_rgb(flow, largest=largest))


def test_flows_share_one_labelled_scale() -> None:
    flows = {"small": torch.full((2, 4, 6), 1.0), "large": torch.full((2, 4, 6), 3.0)}
    figure = plots.flow(torch.rand(2, 3, 4, 6), flows)
    drawn(figure)
    panels = {axes.get_title(loc="left"): maps(axes)[0] for axes in figure.axes}
    largest = math.hypot(3, 3)
    for name, flow in flows.items():
        wanted = plots.flow_to_rgb(flow, largest=largest).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(panels[name], wanted, atol=1e-6)
    assert f"{largest:.3g} pixels" in figure.axes[-1].get_xlabel()
    wider = plots.flow(torch.rand(3, 4, 6), flows, largest=9.0)
    wanted = plots.flow_to_rgb(flows["large"], largest=9.0).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(maps(wider.axes[2])[0], wanted, atol=1e-6)
    assert "9 pixels" in wider.axes[-1].get_xlabel()
    drawn(plots.flow_wheel())


@slow
@given(
    st.sampled_from([((3, 8, 12), (4, 6)), ((3, 8, 12), (8, 12)), ((4, 3, 8, 8), (2, 2, 4)), ((2, 3, 6, 6), (3, 3))]),
    st.integers(1, 3),
    st.data(),
)
def test_maps_over_an_image_are_the_weights_of_its_frame(shape, count: int, data: st.DataObject) -> None:
    size, grid = shape
    frame = data.draw(st.integers(0, size[0] - 1)) if len(size) == 4 else 0
    weights = torch.rand(count, math.prod(grid)).softmax(-1)
    figure = plots.attention_over_image(torch.rand(size) * 2 - 1, weights, grid=grid, frame=frame)
    drawn(figure)
    assert len(figure.axes) == count + 1
    for axes, row in zip(figure.axes[1:], weights, strict=True):
        whole = row.view(grid)
        seen = whole[frame * grid[0] // size[0]] if len(grid) == 3 else whole
        np.testing.assert_allclose(maps(axes)[1], (seen / seen.max()).numpy(), atol=1e-6)
        assert maps(axes)[1].shape == grid[-2:]
        assert f"{seen.max() * math.prod(grid):.1f} × mean" in axes.get_xlabel()


def test_pixels_of_both_ranges_look_the_same() -> None:
    image, weights = torch.rand(3, 8, 8), torch.rand(1, 16)
    first, second = (
        maps(plots.attention_over_image(picture, weights, grid=(4, 4)).axes[0])[0] for picture in (image, image * 2 - 1)
    )
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_weights_over_a_waveform_are_at_their_patches() -> None:
    weights = torch.rand(2, 6)
    figure = plots.attention_over_waveform(torch.randn(48), weights, rate=8.0, titles=["a", "b"])
    drawn(figure)
    for axes, row in zip(figure.axes, weights, strict=True):
        (stairs,) = [patch for patch in axes.patches if hasattr(patch, "get_data")]
        values, edges, _ = stairs.get_data()
        np.testing.assert_allclose((values + 1.05) / 2.1, (row / row.max()).numpy(), atol=1e-6)
        np.testing.assert_allclose(edges, np.arange(7) * 8 / 8.0)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]


@slow
@given(st.text(min_size=1, max_size=40), st.integers(1, 20))
def test_any_text_is_drawn_with_weights_at_their_bytes(text: str, columns: int) -> None:
    raw = text.encode("utf-8", errors="ignore")
    if not raw:
        return
    text = raw.decode()
    weights = torch.rand(1, len(raw)) + 0.01
    figure = plots.attention_over_text(text, weights, columns=columns)
    drawn(figure)
    (shown,) = maps(figure.axes[0])
    assert shown.shape == (-(-len(raw) // columns), min(columns, len(raw)))
    np.testing.assert_allclose(shown.flatten()[: len(raw)], (weights[0] / weights.max()).numpy(), atol=1e-6)
    ids = kit.ByteTokenizer(parse_special=False)([text]).ids[0]
    drawn(plots.attention_over_text(ids, torch.rand(1, len(ids))))
    np.testing.assert_array_equal(maps(plots.attention_over_text(raw, weights, columns=columns).axes[0])[0], shown)


def test_characters_are_drawn_at_their_first_byte_and_special_tokens_as_symbols() -> None:
    from perceiver_kit.plots.text import _symbols

    ids = kit.ByteTokenizer()(["é[MASK]名", "longer than that"]).ids[0]
    assert "".join(_symbols(ids)) == "«é ■□  »" + "○" * (len(ids) - 8)
    assert "".join(_symbols("a\nb")) == "a↵b"
    assert "".join(_symbols(b"\xffa")) == "□a"


def test_reconstructions_are_named_rows_with_the_range_of_the_first() -> None:
    rows = {"true": torch.rand(3, 3, 4, 4) * 2 - 1, "mean": torch.full((3, 1, 4, 4), 0.5)}
    figure = plots.reconstructions(rows, titles=["x", "y", "z"])
    drawn(figure)
    shown = [maps(axes)[0] for axes in figure.axes]
    np.testing.assert_allclose(shown[1], (rows["true"][1].permute(1, 2, 0) + 1).numpy() / 2, atol=1e-6)
    np.testing.assert_allclose(shown[4], 0.75)
    assert [axes.get_ylabel() for axes in figure.axes] == ["true", "", "", "mean", "", ""]
    assert [axes.get_title() for axes in figure.axes] == ["x", "y", "z", "", "", ""]


def test_latents_show_cosine_similarities_and_norms() -> None:
    latents = torch.randn(5, 7)
    figure = plots.latents(latents)
    drawn(figure)
    wanted = torch.nn.functional.cosine_similarity(latents[:, None], latents[None], dim=-1)
    np.testing.assert_allclose(maps(figure.axes[0])[0], wanted.numpy(), atol=1e-6)
    (stairs,) = figure.axes[1].patches
    np.testing.assert_allclose(stairs.get_data()[0], latents.norm(dim=-1).numpy(), rtol=1e-6)


@slow
@given(st.integers(1, 400), st.integers(1, 3))
def test_losses_are_running_means_at_their_steps(count: int, every: int) -> None:
    values = torch.rand(count).tolist()
    figure = plots.losses({"a": values, "b": [1.0]}, every=every, baselines={"chance": 0.5})
    drawn(figure)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    window = max(1, count // 50)
    np.testing.assert_allclose(
        lines["a"].get_ydata(), np.convolve(values, np.ones(window) / window, mode="valid"), rtol=1e-6
    )
    assert lines["a"].get_xdata()[-1] == count * every
    assert "chance (0.5)" in lines
    assert figure.axes[0].get_yscale() == "linear"
    assert plots.losses({"a": values}, log=True).axes[0].get_yscale() == "log"


IMAGE, WEIGHTS = torch.rand(3, 8, 8), torch.rand(2, 16)
WRONG = {
    "image of two channels": lambda: plots.attention_over_image(IMAGE[:2], WEIGHTS, grid=(4, 4)),
    "rows that are not the grid's": lambda: plots.attention_over_image(IMAGE, WEIGHTS, grid=(4, 5)),
    "a grid of one axis": lambda: plots.attention_over_image(IMAGE, WEIGHTS, grid=(16,)),
    "one map without an axis of maps": lambda: plots.attention_over_image(IMAGE, WEIGHTS[0], grid=(4, 4)),
    "all heads at once": lambda: plots.attention_over_image(IMAGE, WEIGHTS[None], grid=(4, 4)),
    "scores": lambda: plots.attention_over_image(IMAGE, -WEIGHTS, grid=(4, 4)),
    "no such frame": lambda: plots.attention_over_image(IMAGE[None], WEIGHTS, grid=(4, 4), frame=1),
    "frames that do not divide": lambda: plots.attention_over_image(
        torch.rand(3, 3, 8, 8), torch.rand(1, 8), grid=(2, 2, 2)
    ),
    "too few titles": lambda: plots.attention_over_image(IMAGE, WEIGHTS, grid=(4, 4), titles=["a"]),
    "a text as titles": lambda: plots.attention_over_image(IMAGE, WEIGHTS, grid=(4, 4), titles="ab"),
    "a batch of sounds": lambda: plots.attention_over_waveform(torch.rand(2, 32), WEIGHTS),
    "patches that do not divide": lambda: plots.attention_over_waveform(torch.rand(33), WEIGHTS),
    "a text of another length": lambda: plots.attention_over_text("abc", WEIGHTS),
    "no text": lambda: plots.attention_over_text("", WEIGHTS),
    "unknown ids": lambda: plots.attention_over_text([262] * 16, WEIGHTS),
    "lines of no columns": lambda: plots.attention_over_text("a" * 16, WEIGHTS, columns=0),
    "flow of three channels": lambda: plots.flow_to_rgb(IMAGE),
    "largest of zero": lambda: plots.flow_to_rgb(IMAGE[:2], largest=0),
    "frames of two channels": lambda: plots.flow(IMAGE[:2], {"a": IMAGE[:2]}),
    "no flows": lambda: plots.flow(IMAGE, {}),
    "no rows": lambda: plots.reconstructions({}),
    "rows without names": lambda: plots.reconstructions([IMAGE[None]]),
    "flows without names": lambda: plots.flow(IMAGE, IMAGE[:2]),
    "a batch of flows": lambda: plots.flow(IMAGE, {"a": IMAGE[None, :2]}),
    "unequal rows": lambda: plots.reconstructions({"a": IMAGE[None], "b": IMAGE[None].repeat(2, 1, 1, 1)}),
    "images without a number": lambda: plots.reconstructions({"a": IMAGE}),
    "latents of a batch": lambda: plots.latents(IMAGE),
    "no losses": lambda: plots.losses({"a": []}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_bad_arguments_are_refused(wrong) -> None:
    with pytest.raises(kit.InputError) as error:
        wrong()
    assert len(str(error.value)) > 20


@pytest.mark.parametrize(
    ("ids", "got"), [(torch.zeros(2, 8).long(), r"int64 \(2, 8\)"), (torch.zeros(16), r"float32 \(16,\)")]
)
def test_bad_ids_are_refused(ids: Tensor, got: str) -> None:
    with pytest.raises(kit.InputError, match=rf"text must be a str, bytes, or ids \(n,\), got {got}"):
        plots.attention_over_text(ids, WEIGHTS)


def test_tensors_may_require_gradients_and_have_any_precision() -> None:
    weights = torch.rand(1, 16, dtype=torch.bfloat16, requires_grad=True)
    image: Tensor = torch.rand(3, 8, 8, dtype=torch.float64, requires_grad=True)
    drawn(plots.attention_over_image(image, weights, grid=(4, 4)))
    drawn(plots.latents(image[0]))


def test_tall_pictures_give_no_taller_page() -> None:
    assert plots.reconstructions({"made": torch.rand(2, 3, 4000, 1)}).get_size_inches().max() < 10
