"""Semantic segmentation: a class for each pixel, of pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_image_size, check_positive
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..errors import AssemblyError
from ..inputs import ConvStem, Inputs
from ..objectives import Segmentation
from ..outputs import Outputs, ToPatches
from ..positions import Fourier
from ..queries import InputQuery, Queries
from ..tiling import Tiled
from ._shared import LABELS_SOURCE, PAPER, encoder_sources

OWN = "the kit's own; no paper segments images with a Perceiver IO"
PATCH = 4
"""The stem makes a row of so many pixels on each side."""


def _random_image(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {"image": torch.rand(batch, 3, *check_image_size("semantic_segmentation", parameters["image_size"])) * 2 - 1}


@recipe(
    presets=dict(
        base=dict(num_latents=512, latent_dim=512, layers=6, blocks=2, cross_heads=1, self_heads=8),
        tiny=dict(
            image_size=(32, 40),
            num_labels=5,
            channels=32,
            bands=4,
            num_latents=16,
            latent_dim=32,
            layers=1,
            blocks=1,
            self_heads=4,
            tile_overlap=4,
        ),
        quick=dict(
            image_size=96,
            num_labels=11,
            channels=64,
            bands=12,
            num_latents=64,
            latent_dim=64,
            layers=2,
            blocks=1,
            self_heads=4,
            decoder_heads=4,
            tile_overlap=32,
        ),
    ),
    sources=encoder_sources(
        OWN,
        image_size=f"{OWN}: pictures of other sizes are tiled",
        num_labels="ADE20K",
        labels=LABELS_SOURCE,
        channels=f"{PAPER}, appendix A: 64 channels of the convolutional stem",
        bands=f"{PAPER}, appendix A: 64",
        decoder_heads=OWN,
        tile_overlap=OWN,
        num_latents=f"{PAPER}, appendix A: of image classification",
        latent_dim=OWN,
        layers=OWN,
    ),
    group=Encoder,
    objective=Segmentation,
    training=dict(
        steps=1500, batch=32, rate=1e-3, quick=dict(optimizer="muon", rate=2e-3, weight_decay=0.05, steps=400)
    ),
    data=dict(
        digits="perceiver_kit.data.tasks:digit_masks",
        path="perceiver_kit.data.segments:mask_folder",
    ),
    random_inputs=_random_image,
    processor="perceiver_kit.processors.recipes:segment_picture",
)
def semantic_segmentation(
    *,
    image_size: int | tuple[int, int] = 256,
    num_labels: int = 150,
    labels: Sequence[str] | None = None,
    channels: int = 64,
    bands: int = 64,
    decoder_heads: int = 1,
    tile_overlap: int = 64,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> Tiled:
    """Semantic segmentation: the class of each pixel, as flow is decoded in Perceiver IO, section 4.2.

    Takes image (b, 3, h, w) and returns label (b, num_labels, h, w) logits. Sizes other than ``image_size`` go through
    overlapping tiles of it. A convolutional stem makes a row of each 4 × 4 pixels; the row is the query of this patch,
    too, and leaves as its logits.

    >>> build("semantic_segmentation", preset="tiny")({"image": torch.rand(2, 3, 20, 30)})["label"].shape
    torch.Size([2, 5, 20, 30])
    """
    size = check_image_size("semantic_segmentation", image_size)
    check_positive("semantic_segmentation", num_labels=num_labels)
    if any(side % PATCH for side in size):
        raise AssemblyError(f"semantic_segmentation: image_size must be divisible by {PATCH}, got {size}")
    positions = Fourier(bands=bands, max_resolution=(size[0] // PATCH, size[1] // PATCH))
    inputs = Inputs(image=ConvStem(channels, positions=positions))
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(label=InputQuery("image", channels=inputs.channels))
    decoder = Decoder(
        queries.channels,
        encoder.latent_dim,
        heads=decoder_heads,
        query_residual=True,
        dropout=dropout,
        activation=activation,
    )
    outputs = Outputs(label=ToPatches((PATCH, PATCH), values=num_labels, in_channels=queries.channels))
    return Tiled(
        inputs, encoder, queries, decoder, outputs, tile=size, min_overlap=tile_overlap, labels={"label": labels}
    )
