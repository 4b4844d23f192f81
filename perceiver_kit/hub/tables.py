"""How the kit's names and numbers are called in Hugging Face's Perceiver: tables, read both ways.

Tensors have the same shapes in both, so a table of names is all there is to a conversion. ``{i}`` counts layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError
from ..recipes.common import height_width

ATTENTION = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "mlp_norm": "layernorm",
    "mlp.0": "mlp.dense1",
    "mlp.2": "mlp.dense2",
}
CROSS = {"query_norm": "attention.self.layernorm1", "key_norm": "attention.self.layernorm2"} | ATTENTION
SELF = {"norm": "attention.self.layernorm1"} | ATTENTION


def _layer(ours: str, theirs: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{ours}.{left}": f"{theirs}.{right}" for left, right in names.items()}


ENCODER = (
    {"encoder.latents": "perceiver.embeddings.latents"}
    | _layer("encoder.cross.0", "perceiver.encoder.cross_attention", CROSS)
    | _layer("encoder.transformer.{i}", "perceiver.encoder.self_attends.{i}", SELF)
)
TEXT = {
    "inputs.blocks.text.embedding.weight": "perceiver.input_preprocessor.embeddings.weight",
    "inputs.blocks.text.positions.table": "perceiver.input_preprocessor.position_embeddings.weight",
}
DECODER = _layer("decoder.cross", "perceiver.decoder.decoder.decoding_cross_attention", CROSS)
CLASSES = DECODER | {
    "queries.blocks.label.positions.table": "perceiver.decoder.decoder.output_position_encodings.position_embeddings",
    "outputs.blocks.label.project": "perceiver.decoder.decoder.final_layer",
}

# Ours: the name in config.json, and what that is where a config.json does not say.
SIZES: dict[str, tuple[str, Any]] = {
    "num_latents": ("num_latents", 256),
    "latent_dim": ("d_latents", 1280),
    "blocks": ("num_blocks", 1),
    "layers": ("num_self_attends_per_block", 26),
    "cross_heads": ("num_cross_attention_heads", 8),
    "self_heads": ("num_self_attention_heads", 8),
    "qk_channels": ("qk_channels", None),
    "v_channels": ("v_channels", None),
    "cross_widening": ("cross_attention_widening_factor", 1),
    "self_widening": ("self_attention_widening_factor", 1),
    "query_residual": ("use_query_residual", True),
    "dropout": ("attention_probs_dropout_prob", 0.1),
}
TEXT_SIZES: dict[str, tuple[str, Any]] = SIZES | {
    "vocabulary": ("vocab_size", 262),
    "max_length": ("max_position_embeddings", 2048),
    "channels": ("d_model", 768),
}
GELU = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class Conversion:
    """One recipe's counterpart: its class, tensor names, config names, and the numbers that its code fixes."""

    architecture: str
    names: dict[str, str]
    sizes: dict[str, tuple[str, Any]]
    fixed: dict[str, Any] = field(default_factory=dict)
    labels: int | None = None


CONVERSIONS = {
    "masked_lm": Conversion(
        "PerceiverForMaskedLM",
        ENCODER
        | TEXT
        | _layer("decoder.cross", "perceiver.decoder.decoding_cross_attention", CROSS)
        | {
            "queries.blocks.text.positions.table": "perceiver.decoder.output_position_encodings.position_embeddings",
            "outputs.blocks.text.bias": "embedding_decoder.bias",
        },
        TEXT_SIZES,
        fixed=dict(decoder_heads=8, decoder_qk_channels=256),
    ),
    "sequence_classification": Conversion(
        "PerceiverForSequenceClassification", ENCODER | TEXT | CLASSES, TEXT_SIZES, labels=2
    ),
    "image_classification_learned": Conversion(
        "PerceiverForImageClassificationLearned",
        ENCODER
        | CLASSES
        | {
            "inputs.blocks.image.conv": "perceiver.input_preprocessor.convnet_1x1",
            "inputs.blocks.image.positions.positions.table": (
                "perceiver.input_preprocessor.position_embeddings.position_embeddings"
            ),
            "inputs.blocks.image.positions.project": "perceiver.input_preprocessor.positions_projection",
        },
        SIZES | {"image_size": ("image_size", 56)},
        fixed=dict(channels=256, decoder_residual=True),
        labels=1000,
    ),
    "image_classification_fourier": Conversion(
        "PerceiverForImageClassificationFourier",
        ENCODER | CLASSES,
        SIZES,
        fixed=dict(bands=64, max_resolution=(224, 224)),
        labels=1000,
    ),
    "image_classification_conv": Conversion(
        "PerceiverForImageClassificationConvProcessing",
        ENCODER
        | CLASSES
        | {
            "inputs.blocks.image.convs.0": "perceiver.input_preprocessor.convnet.conv",
            "inputs.blocks.image.norms.0": "perceiver.input_preprocessor.convnet.batchnorm",
        },
        SIZES,
        fixed=dict(bands=64, max_resolution=(56, 56), channels=64, conv_padding="huggingface"),
        labels=1000,
    ),
    "optical_flow": Conversion(
        "PerceiverForOpticalFlow",
        ENCODER
        | DECODER
        | {
            "inputs.blocks.frames.project": "perceiver.input_preprocessor.conv_after_patches",
            "outputs.blocks.flow.project": "perceiver.decoder.decoder.final_layer",
        },
        SIZES | {"image_size": ("train_size", (368, 496))},
        fixed=dict(bands=64, channels=64, flow_scale=0.2),
    ),
    "multimodal_autoencoding": Conversion(
        "PerceiverForMultimodalAutoencoding",
        ENCODER
        | DECODER
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
        SIZES
        | {
            "num_frames": ("num_frames", 16),
            "samples_per_patch": ("samples_per_patch", 16),
            "out_channels": ("output_num_channels", 512),
            "label_channels": ("_label_trainable_num_channels", 1024),
        },
        fixed=dict(patch_size=4, image_bands=32, audio_bands=192),
        labels=700,
    ),
}


def check_widths(parameters: dict[str, Any]) -> None:
    """Refuse widths that only the kit can have: there, self-attention's output is as wide as its values."""
    width = parameters["latent_dim"]
    values = parameters["v_channels"] or parameters["qk_channels"] or width
    if values != width:
        raise CheckpointError(f"v_channels (by default qk_channels) must be latent_dim, {width}, got {values}")
    for heads in ("cross_heads", "self_heads"):
        if width % parameters[heads]:
            raise CheckpointError(f"latent_dim {width} must be divisible by {heads}, got {parameters[heads]}")


def multimodal_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Image and audio sizes of a multimodal config.json, where they are products of what it says."""
    frames, height, width = (config.get("output_shape") or (1, 16, 224, 224))[1:]
    if frames != config.get("num_frames", 16):
        raise CheckpointError(f"num_frames {config.get('num_frames', 16)} and output_shape's {frames} frames differ")
    side = config.get("image_size", 56)
    if (height, width) != (4 * side, 4 * side):
        raise CheckpointError(f"output_shape's {height} × {width} is not 4 × image_size, which is {side}")
    return {
        "image_size": (height, width),
        "audio_samples": frames * config.get("audio_samples_per_frame", 1920),
    }


def multimodal_config(parameters: dict[str, Any]) -> dict[str, Any]:
    """The inverse: what a config.json says of the image and audio sizes of a recipe."""
    frames = parameters["num_frames"]
    height, width = height_width("multimodal_autoencoding", parameters["image_size"])
    samples = parameters["audio_samples"] or frames * 1920
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
