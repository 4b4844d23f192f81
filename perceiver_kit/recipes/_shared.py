"""What several recipes share: sources of the encoder's numbers, and Hugging Face's names for blocks and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER = "Perceiver IO (Jaegle et al. 2022)"
ORIGINAL = "deepmind-research/perceiver"
REFERENCE = "Hugging Face's PerceiverConfig and modeling_perceiver.py"

ACTIVATION_SOURCE = f"{REFERENCE}: exact GELU; the original computes jax's tanh approximation"


def encoder_sources(colab: str, **numbers: str) -> dict[str, str]:
    """Sources of the encoder's numbers: ``numbers`` where a recipe's differ, else ``colab`` or the reference."""
    return {
        "blocks": colab,
        "share_blocks": f"{PAPER}, appendix A: blocks share their weights",
        "cross_attends": f"{PAPER}, section 3.1: one",
        "cross_heads": colab,
        "self_heads": colab,
        "qk_channels": f"{REFERENCE}: the width of what is attended to",
        "v_channels": f"{REFERENCE}: as qk_channels",
        "cross_widening": colab,
        "self_widening": colab,
        "query_residual": f"{REFERENCE}: of the encoder",
        "dropout": f"{colab}: none",
        "activation": ACTIVATION_SOURCE,
    } | numbers


# ---- Hugging Face's names. Tensors have the same shapes in both, so a table of names is a whole conversion.

_ATTENTION = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "mlp_norm": "layernorm",
    "mlp.0": "mlp.dense1",
    "mlp.2": "mlp.dense2",
}
CROSS_LAYER_NAMES = {"query_norm": "attention.self.layernorm1", "key_norm": "attention.self.layernorm2"} | _ATTENTION
SELF_LAYER_NAMES = {"norm": "attention.self.layernorm1"} | _ATTENTION


def _renamed(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{left}": f"{theirs}.{right}" for left, right in names.items()}


def cross_attention_names(ours: str, theirs: str) -> dict[str, str]:
    """Tensor names of a ``CrossAttentionLayer``."""
    return _renamed(ours, theirs, CROSS_LAYER_NAMES)


ENCODER_NAMES = (
    {"encoder.latents": "perceiver.embeddings.latents"}
    | cross_attention_names("encoder.cross.0", "perceiver.encoder.cross_attention")
    | _renamed("encoder.transformer.{i}", "perceiver.encoder.self_attends.{i}", SELF_LAYER_NAMES)
)
DECODER_NAMES = cross_attention_names("decoder.cross", "perceiver.decoder.decoder.decoding_cross_attention")
CLASSIFIER_NAMES = DECODER_NAMES | {
    "queries.blocks.label.positions.table": "perceiver.decoder.decoder.output_position_encodings.position_embeddings",
    "outputs.blocks.label.project": "perceiver.decoder.decoder.final_layer",
}

# What a classifier's config.json has besides.
CLASSIFIER_SIZES: dict[str, tuple[str, Any]] = {"problem_type": ("problem_type", None)}
LABELS_SOURCE = "the user's: names of the classes"
PROBLEM_SOURCE = f"{REFERENCE}: metadata, None unless a checkpoint says it"

# Ours: the name in config.json, and its value where config.json is silent.
ENCODER_SIZES: dict[str, tuple[str, Any]] = {
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
