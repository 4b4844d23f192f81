"""Video, sound and a label into one set of latents, and all three out again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..activations import Activation
from ..anchoring import anchor
from ..checking import check_choice, check_image_size, check_positive
from ..declarations import HuggingFace, recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..errors import AssemblyError, CheckpointError
from ..inputs import AudioPatches, Inputs, OneHot, Patches
from ..model import PerceiverIO
from ..objectives import Classification, Reconstruction, Weighted
from ..outputs import Classify, Outputs, ToPatches, ToPixels, ToWaveform
from ..positions import Fourier
from ..queries import LearnedQuery, PositionQuery, Queries
from ._shared import DECODER_NAMES, ENCODER_NAMES, ENCODER_SIZES, LABELS_SOURCE, ORIGINAL, PAPER, encoder_sources

COLAB = f"{ORIGINAL}, colabs/video_autoencoding.ipynb"
SAMPLES_PER_FRAME = 1920  # 48 kHz at 25 frames a second


def reconstruction() -> Weighted:
    """The weighted reconstruction loss of this model.

    Source of the weights: a published re-training; a starting point, since the paper does not say.
    """
    parts = dict(image=Reconstruction("image"), audio=Reconstruction("audio"), label=Classification("label"))
    return Weighted(parts, weights=dict(image=0.03, audio=1.0, label=1e-4))


def _random_clip(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    frames = parameters["num_frames"]
    height, width = check_image_size("multimodal_autoencoding", parameters["image_size"])
    return {
        "image": torch.rand(batch, frames, parameters["image_channels"], height, width) * 2 - 1,
        "audio": torch.rand(batch, parameters["audio_samples"] or frames * SAMPLES_PER_FRAME) * 2 - 1,
        "label": torch.eye(parameters["num_labels"])[torch.randint(parameters["num_labels"], (batch,))],
    }


def _read_sizes(config: Any) -> dict[str, Any]:
    """Image and audio sizes, which config.json gives as products."""
    frames, height, width = (config.get("output_shape") or (1, 16, 224, 224))[1:]
    if frames != config.get("num_frames", 16):
        raise CheckpointError(f"num_frames {config.get('num_frames', 16)} and output_shape's {frames} frames differ")
    side = config.get("image_size", 56)
    if (height, width) != (4 * side, 4 * side):
        raise CheckpointError(f"output_shape's {height} × {width} is not 4 × image_size, which is {side}")
    samples = frames * config.get("audio_samples_per_frame", SAMPLES_PER_FRAME)
    return {"image_size": (height, width), "audio_samples": samples}


def _write_sizes(parameters: Any) -> dict[str, Any]:
    frames = parameters["num_frames"]
    height, width = check_image_size("multimodal_autoencoding", parameters["image_size"])
    samples = parameters["audio_samples"] or frames * SAMPLES_PER_FRAME
    if height != width or samples % frames:
        raise CheckpointError(f"images must be square and audio a whole number of samples a frame, got {parameters}")
    hidden = parameters["hide_label"]
    if (hidden[-1] if isinstance(hidden, tuple | list) else hidden) != 1:
        raise CheckpointError(f"hide_label must be 1.0 in evaluation, as it always is there, got {hidden!r}")
    return {
        "output_shape": [1, frames, height, width],
        "image_size": height // 4,
        "audio_samples_per_frame": samples // frames,
    }


@recipe(
    presets=dict(
        base=dict(num_latents=784, latent_dim=512, layers=8, cross_heads=1, self_heads=8),
        tiny=dict(
            num_frames=4,
            image_size=32,
            num_labels=4,
            num_latents=64,
            latent_dim=64,
            layers=2,
            image_bands=16,
            audio_bands=48,
            label_channels=64,
            out_channels=64,
        ),
        # One latent for each patch and each 8 ms of sound at 8 kHz.
        quick=dict(
            num_frames=4,
            image_size=32,
            num_labels=4,
            audio_samples=1280,
            patch_size=8,
            output_patch_size=8,
            samples_per_patch=64,
            audio_resolution="rows",
            num_latents=84,
            latent_dim=64,
            layers=2,
            self_heads=4,
            cross_qk_channels=64,
            cross_v_channels=64,
            image_bands=4,
            audio_bands=16,
            label_channels=126,
            out_channels=128,
            decoder_residual=True,
            anchored=True,
        ),
    ),
    sources=encoder_sources(
        COLAB,
        num_frames=f"{PAPER}, appendix F: 16 frames of 224 × 224",
        image_size=f"{PAPER}, appendix F",
        image_channels=f"{COLAB}: red, green, blue",
        num_labels="Kinetics-700",
        labels=LABELS_SOURCE,
        audio_samples="1,920 a frame: 48 kHz at 25 frames a second",
        patch_size=f"{COLAB}: 4 × 4 patches of each frame",
        samples_per_patch=f"{COLAB}: 16 samples a row",
        image_bands=f"{COLAB}: 32 bands for (t, h, w)",
        audio_bands=f"{COLAB}: 192 bands",
        label_channels=f"{COLAB}: label query of 1,024",
        num_latents=f"{COLAB}: 28 × 28",
        latent_dim=COLAB,
        layers=f"{COLAB}: 8 self-attends in 1 block",
        out_channels=f"{COLAB}: output width of the decoder",
        output_patch_size=f"{COLAB}: pixels",
        audio_resolution=f"{COLAB}: one cycle for two samples, which aliases, since rows are patches",
        decoder_residual=f"{COLAB}: none",
        anchored=f"{COLAB}: random latents",
        hide_label="training: half (a published re-training); evaluation: always, as both references",
    ),
    group=Encoder,
    objective=reconstruction,
    training=dict(
        steps=1500,
        batch=8,
        rate=2e-3,
        quick=dict(optimizer="muon", steps=2000, batch=16, rate=3e-3, weight_decay=0.05),
    ),
    data=dict(clip="perceiver_kit.data.tasks:clip", path="perceiver_kit.data.folders:videos"),
    random_inputs=_random_clip,
    demo="perceiver_kit.demo:demo",
    processor="perceiver_kit.processors.recipes:decode_clip",
    huggingface=HuggingFace(
        "PerceiverForMultimodalAutoencoding",
        ENCODER_NAMES
        | DECODER_NAMES
        | {
            "decoder.project": "perceiver.decoder.decoder.final_layer",
            "queries.blocks.label.positions.table": (
                "perceiver.decoder.modalities.label.decoder.output_position_encodings.position_embeddings"
            ),
        }
        | {
            name: renamed
            for m in ("audio", "image", "label")
            for name, renamed in {
                f"inputs.padding.{m}.vector": f"perceiver.input_preprocessor.padding.{m}",
                f"inputs.mask_tokens.{m}.vector": f"perceiver.input_preprocessor.mask.{m}",
                f"queries.padding.{m}.vector": f"perceiver.decoder.padding.{m}",
                f"outputs.blocks.{m}.project": f"perceiver.output_postprocessor.modalities.{m}.classifier",
            }.items()
        },
        ENCODER_SIZES
        | {
            "num_frames": ("num_frames", 16),
            "samples_per_patch": ("samples_per_patch", 16),
            "out_channels": ("output_num_channels", 512),
            "label_channels": ("_label_trainable_num_channels", 1024),
        },
        fixed=dict(
            image_channels=3,
            patch_size=4,
            output_patch_size=None,
            image_bands=32,
            audio_bands=192,
            audio_resolution="samples",
            decoder_residual=False,
        ),
        labels=700,
        read=_read_sizes,
        write=_write_sizes,
        unwritten=("hide_label", "anchored"),
        processor="perceiver_kit.processors.huggingface:decode_clip_unsigned",
    ),
)
def multimodal_autoencoding(
    *,
    num_frames: int = 16,
    image_size: int | tuple[int, int] = 224,
    image_channels: int = 3,
    num_labels: int = 700,
    labels: Sequence[str] | None = None,
    audio_samples: int | None = None,
    patch_size: int = 4,
    output_patch_size: int | None = None,
    samples_per_patch: int = 16,
    audio_resolution: Literal["samples", "rows"] = "samples",
    image_bands: int = 32,
    audio_bands: int = 192,
    label_channels: int = 1024,
    out_channels: int = 512,
    decoder_residual: bool = False,
    anchored: bool = False,
    hide_label: tuple[float, float] = (0.5, 1.0),
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Autoencoding of video with sound and a label (Perceiver IO, section 4.3); a video classifier by hiding the label.

    Takes image (b, t, image_channels, h, w), audio (b, samples) and label (b, classes), all float; returns
    the same three, the label as logits. Any of them may be left out: its mask token stands in. The label is hidden
    with a probability (in training, in evaluation), so that asking for it is classifying.

    Queries run over a half-open grid, whether all or some are decoded, as the published weights were trained.

    ``output_patch_size`` decodes an image in patches, one per query, instead of pixels. ``audio_resolution="rows"``
    limits the audio's Fourier features to frequencies that its rows can tell apart. ``anchored`` gives the initial
    weights of ``kit.anchor``.

    >>> model = build("multimodal_autoencoding", preset="tiny")
    >>> clip = {"image": torch.rand(2, 4, 3, 32, 32), "audio": torch.rand(2, 7680)}
    >>> {name: tuple(value.shape) for name, value in model(clip).items()}
    {'audio': (2, 7680), 'image': (2, 4, 3, 32, 32), 'label': (2, 4)}
    """
    owner = "multimodal_autoencoding"
    check_positive(
        owner,
        num_frames=num_frames,
        image_channels=image_channels,
        patch_size=patch_size,
        samples_per_patch=samples_per_patch,
    )
    height, width = check_image_size(owner, image_size)
    if height % patch_size or width % patch_size:
        raise AssemblyError(f"{owner}: image_size {(height, width)} must be divisible by patch_size {patch_size}")
    audio_samples = num_frames * SAMPLES_PER_FRAME if audio_samples is None else audio_samples
    check_positive(owner, audio_samples=audio_samples)
    if audio_samples % samples_per_patch:
        raise AssemblyError(
            f"{owner}: audio_samples {audio_samples} must be divisible by samples_per_patch {samples_per_patch}"
        )
    patches = (num_frames, height // patch_size, width // patch_size)
    audio_patches = (audio_samples // samples_per_patch,)
    check_choice(owner, "audio_resolution", audio_resolution, ("samples", "rows"))
    image = dict(bands=image_bands, max_resolution=patches)
    audio = dict(bands=audio_bands, max_resolution=(audio_samples,) if audio_resolution == "samples" else audio_patches)
    out_patch = 1 if output_patch_size is None else output_patch_size
    check_positive(owner, output_patch_size=out_patch)
    if height % out_patch or width % out_patch:
        raise AssemblyError(f"{owner}: image_size {(height, width)} must be divisible by output_patch_size {out_patch}")

    inputs = Inputs(
        audio=AudioPatches(samples_per_patch, grid=audio_patches, positions=Fourier(**audio)),
        image=Patches((1, patch_size, patch_size), channels=image_channels, grid=patches, positions=Fourier(**image)),
        label=OneHot(num_labels),
        hide=dict(audio=0.0, image=0.0, label=hide_label),
        min_padding=4,
    )
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(
        audio=PositionQuery(Fourier(**audio, ends="half_open"), size=audio_patches),
        image=PositionQuery(
            Fourier(**image, ends="half_open"), size=(num_frames, height // out_patch, width // out_patch)
        ),
        label=LearnedQuery(1, label_channels),
        min_padding=2,
    )
    decoder = Decoder(
        queries.channels,
        encoder.latent_dim,
        out_channels=out_channels,
        query_residual=decoder_residual,
        dropout=dropout,
        activation=activation,
    )
    outputs = Outputs(
        audio=ToWaveform(samples_per_patch, in_channels=out_channels),
        image=ToPixels(image_channels, in_channels=out_channels)
        if output_patch_size is None
        else ToPatches((1, out_patch, out_patch), values=image_channels, in_channels=out_channels),
        label=Classify(num_labels, in_channels=out_channels),
    )
    model = PerceiverIO(inputs, encoder, queries, decoder, outputs, labels={"label": labels})
    if anchored:
        frames, sound = torch.zeros(1, num_frames, image_channels, height, width), torch.zeros(1, audio_samples)
        anchor(model, {"image": frames, "audio": sound}, latents_per_query=1.5)
    return model
