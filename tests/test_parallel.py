"""Models under DataParallel, DDP and FSDP2 in one process."""

from __future__ import annotations

import copy
import sys
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel, replicate

import perceiver_kit as kit

from .hub.reference import randomised, relative
from .strategies import raws


# FSDP2 warns that outputs are views; they are not changed in place.
@pytest.mark.filterwarnings("ignore:.*returned a view tensor")
def test_data_parallel_ddp_and_fsdp2_on_cpu() -> None:
    """On CPU, DataParallel would call the module itself. So its own `replicate` builds the replicas, with only the
    device-to-device copy replaced. DDP and FSDP2 run in one process on gloo.
    """
    for recipe in kit.list():
        _data_parallel(recipe)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        _distributed()
        for recipe in ("masked_lm", "image_classification_learned"):
            _layers_sharded(recipe)
    finally:
        dist.destroy_process_group()


def _data_parallel(recipe: str) -> None:
    model = randomised(kit.build(recipe, preset="tiny").eval())
    raw = raws(model, 4)
    encoded = model.encode(raw)
    layout = encoded.layout
    mask = {name: torch.rand(4, torch.Size(layout.grid(name)).numel()) < 0.7 for name in layout}
    at: dict[str, torch.Tensor] = {}
    if not getattr(model.decoder, "mixes_rows", False):
        grids = {name: model.queries.grid(model.outputs.query_of(name), encoded) for name in model.outputs.blocks}
        at = {name: torch.randint(torch.Size(grid).numel(), (4, 3)) for name, grid in grids.items()}
    wanted = model(raw, mask=mask, at=at or None)

    module, devices = sys.modules["torch.nn.parallel.replicate"], [0, 1]
    original = module._broadcast_coalesced_reshape
    module._broadcast_coalesced_reshape = lambda tensors, devices, detach=False: [
        [tensor.detach().clone() if detach else tensor.clone() for tensor in tensors] for _ in devices
    ]
    try:
        replicas = replicate(model, devices)
    finally:
        module._broadcast_coalesced_reshape = original
    parts = []
    for i, replica in enumerate(replicas):
        assert next(replica.parameters(), None) is None, "replicas hold no registered parameters"
        scattered = [{name: tensor.chunk(2)[i] for name, tensor in given.items()} for given in (raw, mask, at)]
        parts.append(replica(scattered[0], mask=scattered[1], at=scattered[2] or None))
    gathered = {name: torch.cat([part[name] for part in parts]) for name in wanted}
    assert relative(gathered, wanted) < 1e-5, recipe
    sum(value.square().mean() for value in gathered.values()).backward()
    assert all(p.grad is not None for p in model.parameters()), "some gradients do not reach the original model"


def _layers_sharded(recipe: str) -> None:
    """FSDP2 of each linear layer and convolution: a weight that is read, not called, is still sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = randomised(kit.build(recipe, preset="tiny")).double().eval(), init_device_mesh("cpu", (1,))
    raw = {name: value.double() if value.is_floating_point() else value for name, value in raws(model, 1).items()}
    twin = copy.deepcopy(model)
    for layer in [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with torch.no_grad():
        assert relative(model(raw), twin(raw)) < 1e-5, recipe
    for one in (model, twin):
        sum(value.square().mean() for value in one.train()(raw).values()).backward()
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
    found = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10, msg=name)


def _distributed() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for shard in (False, True):
        model = randomised(kit.build("multimodal_autoencoding", preset="tiny")).eval()
        raw = raws(model, 2)
        at = {"image": torch.randint(4096, (2, 9)), "audio": torch.randint(480, (2, 5)), "label": None}
        wanted = model(raw, at=at)
        if shard:
            mesh = init_device_mesh("cpu", (1,))
            for layer in model.encoder.transformer:
                fully_shard(layer, mesh=mesh)
            wrapped = fully_shard(model, mesh=mesh)
        else:
            wrapped = DistributedDataParallel(model)
        with warnings.catch_warnings():
            # Of the gradient of a one-row table, a slice of a wider one, whose stride along that row differs.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            for _ in range(2):  # DDP reports parameters without gradients in the second step
                found = wrapped(raw, at=at)
                assert relative(found, wanted) < 1e-5
                sum(value.square().mean() for value in found.values()).backward()
        assert all(p.grad is not None for p in wrapped.parameters())
