"""Weights start such that rows keep their size, whatever the widths; what is looked up, as small as it is said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.initialisation import learned, linear, scale_by_fan_in
from perceiver_kit.padding import LearnedVector
from perceiver_kit.positions import Learned


def holds_a_cut_normal(values: Tensor, deviation: float) -> None:
    """Quantiles of a normal that is cut at two deviations, as torch draws it by rejection."""
    wanted = nn.init.trunc_normal_(torch.empty(1_000_000), std=deviation, a=-2 * deviation, b=2 * deviation)
    at = torch.linspace(0.01, 0.99, 50)
    found = values.flatten()[:1_000_000]
    assert found.abs().max() <= 2 * deviation * (1 + 1e-5)
    assert (found.quantile(at) - wanted.quantile(at)).abs().max() < 0.02 * deviation


@pytest.mark.parametrize(("into", "out"), [(64, 2048), (2048, 64), (300, 300)])
def test_linear_layers_keep_the_variance_of_their_input(into: int, out: int) -> None:
    layer = linear(into, out)
    assert not layer.bias.any()
    assert layer(torch.randn(2000, into)).var().item() == pytest.approx(1, rel=0.05)
    cut = 0.87962566  # the deviation of a standard normal that is cut at two
    holds_a_cut_normal(layer.weight.detach(), into**-0.5 / cut)


@pytest.mark.parametrize("kernel", [1, 7])
def test_convolutions_keep_the_variance_of_their_input(kernel: int) -> None:
    conv = nn.Conv2d(16, 64, kernel, bias=False)
    scale_by_fan_in(conv.weight)
    assert conv(torch.randn(8, 16, 30, 30)).var().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("deviation", [0.02, 1.0])
def test_tables_have_the_given_deviation(deviation: float) -> None:
    holds_a_cut_normal(learned(1000, 500, deviation=deviation).detach(), deviation)
    assert math.isclose(learned(1000, 500).std().item(), 0.02 * 0.87962566, rel_tol=0.01)


LOOKED_UP = {
    "latents": lambda: kit.Encoder(3, num_latents=1000, latent_dim=500, layers=0).latents,
    "positions": lambda: Learned((1000,), 500).table,
    "one vector for all": lambda: LearnedVector(500_000).vector,
    "ids": lambda: kit.inputs.TextTokens(1000, 500).embedding.weight,
}


@pytest.mark.parametrize("what", LOOKED_UP)
def test_all_that_is_looked_up_starts_small(what: str) -> None:
    holds_a_cut_normal(LOOKED_UP[what]().detach(), 0.02)
