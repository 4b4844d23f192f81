"""Classification of sets of entities, and of each entity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_positive
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Features, Inputs
from ..model import PerceiverIO
from ..objectives import Classification, Weighted
from ..outputs import Classify, Outputs, Project
from ..outputs.linear import Problem
from ..queries import InputQuery, LearnedQuery, Queries
from ._shared import LABELS_SOURCE, PAPER, PROBLEM_SOURCE, REFERENCE

STARCRAFT = f"{PAPER}, section 4.4"
OWN = "the kit's"
IMAGENET = f"{OWN}: as for ImageNet"
SMALL: dict[str, Any] = dict(features=12, num_labels=3, num_latents=8, latent_dim=32, layers=1, self_heads=4)


def objective() -> Weighted:
    """The loss of the recipe."""
    return Weighted(dict(label=Classification(), entities=Classification("entities")))


def random_entities(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """Random features of as many entities as data and processor take."""
    return {"entities": torch.randn(batch, parameters["entities"], parameters["features"])}


@recipe(
    presets=dict(
        base=dict(num_latents=32, latent_dim=1024, layers=3),
        tiny=SMALL | dict(entities=64),
        quick=SMALL | dict(entities=64, num_latents=16, latent_dim=64, layers=2, quiet_start=True, compete=True),
    ),
    sources=dict(
        num_labels=OWN,
        labels=LABELS_SOURCE,
        problem_type=PROBLEM_SOURCE,
        entities=f"{STARCRAFT}: 512",
        features=OWN,
        entity_labels=OWN,
        num_latents=f"{STARCRAFT}: 32",
        latent_dim=IMAGENET,
        layers=f"{STARCRAFT}: it replaces AlphaStar's Transformer of 3 layers (Vinyals et al. 2019)",
        self_heads=IMAGENET,
        activation=REFERENCE,
    ),
    group=Encoder,
    objective=objective,
    training=dict(steps=400, batch=32, rate=1e-3, quick=dict(steps=300, optimizer="muon", muon_rate=0.01, rate=1e-3)),
    data=dict(molecules="perceiver_kit.data.sets:molecules", path="perceiver_kit.data.sets:set_folder"),
    random_inputs=random_entities,
    processor="perceiver_kit.processors.sets:classify_set",
)
def set_classification(
    *,
    num_labels: int = 2,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    entities: int = 512,
    features: int = 256,
    entity_labels: int = 2,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Classification of a set, and of each of its entities (Perceiver IO, section 4.4, as in AlphaStar).

    Takes entities (b, n, features) and returns label (b, num_labels) and entities (b, n, entity_labels), both logits;
    with ``entity_labels=0`` the label alone. The order of entities has no effect on the label, up to rounding, and
    orders the entities of the output. ``mask`` marks the entities of smaller sets. ``entities`` is the largest set that
    data and processor take; the model reads any.

    >>> model = build("set_classification", preset="tiny", features=5)
    >>> out = model({"entities": torch.randn(2, 9, 5)}, mask={"entities": torch.rand(2, 9) < 0.5})
    >>> {name: tuple(output.shape) for name, output in out.items()}
    {'entities': (2, 9, 2), 'label': (2, 3)}
    """
    inputs = Inputs(entities=Features(features, grid=(entities,)))
    latents = Encoder(inputs.channels, activation=activation, **encoder)
    asked: dict[str, Any] = dict(label=LearnedQuery(1, latents.latent_dim))
    check_positive("set_classification", least=0, entity_labels=entity_labels)
    if entity_labels:
        asked["entities"] = InputQuery("entities", channels=inputs.channels)
    queries = Queries(asked)
    decoder = Decoder(queries.channels, latents.latent_dim, activation=activation)
    width = decoder.out_channels
    heads: dict[str, Any] = dict(label=Classify(num_labels, in_channels=width, problem_type=problem_type))
    if entity_labels:
        heads["entities"] = Project(entity_labels, in_channels=width)
    return PerceiverIO(inputs, latents, queries, decoder, Outputs(heads), labels={"label": labels})
