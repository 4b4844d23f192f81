"""Image classification from a convolutional stem with Fourier features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..activations import Activation
from ..declarations import HuggingFace, recipe
from ..encoders import Encoder
from ..inputs import ConvStem
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs.linear import Problem
from ..positions import Fourier
from . import _image_classification as images
from ._image_classification import COLAB
from ._shared import CLASSIFIER_NAMES, CLASSIFIER_SIZES, ENCODER_NAMES, ENCODER_SIZES, ORIGINAL, REFERENCE

TINY = images.TINY | dict(bands=8, max_resolution=(7, 7), channels=32)


@recipe(
    presets=dict(
        base=images.BASE, tiny=TINY, quick=TINY | dict(channels=64, stem_layers=2, conv_padding="same", blocks=1)
    ),
    sources=images.SOURCES
    | dict(
        channels=f"{COLAB}: 64",
        bands=f"{COLAB}: 64",
        max_resolution=f"{COLAB}: 56 × 56, a quarter of the image's",
        stem_layers=f"{COLAB}: 1",
        conv_padding=f"{REFERENCE}: 224 → 55; 'same' as in {ORIGINAL} gives 56",
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=1500, batch=64, rate=2e-3, quick=images.QUICK_TRAINING | dict(rate=4e-3, steps=1900)),
    data=images.DATA,
    reads=lambda parameters: dict(image_size=tuple(4 * side for side in parameters["max_resolution"])),
    random_inputs=images.random_image,
    processor="perceiver_kit.processors.recipes:classify_picture",
    huggingface=HuggingFace(
        "PerceiverForImageClassificationConvProcessing",
        ENCODER_NAMES
        | CLASSIFIER_NAMES
        | {
            "inputs.blocks.image.convs.0": "perceiver.input_preprocessor.convnet.conv",
            "inputs.blocks.image.norms.0": "perceiver.input_preprocessor.convnet.batchnorm",
        },
        ENCODER_SIZES | CLASSIFIER_SIZES,
        fixed=dict(
            image_channels=3, bands=64, max_resolution=(56, 56), channels=64, stem_layers=1, conv_padding="huggingface"
        ),
        labels=1000,
        processor="perceiver_kit.processors.huggingface:classify_picture",
    ),
)
def image_classification_conv(
    *,
    num_labels: int = 1000,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    channels: int = 64,
    bands: int = 64,
    max_resolution: tuple[int, int] = (56, 56),
    stem_layers: int = 1,
    conv_padding: Literal["same", "huggingface"] = "huggingface",
    image_channels: int = 3,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Image classification from a convolutional stem with 2D Fourier features (Perceiver IO, section 4.2).

    Takes image (b, image_channels, h, w) of any height and width and returns label (b, num_labels) logits. Each of
    ``stem_layers`` layers of the stem, convolution and pool, divides height and width by four.

    >>> build("image_classification_conv", preset="tiny")({"image": torch.rand(2, 3, 32, 32)})["label"].shape
    torch.Size([2, 10])
    """
    positions = Fourier(bands=bands, max_resolution=max_resolution)
    image = ConvStem(channels, layers=stem_layers, channels=image_channels, padding=conv_padding, positions=positions)
    return images.classifier(
        image,
        num_labels=num_labels,
        labels=labels,
        problem_type=problem_type,
        dropout=dropout,
        activation=activation,
        **encoder,
    )
