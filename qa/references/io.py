"""Reference numbers of Perceiver IO: masked language, images, optical flow, multimodal autoencoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.func import functional_call

from perceiver_kit import Decoder, Encoder, Inputs, Outputs, PerceiverIO, Queries
from perceiver_kit.inputs import (
    AudioPatches,
    Conv1x1,
    ConvStem,
    Input,
    Neighbourhoods,
    OneHot,
    Patches,
    Pixels,
    TextTokens,
)
from perceiver_kit.outputs import Classify, Flow, TiedText, ToPixels, ToWaveform
from perceiver_kit.positions import Fourier, Learned, Positions, Projected
from perceiver_kit.queries import InputQuery, LearnedQuery, PositionQuery

from .comparing import Reference, Tensors, relative

Config = dict[str, Any]
Call = Callable[[nn.Module], Tensors]
ACTIVATION: Any = "gelu_tanh"
ATTENTION = {
    "attention.query": "attention/linear",
    "attention.key": "attention/linear_1",
    "attention.value": "attention/linear_2",
    "attention.output": "attention/linear_3",
    "mlp.0": "mlp/linear",
    "mlp.2": "mlp/linear_1",
}
CROSS = ATTENTION | {"query_norm": "layer_norm", "key_norm": "layer_norm_1", "mlp_norm": "layer_norm_2"}
SELF = ATTENTION | {"norm": "layer_norm", "mlp_norm": "layer_norm_1"}


def run(file: str | Path) -> dict[str, float]:
    """The largest relative difference of each output and gradient in an ``io_*`` file."""
    reference = Reference(file)
    config = reference.config
    build = {"masked_lm": masked_lm, "optical_flow": optical_flow, "multimodal_autoencoding": multimodal}
    model, call, names = build.get(config["model"], image_classification)(config, reference.inputs)
    weights = state(model, reference.found, names)
    found = functional_call(_Called(model.eval(), call), {f"model.{name}": each for name, each in weights.items()})
    if config.get("query_mask"):
        keep = reference.inputs["mask"].bool()
        found["loss"] = found["logits"][keep].square().mean()
    else:
        found["loss"] = torch.stack([value.square().mean() for value in found.values()]).sum()
    assert found.keys() == reference.outputs.keys(), f"outputs {[*found]}, but the file has {[*reference.outputs]}"
    differences = {f"out/{name}": relative(value, reference.outputs[name]) for name, value in found.items()}
    return differences | reference.gradient_differences(found["loss"], "grad/")


# ---- models


def masked_lm(config: Config, inputs: Tensors) -> tuple[PerceiverIO, Call, dict[str, str]]:
    """Bytes to bytes through a tied table."""
    length, channels, heads = config["length"], config["channels"], config["heads"]
    text = TextTokens(config["vocabulary"], channels, positions=Learned((length,), channels))
    encoder = Encoder(
        channels,
        num_latents=config["latents"],
        latent_dim=config["latent_channels"],
        layers=config["layers"],
        cross_heads=heads,
        self_heads=heads,
        qk_channels=config["qk_channels"],
        v_channels=config["v_channels"],
        activation=ACTIVATION,
    )
    decoder = Decoder(
        channels,
        encoder.latent_dim,
        heads=heads,
        qk_channels=config["qk_channels"],
        v_channels=config["decoder_v_channels"],
        activation=ACTIVATION,
    )
    queries = Queries(text=PositionQuery(Learned((length,), channels), follows="text"))
    model = PerceiverIO(Inputs(text=text), encoder, queries, decoder, Outputs(text=TiedText(text)))
    keep = {"text": inputs["mask"].bool()}

    def call(model: Any) -> Tensors:
        asked = keep if config["query_mask"] else None
        return {"logits": model({"text": inputs["text"].long()}, mask=keep, query_mask=asked)["text"]}

    return model, call, {
        "inputs.blocks.text.embedding": "embed",
        "inputs.blocks.text.positions.table": "trainable_position_encoding/pos_embs",
        "queries.blocks.text.positions.table": "basic_decoder/trainable_position_encoding/pos_embs",
        "outputs.blocks.text.bias": "embedding_decoder/bias",
    } | layers("perceiver_encoder", "basic_decoder", model)  # fmt: skip


def image_classification(config: Config, inputs: Tensors) -> tuple[PerceiverIO, Call, dict[str, str]]:
    """An image, prepared as its configuration says, to a class."""
    image = image_block(config["preprocessor"], tuple(config["image"]))
    sizes = config["encoder"]
    qk = sizes.get("qk_channels")
    encoder = Encoder(
        image.channels,
        num_latents=sizes["z_index_dim"],
        latent_dim=sizes["num_z_channels"],
        layers=sizes["num_self_attends_per_block"],
        blocks=sizes["num_blocks"],
        cross_heads=sizes["num_cross_attend_heads"],
        self_heads=sizes["num_self_attend_heads"],
        qk_channels=qk,
        v_channels=sizes.get("v_channels"),
        cross_qk_channels=sizes["num_z_channels"] if sizes["cross_attention_shape_for_attn"] == "q" and not qk else qk,
        cross_widening=sizes["cross_attend_widening_factor"],
        self_widening=sizes["self_attend_widening_factor"],
        query_residual=sizes["use_query_residual"],
        activation=ACTIVATION,
    )
    width = encoder.latent_dim
    decoder = Decoder(
        width, width, out_channels=None, query_residual=config["decoder_query_residual"], activation=ACTIVATION
    )
    outputs = Outputs(label=Classify(config["classes"], in_channels=width))
    model = PerceiverIO(Inputs(image=image), encoder, Queries(label=LearnedQuery(1, width)), decoder, outputs)

    def call(model: Any) -> Tensors:
        return {"logits": model({"image": rearrange(inputs["image"], "b h w c -> b c h w")})["label"]}

    ours, stem, basic = (
        "inputs.blocks.image",
        "image_preprocessor/conv2_d_downsample",
        "classification_decoder/basic_decoder",
    )
    positions = "trainable_position_encoding/pos_embs"
    return model, call, {
        f"{ours}.conv": "image_preprocessor/conv2_d",
        f"{ours}.convs.0": f"{stem}/conv",
        f"{ours}.norms.0": f"{stem}/batchnorm",
        f"{ours}.positions.table": f"image_preprocessor/{positions}",
        f"{ours}.positions.positions.table": f"image_preprocessor/{positions}",
        f"{ours}.positions.project": "image_preprocessor/position_encoding_projector/linear",
        "queries.blocks.label.positions.table": f"{basic}/{positions}",
        "outputs.blocks.label.project": f"{basic}/output",
    } | layers("perceiver_encoder", basic, model)  # fmt: skip


def image_block(config: Config, size: tuple[int, ...]) -> Input:
    """The input block of a preprocessor's configuration."""
    kind, stride = config["prep_type"], config.get("spatial_downsample", 1)
    steps = 4 if kind == "conv" else stride
    positions: Positions
    if config["position_encoding_type"] == "fourier":
        options = config["fourier_position_encoding_kwargs"]
        positions = Fourier(
            bands=options["num_bands"],
            max_resolution=tuple(options["max_resolution"]),
            coordinates=options.get("concat_pos", True),
            sine_only=options.get("sine_only", False),
        )
    else:
        grid = tuple(-(-side // steps) for side in size)
        positions = Learned(grid, config["trainable_position_encoding_kwargs"]["num_channels"])
    if config.get("project_pos_dim", -1) > 0:
        positions = Projected(positions, config["project_pos_dim"])
    options = dict(positions=positions, combine=config.get("concat_or_add_pos", "concat"))
    if kind == "pixels":
        return Pixels((stride, stride), **options)
    if kind == "conv1x1":
        return Conv1x1(config["num_channels"], stride=(stride, stride), **options)
    if kind == "conv":
        return ConvStem(config["num_channels"], **options)
    raise ValueError(f"prep_type {kind!r} is not described")


def optical_flow(config: Config, inputs: Tensors) -> tuple[PerceiverIO, Call, dict[str, str]]:
    """Two frames to displacements, whose queries are the rows of the input."""
    positions = Fourier(bands=config["bands"], max_resolution=tuple(config["image"]))
    frames = Inputs(frames=Neighbourhoods(config["channels"], positions=positions))
    encoder = small_encoder(config, frames.channels)
    decoder = Decoder(frames.channels, encoder.latent_dim, activation=ACTIVATION)
    outputs = Outputs(flow=Flow(frames.channels, scale=config["factor"] / config["rescale"]))
    queries = Queries(flow=InputQuery("frames", channels=frames.channels))
    model = PerceiverIO(frames, encoder, queries, decoder, outputs)

    def call(model: Any) -> Tensors:
        flow = model({"frames": rearrange(inputs["frames"], "b t h w c -> b t c h w")})["flow"]
        return {"flow": rearrange(flow, "b c h w -> b h w c")}

    return model, call, {
        "inputs.blocks.frames.project": "image_preprocessor/patches_linear",
        "outputs.blocks.flow.project": "flow_decoder/basic_decoder/output",
    } | layers("perceiver_encoder", "flow_decoder/basic_decoder", model)  # fmt: skip


def multimodal(config: Config, inputs: Tensors) -> tuple[PerceiverIO, Call, dict[str, str]]:
    """Video, sound and a label to the same, as a whole or at some points, which have other coordinates."""
    frames, side, patch, at = config["frames"], config["side"], config["patch"], config["at"] or {}
    samples, per_patch, channels = config["samples"], config["samples_per_patch"], config["out_channels"]
    patches, grid = (frames, side // patch, side // patch), (frames, side, side)
    audio_patches = (samples // per_patch,)
    image = dict(bands=config["bands"], max_resolution=patches)
    audio = dict(bands=config["audio_bands"], max_resolution=(samples,))

    def query(name: str, features: Config, size: tuple[int, ...]) -> PositionQuery:
        return PositionQuery(Fourier(**features, ends="half_open" if at.get(name) else "both"), size=size)

    model_inputs = Inputs(
        audio=AudioPatches(per_patch, grid=audio_patches, positions=Fourier(**audio)),
        image=Patches((1, patch, patch), grid=patches, positions=Fourier(**image)),
        label=OneHot(config["classes"]),
        hide=dict(audio=0.0, image=0.0, label=config["hide_label"]),
        min_padding=config["min_padding"][0],
    )
    encoder = small_encoder(config, model_inputs.channels)
    queries = Queries(
        audio=query("audio", audio, audio_patches),
        image=query("image", image, grid),
        label=LearnedQuery(1, config["label_channels"]),
        min_padding=config["min_padding"][1],
    )
    decoder = Decoder(queries.channels, encoder.latent_dim, out_channels=channels, activation=ACTIVATION)
    outputs = Outputs(
        audio=ToWaveform(per_patch, in_channels=channels),
        image=ToPixels(3, in_channels=channels),
        label=Classify(config["classes"], in_channels=channels),
    )
    model = PerceiverIO(model_inputs, encoder, queries, decoder, outputs)

    def call(model: Any) -> Tensors:
        raw = {
            "image": rearrange(inputs["image"], "b t h w c -> b t c h w"),
            "audio": rearrange(inputs["audio"], "b n 1 -> b n"),
            "label": inputs["label"],
        }
        wanted = {name: torch.tensor(at[name]) if at.get(name) else None for name in raw}
        found = model(raw, at=wanted)
        if found["audio"].ndim == 3:
            found["audio"] = rearrange(found["audio"], "b k s -> b (k s)")
        if found["image"].ndim == 5:
            found["image"] = rearrange(found["image"], "b t c h w -> b (t h w) c")
        return {name: found[name] for name in ("audio", "image", "label")}

    names = {f"inputs.padding.{m}.vector": f"multimodal_preprocessor/{m}_padding/pos_embs" for m in MODALITIES}
    names |= {f"inputs.mask_tokens.{m}.vector": f"multimodal_preprocessor/{m}_mask_token/pos_embs" for m in MODALITIES}
    names |= {f"queries.padding.{m}.vector": f"multimodal_decoder/{m}_padding/pos_embs" for m in MODALITIES}
    basic, label = "multimodal_decoder/basic_decoder", "classification_decoder/basic_decoder"
    return model, call, names | {
        "queries.blocks.label.positions.table": f"{label}/trainable_position_encoding/pos_embs",
        "decoder.project": f"{basic}/output",
        "outputs.blocks.audio.project": "audio_postprocessor/linear",
        "outputs.blocks.image.project": "projection_postprocessor/linear",
        "outputs.blocks.label.project": "classification_postprocessor/linear",
    } | layers("encoder", basic, model)  # fmt: skip


MODALITIES = ("audio", "image", "label")


def small_encoder(config: Config, channels: int) -> Encoder:
    """The encoder of optical flow and of the multimodal model."""
    return Encoder(
        channels,
        num_latents=config["latents"],
        latent_dim=config["latent_channels"],
        layers=config["layers"],
        self_heads=config["heads"],
        activation=ACTIVATION,
    )


# ---- weights


def layers(encoder: str, decoder: str, model: Any) -> dict[str, str]:
    """Names of the latents and of all attention layers, ours → theirs."""
    names = {"encoder.latents": f"{encoder}/trainable_position_encoding/pos_embs"}
    names |= {f"encoder.cross.0.{ours}": f"{encoder}/cross_attention/{theirs}" for ours, theirs in CROSS.items()}
    names |= {f"decoder.cross.{ours}": f"{decoder}/cross_attention/{theirs}" for ours, theirs in CROSS.items()}
    for i in range(len(model.encoder.transformer)):
        layer = f"{encoder}/self_attention{f'_{i}' if i else ''}"
        names |= {f"encoder.transformer.{i}.{ours}": f"{layer}/{theirs}" for ours, theirs in SELF.items()}
    return names


def state(model: nn.Module, found: Tensors, names: dict[str, str]) -> Tensors:
    """The model's parameters and statistics as functions of the original's."""

    def plain(name: str) -> str:  # parts that begin with ~ only mark where a module was made
        return "/".join(part for part in name.split("/") if not part.startswith("~"))

    theirs = {plain(name): value for name, value in found.items() if name.startswith(("params/", "state/"))}
    leaves = {
        "weight": ("w", "scale", "embeddings"),
        "bias": ("b", "offset"),
        "running_mean": ("mean_ema",),
        "running_var": ("var_ema",),
    }
    weights: Tensors = {}
    for name, wanted in (*model.named_parameters(), *model.named_buffers()):  # tied ones once
        if name.endswith("num_batches_tracked"):
            continue
        module, _, leaf = name.rpartition(".")
        if name in names:
            candidates = [f"params/{names[name]}"]
        else:
            kind = "state" if leaf.startswith("running") else "params"
            candidates = [f"{kind}/{names[module]}/{each}" for each in leaves[leaf]]
        [value] = [theirs[each] for each in candidates if each in theirs]
        if leaf == "weight" and value.ndim == 4 and wanted.ndim == 4:
            value = rearrange(value, "h w c d -> d c h w")
        elif leaf == "weight" and value.ndim == 2 and "embedding" not in name:
            value = value.T
        elif value.ndim == 4:
            value = rearrange(value, "1 1 1 c -> c")
        assert value.shape == wanted.shape, f"{name} {tuple(wanted.shape)}, but the file has {tuple(value.shape)}"
        weights[name] = value
    return weights


class _Called(nn.Module):
    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self) -> Tensors:
        return self.call(self.model)
