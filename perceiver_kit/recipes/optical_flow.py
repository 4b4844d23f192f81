"""Optical flow: how far each pixel of one frame has moved in the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_image_size, check_positive
from ..declarations import HuggingFace, recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..errors import AssemblyError
from ..inputs import Inputs, Matches, Neighbourhoods
from ..objectives import EndPointError
from ..outputs import Flow, Outputs
from ..positions import Fourier
from ..queries import InputQuery, Queries
from ..tiling import Tiled
from ._shared import DECODER_NAMES, ENCODER_NAMES, ENCODER_SIZES, ORIGINAL, PAPER, encoder_sources

COLAB = f"{ORIGINAL}, colabs/optical_flow.ipynb"


def _read_size(config: Any) -> dict[str, Any]:
    size = tuple(config.get("train_size", (368, 496)))
    return {"image_size": size, "tile_overlap": min(20, min(size) // 2)}


def _write_size(parameters: Any) -> dict[str, Any]:
    return {"train_size": [*check_image_size("optical_flow", parameters["image_size"])]}


def _random_frames(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    channels = parameters["image_channels"]
    return {
        "frames": torch.rand(batch, 2, channels, *check_image_size("optical_flow", parameters["image_size"])) * 2 - 1
    }


@recipe(
    presets=dict(
        base=dict(num_latents=2048, latent_dim=512, layers=24, cross_heads=1, self_heads=16),
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
        quick=dict(
            image_size=(32, 48),
            bands=8,
            channels=48,
            matches=6,
            patch_size=2,
            decoder_residual=True,
            flow_scale=1.0,
            num_latents=64,
            latent_dim=64,
            layers=3,
            self_heads=4,
            compete=True,
            quiet_start=True,
            tile_overlap=8,
        ),
    ),
    sources=encoder_sources(
        COLAB,
        image_size=f"{PAPER}, section 4.2: trained on crops of 368 × 496; other sizes are tiled",
        image_channels=f"{COLAB}: red, green, blue",
        bands=f"{PAPER}, appendix H: 64",
        channels=f"{PAPER}, appendix H: 54 values of two 3 × 3 patches to 64",
        num_latents=f"{PAPER}, appendix H",
        latent_dim=f"{PAPER}, appendix H",
        layers=f"{PAPER}, appendix H: 24",
        flow_scale=f"{COLAB}: 1/100 in training, times 20 in evaluation",
        matches=f"{PAPER}, appendix H: none, only neighbourhoods",
        patch_size=f"{PAPER}, appendix H: a row for each pixel",
        decoder_residual=f"{COLAB}: none",
        tile_overlap=f"{COLAB}: at least 20 pixels",
    ),
    group=Encoder,
    objective=EndPointError,
    training=dict(
        steps=2000, batch=16, rate=1e-3, quick=dict(optimizer="muon", steps=1500, rate=2e-3, weight_decay=0.05)
    ),
    data=dict(
        flow="perceiver_kit.data.tasks:flow",
        path="perceiver_kit.data.folders:photo_folder",
        sintel="perceiver_kit.data.flow_benchmarks:sintel",
        kitti="perceiver_kit.data.flow_benchmarks:kitti",
    ),
    # Matches see far: frames of a camera move more than 0.15 of their side.
    reads=lambda parameters: {} if parameters["matches"] is None else {"train_reach": 0.2},
    random_inputs=_random_frames,
    processor="perceiver_kit.processors.recipes:find_flow",
    huggingface=HuggingFace(
        "PerceiverForOpticalFlow",
        ENCODER_NAMES
        | DECODER_NAMES
        | {
            "inputs.blocks.frames.project": "perceiver.input_preprocessor.conv_after_patches",
            "outputs.blocks.flow.project": "perceiver.decoder.decoder.final_layer",
        },
        ENCODER_SIZES,
        fixed=dict(
            image_channels=3, bands=64, channels=64, flow_scale=0.2, matches=None, patch_size=1, decoder_residual=False
        ),
        read=_read_size,
        write=_write_size,
        unwritten=("tile_overlap",),
    ),
)
def optical_flow(
    *,
    image_size: int | tuple[int, int] = (368, 496),
    image_channels: int = 3,
    bands: int = 64,
    channels: int = 64,
    flow_scale: float = 0.2,
    matches: int | None = None,
    patch_size: int = 1,
    decoder_residual: bool = False,
    tile_overlap: int = 20,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> Tiled:
    """Optical flow between two frames (Perceiver IO, section 4.2).

    Takes frames (b, 2, image_channels, h, w) in [-1, 1] and returns flow (b, 2, h, w) in pixels, x then y: where
    each pixel of the first frame is found in the second. Sizes other than ``image_size`` go through overlapping tiles
    of it.

    With ``matches``, a radius in pixels, rows are ``inputs.Matches`` of patches of ``patch_size`` pixels, and flow
    leaves as such patches: a prior that the published model does not have.

    >>> model = build("optical_flow", preset="tiny")  # made for 32 × 48
    >>> model({"frames": torch.rand(1, 2, 3, 40, 60) * 2 - 1})["flow"].shape
    torch.Size([1, 2, 40, 60])
    """
    size = check_image_size("optical_flow", image_size)
    check_positive("optical_flow", patch_size=patch_size)
    if size[0] % patch_size or size[1] % patch_size or (matches is None and patch_size > 1):
        raise AssemblyError(
            f"optical_flow: patch_size must divide image_size {size}, and be 1 without matches; got {patch_size}"
        )
    positions = Fourier(bands=bands, max_resolution=(size[0] // patch_size, size[1] // patch_size))
    if matches is None:
        frames = Neighbourhoods(channels, channels=image_channels, positions=positions)
    else:
        frames = Matches(channels, radius=matches, stride=patch_size, channels=image_channels, positions=positions)
    inputs = Inputs(frames=frames)
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(flow=InputQuery("frames", channels=inputs.channels))
    decoder = Decoder(
        queries.channels,
        encoder.latent_dim,
        query_residual=decoder_residual,
        dropout=dropout,
        activation=activation,
    )
    outputs = Outputs(flow=Flow(queries.channels, patch=(patch_size, patch_size), scale=flow_scale))
    return Tiled(inputs, encoder, queries, decoder, outputs, tile=size, min_overlap=tile_overlap)
