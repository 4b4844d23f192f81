"""``Block``: a module that records its constructor's arguments, so that a spec can rebuild it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from .checks import check_flag
from .errors import AssemblyError, nearest


class _Recorded(type):
    """Records the arguments of a block's constructor. Copy and pickle do not call it."""

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
            check_flags(cls.__name__, signature, bound.arguments)
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


def check_flags(owner: str, signature: inspect.Signature, arguments: Mapping[str, Any]) -> None:
    """Raise AssemblyError unless each bool parameter of a signature has a bool.

    A bool parameter is annotated as ``bool``, or has a bool as default and no annotation.
    """
    for name, parameter in signature.parameters.items():
        unannotated = parameter.annotation is parameter.empty and isinstance(parameter.default, bool)
        if parameter.annotation in (bool, "bool") or unannotated:
            check_flag(owner, **{name: arguments[name]})


class Block(nn.Module, metaclass=_Recorded):
    """A module that records its constructor's arguments, so that a spec can rebuild it.

    A block that takes other blocks keeps each as an attribute of its parameter's name: the spec reads the current one.
    """

    recorded: dict[str, Any]
    recipe: dict[str, Any] | None = None  # name and parameters of its recipe: metadata only
    processor: Any = None  # a registered processor of ``kit.predict``; None: its recipe's

    def stages(self) -> list[str]:
        """The lines of ``kit.describe``."""
        return [f"{type(self).__name__}({self.extra_repr()})"]

    def arguments(self) -> dict[str, Any]:
        """The arguments that rebuild this block: as recorded, with the current children."""
        live = {}
        for name, value in self.recorded.items():
            if isinstance(value, nn.Module) and not hasattr(self, name):
                raise AssemblyError(
                    f"{type(self).__name__}: its argument {name!r} is a module, so keep it as self.{name}, "
                    "where the spec reads it"
                )
            child = getattr(self, name, None)
            live[name] = child if isinstance(value, nn.Module) or isinstance(child, Block) else value
        return live


def undefined(block: Block, method: str) -> AssemblyError:
    """The error of a base class for a method that a derived block must define."""
    return AssemblyError(f"{type(block).__name__} must define {method}")


def copied(value: Any) -> Any:
    """Containers are copied, so that the caller may change them later; blocks and plain values are kept."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(copied(item) for item in value) if type(value) in (tuple, list) else tuple(value)
    return value
