"""Object detection: a set of classes and boxes from learned queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..activations import Activation
from ..checking import check_class_names, check_image_size, check_positive
from ..declarations import recipe
from ..decoders import Decoder, SetDecoder
from ..encoders import Encoder
from ..inputs import ConvStem, Inputs
from ..model import PerceiverIO
from ..objectives import Detection
from ..outputs import Boxes, Outputs, Project
from ..positions import Fourier
from ..queries import InputQuery, LearnedQuery, Queries
from ._shared import LABELS_SOURCE, PAPER, encoder_sources

SIZE = 0.2
"""Width and height of boxes that start at their queries' places."""
DETR = "DETR (Carion et al. 2020)"
OWN = "the kit's own; no paper detects objects with a Perceiver IO"


def _random_image(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {"image": torch.rand(batch, 3, *check_image_size("object_detection", parameters["image_size"])) * 2 - 1}


def _most_objects(parameters: dict[str, Any]) -> dict[str, Any]:
    """The number of queries, which is the most objects of a picture."""
    size, stride = check_image_size("object_detection", parameters["image_size"]), 4 ** parameters["stem_layers"]
    rows = math.prod(-(-side // stride) for side in size)
    return {"most_objects": rows if parameters["num_queries"] is None else parameters["num_queries"]}


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
            num_queries=None,
            channels=32,
            stem_layers=2,
            bands=3,
            num_latents=36,
            latent_dim=64,
            layers=2,
            blocks=1,
            self_heads=4,
            decoder_layers=0,
            decoder_heads=1,
        ),
    ),
    sources=encoder_sources(
        OWN,
        image_size=f"{OWN}; the size that files are resized to, a model reads any",
        num_labels="COCO",
        labels=LABELS_SOURCE,
        num_queries=f"{DETR}, section 4: 100; None, the rows of the stem: {OWN}",
        channels=f"{PAPER}, appendix A: 64 channels of the convolutional stem",
        stem_layers=f"{PAPER}, appendix A: 1; each divides height and width by 4",
        bands=f"{PAPER}, appendix A: 64",
        decoder_layers=f"{DETR}, section 4: 6",
        decoder_heads=f"{DETR}, section 4: 8",
        num_latents=f"{PAPER}, appendix A: of image classification",
        latent_dim=OWN,
        layers=OWN,
    ),
    group=Encoder,
    # With DETR's class cost of 1 boxes are learned first: after 1,000 steps of `quick` AP50 is 0.65, with 5 it is 0.80.
    objective=partial(Detection, class_cost=5.0),
    training=dict(
        steps=1500,
        batch=32,
        rate=1e-3,
        quick=dict(optimizer="muon", rate=2e-3, weight_decay=0.05, steps=1800, batch=16),
    ),
    data=dict(
        digits="perceiver_kit.data.tasks:digit_objects",
        path="perceiver_kit.data.objects:object_folder",
    ),
    reads=_most_objects,
    random_inputs=_random_image,
    processor="perceiver_kit.processors.recipes:detect_objects",
)
def object_detection(
    *,
    image_size: int | tuple[int, int] = 384,
    num_labels: int = 80,
    labels: Sequence[str] | None = None,
    num_queries: int | None = 100,
    channels: int = 64,
    stem_layers: int = 1,
    bands: int = 64,
    decoder_layers: int = 6,
    decoder_heads: int = 8,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Object detection as set prediction, as in DETR, from a Perceiver IO's latents.

    Takes image (b, 3, h, w) of any size and returns class (b, num_queries, num_labels + 1) logits, of which the last is
    "no object", and box (b, num_queries, 4), centre x and y, width and height as shares of the picture. Class and box
    come from one query, which is decoded once. Queries read each other in each of ``decoder_layers``; with 0 layers
    they do not, and ``at`` and ``chunk`` are possible.

    ``num_queries`` is a number of learned queries. With None each row of the stem is a query, as in flow: it carries
    the picture at its place, and starts with a box there if the decoder has no layers.

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
    if num_queries is None:
        query = InputQuery("image", channels=inputs.channels)
    else:
        query = LearnedQuery(num_queries, encoder.latent_dim)
    queries = Queries(image=query)
    options = dict(heads=decoder_heads, dropout=dropout, activation=activation)
    if decoder_layers:
        decoder = SetDecoder(queries.channels, encoder.latent_dim, layers=decoder_layers, **options)
    else:
        decoder = Decoder(queries.channels, encoder.latent_dim, query_residual=True, **options)
    outputs = Outputs(
        {
            "class": Project(num_labels + 1, in_channels=decoder.out_channels),
            "box": Boxes(in_channels=decoder.out_channels),
        },
        of={"class": "image", "box": "image"},
    )
    names = None if labels is None else {"class": (*check_class_names("object_detection: labels", labels), "no object")}
    model = PerceiverIO(inputs, encoder, queries, decoder, outputs, labels=names)
    if num_queries is None and not decoder_layers:
        _start_at_places(decoder, outputs, positions, (-(-height // stride), -(-width // stride)))
    return model


@torch.no_grad()
def _start_at_places(decoder: Any, outputs: Any, positions: Fourier, grid: tuple[int, int]) -> None:
    """Each query starts with a box around its own place: objects are then matched with queries near them.

    The decoder starts as the identity, so that the positions in a query's row decide its box.
    """
    for branch in (decoder.cross.attention.output, decoder.cross.mlp[-1]):
        branch.weight.zero_()
        branch.bias.zero_()
    project = outputs.blocks["box"].project
    places = torch.meshgrid(*((torch.arange(size) + 0.5) / size for size in grid), indexing="ij")
    wanted = rearrange([places[1], places[0]], "xy h w -> (h w) xy").logit()
    rows = torch.cat([positions(grid, None), torch.ones(len(wanted), 1)], -1).to(project.weight.device)
    fitted = (torch.linalg.pinv(rows.double(), rtol=1e-6) @ wanted.to(rows.device).double()).float()
    project.weight.zero_()
    project.weight[:2, -positions.channels :] = rearrange(fitted[:-1], "c xy -> xy c")
    project.bias[:2], project.bias[2:] = fitted[-1], math.log(SIZE / (1 - SIZE))
