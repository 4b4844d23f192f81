"""What the three image classifiers share: everything but how an image becomes rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Input, Inputs
from ..model import PerceiverIO
from ..outputs import Classify, Outputs
from ..outputs.linear import Problem
from ..queries import LearnedQuery, Queries
from ._shared import LABELS_SOURCE, ORIGINAL, PAPER, PROBLEM_SOURCE, encoder_sources

COLAB = f"{ORIGINAL}, colabs/imagenet_classification.ipynb"
SOURCES = encoder_sources(
    COLAB,
    num_labels="ImageNet",
    labels=LABELS_SOURCE,
    problem_type=PROBLEM_SOURCE,
    image_channels=f"{COLAB}: red, green, blue",
    num_latents=f"{PAPER}, appendix A",
    latent_dim=f"{PAPER}, appendix A",
    layers=f"{PAPER}, appendix A: 6 a block",
    blocks=f"{PAPER}, appendix A: 8 with the same weights",
)
BASE: dict[str, Any] = dict(num_latents=512, latent_dim=1024, layers=6, blocks=8, cross_heads=1, self_heads=8)
TINY: dict[str, Any] = dict(num_labels=10, num_latents=32, latent_dim=128, layers=3, blocks=2)
# Of the preset quick: for digits with the data mnist_warped.
QUICK_TRAINING: dict[str, Any] = dict(optimizer="muon", rate=2e-3, weight_decay=0.05, batch=32, steps=1600)
DATA = dict(
    mnist="perceiver_kit.data.tasks:mnist",
    mnist_warped="perceiver_kit.data.tasks:mnist_warped",
    path="perceiver_kit.data.folders:image_folder",
)


def classifier(
    image: Input,
    *,
    num_labels: int,
    labels: Sequence[str] | None,
    problem_type: Problem | None,
    decoder_residual: bool = True,
    dropout: float,
    activation: Activation,
    **encoder,
) -> PerceiverIO:
    """Image rows → latents → one learned query → class logits."""
    inputs = Inputs(image=image)
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(label=LearnedQuery(1, encoder.latent_dim))
    decoder = Decoder(
        queries.channels, encoder.latent_dim, query_residual=decoder_residual, dropout=dropout, activation=activation
    )
    outputs = Outputs(label=Classify(num_labels, in_channels=queries.channels, problem_type=problem_type))
    return PerceiverIO(inputs, encoder, queries, decoder, outputs, labels={"label": labels})


def random_image(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """A random image in [-1, 1]."""
    size = parameters["image_size"]
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return {"image": torch.rand(batch, parameters["image_channels"], height, width) * 2 - 1}
