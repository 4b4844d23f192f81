"""Image classification from pixels with learned positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..activations import Activation
from ..checking import check_image_size
from ..declarations import HuggingFace, recipe
from ..encoders import Encoder
from ..errors import CheckpointError
from ..inputs import Conv1x1
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs.linear import Problem
from ..positions import Learned, Projected, Start
from . import _image_classification as images
from ._image_classification import COLAB
from ._shared import CLASSIFIER_NAMES, CLASSIFIER_SIZES, ENCODER_NAMES, ENCODER_SIZES, PAPER, REFERENCE

TINY = images.TINY | dict(image_size=28, channels=64, blocks=1, position_start="sines", position_deviation=1.0)


def _write_size(parameters: Any) -> dict[str, Any]:
    height, width = check_image_size("image_classification_learned", parameters["image_size"])
    if height != width:
        raise CheckpointError(f"image_size must be square, got {(height, width)}")
    return {"image_size": height}


@recipe(
    presets=dict(
        base=images.BASE,
        tiny=TINY,
        quick=TINY,
    ),
    sources=images.SOURCES
    | dict(
        image_size=f"{PAPER}, section 4.2: trained on 224 × 224; other sizes interpolate its positions",
        channels=f"{COLAB}: 1×1 convolution to 256, learned positions of 256 projected to 256",
        decoder_residual=f"{REFERENCE}: on; off in {COLAB}",
        position_start=f"{COLAB}: a cut normal",
        position_deviation=COLAB,
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=4500, batch=32, rate=3e-3, quick=images.QUICK_TRAINING),
    data=images.DATA,
    random_inputs=images.random_image,
    processor="perceiver_kit.processors.recipes:classify_picture",
    huggingface=HuggingFace(
        "PerceiverForImageClassificationLearned",
        ENCODER_NAMES
        | CLASSIFIER_NAMES
        | {
            "inputs.blocks.image.conv": "perceiver.input_preprocessor.convnet_1x1",
            "inputs.blocks.image.positions.positions.table": (
                "perceiver.input_preprocessor.position_embeddings.position_embeddings"
            ),
            "inputs.blocks.image.positions.project": "perceiver.input_preprocessor.positions_projection",
        },
        ENCODER_SIZES | CLASSIFIER_SIZES | {"image_size": ("image_size", 56)},
        fixed=dict(image_channels=3, channels=256, decoder_residual=True),
        labels=1000,
        write=_write_size,
        unwritten=("position_start", "position_deviation"),
        processor="perceiver_kit.processors.huggingface:classify_picture",
    ),
)
def image_classification_learned(
    *,
    num_labels: int = 1000,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    image_size: int | tuple[int, int] = 224,
    channels: int = 256,
    decoder_residual: bool = True,
    position_start: Start = "normal",
    position_deviation: float = 0.02,
    image_channels: int = 3,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Image classification with learned positions (Perceiver IO, section 4.2): no knowledge of the plane at all.

    Takes image (b, image_channels, h, w) and returns label (b, num_labels) logits. Any height and width will do:
    the learned positions of ``image_size`` are interpolated to it.

    >>> model = build("image_classification_learned", preset="tiny", num_labels=5)
    >>> [model({"image": torch.rand(2, 3, side, side)})["label"].shape for side in (28, 40)]
    [torch.Size([2, 5]), torch.Size([2, 5])]
    """
    size = check_image_size("image_classification_learned", image_size)
    learned = Learned(size, channels, interpolate=True, start=position_start, deviation=position_deviation)
    image = Conv1x1(channels, channels=image_channels, positions=Projected(learned, channels))
    return images.classifier(
        image,
        num_labels=num_labels,
        labels=labels,
        problem_type=problem_type,
        decoder_residual=decoder_residual,
        dropout=dropout,
        activation=activation,
        **encoder,
    )
