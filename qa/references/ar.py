"""Reference numbers of Perceiver AR: one pass with its loss, and generation with a cache under three policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.func import functional_call

from perceiver_kit import Encoded, Inputs, Outputs, PerceiverIO, Queries, capture_attention
from perceiver_kit.decoders import PassThrough
from perceiver_kit.encoders import CausalEncoder
from perceiver_kit.generation import next_logits
from perceiver_kit.inputs import TextTokens
from perceiver_kit.objectives import NextTokens
from perceiver_kit.outputs import Project
from perceiver_kit.positions import Fourier, Learned, Positions, Sinusoidal
from perceiver_kit.queries import LatentQuery
from perceiver_kit.variants import Rotary

from .comparing import Reference, Tensors, relative

ACTIVATIONS = {"sq_relu": "squared_relu", "gelu": "gelu_tanh"}
QUERIES = {"none": "linear", "linear": "linear", "mlp": "mlp", "learned": "learned"}
CROSS = {"query_norm": "layer_norm", "key_norm": "layer_norm_1", "mlp_norm": "layer_norm_2"}
SELF = {"norm": "layer_norm", "mlp_norm": "layer_norm_1"}
LINEAR = {"query": "linear", "key": "linear_1", "value": "linear_2", "output": "linear_3"}
LINEAR = {f"attention.{ours}": f"attention/{theirs}" for ours, theirs in LINEAR.items()}
LINEAR |= {"mlp.0": "dense/linear", "mlp.2": "dense/linear_1"}


def run(file: str | Path) -> dict[str, float]:
    """The largest relative difference of each output and gradient in an ``ar_*`` file."""
    reference = Reference(file)
    return (generated if "start" in reference.config else one_pass)(reference)


def build(config: dict[str, Any], **options: Any) -> PerceiverIO:
    """The model of a configuration; ``options`` of its encoder come before those of the configuration."""
    vocabulary, channels, dim = (config[key] for key in ("num_classes", "input_embed_dim", "num_z_channels"))
    rows = config["input_idx_size"][0]
    rows = config["max_context_length"] if rows == -1 else rows
    positions: Positions | None = None
    if config["position_encoding_type"] == "absolute":
        if config["position_encoding"] == "random" or config["learnable_position_embeddings"]:
            positions = Learned((rows,), channels)
        elif config["position_encoding"] == "sinusoidal":
            positions = Sinusoidal(channels)
        else:
            positions = Fourier(bands=channels // 2, max_resolution=(rows,), coordinates=False)
    rotary = None
    if config["position_encoding_type"] == "rotary":
        wavelength = float(config["max_wavelength"] + config["initial_query_offsetting"])
        rotary = Rotary(wavelength, config["fraction_to_rotate"], config["fraction_heads_to_rotate"])
        rows = max(rows, config["max_context_length"], config.get("input_length", 0), config.get("length", 0))
    shared = config.get("share_learned_initial_query", False) and config["initial_query_embed_style"] == "learned"
    sizes: dict[str, Any] = dict(
        num_latents=config["z_index_dim"],
        latent_dim=dim,
        layers=config["num_transformers_per_block"],
        context=rows,
        latents_per_position=config["num_latents_per_position"],
        query="shared" if shared else QUERIES[config["initial_query_embed_style"]],
        positions=positions,
        rotary=rotary,
        # Negated distances from the end differ from places counted from the start by one number for all.
        count="forward" if rotary and config["use_negative_rotary_positions"] else "back",
        query_offset=int(config["initial_query_offsetting"]) if rotary else 0,
        cross_after=tuple(config["additional_cross_attend_after_layers"]),
        cross_heads=config["num_cross_attend_heads"],
        self_heads=config["num_transformer_heads"],
        cross_qk_channels=channels if config["cross_attention_shape_for_attn"] == "kv" else dim,
        cross_widening=config["cross_attend_widening_factor"],
        self_widening=config["transformer_widening_factor"],
        query_residual=config["encoder_use_query_residual"],
        activation=ACTIVATIONS.get(config["activation_name"], config["activation_name"]),
    )
    encoder = CausalEncoder(channels, **(sizes | options))
    queries = Queries(text=LatentQuery(encoder.places, latent_dim=dim))
    outputs = Outputs(text=Project(vocabulary, in_channels=dim))
    return PerceiverIO(
        Inputs(text=TextTokens(vocabulary, channels)), encoder, queries, PassThrough(dim), outputs
    ).eval()


def state(model: PerceiverIO, parameters: Tensors) -> Tensors:
    """The model's parameters as functions of the original's."""
    encoder: Any = model.encoder
    names = {
        "inputs.blocks.text.embedding": "~/embed",
        "encoder.positions": "~/embed_1",
        "encoder.apart": "~/z_pos_enc",
        "encoder.norm": "layer_norm",
        "outputs.blocks.text.project": "~/logits",
    }
    starts = ["linear_2", "linear", "linear_1"] if encoder.query == "mlp" else ["linear"]
    names |= {f"encoder.start.{2 * i - (i > 0)}": f"~/{name}" for i, name in enumerate(starts)}
    for kind, layers, norms in (
        ("cross_attention", encoder.cross, CROSS),
        ("self_attention", encoder.transformer, SELF),
    ):
        ours = "cross" if kind == "cross_attention" else "transformer"
        for i in range(len(layers)):
            for part, theirs in (norms | LINEAR).items():
                names[f"encoder.{ours}.{i}.{part}"] = f"~/{kind}{f'_{i}' if i else ''}/{theirs}"
    leaves = {"weight": ("w", "scale", "embeddings"), "bias": ("b", "offset"), "table": ("embeddings",)}
    found: Tensors = {}
    for name, wanted in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        if name == "encoder.latents":
            candidates = [key for key in parameters if "q_embed_learned" in key]
        elif name in names:
            candidates = [f"perceiver_ar/{names[name]}/pos_embs"]
        else:
            candidates = [f"perceiver_ar/{names[module]}/{each}" for each in leaves[leaf]]
        [theirs] = [key for key in candidates if key in parameters]
        value = parameters[theirs]
        value = value.T if theirs.endswith("/w") else value
        found[name] = rearrange(value, "... c -> (...) c") if name == "encoder.latents" else value
        assert found[name].shape == wanted.shape, f"{name} {tuple(wanted.shape)}: {theirs} {tuple(value.shape)}"
    return found


class Placed(nn.Module):
    """A model that takes the positions of its rows, as the original does where the data give them."""

    def __init__(self, model: PerceiverIO) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor | None, index: Tensor | None) -> Tensor:
        tokens, _ = self.model.inputs(ids, mask)
        latents = self.model.encoder(tokens, index=index)
        return self.model.decode(Encoded(latents, tokens.layout, ("text",)))["text"]


def signed(index: Tensor, config: dict[str, Any]) -> Tensor:
    """Positions as the rotary ones take them."""
    return -index if config["use_negative_rotary_positions"] else index


def one_pass(reference: Reference) -> dict[str, float]:
    """Logits, masks and losses of a batch, and the gradients of the mean square and of the loss."""
    config, wanted = reference.config, reference.outputs
    model = build(config)
    parameters = state(model, reference.parameters)
    ids, targets = reference.inputs["inputs"].long(), reference.inputs["targets"].long()
    length = ids.shape[1]
    column = torch.arange(length)
    lengths = torch.where((ids == 0).any(1), (ids == 0).to(torch.uint8).argmax(1), length)[:, None]
    mask, index = column < lengths, None
    if config["use_positions_from_data"]:
        index = signed(reference.inputs["input_idxs"][..., 0].long(), config)
    if config["z_index_dim"] == 1:  # the original then makes no mask
        if index is None:
            index = signed((lengths - 1 - column) % length, config)
        mask = None
    with capture_attention(model, only="encoder.*") as maps:
        logits = functional_call(
            Placed(model), {f"model.{name}": each for name, each in parameters.items()}, (ids, mask, index)
        )
    per = config["num_latents_per_position"]
    places = config["z_index_dim"] // per
    logits = F.pad(logits, (0, 0, places - logits.shape[1], 0))
    steps = (lengths - places + torch.arange(places)).clamp(min=-1)
    exists = steps >= 0
    labels = torch.where(exists, targets.gather(1, steps.clamp(min=0)), 0)
    kept = exists & (labels != 0)
    objective = NextTokens(label_smoothing=config["label_smoothing"], z_loss=config["z_loss"])
    losses = [
        torch.zeros(kept.shape).masked_scatter(kept, part) for part in objective.losses(logits[kept], labels[kept])
    ]
    total, _ = objective({"text": logits}, {"text": torch.where(kept, labels, -100)})
    found: Tensors = {
        "logits": logits * exists[..., None],
        "latent_last_steps": steps,
        "loss_per_latent": losses[0] + losses[1],
        "z_loss_per_latent": losses[1],
        "loss_mask": kept,
        "labels": labels,
        "total_loss": total * kept.sum(),
        "mean_square": logits[exists].square().mean(),
    }
    theirs = dict(wanted, logits=wanted["logits"] * exists[..., None])
    if mask is not None:
        masks(found, theirs, maps, lengths, exists, per)
    assert found.keys() >= theirs.keys() - {"encoder_mask", "processor_mask"}, theirs.keys() - found.keys()
    differences = {f"out/{name}": relative(value, theirs[name]) for name, value in found.items() if name in theirs}
    for prefix, scalar in (("grad/", "mean_square"), ("grad_loss/", "total_loss")):
        differences |= reference.gradient_differences(found[scalar], prefix)
    return differences


def masks(found: Tensors, theirs: Tensors, maps: Any, lengths: Tensor, exists: Tensor, per: int) -> None:
    """What the maps read of the rows and of the latents, where there is a latent."""
    [cross], [own] = maps["encoder.cross.0"], maps.get("encoder.transformer.0", [None])
    n, m = cross.shape[-1], cross.shape[-2]
    back = (torch.arange(n) - lengths) % n  # the kit moves the padding to the left
    read = reduce(cross, "b h m n -> b m n", "max") > 0
    read = read.gather(2, back[:, None].expand(-1, m, -1))
    there = exists[:, -(m // per) :].repeat_interleave(per, 1)
    for name, rows in (("encoder_mask", read), ("processor_mask", None if own is None else own.amax(1) > 0)):
        if name in theirs and rows is not None:
            other = theirs[name][:, -m:, -rows.shape[-1] :]
            found[name], theirs[name] = rows & there[..., None], other.bool() & there[..., None]


def generated(reference: Reference) -> dict[str, float]:
    """Greedy tokens, and the logits of three policies on the same tokens."""
    config, wanted = reference.config, reference.outputs
    start, length, room = config["start"], config["length"], config["memory_latents"]
    places = reference.inputs["event_idxs"][..., 0]
    first = int(places[0, 0])
    assert torch.equal(places, (first + torch.arange(length)).expand_as(places)), "positions that do not follow"
    count = "back" if config["use_negative_rotary_positions"] else "forward"
    model = build(config | {"z_index_dim": room}, count=count, first_position=first)
    with torch.no_grad():
        own = state(model, reference.parameters)
        for name, parameter in model.named_parameters():
            parameter.copy_(own[name])
    ids = reference.inputs["prompt"].long().clone()
    rows, kinds, after = [], [], []
    cache = None
    for i in range(start, length):
        full = cache is not None and int(cache.latents.sum(1).max()) == room
        kinds.append(1 if full else 2 if i == start and start > 1 else 0)
        logits, cache = next_logits(
            model, ids[:, :i], cache=cache, policy="refill", free=room - config["refill_latents"], latents=1
        )
        assert cache is not None
        after.append(int(cache.latents.sum(1).max()))
        ids[:, i] = logits.argmax(-1)
        rows.append(logits)
    found = {"tokens": ids, "logits": torch.stack(rows, 1)}
    found |= {"step_kind": torch.tensor(kinds), "latents_after": torch.tensor(after)}
    ids, cache = wanted["tokens"].long(), None
    rolled, recomputed = [], []
    for i in range(start, length):
        logits, cache = next_logits(model, ids[:, :i], cache=cache, policy="roll", latents=1)
        rolled.append(logits)
        recomputed.append(next_logits(model, ids[:, :i])[0])
    found |= {"logits_roll": torch.stack(rolled, 1), "logits_recompute": torch.stack(recomputed, 1)}
    return {f"out/{name}": relative(value, wanted[name]) for name, value in found.items()}
