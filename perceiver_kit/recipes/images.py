"""Image classification from pixels with learned positions, pixels with Fourier features, or a convolutional stem."""

from __future__ import annotations

from typing import Any, Literal

from ..attention import Gelu
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Conv1x1, ConvStem, Inputs, Pixels
from ..inputs.base import Input
from ..model import PerceiverIO
from ..outputs import Classify, Outputs
from ..positions import Fourier, Learned, Projected, Start
from ..queries import LearnedQuery, Queries
from ..registry import register
from .common import ORIGINAL, PAPER, REFERENCE, height_width

COLAB = f"{ORIGINAL}, colabs/imagenet_classification.ipynb"
SOURCES = dict(
    num_labels="ImageNet",
    num_latents=f"{PAPER}, appendix A",
    latent_dim=f"{PAPER}, appendix A",
    layers=f"{PAPER}, appendix A: 6 a block",
    blocks=f"{PAPER}, appendix A: 8 with the same weights",
    cross_heads=COLAB,
    self_heads=COLAB,
    qk_channels=f"{REFERENCE}: the width of what is attended to",
    v_channels=f"{REFERENCE}: as qk_channels",
    cross_widening=COLAB,
    self_widening=COLAB,
    query_residual=f"{REFERENCE}: of the encoder",
    dropout=f"{COLAB}: none",
    gelu=f"{REFERENCE}: exact; the original computes jax's tanh approximation",
)
TINY: dict[str, Any] = dict(num_labels=10, num_latents=32, latent_dim=128, layers=3, blocks=2)


@register(
    "recipes",
    tiny=TINY | dict(image_size=28, channels=64, blocks=1, position_start="sines", position_deviation=1.0),
    sources=SOURCES
    | dict(
        image_size=f"{PAPER}, section 4.2: trained on 224 × 224; other sizes interpolate its positions",
        channels=f"{COLAB}: 1×1 convolution to 256, learned positions of 256 projected to 256",
        decoder_residual=f"{REFERENCE}: on; off in {COLAB}",
        position_start=f"{COLAB}: a cut normal",
        position_deviation=COLAB,
    ),
)
def image_classification_learned(
    *,
    num_labels: int = 1000,
    image_size: int | tuple[int, int] = 224,
    channels: int = 256,
    num_latents: int = 512,
    latent_dim: int = 1024,
    layers: int = 6,
    blocks: int = 8,
    cross_heads: int = 1,
    self_heads: int = 8,
    qk_channels: int | None = None,
    v_channels: int | None = None,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    decoder_residual: bool = True,
    position_start: Start = "normal",
    position_deviation: float = 0.02,
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> PerceiverIO:
    """Image classification with learned positions (Perceiver IO, section 4.2): no knowledge of the plane at all.

    Takes image (b, 3, h, w) and returns label (b, num_labels) logits. Any height and width will do: the learned
    positions of ``image_size`` are interpolated to it.

    >>> model = build("image_classification_learned", preset="tiny", num_labels=5)
    >>> [model({"image": torch.rand(2, 3, side, side)})["label"].shape for side in (28, 40)]
    [torch.Size([2, 5]), torch.Size([2, 5])]
    """
    size = height_width("image_classification_learned", image_size)
    learned = Learned(size, channels, interpolate=True, start=position_start, deviation=position_deviation)
    return _classifier(
        Conv1x1(channels, positions=Projected(learned, channels)),
        decoder_residual=decoder_residual,
        num_labels=num_labels,
        num_latents=num_latents,
        latent_dim=latent_dim,
        layers=layers,
        blocks=blocks,
        cross_heads=cross_heads,
        self_heads=self_heads,
        qk_channels=qk_channels,
        v_channels=v_channels,
        cross_widening=cross_widening,
        self_widening=self_widening,
        query_residual=query_residual,
        dropout=dropout,
        gelu=gelu,
    )


@register(
    "recipes",
    tiny=TINY | dict(bands=16, max_resolution=(28, 28)),
    sources=SOURCES
    | dict(bands=f"{PAPER}, appendix A: 64", max_resolution=f"{COLAB}: 224 × 224, whatever the image's size"),
)
def image_classification_fourier(
    *,
    num_labels: int = 1000,
    bands: int = 64,
    max_resolution: tuple[int, int] = (224, 224),
    num_latents: int = 512,
    latent_dim: int = 1024,
    layers: int = 6,
    blocks: int = 8,
    cross_heads: int = 1,
    self_heads: int = 8,
    qk_channels: int | None = None,
    v_channels: int | None = None,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> PerceiverIO:
    """Image classification from pixels with 2D Fourier features (Perceiver IO, section 4.2).

    Takes image (b, 3, h, w) of any height and width and returns label (b, num_labels) logits.

    >>> build("image_classification_fourier", preset="tiny")({"image": torch.rand(2, 3, 28, 28)})["label"].shape
    torch.Size([2, 10])
    """
    return _classifier(
        Pixels((1, 1), positions=Fourier(bands=bands, max_resolution=max_resolution)),
        decoder_residual=True,
        num_labels=num_labels,
        num_latents=num_latents,
        latent_dim=latent_dim,
        layers=layers,
        blocks=blocks,
        cross_heads=cross_heads,
        self_heads=self_heads,
        qk_channels=qk_channels,
        v_channels=v_channels,
        cross_widening=cross_widening,
        self_widening=self_widening,
        query_residual=query_residual,
        dropout=dropout,
        gelu=gelu,
    )


@register(
    "recipes",
    tiny=TINY | dict(bands=8, max_resolution=(7, 7), channels=32),
    sources=SOURCES
    | dict(
        channels=f"{COLAB}: 64",
        bands=f"{COLAB}: 64",
        max_resolution=f"{COLAB}: 56 × 56, a quarter of the image's",
        conv_padding=f"{REFERENCE}: 224 → 55; 'same' as in {ORIGINAL} gives 56",
    ),
)
def image_classification_conv(
    *,
    num_labels: int = 1000,
    channels: int = 64,
    bands: int = 64,
    max_resolution: tuple[int, int] = (56, 56),
    conv_padding: Literal["same", "huggingface"] = "huggingface",
    num_latents: int = 512,
    latent_dim: int = 1024,
    layers: int = 6,
    blocks: int = 8,
    cross_heads: int = 1,
    self_heads: int = 8,
    qk_channels: int | None = None,
    v_channels: int | None = None,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> PerceiverIO:
    """Image classification from a convolutional stem with 2D Fourier features (Perceiver IO, section 4.2).

    Takes image (b, 3, h, w) of any height and width and returns label (b, num_labels) logits.

    >>> build("image_classification_conv", preset="tiny")({"image": torch.rand(2, 3, 32, 32)})["label"].shape
    torch.Size([2, 10])
    """
    positions = Fourier(bands=bands, max_resolution=max_resolution)
    return _classifier(
        ConvStem(channels, padding=conv_padding, positions=positions),
        decoder_residual=True,
        num_labels=num_labels,
        num_latents=num_latents,
        latent_dim=latent_dim,
        layers=layers,
        blocks=blocks,
        cross_heads=cross_heads,
        self_heads=self_heads,
        qk_channels=qk_channels,
        v_channels=v_channels,
        cross_widening=cross_widening,
        self_widening=self_widening,
        query_residual=query_residual,
        dropout=dropout,
        gelu=gelu,
    )


def _classifier(
    image: Input,
    *,
    num_labels: int,
    latent_dim: int,
    decoder_residual: bool,
    dropout: float,
    gelu: Gelu,
    **sizes: Any,
) -> PerceiverIO:
    """What the three have in common: everything but how an image becomes rows."""
    inputs = Inputs(image=image)
    encoder = Encoder(inputs.channels, latent_dim=latent_dim, dropout=dropout, gelu=gelu, **sizes)
    queries = Queries(label=LearnedQuery(1, latent_dim))
    decoder = Decoder(latent_dim, latent_dim, query_residual=decoder_residual, dropout=dropout, gelu=gelu)
    return PerceiverIO(inputs, encoder, queries, decoder, Outputs(label=Classify(latent_dim, num_labels)))
