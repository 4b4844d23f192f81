"""Several outputs, one block each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..block import Block
from ..modalities import ByModality, check_modalities
from ..registry import register
from .base import Output


@register("outputs")
class Outputs(Block):
    """Named output blocks that read rows of one width, ``in_channels``.

    >>> [*Outputs(label=Classify(10, in_channels=512), audio=ToWaveform(16, in_channels=512)).blocks]
    ['audio', 'label']
    """

    def __init__(self, blocks: Mapping[str, Output] | None = None, /, **named: Output) -> None:
        super().__init__()
        self.blocks = ByModality(check_modalities("Outputs", Output, blocks, named))

    def arguments(self) -> dict[str, Any]:
        return {"blocks": {name: self.blocks[name] for name in self.blocks}}
