"""A hierarchical Perceiver whose labels enter and leave at the middle level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .block import Block
from .decoders import Decoder
from .encoders import HierarchicalEncoder
from .errors import AssemblyError, InputError
from .inputs import Inputs
from .modalities import check_names
from .model import PerceiverIO, RawInputs
from .outputs import Outputs
from .queries import Queries
from .registry import register
from .tokens import Encoded, Layout, Tokens

MIDDLE = ""  # where the middle latents are kept in ``Encoded.rows``: no modality has an empty name


@register("models")
class LabelBottleneck(PerceiverIO):
    """``PerceiverIO`` with a ``HierarchicalEncoder``, and further modalities at its middle level.

    ``label_inputs`` embeds them at the width of the level before the middle; their rows are appended to the rows that
    the middle level reads. ``label_decoder`` reads the latents of the middle level. All of them may be left out. They
    are rows of few, abstract values: classes, tags.

    Source: Hierarchical Perceiver (Carreira et al. 2022); ``HiPClassBottleneck`` of its code.

    >>> model = build("hierarchical_autoencoding", preset="tiny", labels=("label",))
    >>> raw = {"image": torch.rand(2, 1, 28, 28), "label": torch.rand(2, 1, 10)}
    >>> {name: tuple(output.shape) for name, output in model(raw).items()}
    {'image': (2, 1, 28, 28), 'label': (2, 1, 10)}
    """

    def __init__(
        self,
        inputs: Inputs,
        encoder: HierarchicalEncoder,
        queries: Queries,
        decoder: Decoder,
        outputs: Outputs,
        *,
        label_inputs: Inputs,
        label_queries: Queries,
        label_decoder: Decoder,
        label_outputs: Outputs,
    ) -> None:
        super().__init__(inputs, encoder, queries, decoder, outputs)
        if not isinstance(encoder, HierarchicalEncoder):
            raise AssemblyError(f"LabelBottleneck: encoder must be a HierarchicalEncoder, got {type(encoder).__name__}")
        common = sorted({*inputs.blocks} & {*label_inputs.blocks} | {*outputs.blocks} & {*label_outputs.blocks})
        if common:
            raise AssemblyError(f"LabelBottleneck: a modality enters in one place, got {', '.join(common)} in two")
        middle = len(encoder.groups) // 2
        given = _Middle(encoder.widths[middle - 1], encoder.widths[middle])
        self.bottleneck = PerceiverIO(label_inputs, given, label_queries, label_decoder, label_outputs)

    def arguments(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("inputs", "encoder", "queries", "decoder", "outputs")}
        labels = {f"label_{name}": getattr(self.bottleneck, name) for name in own if name != "encoder"}
        return own | labels

    def forward(
        self,
        inputs: RawInputs,
        *,
        mask: RawInputs | None = None,
        hidden: Mapping[str, Tensor] | None = None,
        **request: Any,
    ) -> dict[str, Tensor]:
        """As ``PerceiverIO.forward``."""
        return self.decode(self.encode(inputs, mask=mask, hidden=hidden), **request)

    def encode(
        self, inputs: RawInputs, *, mask: RawInputs | None = None, hidden: Mapping[str, Tensor] | None = None
    ) -> Encoded:
        """Latents of the last level (b, m, d); those of the middle level are kept for the labels."""
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs must be a mapping with {', '.join(self.inputs.blocks)}")
        labels = self.bottleneck.inputs.blocks
        check_names("inputs", inputs, [*self.inputs.blocks, *labels])
        tokens, content = self.inputs(
            {name: value for name, value in inputs.items() if name not in labels},
            mask,
            hidden=hidden,
            content=self.queries.reading("content"),  # type: ignore[union-attr]
        )
        rows, skips = self.encoder.down(tokens)
        segments = tokens.layout.segments
        own = {name: value for name, value in inputs.items() if name in labels}
        if own:
            appended, _ = self.bottleneck.inputs(own)
            rows = torch.cat([rows, appended.rows.to(rows.dtype)], 1)
            segments += appended.layout.segments
        middle = self.encoder.middle(rows)
        kept = {name: tokens[name] for name in self.queries.reading("rows") if name in inputs}  # type: ignore[union-attr]
        return Encoded(self.encoder.up(middle, skips), Layout(segments), (*inputs,), kept | {MIDDLE: middle}, content)

    def decode(self, encoded: Encoded, *, at: Mapping | None = None, **options: Any) -> dict[str, Tensor]:
        """As ``PerceiverIO.decode``, for all outputs. Without ``at``, those of the modalities that were given."""
        own, labels = self.outputs.blocks, self.bottleneck.outputs.blocks  # type: ignore[union-attr]
        at = {name: None for name in (*own, *labels) if name in encoded.given} if at is None else at
        check_names("at", at, [*own, *labels])
        layout = Layout(tuple(part for part in encoded.layout.segments if part[0] not in labels))
        decoded = super().decode(
            replace(encoded, layout=layout), at={name: at[name] for name in at if name in own}, **options
        )
        middle = replace(encoded, latents=encoded.rows[MIDDLE])
        return decoded | self.bottleneck.decode(middle, at={name: at[name] for name in at if name in labels})

    def stages(self) -> list[str]:
        return [*super().stages(), "  at the middle level", *self.bottleneck.stages()]


class _Middle(Block):
    """The middle level, as seen by the modalities that enter there: its latents are computed by the encoder."""

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.channels, self.latent_dim = channels, latent_dim

    def forward(self, tokens: Tokens) -> Tensor:
        raise InputError("the middle level is run by its model's encode")
