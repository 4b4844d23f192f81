"""Why a model does not learn yet: how wide attention is, how alike latents are, which stage gets a gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from .anchoring import perplexity
from .capture import capture_attention
from .checking import writing
from .errors import InputError
from .model import PerceiverIO
from .objectives import Objective

MAX_SAMPLES = 8  # whose latents are decomposed


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found; ``print`` shows it as a table, ``draw`` as a picture.

    Args:
        attention: block → (perplexity, rows): over how many of the rows that it may read a query's weights are spread.
        reads: decoder block → from 0 to 1, how much what a query reads differs from what the mean query reads; an
            output cannot depend on its place where this is 0.
        likeness: mean cosine between the latents of a sample; 1 means that they have collapsed.
        rank: over how many directions the latents of a sample differ, at most their number - 1.
        sample_share: the share of the latents' square that differs between samples; 0 means that inputs are ignored.
        gradients: stage → gradient norm.
    """

    attention: Mapping[str, tuple[float, int]]
    reads: Mapping[str, float]
    likeness: float
    rank: float
    sample_share: float
    gradients: Mapping[str, float]

    def __str__(self) -> str:
        lines = [f"{'attention':<28}spread over"]
        lines += [f"  {name:<26}{spread:.1f} of {rows} rows" for name, (spread, rows) in self.attention.items()]
        lines += [f"  {name:<26}queries' reads differ by {share:.1%}" for name, share in self.reads.items()]
        lines += [
            "latents",
            f"  {'mean cosine':<26}{self.likeness:.3f}",
            f"  {'effective rank':<26}{self.rank:.1f}",
            f"  {'share of the sample':<26}{self.sample_share:.1%}",
            f"{'gradients':<28}norm",
        ]
        return "\n".join(lines + [f"  {stage:<26}{norm:.2e}" for stage, norm in self.gradients.items()])

    def draw(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: the spread of attention as a share of its rows, and gradient norms; saved if asked."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 0.35 * max(len(self.attention), len(self.gradients)) + 1.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.barh([*self.attention], [spread / rows for spread, rows in self.attention.values()], color="C0")
        left.set(xlim=(0, 1), title="Attention is spread over, share of rows")
        right.barh([*self.gradients], [*self.gradients.values()], color="C1", log=True)
        right.set(title="Gradient norm")
        for axes in (left, right):
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(
            f"Latents: mean cosine {self.likeness:.2f}, rank {self.rank:.1f}, sample {self.sample_share:.1%}",
            fontsize=10,
        )
        if path is not None:
            with writing("diagnose", Path(path)):
                figure.savefig(path, dpi=100)
        return figure


def diagnose(model: PerceiverIO, batch: Mapping[str, Any], *, objective: Objective | None = None) -> Diagnosis:
    """Run a model on a batch and measure what decides whether it learns; nothing about the model changes.

    ``batch`` is a dict of ``inputs``, optionally ``mask`` and ``targets``, as data sets make them, or raw inputs alone;
    at least two samples. Gradients are those of ``objective``, or of the mean square of the outputs. Evaluation mode,
    so that nothing is drawn at random. Attention maps are held in memory: take a few samples.

    Raises InputError for a batch of one sample, or an objective without targets.

    >>> found = diagnose(build("masked_lm", preset="tiny"), {"text": torch.randint(6, 262, (4, 64))})
    >>> spread, rows = found.attention["encoder.cross.0"]
    >>> 30 < spread < rows
    True
    """
    nested = isinstance(batch.get("inputs"), Mapping)
    inputs, mask = (batch["inputs"], batch.get("mask")) if nested else (batch, None)
    targets = batch.get("targets") if nested else None
    if objective is not None and targets is None:
        raise InputError("diagnose: objective needs a batch with targets, got none")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad(), capture_attention(model) as maps:
            encoded = model.encode(inputs, mask=mask)
            outputs = {} if model.outputs is None else model.decode(encoded)
        if len(encoded.latents) < 2:
            raise InputError("diagnose: expected a batch of at least two samples, got one")
        results = outputs or {"latents": encoded.latents}
        if objective is not None:
            loss, _ = objective(results, targets)
        else:
            loss = torch.stack([value.float().square().mean() for value in results.values()]).sum()
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        found = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
    finally:
        for module, mode in modes.items():
            module.training = mode

    squares: dict[str, float] = {}
    for name, gradient in zip(named, found, strict=True):
        stage = ".".join(name.split(".")[: 2 if name.startswith("encoder.") else 1])
        squares[stage] = squares.get(stage, 0.0) + (0.0 if gradient is None else gradient.float().square().sum().item())
    spreads = {
        name: (
            torch.cat([rearrange(perplexity(call.float()), "... -> (...)") for call in calls]).mean().item(),
            calls[0].shape[-1],
        )
        for name, calls in maps.items()
        if calls
    }
    # Half of the absolute difference of two distributions is the share of weight that has moved.
    reads = {
        name: ((weights := calls[0].float()) - weights.mean(2, keepdim=True)).abs().sum(-1).mean().item() / 2
        for name, calls in maps.items()
        if name.startswith("decoder") and calls and calls[0].shape[2] > 1
    }
    latents = encoded.latents.detach().float()
    unit = F.normalize(latents, dim=-1)
    count = latents.shape[1]
    cosines = reduce(unit, "b m d -> b d", "sum").square().sum(-1)
    values = torch.linalg.svdvals(latents[:MAX_SAMPLES] - latents[:MAX_SAMPLES].mean(1, keepdim=True)).square()
    shares = values / values.sum(-1, keepdim=True).clamp(min=1e-30)
    return Diagnosis(
        spreads,
        reads,
        likeness=((cosines - count) / max(count * (count - 1), 1)).mean().item(),
        rank=perplexity(shares).mean().item(),
        sample_share=_ratio(latents.var(0).mean(), latents.square().mean()),
        gradients={stage: math.sqrt(total) for stage, total in squares.items()},
    )


def _ratio(part: Tensor, whole: Tensor) -> float:
    return (part / whole.clamp(min=1e-30)).item()
