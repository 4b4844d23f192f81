"""A module is plain only if reading its weights replaces calling it; adapters, hooks and odd weights are all seen."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from perceiver_kit.plain import can_checkpoint, is_plain


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Dropout(0.5)).eval()


def test_stock_modules_are_plain() -> None:
    assert is_plain(layers())
    for stock in (nn.Linear(4, 4, bias=False), nn.Embedding(3, 4), nn.Conv2d(3, 4, 1), nn.Identity()):
        assert is_plain(stock)
    with torch.device("meta"):
        assert is_plain(layers())
    assert is_plain(layers().requires_grad_(False).bfloat16())


class Adapted(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.more = base, nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        return self.base(rows) + self.more(rows)


class Louder(nn.Linear):
    def forward(self, rows: Tensor) -> Tensor:
        return 2 * super().forward(rows)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class OddTensor(torch.Tensor):
    """Stands for distributed and quantised tensors."""


def adapter(module: nn.Sequential) -> None:
    module[0] = Adapted(module[0])


def subclass(module: nn.Sequential) -> None:
    module[0].__class__ = Louder


def forward_hook(module: nn.Sequential) -> None:
    module[0].register_forward_hook(lambda *_: None)


def forward_hook_with_kwargs(module: nn.Sequential) -> None:
    module[1].register_forward_hook(lambda *_: None, with_kwargs=True)


def forward_pre_hook(module: nn.Sequential) -> None:
    module[2].register_forward_pre_hook(lambda *_: None)


def full_backward_hook(module: nn.Sequential) -> None:
    module[0].register_full_backward_hook(lambda *_: None)


def full_backward_pre_hook(module: nn.Sequential) -> None:
    module[0].register_full_backward_pre_hook(lambda *_: None)


def hook_on_the_whole(module: nn.Sequential) -> None:
    module.register_forward_hook(lambda *_: None)


def patched_forward(module: nn.Sequential) -> None:
    module[0].forward = types.MethodType(lambda self, rows: rows, module[0])


def parametrized(module: nn.Sequential) -> None:
    parametrize.register_parametrization(module[0], "weight", Doubled())


def weight_norm(module: nn.Sequential) -> None:
    parametrizations.weight_norm(module[0])


def pruned(module: nn.Sequential) -> None:
    prune.l1_unstructured(module[0], "weight", amount=0.5)


def subclass_weight(module: nn.Sequential) -> None:
    module[0].weight = nn.Parameter(torch.randn(4, 4).as_subclass(OddTensor))


def subclass_weight_as_attribute(module: nn.Sequential) -> None:
    del module[0].weight
    module[0].weight = torch.randn(4, 4).as_subclass(OddTensor)


def active_dropout(module: nn.Sequential) -> None:
    module[3].train()


CHANGES: list[Callable[[nn.Sequential], None]] = [
    adapter,
    subclass,
    forward_hook,
    forward_hook_with_kwargs,
    forward_pre_hook,
    full_backward_hook,
    full_backward_pre_hook,
    hook_on_the_whole,
    patched_forward,
    parametrized,
    weight_norm,
    pruned,
    subclass_weight,
    subclass_weight_as_attribute,
    active_dropout,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_module_is_not_plain(change: Callable[[nn.Sequential], None]) -> None:
    module = layers()
    change(module)
    assert not is_plain(module)
    if change not in (adapter, subclass, parametrized, weight_norm):  # which change only classes
        assert not is_plain(module, accept=None)


def test_a_quantised_layer_is_not_plain() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the successor of quantize_dynamic
        quantised = torch.ao.quantization.quantize_dynamic(layers(), {nn.Linear}, dtype=torch.qint8)
    assert not is_plain(quantised)
    assert is_plain(quantised[1])


def test_a_removed_hook_leaves_a_plain_module() -> None:
    module = layers()
    handle = module[0].register_forward_hook(lambda *_: None)
    handle.remove()
    assert is_plain(module)


def test_accept_names_the_classes() -> None:
    assert not is_plain(layers(), {nn.Linear, nn.Sequential})
    assert is_plain(nn.Bilinear(2, 2, 2), {nn.Bilinear})
    assert is_plain(nn.Bilinear(2, 2, 2), accept=None)


def test_weights_of_replicas_and_of_functional_calls_are_ordinary() -> None:
    module = nn.Linear(4, 4)
    weight = module.weight.detach().clone().requires_grad_() * 1
    del module.weight
    module.weight = weight  # as nn.DataParallel does in its replicas
    assert is_plain(module)

    seen = []

    class Asking(nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            seen.append(is_plain(self, {Asking}))
            return super().forward(rows)

    asking = Asking(4, 4)
    torch.func.functional_call(asking, {"weight": torch.randn(4, 4)}, (torch.randn(2, 4),))
    assert seen == [True]


def test_checkpoints_are_refused_inside_func_transforms() -> None:
    seen = []

    def loss(rows: Tensor) -> Tensor:
        seen.append(can_checkpoint())
        return rows.square().sum()

    torch.func.grad(loss)(torch.randn(3))
    loss(torch.randn(3))
    assert seen == [False, True]
