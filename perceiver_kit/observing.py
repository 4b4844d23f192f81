"""Calls of attention layers, reported to the captures of the calling thread; nothing is stored on the model."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

# Captures of this thread (of this task, under asyncio). Ending in any order, each removes only itself.
_recorders: ContextVar[tuple[Recorder, ...]] = ContextVar("recorders", default=())
# Whether any thread captures: compiled graphs are guarded on it, and compiled again if it changes.
_active = False
_count, _lock = 0, threading.Lock()
# ``_calls.got``: arguments of the innermost call in this thread, then those that its ``forward`` got after hooks.
_calls = threading.local()


class Observed(nn.Module):
    """A module that reports each call: the arguments of ``forward`` after hooks, and the output that it returns."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls):
            cls.forward = _noted(vars(cls)["forward"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _active:
            return super().__call__(*args, **kwargs)
        outer, _calls.got = getattr(_calls, "got", None), [(args, kwargs)]
        try:
            output = super().__call__(*args, **kwargs)
            args, kwargs = _calls.got[-1]
        finally:
            _calls.got = outer
        _report(self, args, kwargs, output)
        return output


def _noted(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``forward`` to record its arguments, only once if it calls ``forward`` of a base class."""

    @functools.wraps(forward)
    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        got = getattr(_calls, "got", None) if _active else None
        if got is not None and len(got) == 1:
            got.append((args, kwargs))
        return forward(self, *args, **kwargs)

    return noting


class Recorder:
    """Tensors of the calls of some modules, by name; the calls of one decode are joined along ``concat_dim``."""

    def __init__(self, modules: Mapping[nn.Module, str], record: Callable[..., Tensor], *, concat_dim: int) -> None:
        self.modules, self.record, self.concat_dim = modules, record, concat_dim
        self.captured: dict[str, list[Tensor]] = {name: [] for name in modules.values()}
        self.parts: dict[str, list[Tensor]] | None = None  # of the decode in progress
        self.ended = False  # a context that ends in another thread stays among the recorders of its own

    def report(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if module in self.modules and not self.ended:
            # Adapters with dropout draw again for a map; the caller's random numbers stay the same.
            devices = [output.device] if output.is_cuda else []
            with torch.no_grad(), torch.random.fork_rng(devices, enabled=module.training):
                value = self.record(module, args, kwargs, output).detach()
            name = self.modules[module]
            (self.captured[name] if self.parts is None else self.parts.setdefault(name, [])).append(value)

    @contextmanager
    def active(self) -> Iterator[dict[str, list[Tensor]]]:
        """Record the calls of this thread inside the context."""
        _change_count(1)
        _recorders.set((*_recorders.get(), self))
        try:
            yield self.captured
        finally:
            self.ended = True
            _recorders.set(tuple(other for other in _recorders.get() if other is not self))
            _change_count(-1)


def is_observed(module: nn.Module) -> bool:
    """Whether a capture of this thread records the module, which must then be called."""
    return _active and any(module in recorder.modules and not recorder.ended for recorder in _recorders.get())


def joined(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a method that calls modules once per chunk: captured tensors are concatenated over chunks."""

    @functools.wraps(decode)
    def joining(*args: Any, **kwargs: Any) -> Any:
        return _join(decode, args, kwargs) if _active else decode(*args, **kwargs)

    return joining


def _report(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
    if torch._C._current_graph_task_id() != -1:
        return  # recomputed in the backward pass
    for recorder in _recorders.get():
        recorder.report(module, args, kwargs, output)


def _join(decode: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    recorders = _recorders.get()
    for recorder in recorders:
        recorder.parts = {}
    try:
        result = decode(*args, **kwargs)
        for recorder in recorders:
            for name, parts in (recorder.parts or {}).items():
                recorder.captured[name] += _joined_parts(parts, recorder.concat_dim)
        return result
    finally:
        for recorder in recorders:
            recorder.parts = None


def _joined_parts(parts: list[Tensor], dim: int) -> list[Tensor]:
    """Concatenate successive parts whose other sizes agree. Maps of queries that read each other may differ in n."""

    def other_sizes(part: Tensor) -> tuple[int, ...]:
        return (*part.shape[:dim], *part.shape[dim + 1 :])

    return [torch.cat([*run], dim=dim) for _, run in itertools.groupby(parts, other_sizes)]


def _change_count(by: int) -> None:
    global _active, _count
    with _lock:
        _count += by
        _active = _count > 0
