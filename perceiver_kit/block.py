"""A module that records the arguments it was made with, so that a spec can make it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from .errors import AssemblyError, nearest


class _Recorded(type):
    """Records the arguments that a block is made with; copy and pickle do not come through here."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """The parameters of ``__init__``, which ``__call__`` below would hide from ``inspect``."""
        signature = readable_signature(cls.__init__)
        return signature.replace(parameters=[*signature.parameters.values()][1:], return_annotation=signature.empty)

    if not TYPE_CHECKING:  # type checkers and editors read __init__

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            signature = inspect.signature(cls.__init__)
            try:
                bound = signature.bind(None, *args, **kwargs)
            except TypeError as error:
                known = [name for name in signature.parameters if name != "self"]
                unknown = next((key for key in kwargs if key not in known), None)
                hint = nearest(unknown, known) if unknown else f"it takes {', '.join(known) or 'nothing'}"
                raise AssemblyError(f"{cls.__name__}: {error}; {hint}") from None
            bound.apply_defaults()
            recorded = {name: copied(value) for name, value in bound.arguments.items() if name != "self"}
            block = super().__call__(*args, **kwargs)
            block.recorded = recorded
            return block


def readable_signature(function: Callable[..., Any]) -> inspect.Signature:
    """A signature with annotations as types where their names can be found, else as they are written."""
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:
        return inspect.signature(function)


class Block(nn.Module, metaclass=_Recorded):
    """A module that knows the arguments it was made with, so that a spec can make it again.

    A block that takes other blocks keeps each under its parameter's name: the spec reads what is there now.
    """

    recorded: dict[str, Any]
    recipe: dict[str, Any] | None = None  # name and parameters of the recipe that made it: metadata only

    def stages(self) -> list[str]:
        """Lines that describe it, for ``kit.describe``."""
        return [f"{type(self).__name__}({self.extra_repr()})"]

    def arguments(self) -> dict[str, Any]:
        """The arguments that make this block again: as recorded, but children as they are now."""
        live = {}
        for name, value in self.recorded.items():
            if isinstance(value, nn.Module) and not hasattr(self, name):
                raise AssemblyError(
                    f"{type(self).__name__}: its argument {name!r} is a module, so keep it as self.{name}, "
                    "where the spec reads what is there now"
                )
            child = getattr(self, name, None)
            live[name] = child if isinstance(value, nn.Module) or isinstance(child, Block) else value
        return live


def undefined(block: Block, method: str) -> AssemblyError:
    """What a base raises for a method that the block derived from it has to define and does not."""
    return AssemblyError(f"{type(block).__name__} must define {method}: a block of its kind is made of that")


def copied(value: Any) -> Any:
    """Containers copied, so that the caller may go on changing his; blocks and plain values as they are."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(copied(item) for item in value) if type(value) in (tuple, list) else tuple(value)
    return value
