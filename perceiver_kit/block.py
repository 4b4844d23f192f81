"""``Block``: a module that records its constructor's arguments, so that a spec can rebuild it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from .errors import AssemblyError, nearest
from .flags import check_flags

LEFT_OUT: Any = None
"""The default of a width that may be left out: it is filled in when the block is joined with others."""

Fill = Callable[[Any, Mapping[str, Any]], Any]


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
                # The unknown name explains a missing one: it may be the same, misspelled.
                lacks = str(error).startswith("missing")
                what = f"got an unexpected keyword argument {unknown!r}" if unknown and lacks else error
                raise AssemblyError(f"{cls.__name__}: {what}; {hint}") from None
            bound.apply_defaults()
            check_flags(cls.__name__, signature, bound.arguments)
            recorded = {name: copied(value) for name, value in bound.arguments.items() if name != "self"}
            missing = [name for name in cls.fills if recorded.get(name, name) is None]
            if not cls.completes:
                missing += [name for name, value in recorded.items() if _is_incomplete(value)]
            block = _incomplete(cls, recorded, missing) if missing else super().__call__(*args, **kwargs)
            block.recorded = recorded
            return block


def readable_signature(function: Callable[..., Any]) -> inspect.Signature:
    """A signature with annotations as types where their names can be found, else as they are written."""
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:
        return inspect.signature(function)


class Settings:
    """Base of dataclasses: flags are checked as those of blocks are."""

    def __post_init__(self) -> None:
        check_flags(type(self).__name__, inspect.signature(type(self)), vars(self))


class Block(nn.Module, metaclass=_Recorded):
    """A module that records its constructor's arguments, so that a spec can rebuild it.

    A block that takes other blocks keeps each as an attribute of its parameter's name: the spec reads the current one.
    """

    recorded: dict[str, Any]
    fills: ClassVar[Mapping[str, Fill]] = {}
    """The arguments that may be left out, and how each is read off the neighbours: (neighbours, arguments) → value."""
    completes: ClassVar[bool] = False
    """Whether ``__init__`` completes the blocks it is given; other blocks wait until their neighbours are known."""
    joint: ClassVar[str | None] = None
    """The width that a block must share with the one it replaces."""
    left_out: tuple[str, ...] = ()
    """Arguments that this block still waits for: it has no parameters yet, and cannot be called."""
    recipe: dict[str, Any] | None = None  # name and parameters of its recipe: metadata only
    processor: Any = None  # a registered processor of ``kit.predict``; None: its recipe's

    def stages(self) -> list[str]:
        """The lines of ``kit.describe``."""
        return [f"{type(self).__name__}({self.extra_repr()})"]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        with _refused_names(self):
            super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        with _refused_names(self):
            super().register_buffer(name, tensor, persistent)

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

    @classmethod
    def around(cls, neighbours: Any, arguments: Mapping[str, Any]) -> Any:
        """What the blocks among its arguments read their widths off: by default its own neighbours."""
        return neighbours


@contextlib.contextmanager
def _refused_names(block: Block) -> Iterator[None]:
    """An AssemblyError for a name that the block has for something else, such as ``size``; PyTorch's is a KeyError."""
    try:
        yield
    except KeyError as error:
        message = f"{type(block).__name__}: {error.args[0]}; a parameter or buffer needs a name of its own"
        raise AssemblyError(message) from None


def _is_incomplete(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_incomplete, value.values()))
    return isinstance(value, Block) and bool(value.left_out)


def _incomplete(cls: Any, recorded: Mapping[str, Any], missing: list[str]) -> Any:
    """A block that waits for arguments: the given ones are attributes, and its ``__init__`` has not run."""
    block = cls.__new__(cls)
    nn.Module.__init__(block)
    for name, value in recorded.items():
        setattr(block, name, value)
    block.left_out = tuple(missing)
    block.forward = partial(_refuse, f"{cls.__name__}: {_waits(block)}; give it, or join the block with others first")
    return block


def _waits(block: Block) -> str:
    return f"{', '.join(block.left_out)} is left out"


def _refuse(message: str, *args: Any, **kwargs: Any) -> Any:
    raise AssemblyError(message)


def completed(value: Any, neighbours: Any, made: dict[int, Any] | None = None) -> Any:
    """A block, or a mapping of blocks, with all arguments that were left out; those are read off the neighbours.

    Incomplete blocks are made anew from their arguments; others are returned as they are.

    >>> from types import SimpleNamespace
    >>> encoder = Encoder(num_latents=4, latent_dim=16, layers=1)
    >>> encoder.left_out, completed(encoder, SimpleNamespace(inputs=Inputs(points=Features(3)))).channels
    (('channels',), 3)
    """
    made = {} if made is None else made
    if isinstance(value, Mapping):
        return {name: completed(item, neighbours, made) for name, item in value.items()}
    if not isinstance(value, Block) or not value.left_out:
        return value
    if id(value) not in made:
        cls = type(value)
        around = cls.around(neighbours, value.recorded)
        arguments = {name: completed(item, around, made) for name, item in value.recorded.items()}
        filled = {name: fill(neighbours, arguments) for name, fill in cls.fills.items() if name in value.left_out}
        made[id(value)] = with_arguments(value, **arguments | filled)
        if made[id(value)].left_out:
            raise AssemblyError(f"{cls.__name__}: {_waits(made[id(value)])}, and its neighbours do not say it; give it")
    return made[id(value)]


def with_arguments(block: Block, **changed: Any) -> Any:
    """A new block of the same class and arguments, except those that change."""
    signature = inspect.signature(type(block))
    bound = inspect.BoundArguments(signature, {**block.recorded, **changed})  # type: ignore[arg-type]
    return type(block)(*bound.args, **bound.kwargs)


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
