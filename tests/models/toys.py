"""A new block of each kind, as another package might add it; no table of the tests mentions them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.checking import check_tensor
from perceiver_kit.inputs.base import Combine
from perceiver_kit.outputs.base import Output
from perceiver_kit.positions import Positions, unravel
from perceiver_kit.queries import Query
from perceiver_kit.tokens import Encoded, Grid, Tokens


class Tracks(kit.inputs.Input):
    """Tracks of points (b, n, times, 2), one row each."""

    def __init__(
        self,
        times: int,
        *,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        super().__init__(2 * times, grid=grid, positions=positions, combine=combine)
        self.times = times
        self.gain = nn.Parameter(torch.ones(2 * times))

    @property
    def raw_axes(self) -> str:
        return f"b n {self.times} 2"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        return raw.flatten(2) * self.gain


class Ramps(Positions):
    """Powers of the summed coordinates, with learned gains."""

    def __init__(self, powers: int, *, shifted: bool = False) -> None:
        super().__init__()
        self.channels, self.shifted = powers, shifted
        self.gain = nn.Parameter(torch.ones(powers))

    def forward(self, grid: Grid, index: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
        rows = torch.Size(grid).numel()
        index = torch.arange(rows, device=device) if index is None else index
        place = sum((axis + self.shifted) / size for axis, size in zip(unravel(index, grid), grid, strict=True))
        powers = torch.arange(1, self.channels + 1, device=index.device)
        return place[..., None] ** powers * self.gain


class Corners(Query):
    """One learned query for the first position of a grid, another for the rest."""

    def __init__(self, size: Grid, channels: int) -> None:
        super().__init__()
        self.size, self.channels = tuple(size), channels
        self.first, self.other = (nn.Parameter(torch.randn(channels)) for _ in range(2))

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Tensor:
        device = encoded.latents.device
        index = torch.arange(torch.Size(grid).numel(), device=device) if index is None else index
        rows = torch.where(index[..., None] == 0, self.first, self.other)
        return rows if rows.ndim == 3 else rows[None]


class Gated(kit.Block):
    """Queries times a summary of the latents."""

    def __init__(self, query_channels: int, latent_dim: int, *, out_channels: int) -> None:
        super().__init__()
        self.query_channels, self.latent_dim, self.out_channels = query_channels, latent_dim, out_channels
        self.query, self.latent = nn.Linear(query_channels, out_channels), nn.Linear(latent_dim, out_channels)

    def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
        return self.query(queries) * self.latent(latents.mean(1, keepdim=True)).tanh()


class Centred(Output):
    """Rows minus their mean over all rows, so that rows depend on each other."""

    mixes_rows = True

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.gain = nn.Parameter(torch.ones(in_channels))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - rows.mean(1, keepdim=True) + 1) * self.gain


class Averages(kit.Block):
    """Each latent is a linear map of the mean of the unmasked rows."""

    def __init__(self, channels: int, *, num_latents: int, latent_dim: int) -> None:
        super().__init__()
        self.channels, self.latent_dim = channels, latent_dim
        self.maps = nn.ModuleList(nn.Linear(channels, latent_dim) for _ in range(num_latents))

    def forward(self, tokens: Tokens) -> Tensor:
        rows = tokens.rows.to(self.maps[0].weight.dtype)
        keep = torch.ones_like(rows[..., :1], dtype=torch.bool) if tokens.mask is None else tokens.mask[..., None]
        # tanh bounds the mean.
        mean = torch.where(keep, rows, 0).tanh().sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([linear(mean) for linear in self.maps], 1)


TOYS = {
    "inputs": Tracks,
    "positions": Ramps,
    "queries": Corners,
    "decoders": Gated,
    "outputs": Centred,
    "encoders": Averages,
}
