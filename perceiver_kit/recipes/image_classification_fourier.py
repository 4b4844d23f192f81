"""Image classification from pixels with Fourier features."""

from __future__ import annotations

from collections.abc import Sequence

from ..activations import Activation
from ..declarations import HuggingFace, recipe
from ..encoders import Encoder
from ..inputs import Pixels
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs.linear import Problem
from ..positions import Fourier
from . import _image_classification as images
from ._shared import CLASSIFIER_NAMES, CLASSIFIER_SIZES, ENCODER_NAMES, ENCODER_SIZES, PAPER

TINY = images.TINY | dict(bands=16, max_resolution=(28, 28))


@recipe(
    presets=dict(base=images.BASE, tiny=TINY, quick=TINY | dict(blocks=1)),
    sources=images.SOURCES
    | dict(
        bands=f"{PAPER}, appendix A: 64",
        max_resolution=f"{images.COLAB}: 224 × 224, whatever the image's size",
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=2000, batch=32, rate=2e-3, quick=images.QUICK_TRAINING | dict(rate=4e-3, steps=1800)),
    data=images.DATA,
    reads=lambda parameters: dict(image_size=parameters["max_resolution"]),
    random_inputs=images.random_image,
    processor="perceiver_kit.processors.recipes:classify_picture",
    huggingface=HuggingFace(
        "PerceiverForImageClassificationFourier",
        ENCODER_NAMES | CLASSIFIER_NAMES,
        ENCODER_SIZES | CLASSIFIER_SIZES,
        fixed=dict(image_channels=3, bands=64, max_resolution=(224, 224)),
        labels=1000,
        processor="perceiver_kit.processors.huggingface:classify_picture",
    ),
)
def image_classification_fourier(
    *,
    num_labels: int = 1000,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    bands: int = 64,
    max_resolution: tuple[int, int] = (224, 224),
    image_channels: int = 3,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Image classification from pixels with 2D Fourier features (Perceiver IO, section 4.2).

    Takes image (b, image_channels, h, w) of any height and width and returns label (b, num_labels) logits.

    >>> build("image_classification_fourier", preset="tiny")({"image": torch.rand(2, 3, 28, 28)})["label"].shape
    torch.Size([2, 10])
    """
    image = Pixels((1, 1), channels=image_channels, positions=Fourier(bands=bands, max_resolution=max_resolution))
    return images.classifier(
        image,
        num_labels=num_labels,
        labels=labels,
        problem_type=problem_type,
        dropout=dropout,
        activation=activation,
        **encoder,
    )
