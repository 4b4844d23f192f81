"""Several modalities: padded to one width, masked or hidden, and concatenated along rows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool
from torch import Tensor

from ..attention_backends import keep_in_graph
from ..block import Block
from ..checking import check_positive, check_probability, describe_value
from ..errors import AssemblyError, InputError
from ..masks import row_mask
from ..modalities import ByModality, check_modalities, check_names
from ..padding import LearnedVector, common_width, pad
from ..registry import register
from ..tokens import Grid, Layout, Tokens
from .base import Input

Hide = float | tuple[float, float]


@register("inputs")
class Inputs(Block):
    """Named input blocks: raw tensors by name → ``Tokens`` of width ``channels``, modalities in alphabetical order.

    Every modality is padded with a learned vector to the widest one plus ``min_padding``. A modality in ``hide`` has a
    mask token, which replaces each of its rows with a probability (in training, in evaluation). Evaluation hides all
    rows or none, so that results are deterministic; a single number p means (p, 1 if p is 1 else 0). A modality in
    ``hide`` may be left out: mask tokens then fill its declared grid; without a declared grid it adds no rows. One in
    ``optional`` may be left out, too, and then adds no rows: several data sets can pass through one model.

    A modality named like a keyword (``hide``) is given in a mapping: ``Inputs({"hide": OneHot(2)})``.

    Source: Perceiver IO (Jaegle et al. 2022), appendix F.

    >>> inputs = Inputs(points=Features(3), label=OneHot(10), hide=dict(label=(0.5, 1.0)), min_padding=2)
    >>> tokens, _ = inputs({"points": torch.zeros(2, 7, 3)})
    >>> tokens.rows.shape, [*tokens.layout]
    (torch.Size([2, 8, 12]), ['label', 'points'])
    """

    def __init__(
        self,
        blocks: Mapping[str, Input] | None = None,
        /,
        *,
        hide: Mapping[str, Hide] | None = None,
        optional: Collection[str] = (),
        min_padding: int = 0,
        **named: Input,
    ) -> None:
        super().__init__()
        merged = check_modalities("Inputs", Input, blocks, named)
        check_positive("Inputs", min_padding=min_padding, least=0)
        self.blocks = ByModality(merged)
        self.channels, self.padding = common_width(merged, min_padding)
        self.min_padding = min_padding
        if hide is not None and not isinstance(hide, Mapping):
            raise AssemblyError(f"Inputs: hide must map modalities to probabilities, got {describe_value(hide)}")
        self.hide = {name: _probabilities(name, value) for name, value in (hide or {}).items()}
        check_names("Inputs: hide", self.hide, merged)
        check_names("Inputs: optional", optional, merged)
        self.optional = tuple(name for name in optional if name not in self.hide)
        self.mask_tokens = ByModality({name: LearnedVector(self.channels) for name in self.hide})

    def arguments(self) -> dict[str, Any]:
        blocks = {name: self.blocks[name] for name in self.blocks}
        return {"blocks": blocks, "hide": self.hide, "optional": self.optional, "min_padding": self.min_padding}

    def forward(
        self,
        raw: Mapping[str, Tensor] | Tensor,
        mask: Mapping[str, Tensor] | Tensor | None = None,
        *,
        hidden: Mapping[str, Tensor] | None = None,
        content: Collection[str] = (),
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Tokens of all modalities, and the rows before positions of the modalities named in ``content``.

        ``mask`` is bool (b, rows) or (b, *grid) by modality, True where a row may be read. ``hidden`` is bool (b,) or
        (b, rows) by modality, True where the mask token replaces a row; it overrides the random draw. Masked and
        hidden content is zeroed before positions are attached.
        """
        raw, mask = self._named(raw, "inputs"), self._named({} if mask is None else mask, "mask")
        batch = self._batch(raw, mask)
        check_names("hidden", hidden or {}, self.hide)
        segments: list[tuple[str, Grid]] = []
        rows: list[Tensor] = []
        masks: list[Tensor | None] = []
        contents: dict[str, Tensor] = {}
        for name in self.blocks:
            block: Input = self.blocks[name]
            if name not in raw:
                if block.grid is not None and name in self.hide:
                    token = self.mask_tokens[name].vector
                    rows.append(repeat(token, "1 c -> b n c", b=batch, n=math.prod(block.grid)))
                    segments.append((name, block.grid))
                    masks.append(None)
                continue
            given, readable = raw[name], mask.get(name)
            if isinstance(readable, Tensor):
                given, readable = block.masked(given, readable)
            embedded = block.embed(given, name)
            grid = tuple(embedded.shape[1:-1])
            embedded = rearrange(embedded, "b ... c -> b (...) c")
            keep = row_mask("mask", name, readable, batch, grid, "may be read") if name in mask else None
            coordinates = block.coordinates(given, name)
            if keep is not None:
                embedded = torch.where(rearrange(keep, "b n -> b n 1"), embedded, 0)
                if coordinates is not None:
                    coordinates = torch.where(rearrange(keep, "b n -> b n 1"), coordinates, math.nan)  # no place
            placed = pad(block.place(embedded, grid, coordinates, name), self.padding, name)
            hide = self._hidden(name, placed, (hidden or {}).get(name))
            if hide is not None:
                placed = torch.where(hide, self.mask_tokens[name](placed), placed)
                embedded = torch.where(hide, 0, embedded)
            if name in content:
                contents[name] = embedded
            rows.append(placed)
            segments.append((name, grid))
            masks.append(keep)
        self._keep_in_graph(rows, raw)
        joined = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        return Tokens(joined, Layout(tuple(segments)), _joined(masks, rows)), contents

    def _keep_in_graph(self, rows: list[Tensor], given: Collection[str]) -> None:
        """Give vectors that this call does not use a zero gradient: distributed training raises for a missing one."""
        unused = [self.mask_tokens[name].vector for name in self.hide if name in given and not self._probability(name)]
        unused += [self.mask_tokens[name].vector for name in self.hide if self.blocks[name].grid is None]
        unused += [self.padding[name].vector for name in self.padding if name not in given]
        unused += [weight for name in self.optional if name not in given for weight in self.blocks[name].parameters()]
        if unused:
            lengths = [part.shape[1] for part in rows]
            shortest = lengths.index(min(lengths))  # min(key=…) cannot be traced by torch.compile
            rows[shortest] = keep_in_graph(rows[shortest], *unused)

    def _named(self, value: Mapping[str, Tensor] | Tensor, argument: str) -> Mapping[str, Tensor]:
        if isinstance(value, Mapping):
            check_names(argument, value, self.blocks)
            return value
        if len(self.blocks) > 1 or not isinstance(value, Tensor):
            raise InputError(
                f"{argument} must be a mapping with {', '.join(self.blocks)}"
                f"{'' if len(self.blocks) > 1 else ' (or its tensor alone)'}, got {describe_value(value)}"
            )
        return {next(iter(self.blocks)): value}

    def _batch(self, raw: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> int:
        if not raw:
            raise InputError(f"inputs is empty; give at least one of {', '.join(self.blocks)}")
        for name in self.blocks:
            if name not in raw and name not in self.hide and name not in self.optional:
                optional = ", ".join((*self.hide, *self.optional)) or "none"
                raise InputError(f"inputs lacks {name!r}, which has no mask token (may be left out: {optional})")
        for name in mask:
            if name not in raw:
                raise InputError(f"mask names {name!r}, but inputs has no {name!r}")
        for name, value in raw.items():
            if not isinstance(value, Tensor) or value.is_nested or value.ndim == 0:
                ragged = isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.is_nested)
                hint = "; pad samples of different lengths and mask the padding, as kit.pad does" if ragged else ""
                raise InputError(f"{name} must be a tensor with a batch axis, got {describe_value(value)}{hint}")
        sizes = {name: value.shape[0] for name, value in raw.items()}
        batch = next(iter(sizes.values()))
        if any(size != batch for size in sizes.values()):
            raise InputError(f"inputs must share one batch size, got {sizes}")
        return batch

    def _probability(self, name: str) -> float:
        return self.hide[name][0 if self.training else 1] if name in self.hide else 0.0

    def _hidden(self, name: str, rows: Tensor, given: Tensor | None) -> Bool[Tensor, "b n 1"] | None:
        """Rows that the mask token replaces, as given or drawn at random; None for none."""
        if given is not None:
            batch, length = rows.shape[:2]
            shapes = ((batch,), (batch, length))
            if not isinstance(given, Tensor) or given.dtype != torch.bool or tuple(given.shape) not in shapes:
                raise InputError(
                    f"hidden of {name!r} must be bool {shapes[0]} or {shapes[1]}, got {describe_value(given)}"
                )
            if given.ndim == 1:
                return repeat(given, "b -> b n 1", n=length)
            return rearrange(given, "b n -> b n 1")
        probability = self._probability(name)
        if probability == 0:
            return None
        draws = torch.full((*rows.shape[:2], 1), probability, device=rows.device)
        return torch.bernoulli(draws).bool() if probability < 1 else draws.bool()


def _probabilities(name: str, value: Hide) -> tuple[float, float]:
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise AssemblyError(
                f"Inputs: hide: {name} must be a probability or (in training, in evaluation), got {value!r}"
            )
        training, evaluation = value
    else:
        training, evaluation = value, float(value == 1)
    check_probability("Inputs: hide", **{name: training})
    if evaluation not in (0, 1):
        raise AssemblyError(f"Inputs: hide: {name} in evaluation is all or nothing, 0.0 or 1.0, got {evaluation!r}")
    return float(training), float(evaluation)


def _joined(masks: list[Tensor | None], rows: list[Tensor]) -> Bool[Tensor, "b n"] | None:
    if all(mask is None for mask in masks):
        return None
    device = rows[0].device
    whole = [
        torch.ones(part.shape[:2], dtype=torch.bool, device=device) if mask is None else mask
        for mask, part in zip(masks, rows, strict=True)
    ]
    return torch.cat(whole, dim=1)
