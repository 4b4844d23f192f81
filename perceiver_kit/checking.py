"""Checks of arguments and tensors. Each error names the argument, what was expected and what was passed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .errors import AssemblyError, InputError, nearest

MAX_SIZE = 2**31 - 1
"""The largest width, length or count: a file that declares more is damaged or malicious."""


_checks: ContextVar[bool | None] = ContextVar("checks", default=None)


@contextmanager
def checks(on: bool) -> Iterator[None]:
    """Check the values of ids and indices on every device, or on none, inside the context and in this thread.

    By default they are checked on the CPU only: reading a value of another device waits for it.

    >>> with kit.checks(False):
    ...     Classification()({"label": torch.zeros(1, 4)}, {"label": torch.tensor([7])})
    Traceback (most recent call last):
    IndexError: Target 7 is out of bounds.
    """
    check_flag("checks", on=on)
    before = _checks.get()
    _checks.set(on)
    try:
        yield
    finally:
        _checks.set(before)


def checks_values(value: Tensor) -> bool:
    """Whether the values of a tensor are to be checked: never while a graph is traced, when they are unknown."""
    if torch.compiler.is_compiling() or value.is_meta:
        return False
    on = _checks.get()
    return value.device.type == "cpu" if on is None else on


def check_positive(owner: str, *, least: int = 1, most: int = MAX_SIZE, **numbers: int) -> None:
    """Raise AssemblyError unless every number is an int from ``least`` to ``most``.

    >>> check_positive("Encoder", num_latents=0)
    Traceback (most recent call last):
    perceiver_kit.errors.AssemblyError: Encoder: num_latents must be an int of at least 1, got 0
    """
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise AssemblyError(f"{owner}: {name} must be an int of at least {least}, got {short(number)}")
        if number > most:
            raise AssemblyError(f"{owner}: {name} must be at most {most:,}, got {short(number)}")


def check_flag(owner: str, /, **values: object) -> None:
    """Raise AssemblyError unless every value is a bool: any non-empty string, such as ``"off"``, would count as true.

    >>> check_flag("Encoder", share_blocks="off")
    Traceback (most recent call last):
    perceiver_kit.errors.AssemblyError: Encoder: share_blocks must be True or False, got 'off'
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise AssemblyError(f"{owner}: {name} must be True or False, got {short(value)}")


def check_callable(owner: str, /, **values: object) -> None:
    """Raise AssemblyError unless every value is None or callable, such as a factory of layers.

    >>> check_callable("SelfAttentionLayer", norm=True)
    Traceback (most recent call last):
    perceiver_kit.errors.AssemblyError: SelfAttentionLayer: norm must be None or a callable, got True
    """
    for name, value in values.items():
        if value is not None and not callable(value):
            raise AssemblyError(f"{owner}: {name} must be None or a callable, got {short(value)}")


def check_elements(owner: str, *sizes: int) -> None:
    """Raise AssemblyError for a parameter of more than 2⁴⁰ elements, which exceeds any machine's memory."""
    if math.prod(sizes) > 2**40:
        raise AssemblyError(f"{owner}: a parameter of {sizes} would have more than 2^40 elements")


def check_sizes(owner: str, name: str, sizes: object) -> tuple[int, ...]:
    """A tuple of positive ints, from a tuple or a list (as JSON has it); else an AssemblyError."""
    if not isinstance(sizes, list | tuple) or not sizes:
        raise AssemblyError(f"{owner}: {name} must be a tuple of positive ints, one per axis, got {short(sizes)}")
    for size in sizes:
        check_positive(owner, **{name: size})
    return tuple(sizes)


def check_image_size(owner: str, image_size: int | tuple[int, int]) -> tuple[int, int]:
    """An image size given as one number or as (height, width), as the latter; else an AssemblyError.

    >>> check_image_size("doctest", 224)
    (224, 224)
    """
    size = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(size) != 2:
        raise AssemblyError(f"{owner}: image_size is an int or (height, width), got {short(image_size)}")
    for side in size:
        check_positive(owner, image_size=side)
    return size


def check_probability(owner: str, /, **numbers: float) -> None:
    """Raise AssemblyError unless every number is in [0, 1]."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            raise AssemblyError(f"{owner}: {name} must be a number in [0, 1], got {short(number)}")


def check_number(owner: str, *, above: float | None = None, **numbers: float) -> None:
    """Raise AssemblyError unless every number is finite and at least 0, or above ``above``.

    >>> check_number("Training", rate=float("nan"))
    Traceback (most recent call last):
    perceiver_kit.errors.AssemblyError: Training: rate must be a finite number of at least 0, got nan
    """
    for name, number in numbers.items():
        valid = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if not valid or number < 0 or (above is not None and number <= above):
            bound = "of at least 0" if above is None else f"above {above:g}"
            raise AssemblyError(f"{owner}: {name} must be a finite number {bound}, got {short(number)}")


def check_seed(owner: str, seed: int) -> None:
    """Raise AssemblyError unless the seed is a signed 64-bit int, as PyTorch takes it."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**63:
        raise AssemblyError(f"{owner}: seed must be an int from -2**63 to 2**63 - 1, got {short(seed)}")


def check_choice(owner: str, name: str, value: object, choices: Collection[str]) -> None:
    """Raise AssemblyError, with the nearest choice, unless the value is one of the choices."""
    if value not in choices:
        raise AssemblyError(f"{owner}: {name} is {value!r}; {nearest(value, choices)}")


def check_class_names(owner: str, names: object) -> tuple[str, ...]:
    """Names of classes as a tuple of distinct, non-empty str; else an AssemblyError.

    >>> check_class_names("labels", ["cat", "dog", "cat"])
    Traceback (most recent call last):
    perceiver_kit.errors.AssemblyError: labels: expected a name for each class, none twice, got 'cat' twice
    """
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names) or not names:
        raise AssemblyError(f"{owner}: expected the names of the classes, a list or tuple of str, got {short(names)}")
    for name in names:
        if names.count(name) > 1:
            raise AssemblyError(f"{owner}: expected a name for each class, none twice, got {short(name)} twice")
    return tuple(names)


@contextmanager
def writing(owner: str, path: object) -> Iterator[None]:
    """Turn an OSError while writing a file into an InputError that names the file."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise InputError(f"{owner}: {path} cannot be written ({getattr(error, 'strerror', None) or error})") from error


def short(value: object) -> str:
    """The repr of a value, cut to one line, for an error message.

    >>> short("x" * 500)[-12:]
    "xxxxxxxxxx…'"
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits or of nested brackets
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:118]}…{text[-1]}"


def describe_value(value: object) -> str:
    """A value in an error message: dtype and shape of a tensor, the name of a class, the type of anything else.

    >>> describe_value(torch.zeros(2, 3))
    'float32 (2, 3)'
    """
    if isinstance(value, Tensor) and value.is_nested:
        return "a nested tensor"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def check_finite(value: Tensor, name: str, *, hint: str = "") -> None:
    """Raise InputError for NaN or infinity, with their number and the first index.

    >>> check_finite(torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]), "sound")
    Traceback (most recent call last):
    perceiver_kit.errors.InputError: sound must be finite, got 1 NaN and 0 infinite of 4 values, the first at (1, 0)
    """
    if not (value.is_floating_point() or value.is_complex()) or bool(value.isfinite().all()):
        return
    nan = value.isnan()
    first = tuple((~value.isfinite()).nonzero()[0].tolist())
    got = f"{int(nan.sum())} NaN and {int((~value.isfinite() & ~nan).sum())} infinite of {value.numel()} values"
    raise InputError(f"{name} must be finite, got {got}, the first at {first}{f'; {hint}' if hint else ''}")


def check_tensor(value: object, name: str, axes: str, *, kind: str = "float", hint: str = "") -> None:
    """Raise InputError unless ``value`` is a tensor of this kind and axes: a letter is any size, a number that size.

    >>> check_tensor(torch.zeros(2, 1, 8, 8), "image", "b 3 h w")
    Traceback (most recent call last):
    perceiver_kit.errors.InputError: image must be float (b, 3, h, w), got float32 (2, 1, 8, 8)
    """
    letters = axes.split()
    expected = f"{name} must be {kind} ({', '.join(letters)}), got {describe_value(value)}"
    hint = f"; {hint}" if hint else ""
    if not isinstance(value, Tensor):
        raise InputError(f"{expected}{hint}")
    right_kind = {
        "float": value.is_floating_point(),
        "int64": value.dtype == torch.int64,
        "bool": value.dtype == torch.bool,
    }[kind]
    right_shape = value.ndim == len(letters) and all(
        not letter.isdigit() or size == int(letter) for size, letter in zip(value.shape, letters, strict=True)
    )
    if not right_kind or not right_shape:
        raise InputError(f"{expected}{hint}")
    for size, letter in zip(value.shape, letters, strict=True):
        if size == 0:
            raise InputError(f"{name} has no elements along {letter}: {describe_value(value)}")
