"""Image classification with the first Perceiver, which reads the image again and again."""

from __future__ import annotations

from collections.abc import Sequence

from ..activations import Activation
from ..declarations import recipe
from ..decoders import MeanPool
from ..encoders import Encoder
from ..inputs import Inputs, Pixels
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs import Classify, Outputs
from ..outputs.linear import Problem
from ..positions import Fourier
from . import _image_classification as images
from ._shared import LABELS_SOURCE, ORIGINAL, PROBLEM_SOURCE

PAPER = "Perceiver (Jaegle et al. 2021)"
TOTAL = f"{PAPER}: the published 44.9 million parameters are those of this sharing alone"
RUN = f"{ORIGINAL}, train/experiment.py, of Perceiver IO"


@recipe(
    presets=dict(
        base=images.BASE | dict(cross_attends=8, share_cross_attends="after_first", share_blocks=True),
        tiny=images.TINY | dict(bands=16, max_resolution=(28, 28), cross_attends=2),
        quick=images.TINY | dict(bands=16, max_resolution=(28, 28), cross_attends=2, self_widening=2),
    ),
    sources=dict(
        num_labels="ImageNet",
        labels=LABELS_SOURCE,
        problem_type=PROBLEM_SOURCE,
        image_channels=images.SOURCES["image_channels"],
        bands=RUN,
        max_resolution=RUN,
        num_latents=RUN,
        latent_dim=RUN,
        layers=RUN,
        blocks=RUN,
        cross_heads=RUN,
        self_heads=RUN,
        cross_widening=RUN,
        self_widening=RUN,
        cross_attends=TOTAL,
        share_cross_attends=TOTAL,
        share_blocks=TOTAL,
        activation="jax's tanh approximation of GELU, as in its successor",
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=1500, batch=32, rate=2e-3),
    data=images.DATA,
    reads=lambda parameters: dict(image_size=parameters["max_resolution"]),
    random_inputs=images.random_image,
    processor="perceiver_kit.processors.recipes:classify_picture",
)
def perceiver_image_classification(
    *,
    num_labels: int = 1000,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    bands: int = 64,
    max_resolution: tuple[int, int] = (224, 224),
    image_channels: int = 3,
    activation: Activation = "gelu_tanh",
    **encoder,
) -> PerceiverIO:
    """Image classification with the first Perceiver: cross-attention before each of 8 latent transformers.

    Takes image (b, image_channels, h, w) of any height and width and returns label (b, num_labels) logits, from the
    mean of the latents. The first cross-attention has its own weights, the others share theirs, and so do the
    transformers: 44,912,254 parameters.

    >>> build("perceiver_image_classification", preset="tiny")({"image": torch.rand(2, 3, 28, 28)})["label"].shape
    torch.Size([2, 10])
    """
    positions = Fourier(bands=bands, max_resolution=max_resolution)
    inputs = Inputs(image=Pixels((1, 1), channels=image_channels, positions=positions))
    latents = Encoder(inputs.channels, activation=activation, **encoder)
    decoder = MeanPool(latents.latent_dim)
    outputs = Outputs(label=Classify(num_labels, in_channels=decoder.out_channels, problem_type=problem_type))
    return PerceiverIO(inputs, latents, None, decoder, outputs, labels={"label": labels})
