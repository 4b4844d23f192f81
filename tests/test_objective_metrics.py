"""Metrics of the objectives over several batches, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perceiver_kit.objectives import (
    Classification,
    EndPointError,
    MaskedTokens,
    MultiLabel,
    Reconstruction,
    Regression,
    Weighted,
)

from .objective_cases import in_batches, measured, random, three
from .restated import array

pytestmark = pytest.mark.usefixtures("checked")


def test_metrics_over_batches_equal_those_over_all_samples() -> None:
    output, target = random(9, 2, 3), random(9, 2, 3, seed=1)
    error = array(output - target)
    assert in_batches(Regression("y"), output, {"y": target}) == pytest.approx(
        {"mse": (error**2).mean(), "mae": np.abs(error).mean()}, rel=1e-5
    )
    psnr = 10 * math.log10(2.0**2 / (error**2).mean())
    assert in_batches(Reconstruction("y"), output, {"y": target}) == pytest.approx({"psnr": psnr}, rel=1e-5)

    logits, classes = random(9, 4), torch.arange(9) % 4
    accuracy = np.mean([array(row).argmax() == c for row, c in zip(logits, classes.tolist(), strict=True)])
    assert 0 < accuracy < 1
    assert in_batches(Classification(), logits, {"label": classes}) == pytest.approx({"accuracy": accuracy})
    shares = torch.eye(4)[classes] * 0.9 + 0.025
    assert in_batches(Classification(), logits, {"label": shares}) == pytest.approx({"accuracy": accuracy})

    logits, text = random(9, 5, 3), torch.arange(45).reshape(9, 5) % 3
    text[torch.rand(9, 5) < 0.5] = -100
    text[0] = -100  # a batch with nothing to measure
    asked = text != -100
    accuracy = float(np.mean(array(logits)[asked].argmax(-1) == text[asked].numpy()))
    assert in_batches(MaskedTokens(), logits, {"text": text}) == pytest.approx({"accuracy": accuracy})

    flow, target, valid = 3 * random(9, 2, 4, 4), 9 * random(9, 2, 4, 4, seed=1), torch.rand(9, 4, 4) < 0.5
    valid[0] = False
    error, length = (np.hypot(*np.moveaxis(array(part), 1, 0))[valid.numpy()] for part in (flow - target, target))
    outliers = ((error > 3) & (error > 0.05 * length)).mean()
    assert 0 < outliers < 1
    target = target.masked_fill(~valid[:, None], torch.nan)
    wanted = {"epe": error.mean(), "fl_all": outliers}
    assert in_batches(EndPointError(), flow, {"flow": target, "valid": valid}) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_average_precision_is_the_area_under_precision_over_recall(labels: int) -> None:
    logits, target = random(9, labels), torch.tensor([1, 0, 0, 1, 0, 1, 1, 0, 0]).roll(1)[:, None].repeat(1, labels)
    wanted = []
    for label in range(labels):
        order = np.argsort(-array(logits[:, label]))
        right = target[order, label].numpy()
        precision = right.cumsum() / np.arange(1, 10)
        wanted.append((precision * right).sum() / right.sum())
    found = in_batches(MultiLabel(labels=labels), logits, {"label": target})
    assert found == pytest.approx({"average_precision": np.mean(wanted)}, rel=1e-5)


def test_metrics_of_several_objectives_are_separate() -> None:
    """Also if one name is a prefix of another, or an output is missing from a batch."""
    outputs, targets = three()
    objective = Weighted(dict(a=Regression("image"), a_b=Regression("audio"), label=Classification()))
    some = {name: outputs[name] for name in ("image", "label")}
    found = measured(objective, [(outputs, targets), (some, targets)])
    for name, output in (("a", "image"), ("a_b", "audio")):
        error = array(outputs[output] - targets[output])
        assert found[f"{name}_mse"] == pytest.approx((error**2).mean(), rel=1e-5)
        assert found[f"{name}_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
