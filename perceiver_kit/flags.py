"""Flags are bools. They are found by signature, so that a new parameter is checked, too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from .checking import check_flag

P = ParamSpec("P")
R = TypeVar("R")


def flags_of(signature: inspect.Signature) -> Iterator[str]:
    """The bool parameters: annotated as ``bool``, or with a bool as default and no annotation."""
    for name, parameter in signature.parameters.items():
        unannotated = parameter.annotation is parameter.empty
        if parameter.annotation in (bool, "bool") or (unannotated and isinstance(parameter.default, bool)):
            yield name


def check_flags(owner: str, signature: inspect.Signature, arguments: Mapping[str, Any]) -> None:
    """Raise AssemblyError unless each bool parameter of a signature has a bool."""
    for name in flags_of(signature):
        check_flag(owner, **{name: arguments[name]})


def checked_flags(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function or an ``__init__``: a flag that is no bool is refused before the call.

    >>> @checked_flags
    ... def read(path: str, *, crop: bool = True) -> None: ...
    >>> read("a.png", crop="no")
    Traceback (most recent call last):
    perceiver_kit.errors.AssemblyError: read: crop must be True or False, got 'no'
    """
    signature = inspect.signature(function)
    owner = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        check_flags(owner, signature, bound.arguments)
        return function(*args, **kwargs)

    return checked
