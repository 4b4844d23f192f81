"""Object detection: a set of classes and boxes from learned queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..anchoring import anchor
from ..checks import check_class_names, check_image_size, check_positive, check_sizes
from ..decoders import Decoder, SetDecoder
from ..encoders import Encoder
from ..inputs import ConvStem, Inputs
from ..model import PerceiverIO
from ..objectives import Detection
from ..outputs import Boxes, Outputs, Project
from ..positions import Fourier, Projected
from ..queries import LearnedQuery, PositionQuery, Queries
from ..recipe import recipe
from ._shared import LABELS_SOURCE, PAPER, encoder_sources

DETR = "DETR (Carion et al. 2020)"
OWN = "the kit's own; no paper detects objects with a Perceiver IO"


def _random_image(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {"image": torch.rand(batch, 3, *check_image_size("object_detection", parameters["image_size"])) * 2 - 1}


@recipe(
    presets=dict(
        base=dict(num_latents=512, latent_dim=512, layers=6, blocks=2, cross_heads=1, self_heads=8),
        tiny=dict(
            image_size=32,
            num_labels=10,
            num_queries=8,
            channels=32,
            bands=4,
            num_latents=16,
            latent_dim=32,
            layers=1,
            blocks=1,
            self_heads=4,
            decoder_layers=1,
            decoder_heads=4,
        ),
        quick=dict(
            image_size=96,
            num_labels=10,
            num_queries=(6, 6),
            channels=48,
            stem_layers=2,
            bands=3,
            num_latents=36,
            latent_dim=64,
            layers=2,
            blocks=1,
            self_heads=4,
            decoder_layers=0,
            decoder_heads=1,
            anchored=True,
        ),
    ),
    sources=encoder_sources(
        OWN,
        image_size=f"{OWN}; the size that files are resized to, a model reads any",
        num_labels="COCO",
        labels=LABELS_SOURCE,
        num_queries=f"{DETR}, section 4: 100",
        channels=f"{PAPER}, appendix A: 64 channels of the convolutional stem",
        stem_layers=f"{PAPER}, appendix A: 1; each divides height and width by 4",
        bands=f"{PAPER}, appendix A: 64",
        decoder_layers=f"{DETR}, section 4: 6",
        decoder_heads=f"{DETR}, section 4: 8",
        anchored=f"{OWN}; DETR: random queries",
        num_latents=f"{PAPER}, appendix A: of image classification",
        latent_dim=OWN,
        layers=OWN,
    ),
    group=Encoder,
    objective=Detection,
    training=dict(
        steps=1500, batch=32, rate=1e-3, quick=dict(optimizer="muon", rate=2e-3, weight_decay=0.05, steps=850)
    ),
    data=dict(
        digits="perceiver_kit.data.tasks:digit_objects",
        path="perceiver_kit.data.objects:object_folder",
    ),
    random_inputs=_random_image,
    processor="perceiver_kit.processors.recipes:detect_objects",
)
def object_detection(
    *,
    image_size: int | tuple[int, int] = 384,
    num_labels: int = 80,
    labels: Sequence[str] | None = None,
    num_queries: int | tuple[int, int] = 100,
    channels: int = 64,
    stem_layers: int = 1,
    bands: int = 64,
    decoder_layers: int = 6,
    decoder_heads: int = 8,
    anchored: bool = False,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Object detection as set prediction, as in DETR, from a Perceiver IO's latents.

    Takes image (b, 3, h, w) of any size and returns class (b, num_queries, num_labels + 1) logits, of which the last is
    "no object", and box (b, num_queries, 4), centre x and y, width and height as shares of the picture. Class and box
    come from one query, which is decoded once. Queries read each other in each of ``decoder_layers``; with 0 layers
    they do not, and ``at`` and ``chunk`` are possible.

    ``num_queries`` is a number of learned queries, or a grid (rows, columns) of queries at places of the picture.
    ``anchored`` gives the initial weights of ``kit.anchor``: such queries start by reading at their place.

    >>> out = build("object_detection", preset="tiny")({"image": torch.rand(2, 3, 48, 64)})
    >>> out["class"].shape, out["box"].shape
    (torch.Size([2, 8, 11]), torch.Size([2, 8, 4]))
    """
    height, width = check_image_size("object_detection", image_size)
    check_positive("object_detection", num_labels=num_labels)
    check_positive("object_detection", least=0, decoder_layers=decoder_layers)
    check_positive("object_detection", stem_layers=stem_layers, most=16)
    stride = 4**stem_layers
    positions = Fourier(bands=bands, max_resolution=(-(-height // stride), -(-width // stride)))
    inputs = Inputs(image=ConvStem(channels, layers=stem_layers, positions=positions))
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    if isinstance(num_queries, int):
        query = LearnedQuery(num_queries, encoder.latent_dim)
    else:
        places = check_sizes("object_detection", "num_queries", num_queries)
        query = PositionQuery(Projected(Fourier(bands=bands, max_resolution=places), encoder.latent_dim), size=places)
    queries = Queries(image=query)
    options = dict(heads=decoder_heads, dropout=dropout, activation=activation)
    if decoder_layers:
        decoder = SetDecoder(queries.channels, encoder.latent_dim, layers=decoder_layers, **options)
    else:
        decoder = Decoder(queries.channels, encoder.latent_dim, **options)
    outputs = Outputs(
        {
            "class": Project(num_labels + 1, in_channels=decoder.out_channels),
            "box": Boxes(in_channels=decoder.out_channels),
        },
        of={"class": "image", "box": "image"},
    )
    names = None if labels is None else {"class": (*check_class_names("object_detection: labels", labels), "no object")}
    model = PerceiverIO(inputs, encoder, queries, decoder, outputs, labels=names)
    return anchor(model, {"image": torch.zeros(1, 3, height, width)}) if anchored else model
