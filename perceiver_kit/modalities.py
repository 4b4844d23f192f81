"""Modules by modality. A name is any non-empty string; the order is always alphabetical."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from .block import Block, with_arguments
from .checking import describe_value
from .errors import AssemblyError, UnknownName, nearest


class ByModality(nn.Module):
    """Modules by name, for names that ``nn.ModuleDict`` or exported graphs refuse: ``type``, ``class``, any with a dot.

    >>> [*ByModality({"type": nn.Identity(), "a.b": nn.Identity()})]
    ['a.b', 'type']
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = sorted(modules)
        for name in self.names:
            self.add_module(_key(name), modules[name])

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise UnknownName(f"no modality {name!r}; {nearest(name, self.names)}")
        return getattr(self, _key(name))

    def __setitem__(self, name: str, block: nn.Module) -> None:
        """Replace a block by one of the same kind and width; a width that it leaves out is that of the old one.

        The new block gets the device, type and mode of the old one.
        """
        old = self[name]
        if isinstance(old, Block):
            kind: type[Block] = next(kind for kind in type(old).__mro__ if "joint" in vars(kind))
            if not isinstance(block, Block) or not isinstance(block, kind):
                raise AssemblyError(f"{name!r}: expected a block of kind {kind.__name__}, got {describe_value(block)}")
            if block.left_out:
                block = with_arguments(block, **{argument: getattr(old, argument, None) for argument in block.left_out})
            width, found = (getattr(each, str(old.joint), None) for each in (old, block))
            if width != found:
                expected = f"{old.joint} {width}, as the block that it replaces"
                raise AssemblyError(f"{type(block).__name__} for {name!r}: expected {expected}, got {found}")
            for parameter in [*old.parameters()][:1]:
                block.to(parameter.device, parameter.dtype)
            block.train(old.training)
        self.add_module(_key(name), block)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


_RESERVED = frozenset(dir(ByModality({})))


def _key(name: str) -> str:
    """A legal attribute name: the modality's own if it is one. No two names share a key."""
    # Exported graphs are Python code that names attributes: no keyword, quote or line break.
    key = re.sub(r"""[%.'"\\\x00-\x1f\x7f\x85\u2028\u2029]""", lambda letter: f"%{ord(letter[0]):02X}", name)
    return f"%{key}" if key in _RESERVED or keyword.iskeyword(key) else key


def check_modalities(owner: str, kind: type, blocks: object, named: Mapping[str, Block]) -> dict[str, Block]:
    """Merge blocks given as a mapping and as keywords; AssemblyError if there are none or one has the wrong type."""
    if blocks is not None and not isinstance(blocks, Mapping):
        raise AssemblyError(f"{owner}: give blocks by name, such as {owner}(image=…), got {describe_value(blocks)}")
    merged = {**(blocks or {}), **named}
    if not merged:
        hint = f"one named like an argument of {owner} is given in a mapping, {owner}({{'name': …}})"
        raise AssemblyError(f"{owner}: expected at least one modality, got none; {hint}")
    if len(merged) < len(blocks or {}) + len(named):
        raise AssemblyError(f"{owner}: each modality needs one block, got {[*(blocks or {}), *named]}")
    for name, block in merged.items():
        if not isinstance(name, str) or not name:
            raise AssemblyError(f"{owner}: a modality's name must be a non-empty str, got {name!r}")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise AssemblyError(f"{owner}: a modality's name must be text that UTF-8 can write, got {name!r}")
        if not isinstance(block, kind):
            came = f"the class {block.__name__}: make one" if isinstance(block, type) else type(block).__name__
            raise AssemblyError(f"{owner}: {name!r} must be a block for {owner.lower()} ({kind.__name__}), got {came}")
    return merged


def check_names(argument: str, got: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownName, with the nearest modality, for a key of a mapping argument that is none."""
    known = tuple(known)
    for name in got:
        if name not in known:
            raise UnknownName(f"{argument} names {name!r}; {nearest(name, known)}")


def named(container: Any) -> dict[str, Any]:
    """The blocks of Inputs, Queries or Outputs by name, also where some of them wait for widths."""
    if container.left_out:
        return {**(container.recorded["blocks"] or {}), **container.recorded["named"]}
    return {name: container.blocks[name] for name in container.blocks}
