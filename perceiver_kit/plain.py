"""Whether a module's weights can be used in place of a call; the only file that reads torch's private attributes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from .observing import is_observed

STOCK: frozenset[type[nn.Module]] = frozenset(
    {nn.Linear, nn.LayerNorm, nn.GELU, nn.SiLU, nn.Sequential, nn.Identity, nn.Dropout, nn.Embedding, nn.Conv2d}
)
# Some tools patch the class, not the module.
_FORWARDS = {kind: kind.forward for kind in STOCK}
_TENSORS = {nn.Parameter, Tensor, type(None)}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(module: nn.Module, accept: Collection[type[nn.Module]] | None = STOCK) -> bool:
    """True if calling the module can be replaced by reading its weights: stock modules without hooks or patches.

    This holds for the module and all its submodules: the class is one of ``accept`` exactly (any class for None), no
    hooks, no ``forward`` set on the instance or patched into a class of torch, no capture of them, no active dropout,
    and every parameter is an ordinary tensor. Adapters, parametrizations, pruned or quantised layers and distributed
    tensors are therefore called, never read. Hooks on all modules at once (``register_module_forward_hook``) do not
    count: profilers must see what really runs.

    >>> layer = nn.Linear(2, 3)
    >>> is_plain(layer), is_plain(nn.Sequential(layer, nn.Dropout(0.5))), is_plain(nn.Bilinear(2, 2, 2))
    (True, False, False)
    """
    return all(_is_plain(part, accept) for part in module.modules())


def _is_plain(module: nn.Module, accept: Collection[type[nn.Module]] | None) -> bool:
    if accept is not None and type(module) not in accept:
        return False
    state = vars(module)
    if "forward" in state or is_observed(module) or any(state.get(hooks) for hooks in _HOOKS):
        return False
    if type(module) in STOCK and type(module).forward is not _FORWARDS[type(module)]:
        return False
    if module.training and isinstance(module, nn.Dropout):
        return False
    return all(type(weight) in _TENSORS for weight in _weights(module))


def _weights(module: nn.Module) -> Iterator[Tensor | None]:
    yield from module._parameters.values()
    # nn.DataParallel keeps the weights of its replicas as attributes.
    yield from (vars(module).get(name) for name in ("weight", "bias"))


def match_dtype(rows: Tensor, module: nn.Module) -> Tensor:
    """Rows in the floating-point dtype of a module's weights; unchanged if it has none, such as a quantised layer."""
    for part in module.modules():
        for weight in _weights(part):
            if isinstance(weight, Tensor) and weight.is_floating_point() and weight.itemsize > 1:
                return rows.to(weight.dtype)
    return rows


def can_checkpoint() -> bool:
    """False inside transforms of ``torch.func``, which disable the hooks that checkpoints are made of."""
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            return True
    except RuntimeError:
        return False
