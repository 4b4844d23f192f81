"""The kit imports no optional package eagerly, and names the missing ones."""

from __future__ import annotations

import subprocess
import sys

from .conftest import ENVIRONMENT

SCRIPT = """
import sys

import perceiver_kit as kit
import perceiver_kit.objectives as objectives

heavy = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "tensorboard", "matplotlib", "transformers"}
assert not heavy & {name.split(".")[0] for name in sys.modules}, heavy & set(sys.modules)

PIP = "pip install 'perceiver-kit[train]'"


def refused(call):
    try:
        call()
    except kit.MissingPackage as error:
        assert isinstance(error, ImportError) and PIP in str(error), error
    else:
        raise AssertionError("not refused")


def training():
    import perceiver_kit.training


for missing in ("pytorch_lightning", "torchmetrics"):
    sys.modules[missing] = None  # as if not installed
    refused(training)
    if missing == "pytorch_lightning":
        del sys.modules[missing]

import torch

image = {"image": torch.zeros(1, 4)}
from perceiver_kit.declarations import objective_for
for recipe in kit.list():
    objective = objective_for(recipe)
    refused(objective.meters)
assert objectives.Reconstruction("image")(image, {"image": torch.ones(1, 4)})[0].item() == 1
assert objectives.Objective().meters() == {}
"""


def test_optional_packages_are_imported_lazily_and_missing_ones_are_named() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
