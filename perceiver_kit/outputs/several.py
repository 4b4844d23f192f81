"""Several outputs, one block each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..block import Block
from ..checking import short
from ..errors import AssemblyError
from ..modalities import ByModality, check_modalities, check_names
from ..registry import register
from .base import Output


@register("outputs")
class Outputs(Block):
    """Named output blocks that read rows of one width, ``in_channels``.

    Each output has the query of its own name. ``of`` names another: outputs of one query read the same rows, which
    are decoded once. An output named ``of`` is given in a mapping: ``Outputs({"of": Classify(2)})``.

    >>> [*Outputs(label=Classify(10, in_channels=512), audio=ToWaveform(16, in_channels=512)).blocks]
    ['audio', 'label']
    >>> Outputs(
    ...     kind=Project(5, in_channels=8), box=Project(4, in_channels=8), of=dict(kind="objects", box="objects")
    ... ).query_of("box")
    'objects'
    """

    def __init__(
        self,
        blocks: Mapping[str, Output] | None = None,
        /,
        *,
        of: Mapping[str, str] | None = None,
        **named: Output,
    ) -> None:
        super().__init__()
        self.blocks = ByModality(check_modalities("Outputs", Output, blocks, named))
        if of is not None and not (isinstance(of, Mapping) and all(isinstance(query, str) for query in of.values())):
            raise AssemblyError(f"Outputs: of must map outputs to names of queries, got {short(of)}")
        self.of = dict(of or {})
        check_names("Outputs: of", self.of, self.blocks)

    def query_of(self, name: str) -> str:
        """The name of an output's query."""
        return (self.of or {}).get(name, name)

    def arguments(self) -> dict[str, Any]:
        return {"blocks": {name: self.blocks[name] for name in self.blocks}} | ({"of": self.of} if self.of else {})
