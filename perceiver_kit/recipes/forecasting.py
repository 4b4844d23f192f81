"""Forecasting: readings on a clock, to quantiles at any later times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_positive
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs, Points
from ..model import PerceiverIO
from ..objectives import Quantile
from ..outputs import Outputs, Quantiles
from ..positions import Fourier
from ..queries import CoordinateQuery, Queries

OWN = "the kit's: no Perceiver for forecasting is published"
SMALL: dict[str, Any] = dict(history=24, horizon=6, bands=8, num_latents=8, latent_dim=32, self_heads=4)


def objective() -> Quantile:
    """The loss of the recipe."""
    return Quantile("future")


def random_history(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """Random readings of each step of the history."""
    rows = parameters["history"]
    clock = (torch.arange(rows, dtype=torch.float32) - rows + 1).expand(batch, rows)[..., None]
    return {"history": torch.cat([clock, torch.randn(batch, rows, parameters["series"])], -1)}


@recipe(
    presets=dict(
        base=dict(num_latents=128, latent_dim=256, layers=6),
        tiny=SMALL | dict(layers=1, quantiles=3),
        quick=SMALL
        | dict(history=104, horizon=52, bands=39, num_latents=32, latent_dim=64, layers=2, quiet_start=True),
    ),
    sources=dict.fromkeys(
        ("series", "history", "horizon", "quantiles", "bands", "num_latents", "latent_dim", "layers", "activation"), OWN
    ),
    group=Encoder,
    objective=objective,
    training=dict(
        steps=500,
        batch=32,
        rate=1e-3,
        missing=["history"],
        quick=dict(steps=400, optimizer="muon", rate=2e-3, muon_rate=0.01),
    ),
    data=dict(
        co2="perceiver_kit.data.series:co2",
        elnino="perceiver_kit.data.series:elnino",
        path="perceiver_kit.data.series:series_files",
    ),
    random_inputs=random_history,
    processor="perceiver_kit.processors.series:forecast",
)
def forecasting(
    *,
    series: int = 1,
    history: int = 96,
    horizon: int = 24,
    quantiles: int = 9,
    bands: int = 48,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Forecasting of several series at any later times.

    Takes history (b, n, 1 + series): a time, then a reading of each series, of which NaN is a missing one. Returns
    future (b, k, series, quantiles): evenly spaced quantiles at k times, those of ``queries={"future": times}`` (k, 1)
    or (b, k, 1), or the next ``horizon`` steps. Times are in steps from the last reading, best about ``history`` before
    and ``horizon`` after it; readings are best standardised (``data.series.scaled``). The order of rows has no effect.

    >>> model = build("forecasting", preset="tiny", series=2)
    >>> history = torch.cat([torch.arange(-23.0, 1)[:, None], torch.randn(24, 2)], 1)[None]
    >>> model({"history": history}, queries={"future": torch.tensor([[0.5], [3.0], [5.5]])})["future"].shape
    torch.Size([1, 3, 2, 3])
    """
    check_positive("forecasting", history=history, horizon=horizon)
    span = history + horizon
    clock = Fourier(bands=bands, max_resolution=(span,), ranges=((-float(history), float(horizon)),), extrapolate=True)
    inputs = Inputs(history=Points(1, channels=series, missing=True, positions=clock))
    latents = Encoder(inputs.channels, activation=activation, **encoder)
    future = CoordinateQuery(clock, default=tuple((float(step + 1),) for step in range(horizon)))
    queries = Queries(future=future, min_padding=max(0, latents.latent_dim - future.channels))
    decoder = Decoder(queries.channels, latents.latent_dim, activation=activation)
    outputs = Outputs(future=Quantiles(series, quantiles=quantiles, in_channels=decoder.out_channels))
    return PerceiverIO(inputs, latents, queries, decoder, outputs)
