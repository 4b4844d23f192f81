"""Classification of point clouds with the first Perceiver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_positive
from ..declarations import recipe
from ..decoders import MeanPool
from ..encoders import Encoder
from ..inputs import Inputs, Points
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs import Classify, Outputs
from ..outputs.linear import Problem
from ..positions import Fourier
from ._shared import LABELS_SOURCE, PROBLEM_SOURCE

PAPER = "Perceiver (Jaegle et al. 2021)"
MODELNET = f"{PAPER}, section 4.3"
IMAGENET = f"{MODELNET}: as for ImageNet"
SMALL: dict[str, Any] = dict(num_labels=8, max_frequency=8, num_latents=16, latent_dim=64, self_heads=4)


def random_points(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """Random points in [-1, 1], then random features."""
    channels = parameters["axes"] + parameters["features"]
    return {"points": torch.rand(batch, parameters["points"], channels) * 2 - 1}


@recipe(
    presets=dict(
        base=dict(
            num_latents=512, latent_dim=1024, layers=6, blocks=2, cross_attends=2, share_cross_attends="after_first"
        ),
        tiny=SMALL | dict(points=64, bands=4, layers=1),
        quick=SMALL | dict(points=256, bands=8, num_latents=32, layers=2, quiet_start=True, compete=True),
    ),
    sources=dict(
        num_labels="ModelNet40",
        labels=LABELS_SOURCE,
        problem_type=PROBLEM_SOURCE,
        points=f"{MODELNET}: 2,048",
        axes="ModelNet40",
        features=f"{MODELNET}: no additional features",
        bands=f"{MODELNET}: 64",
        max_frequency=f"{MODELNET}: 1120, ten times that of ImageNet",
        layers=f"{MODELNET}: 6 a block",
        blocks=f"{MODELNET}: 2",
        cross_attends=f"{MODELNET}: 2",
        share_cross_attends=IMAGENET,
        num_latents=IMAGENET,
        latent_dim=IMAGENET,
        activation="jax's tanh approximation of GELU, as in its successor",
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=600, batch=32, rate=2e-3, quick=dict(steps=600, optimizer="muon", muon_rate=0.02, rate=2e-3)),
    data=dict(
        shapes="perceiver_kit.data.points:shapes",
        furniture="perceiver_kit.data.points:furniture",
        path="perceiver_kit.data.points:cloud_folder",
    ),
    random_inputs=random_points,
    processor="perceiver_kit.processors.points:classify_points",
)
def point_cloud_classification(
    *,
    num_labels: int = 40,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    points: int = 2048,
    axes: int = 3,
    features: int = 0,
    bands: int = 64,
    max_frequency: int = 1120,
    activation: Activation = "gelu_tanh",
    **encoder,
) -> PerceiverIO:
    """Classification of point clouds with the first Perceiver (section 4.3, ModelNet40).

    Takes points (b, n, axes + features), coordinates in [-1, 1] first, and returns label (b, num_labels) logits, from
    the mean of the latents. The order of points has no effect, up to rounding. ``mask`` marks the points of smaller
    clouds. ``points`` is the number that data and processor take of a cloud; the model reads any number.
    ``data.points.normalised`` centres and scales a cloud. ``max_frequency`` is the highest of the Fourier features, in
    half periods over a coordinate's range.

    >>> model = build("point_cloud_classification", preset="tiny", num_labels=5)
    >>> model({"points": torch.rand(2, 300, 3)}, mask={"points": torch.rand(2, 300) < 0.5})["label"].shape
    torch.Size([2, 5])
    """
    check_positive("point_cloud_classification", points=points, axes=axes, max_frequency=max_frequency)
    positions = Fourier(bands=bands, max_resolution=(2 * max_frequency,) * axes)
    inputs = Inputs(points=Points(axes, channels=features, grid=(points,), positions=positions))
    latents = Encoder(inputs.channels, activation=activation, **encoder)
    decoder = MeanPool(latents.latent_dim)
    outputs = Outputs(label=Classify(num_labels, in_channels=decoder.out_channels, problem_type=problem_type))
    return PerceiverIO(inputs, latents, None, decoder, outputs, labels={"label": labels})
