"""Quantiles: the output's order, the loss against scikit-learn's, and what forecasting needs of inputs and queries."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

import perceiver_kit as kit
from perceiver_kit.inputs import Points
from perceiver_kit.objectives import Quantile
from perceiver_kit.outputs import Quantiles
from perceiver_kit.positions import Fourier
from perceiver_kit.queries import CoordinateQuery

from .objective_cases import measured

pytestmark = pytest.mark.usefixtures("checked")


@given(series=st.integers(1, 3), quantiles=st.integers(1, 5), scale=st.floats(0.1, 20))
def test_quantiles_never_cross_and_the_layer_gives_the_middle_one(series: int, quantiles: int, scale: float) -> None:
    block = Quantiles(series, quantiles=quantiles, in_channels=4)
    rows = scale * torch.randn(2, 5, 4)
    found = block.whole(block(rows), (5,))
    assert found.shape == (2, 5, series, quantiles)
    assert (found.diff(dim=-1) >= 0).all()
    linear = rearrange(block.project(rows), "b k (s q) -> b k s q", s=series)
    torch.testing.assert_close(found[..., quantiles // 2], linear[..., 0])


@given(quantiles=st.integers(1, 6), seed=st.integers(0, 100))
def test_the_loss_is_twice_that_of_scikit_learn(quantiles: int, seed: int) -> None:
    torch.manual_seed(seed)
    output, target = torch.randn(2, 3, 2, quantiles), torch.randn(2, 3, 2)
    target[0, 0, 0] = torch.nan
    there = ~target.isnan()
    wanted = [
        2 * mean_pinball_loss(target[there].numpy(), output[..., i][there].numpy(), alpha=(i + 1) / (quantiles + 1))
        for i in range(quantiles)
    ]
    loss, _ = Quantile("future")({"future": output}, {"future": target})
    assert loss.item() == pytest.approx(sum(wanted) / quantiles, rel=1e-4)
    rows = rearrange(output, "b k s q -> b k (s q)")  # as with ``at``
    torch.testing.assert_close(Quantile("future")({"future": rows}, {"future": target})[0], loss)


def test_missing_values_have_no_gradient_and_no_part_in_metrics() -> None:
    output = torch.tensor([[[[-1.0, 0.0, 1.0]], [[4.0, 5.0, 6.0]]]], requires_grad=True)
    target = torch.tensor([[[0.5], [torch.nan]]])
    loss, _ = Quantile("future")({"future": output}, {"future": target})
    loss.backward()
    assert (output.grad[0, 1] == 0).all()
    assert (output.grad[0, 0] != 0).all()
    found = measured(Quantile("future"), [({"future": output.detach()}, {"future": target})])
    assert found == dict(mae=0.5, coverage=1)
    with pytest.raises(kit.InputError, match="must have a value for the quantiles"):
        Quantile("future")({"future": output}, {"future": torch.zeros(1, 3, 1)})


def test_missing_features_of_points_are_flags() -> None:
    clock = Fourier(bands=2, max_resolution=(4,))
    raw = torch.tensor([[[0.5, torch.nan, 2.0], [1.0, 3.0, torch.nan]]])
    rows = Points(1, channels=2, missing=True, positions=clock)(raw).rows
    assert rows[0, :, :4].tolist() == [[0, 2, 0, 1], [3, 0, 1, 0]]
    torch.testing.assert_close(rows[0, :, 4:], clock.of(raw[0, :, :1]))
    assert Points(1, channels=2, missing=True)(raw).rows[0].tolist() == [[0.5, 0, 2, 0, 1], [1, 3, 0, 1, 0]]


def test_calls_without_coordinates_take_the_default() -> None:
    model = kit.build("forecasting", preset="tiny").eval()
    history = torch.cat([torch.arange(-23.0, 1)[:, None], torch.randn(24, 1)], 1)[None]
    steps = torch.arange(1.0, 7)[:, None]
    with torch.no_grad():
        found = model({"history": history})["future"]
        wanted = model({"history": history}, queries={"future": steps})["future"]
    torch.testing.assert_close(found, wanted)
    for default in ((), ((1.0, 2.0),)):
        with pytest.raises(kit.AssemblyError, match="default must hold places of 1 axes"):
            CoordinateQuery(Fourier(bands=2, max_resolution=(4,)), default=default)
