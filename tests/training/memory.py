"""Prints the peak memory of a training step that reads 65,536 rows four times, with and without recomputation.

In MB above the memory in use before the step.
"""

from __future__ import annotations

import json
import os
import resource

import torch

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, queries
from perceiver_kit.training import checkpoint_layers

ROWS = 65536
torch.set_num_threads(1)


def step(recompute: bool) -> None:
    rows = kit.Inputs(rows=inputs.Features(64))
    encoder = kit.Encoder(64, num_latents=512, latent_dim=192, layers=6, blocks=4, cross_attends=4)
    query = kit.Queries(label=queries.LearnedQuery(1, 192))
    label = kit.Outputs(label=outputs.Classify(10, in_channels=192))
    model = kit.PerceiverIO(rows, encoder, query, kit.Decoder(192, 192), label)
    if recompute:
        checkpoint_layers(model)
    model({"rows": torch.randn(1, ROWS, 64)})["label"].square().mean().backward()


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize() / 2**20


def peak(recompute: bool) -> float:
    """Measured in a process of its own, since a peak never falls."""
    before = resident()
    child = os.fork()
    if child == 0:
        step(recompute)
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    assert status == 0
    return used.ru_maxrss / 1024 - before


if __name__ == "__main__":
    print(json.dumps(dict(plain=peak(False), recomputed=peak(True))))
