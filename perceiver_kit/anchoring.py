"""An anchored start: each latent starts at a place of the inputs and reads near it; queries read the latents there.

Attention starts diffuse: in a small Perceiver each latent reads most rows and each query most latents, so that all
outputs start as one average, and leave it slowly. Where inputs and outputs are dense, an anchored start removes this
plateau.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .attention import Attention
from .checking import check_number
from .errors import AssemblyError
from .model import PerceiverIO
from .positions import unravel
from .tokens import Encoded, Grid, Tokens

MAX_ROWS = 512  # rows of a modality, or latents, that calibration and fits use
RIDGE = 1e-2


class Places(NamedTuple):
    """The rows of one input without content (n, c), their grid, and the indices of those that may be read."""

    rows: Float[Tensor, "n c"]
    grid: Grid
    index: Int64[Tensor, "k"]

    def spread(self, count: int) -> Int64[Tensor, "count"]:
        """``count`` readable places, evenly spread."""
        masked = len(self.index) < len(self.rows)
        return self.index[spread_out((len(self.index),) if masked else self.grid, count).to(self.index.device)]


@torch.no_grad()
def anchor(
    model: PerceiverIO,
    example: Mapping[str, Tensor],
    *,
    mask: Mapping[str, Tensor] | None = None,
    overlap: float = 1.0,
    latents_per_query: float = 3.0,
) -> PerceiverIO:
    """Change the initial weights of a model so that its attention is local. Returns the model.

    Latents are shared among the inputs by their number of rows, and spread evenly over the grid of each. A latent
    starts as the code of its place and reads about ``overlap`` · n / m of the n rows, those whose positions are
    nearest. The query of an output reads about ``latents_per_query`` latents, those anchored near it in the input that
    it follows, or that has its name; other queries read all latents alike. "About" is the mean perplexity of the
    attention weights.

    ``example`` is raw inputs of the usual sizes: only its first sample is used, and of inputs with positions only
    their grid. The places of an input without positions are its rows in the example, which must then be real. Rows
    where ``mask`` is False are no places. Inputs of one row, such as a label, have no place. A model on the meta
    device is returned as it is.

    Raises AssemblyError for an encoder without latents and cross-attention, or without an input of several rows.

    >>> model = build("multimodal_autoencoding", preset="tiny")
    >>> model = anchor(model, {"image": torch.zeros(1, 4, 3, 32, 32), "audio": torch.zeros(1, 7680)})
    >>> round(model.encoder.latents.std().item(), 2)
    1.0
    """
    check_number("anchor", overlap=overlap, latents_per_query=latents_per_query)
    encoder = model.encoder
    if not isinstance(getattr(encoder, "latents", None), Tensor) or not hasattr(encoder, "cross"):
        name = type(encoder).__name__
        raise AssemblyError(f"anchor: expected an encoder with latents and cross-attention, got {name}")
    if encoder.latents.is_meta:
        return model
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        places, tokens, content = _places(model, example, mask or {})
        if not places:
            raise AssemblyError("anchor: expected an input of several rows that may be read, got none")
        codes = _anchor_latents(encoder, places, overlap)
        if model.queries is not None and hasattr(model.decoder, "cross"):
            rows = {name: tokens[name] for name in example}
            encoded = Encoded(encoder(tokens), tokens.layout, tuple(example), rows, content)
            _anchor_queries(model, encoded, places, codes, latents_per_query)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return model


def spread_out(grid: Grid, count: int) -> Int64[Tensor, "count"]:
    """``count`` places of a grid as flat indices, evenly spread; distinct unless there are more than places.

    On several axes they follow the R-sequence (Roberts 2018), which fills a box evenly for every count.

    >>> spread_out((12,), 4), spread_out((2, 2), 4)
    (tensor([ 1,  4,  7, 10]), tensor([0, 1, 2, 3]))
    """
    total = math.prod(grid)
    if len(grid) == 1 or count >= total:
        return (2 * torch.arange(count) + 1) * total // (2 * max(count, 1))
    ratio = 2.0  # the root of x ** (axes + 1) = x + 1
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (len(grid) + 1))
    distinct, points = {}, count
    while len(distinct) < count:
        flat = torch.zeros(points, dtype=torch.int64)
        for axis, size in enumerate(grid):
            unit = (0.5 + torch.arange(points, dtype=torch.float64) * ratio ** -(axis + 1)) % 1
            flat = flat * size + (unit * size).long()
        distinct, points = dict.fromkeys(flat.tolist()), 2 * points
    return torch.tensor(sorted([*distinct][:count]))


def perplexity(weights: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """How many rows attention weights are spread over: exp(entropy).

    >>> perplexity(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])).round(decimals=3).tolist()
    [4.0, 2.0]
    """
    return torch.special.entr(weights).sum(-1).exp()


def sharpness(scores: Float[Tensor, "*b n"], wanted: float) -> float:
    """The factor of the scores with which their softmax has the mean perplexity ``wanted``, by bisection.

    >>> scores = torch.randn(16, 100)
    >>> round(perplexity((sharpness(scores, 5.0) * scores).softmax(-1)).mean().item(), 2)
    5.0
    """
    unit = scores.double().std().clamp(min=1e-12)
    low, high = -12.0, 12.0  # logarithms
    for _ in range(40):
        middle = (low + high) / 2
        narrow = perplexity((math.exp(middle) * scores.double() / unit).softmax(-1)).mean() < wanted
        low, high = (low, middle) if narrow else (middle, high)
    return math.exp(low) / unit.item()


def _places(
    model: PerceiverIO, example: Mapping[str, Tensor], mask: Mapping[str, Tensor]
) -> tuple[dict[str, Places], Tokens, dict[str, Tensor]]:
    """The places of each input, and all tokens and contents of inputs without content."""
    raw = {name: value[:1] for name, value in example.items()}
    keep = {name: value[:1] for name, value in mask.items()}
    device = model.encoder.latents.device
    hidden = {name: torch.zeros(1, dtype=torch.bool, device=device) for name in model.inputs.hide if name in raw}
    tokens, _ = model.inputs(raw, keep, hidden=hidden)
    # Masked content is zeroed before positions are attached.
    blank = keep | {
        name: torch.zeros(1, math.prod(tokens.layout.grid(name)), dtype=torch.bool, device=device)
        for name in raw
        if model.inputs.blocks[name].positions is not None
    }
    readable = tokens.mask
    tokens, content = model.inputs(raw, blank, hidden=hidden, content=tuple(raw))
    places = {}
    for name in raw:
        rows = tokens[name][0].to(model.encoder.latents.dtype)
        index = torch.arange(len(rows), device=device)
        if name in keep:
            index = index[rearrange(keep[name], "1 ... -> (...)")]
        if len(rows) > 1 and len(index):
            places[name] = Places(rows, tokens.layout.grid(name), index)
    return places, replace(tokens, mask=readable), content


def _anchor_latents(encoder: Any, places: Mapping[str, Places], overlap: float) -> dict[str, Tensor]:
    """Latents at places, each reading the rows near it; returns the code of every row, by input."""
    first = encoder.cross[0]
    lengths = torch.tensor([len(place.index) for place in places.values()])
    ends = (lengths.cumsum(0) * encoder.num_latents / lengths.sum()).round().long()
    shares = dict(zip(places, ends.diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist(), strict=True))
    readable = torch.cat([place.rows[place.index] for place in places.values()])
    centre = first.key_norm(readable).mean(0)
    projection = _projection(first.key_norm(readable), encoder.latent_dim)
    codes = {
        name: (first.key_norm(place.rows) - centre) @ rearrange(projection, "d c -> c d")
        for name, place in places.items()
    }
    latents = torch.cat([codes[name][place.spread(shares[name])] for name, place in places.items()])
    scale = 1 / latents.std().clamp(min=1e-6)
    encoder.latents.copy_(latents * scale)
    for layer in encoder.cross:
        queries, keys = layer.query_norm(encoder.latents), layer.key_norm(readable)
        _aim(layer.attention, queries, keys, projection, overlap * len(readable) / encoder.num_latents)
    return {name: code * scale for name, code in codes.items()}


def _anchor_queries(
    model: PerceiverIO,
    encoded: Encoded,
    places: Mapping[str, Places],
    codes: Mapping[str, Tensor],
    latents_per_query: float,
) -> None:
    """Queries that read the latents anchored near them: a ridge regression from queries to codes of places."""
    layer, blocks = model.decoder.cross, model.queries.blocks
    located, others = [], []
    for name in blocks:
        grid = model.queries.grid(name, encoded)
        queries = layer.query_norm(model.queries(name, grid, None, encoded)[0])
        source = blocks[name].follows or name
        if source in places and len(places[source].grid) == len(grid):
            index = places[source].index
            located.append((queries, queries[_nearest(index, places[source].grid, grid)], codes[source][index]))
        else:
            others.append(queries)
    if not located:
        return
    queries, targets = torch.cat([part for _, part, _ in located]), torch.cat([code for _, _, code in located])
    for other in others:  # weighted as all located queries together; a code of zero asks all latents alike
        weight = math.sqrt(len(targets) / len(other))
        queries, targets = (
            torch.cat([queries, weight * other]),
            torch.cat([targets, targets.new_zeros(len(other), targets.shape[1])]),
        )
    penalty = RIDGE * len(queries) * torch.eye(queries.shape[1]).to(queries)
    fitted = torch.linalg.solve(queries.mT @ queries + penalty, queries.mT @ targets)
    asked = torch.cat([part[_evenly(len(part))] for part, _, _ in located])
    _aim(layer.attention, asked, layer.key_norm(encoded.latents[0]), fitted, latents_per_query)


def _aim(attention: Attention, queries: Tensor, keys: Tensor, codes: Float[Tensor, "cq ck"], wanted: float) -> None:
    """Weights with which a query reads the keys most like ``query @ codes``: about ``wanted`` of them."""
    key, query = attention.key, attention.query
    key.weight.copy_(_projection(keys, key.out_features))
    query.weight.copy_(key.weight @ codes.mT)
    for layer in (key, query):
        if layer.bias is not None:
            layer.bias.zero_()
    q = rearrange(query(queries[_evenly(len(queries))]), "m (heads c) -> heads m c", heads=attention.heads)
    k = rearrange(key(keys), "n (heads c) -> heads n c", heads=attention.heads)
    scores = attention.scale * einsum(q, k, "heads m c, heads n c -> heads m n")
    query.weight.mul_(sharpness(scores, max(wanted, 1.05)))


def _nearest(index: Tensor, grid: Grid, other: Grid) -> Tensor:
    """Flat indices into another grid of the places nearest to ``index`` of ``grid``."""
    flat = torch.zeros_like(index)
    for place, size, extent in zip(unravel(index, grid), grid, other, strict=True):
        flat = flat * extent + (2 * place + 1) * extent // (2 * size)
    return flat


def _projection(rows: Float[Tensor, "n c"], width: int) -> Float[Tensor, "width c"]:
    """Principal directions of the rows, turned at random: no map to ``width`` channels keeps distances better."""
    centred = (rows - rows.mean(0)).float()
    directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(-1)[:, :width]
    turn = nn.init.orthogonal_(torch.empty(width, directions.shape[1])).to(directions)
    return (turn @ directions.mT).to(rows.dtype)


def _evenly(count: int) -> Tensor:
    return spread_out((count,), min(count, MAX_ROWS))
