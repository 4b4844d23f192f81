"""Optical flow: how far each pixel of one frame has moved in the next."""

from __future__ import annotations

from ..attention import Gelu
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs, Neighbourhoods
from ..outputs import Flow, Outputs
from ..positions import Fourier
from ..queries import InputQuery, Queries
from ..registry import register
from ..tiling import Tiled
from .common import ORIGINAL, PAPER, REFERENCE, height_width

COLAB = f"{ORIGINAL}, colabs/optical_flow.ipynb"


@register(
    "recipes",
    tiny=dict(
        image_size=(32, 48),
        bands=16,
        channels=32,
        num_latents=64,
        latent_dim=64,
        layers=3,
        self_heads=4,
        tile_overlap=8,
    ),
    sources=dict(
        image_size=f"{PAPER}, section 4.2: trained on crops of 368 × 496; other sizes are tiled",
        bands=f"{PAPER}, appendix H: 64",
        channels=f"{PAPER}, appendix H: 54 values of two 3 × 3 patches to 64",
        num_latents=f"{PAPER}, appendix H",
        latent_dim=f"{PAPER}, appendix H",
        layers=f"{PAPER}, appendix H: 24",
        blocks=COLAB,
        cross_heads=COLAB,
        self_heads=COLAB,
        qk_channels=f"{REFERENCE}: the width of what is attended to",
        v_channels=f"{REFERENCE}: as qk_channels",
        cross_widening=COLAB,
        self_widening=COLAB,
        query_residual=f"{REFERENCE}: of the encoder",
        flow_scale=f"{COLAB}: 1/100 in training, times 20 in evaluation",
        tile_overlap=f"{COLAB}: at least 20 pixels",
        dropout=f"{COLAB}: none",
        gelu=f"{REFERENCE}: exact; the original computes jax's tanh approximation",
    ),
)
def optical_flow(
    *,
    image_size: int | tuple[int, int] = (368, 496),
    bands: int = 64,
    channels: int = 64,
    num_latents: int = 2048,
    latent_dim: int = 512,
    layers: int = 24,
    blocks: int = 1,
    cross_heads: int = 1,
    self_heads: int = 16,
    qk_channels: int | None = None,
    v_channels: int | None = None,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    flow_scale: float = 0.2,
    tile_overlap: int = 20,
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> Tiled:
    """Optical flow between two frames (Perceiver IO, section 4.2).

    Takes frames (b, 2, 3, h, w) in [-1, 1] and returns flow (b, 2, h, w) in pixels, x then y: where each pixel of
    the first frame is found in the second. Sizes other than ``image_size`` go through overlapping tiles of it.

    >>> model = build("optical_flow", preset="tiny")  # made for 32 × 48
    >>> model({"frames": torch.rand(1, 2, 3, 40, 60) * 2 - 1})["flow"].shape
    torch.Size([1, 2, 40, 60])
    """
    size = height_width("optical_flow", image_size)
    positions = Fourier(bands=bands, max_resolution=size)
    inputs = Inputs(frames=Neighbourhoods(channels, positions=positions))
    encoder = Encoder(
        inputs.channels,
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
    queries = Queries(flow=InputQuery("frames", channels=inputs.channels))
    decoder = Decoder(queries.channels, latent_dim, dropout=dropout, gelu=gelu)
    outputs = Outputs(flow=Flow(queries.channels, scale=flow_scale))
    return Tiled(inputs, encoder, queries, decoder, outputs, tile=size, min_overlap=tile_overlap)
