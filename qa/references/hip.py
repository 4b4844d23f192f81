"""Reference numbers of the hierarchical Perceiver and its flat sibling, computed with the kit."""

from __future__ import annotations

from typing import Any

from torch import nn

import perceiver_kit as kit
from perceiver_kit.bottleneck import LabelBottleneck
from perceiver_kit.encoders import HierarchicalEncoder
from perceiver_kit.inputs import Embedded, Features
from perceiver_kit.outputs import Project
from perceiver_kit.positions import Learned, Positions, Projected
from perceiver_kit.queries import PositionQuery

from .comparing import Reference, Tensors, from_haiku

ACTIVATION = "squared_relu"  # whatever activation_name says: the original does not pass it on
LEVEL = "hi_p_cross_attention/"
NORMS = {"query_norm": "layer_norm", "key_norm": "layer_norm_1", "mlp_norm": "layer_norm_2"}


def run(file: Any) -> dict[str, float]:
    """The largest relative difference of each output and gradient in a ``hip_*`` file."""
    reference = Reference(file)
    data_sets = reference.config["inputs"]
    model, names = build(reference.config)
    parameters = {name.removeprefix("perceiver/"): value for name, value in reference.parameters.items()}

    def call(model: nn.Module) -> Tensors:
        outputs: Tensors = {}
        for data_set, modalities in data_sets.items():
            prefix = f"{data_set}/" if len(data_sets) > 1 else ""
            theirs = {key(i, name, data_set): f"{prefix}{name}" for i, name in enumerate(modalities)}
            raw = {ours: reference.inputs[name] for ours, name in theirs.items()}
            outputs |= {theirs[name]: value for name, value in model(raw, at=dict.fromkeys(raw)).items()}
        return outputs

    return reference.compare(model, from_haiku(model, parameters, names), call)


def key(number: int, modality: str, data_set: str) -> str:
    """Our name of a modality: in alphabetical order, which is the kit's, as in the call, which is the original's."""
    return f"{data_set} {number:03} {modality}"


def build(config: dict[str, Any]) -> tuple[nn.Module, dict[str, str]]:
    """The model of a configuration, and the names of its parameters, ours → theirs."""
    sizes, options = config["variant"], config["options"]
    width = sizes["num_embedding_channels"]
    labels = set(options.get("label_modalities", ())) if config["model"] == "HiPClassBottleneck" else set()
    names: dict[str, str] = {}
    maps: list[Projected] = []
    parts: dict[str, tuple[Embedded, PositionQuery, Project]] = {}
    label_parts: dict[str, tuple[Embedded, PositionQuery, Project]] = {}
    for data_set, modalities in config["inputs"].items():
        order, number = 0, 0
        for i, (name, (rows, channels)) in enumerate(modalities.items()):
            own = key(i, name, data_set)
            if name in labels:
                number += 1
                middle = sizes["num_z_channels"][len(sizes["num_groups"]) // 2 - 1]
                label_parts[own] = modality(own, channels, middle, Learned((rows,), middle))
                names |= modality_names(f"bottleneck.inputs.blocks.{attribute(own)}", name, f"_{number}")
                names[f"bottleneck.outputs.blocks.{attribute(own)}.project"] = (
                    f"embedder_{number}/~unembed/unembed_{name}"
                )
                continue
            positions: Positions = Learned((rows,), width)
            mapped = options.get("num_position_encoding_channels") not in (None, width)
            if mapped:
                positions = Projected(positions, width, bias=False, like=maps[order] if order < len(maps) else None)
                maps += [positions] if order == len(maps) else []
            parts[own] = modality(own, channels, width, positions)
            names |= modality_names(f"inputs.blocks.{attribute(own)}", name, "", order if mapped else None)
            names[f"outputs.blocks.{attribute(own)}.project"] = f"embedder/~unembed/unembed_{name}"
            order += 1
    encoder, decoder, own_names = trunk(config, width)
    names |= own_names
    blocks = assembled(parts)
    if not labels:
        return kit.PerceiverIO(blocks[0], encoder, blocks[1], decoder, blocks[2]), names
    middle = len(sizes["num_groups"]) // 2
    label_decoder = kit.Decoder(encoder.widths[middle - 1], encoder.widths[middle], activation=ACTIVATION)
    names |= layer_names("bottleneck.decoder.cross", f"reconstruction_head/{LEVEL}", NORMS)
    model = LabelBottleneck(
        blocks[0],
        encoder,
        blocks[1],
        decoder,
        blocks[2],
        **dict(zip(("label_inputs", "label_queries", "label_outputs"), assembled(label_parts), strict=True)),
        label_decoder=label_decoder,
    )
    return model, names


def trunk(config: dict[str, Any], width: int) -> tuple[Any, kit.Decoder, dict[str, str]]:
    """Encoder, decoder, and the names of their parameters."""
    sizes = config["variant"]
    common = dict(activation=ACTIVATION)
    flat = config["model"] == "PerceiverIO"
    if flat:
        encoder: Any = kit.Encoder(
            width,
            num_latents=sizes["z_index_dim"],
            latent_dim=sizes["num_z_channels"],
            layers=sizes["num_self_attends_per_block"],
            cross_heads=sizes["num_cross_attend_heads"],
            self_heads=sizes["num_self_attend_heads"],
            cross_widening=sizes["cross_attend_widening_factor"],
            self_widening=sizes["self_attend_widening_factor"],
            **common,
        )
        levels = [("encoder", "encoder.cross.0", sizes["num_self_attends_per_block"])]
    else:
        encoder = HierarchicalEncoder(
            width,
            groups=sizes["num_groups"],
            num_latents=sizes["z_index_dim"],
            widths=sizes["num_z_channels"],
            layers=sizes["num_self_attends_per_block"],
            cross_heads=sizes["num_cross_attend_heads"],
            self_heads=sizes["num_self_attend_heads"],
            cross_widening=sizes["cross_attend_widening_factor"],
            self_widening=sizes["self_attend_widening_factor"],
            regroup={"reshape": "reshape", "transpose_reshape": "transpose"}[config["options"]["regroup_type"]],
            **common,
        )
        levels = [(f"encoder.levels.{i}", f"encoder.levels.{i}.cross", n) for i, n in enumerate(encoder.layers)]
    names: dict[str, str] = {}
    block = "perceiver_block" if config["model"] == "HiPClassBottleneck" else "block"
    for i, (ours, cross, layers) in enumerate(levels):
        theirs = f"{block}_{i}/~/"
        names[f"{ours}.latents"] = f"{theirs}{LEVEL}query_inputs/pos_embs"
        names[f"{ours}.skip"] = f"{theirs}{LEVEL}pre_attention_residual_linear"
        names |= layer_names(cross, theirs + LEVEL, NORMS)
        for j in range(layers):
            own = {"norm": "layer_norm", "mlp_norm": "layer_norm_1"}
            names |= layer_names(f"{ours}.transformer.{j}", f"{theirs}self_attend_id_{j}/", own)
    groups = 1 if flat else sizes["num_groups"][-1]
    decoder = kit.Decoder(width, encoder.latent_dim, groups=groups, **common)
    head = "reconstruction_head_1" if config["model"] == "HiPClassBottleneck" else "reconstruction_head"
    return encoder, decoder, names | layer_names("decoder.cross", f"{head}/{LEVEL}", NORMS)


def modality(name: str, channels: int, width: int, positions: Positions) -> tuple[Embedded, PositionQuery, Project]:
    """Input, query and output of a modality of rows."""
    embedded = Embedded(Features(channels), width, positions=positions, combine="add")
    return embedded, PositionQuery(positions, follows=name), Project(channels, in_channels=width)


def assembled(parts: dict[str, tuple]) -> tuple[kit.Inputs, kit.Queries, kit.Outputs]:
    """The blocks of several modalities, any of which may be left out."""
    inputs, queries, outputs = ({name: part[i] for name, part in parts.items()} for i in range(3))
    return kit.Inputs(inputs, optional=[*parts]), kit.Queries(queries), kit.Outputs(outputs)


def attribute(name: str) -> str:
    """The attribute that holds a modality's block."""
    return name.replace("%", "%25").replace(".", "%2E")


def modality_names(ours: str, name: str, number: str, mapped: int | None = None) -> dict[str, str]:
    """Parameters of a modality's embedding and positions."""
    table = "positions.table" if mapped is None else "positions.positions.table"
    names = {
        f"{ours}.embedding": f"embedder{number}/~embed/embed_{name}",
        f"{ours}.{table}": f"position_encoder{number}/pos_emb_mae_{name}/pos_embs",
    }
    if mapped is not None:
        suffix = f"_{mapped}" if mapped else ""
        names[f"{ours}.positions.project"] = f"position_encoder/position_encoding_linear{suffix}"
    return names


def layer_names(ours: str, theirs: str, norms: dict[str, str]) -> dict[str, str]:
    """Parameters of a cross- or self-attention layer."""
    names = {f"{ours}.{left}": f"{theirs}{right}" for left, right in norms.items()}
    for left, right in (
        ("query", "query_linear"),
        ("key", "key_linear"),
        ("value", "value_linear"),
        ("output", "attention_output_linear"),
    ):
        names[f"{ours}.attention.{left}"] = f"{theirs}attention/{right}"
    mlp = {f"{ours}.mlp.0": f"{theirs}dense/mlp_hidden_linear", f"{ours}.mlp.2": f"{theirs}dense/mlp_output_linear"}
    return names | mlp
