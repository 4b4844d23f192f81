"""The curves of a run show the values of its metrics.csv."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from perceiver_kit.plots import curves

METRICS = """\
epoch,held_out/accuracy,held_out/loss,step,train/loss
0,,,9,2.5
0,0.25,2.25,9,
0,,,19,1.5
0,0.75,1.25,19,
"""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))
    )
    return figures


def test_every_metric_has_a_panel_with_training_and_held_out_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    picture = curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 200
    panels = {
        axes.get_title(loc="left"): {
            line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in axes.get_lines()
        }
        for axes in drawn[0].axes
    }
    assert [*panels] == ["loss", "accuracy"], "the loss comes first"
    assert panels["loss"] == {"train": (9, 19, 2.5, 1.5), "held-out": (9, 19, 2.25, 1.25)}
    assert panels["accuracy"] == {"held-out": (9, 19, 0.25, 0.75)}


def test_a_file_without_metrics_gives_an_empty_figure(tmp_path: Path, drawn: list[Figure]) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,9\n")
    assert curves(tmp_path / "metrics.csv", tmp_path / "curves.png").is_file()
    assert drawn[0].axes == []
