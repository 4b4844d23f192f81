"""A training step: the rows it decodes, the labels it hides, and its loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.data.texts import MaskedBytes
from perceiver_kit.objectives import MaskedTokens
from perceiver_kit.training import Data, Training, fit

from .toys import FEW, QUIET, alone, batch, prepared

pytestmark = QUIET


def recorded_step(training: Training, keys: list[tuple[int, int]]) -> tuple[dict, dict, Tensor]:
    """The rows that a step decodes, the labels it hides, and its loss."""
    seen: dict[str, Any] = {}
    hook = training.model.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    loss = training.training_step(batch("multimodal_autoencoding", keys), 0)
    hook.remove()
    return seen["at"], seen["hidden"], loss


def multimodal(**options: Any) -> Training:
    return alone("multimodal_autoencoding", **options)


# ---- decoded rows and hidden labels


@given(
    keys=st.lists(st.tuples(st.integers(0, 23), st.integers(0, 10**6)), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_draws_are_functions_of_seed_step_and_sample(keys: list, seed: int, data: st.DataObject) -> None:
    """They do not depend on the batch of a sample, or its place there."""
    training = multimodal(queries=FEW, seed=seed)
    at, hidden, _ = recorded_step(training, keys)
    assert {name: index.shape for name, index in at.items() if index is not None} == {
        name: (len(keys), count) for name, count in FEW.items()
    }
    assert at["label"] is None, "an output without a count is decoded whole"
    for name, rows in (("image", 128), ("audio", 10)):
        assert at[name].dtype == torch.int64
        assert 0 <= at[name].min() <= at[name].max() < rows
        if rows < 8 * FEW[name]:
            assert all(len({*row.tolist()}) == FEW[name] for row in at[name]), "few rows are drawn without replacement"

    torch.manual_seed(99)  # the process's own state never influences draws
    order = data.draw(st.permutations(range(len(keys))))
    permuted, hidden_permuted, _ = recorded_step(training, [keys[i] for i in order])
    for name in FEW:
        assert torch.equal(permuted[name], at[name][[*order]])
    assert torch.equal(hidden_permuted["label"], hidden["label"][[*order]])


def test_draws_differ_between_seeds_steps_and_samples() -> None:
    def image(seed: int, index: int, step: int) -> list[int]:
        return recorded_step(multimodal(queries=FEW, seed=seed), [(index, step)])[0]["image"][0].tolist()

    draws = [image(0, 0, 0), image(1, 0, 0), image(0, 1, 0), image(0, 0, 1)]
    assert len({tuple(draw) for draw in draws}) == 4
    training = multimodal(queries=dict(image=40, audio=40))
    whole = {"targets": {"image": torch.zeros(1, 2, 3, 8, 8), "audio": torch.zeros(1, 128 * 16)}}
    at = training._draw_rows(whole, [(0, 0)])[0]
    assert not torch.equal(at["image"], at["audio"]), "each output has its own draws"
    both = recorded_step(multimodal(queries=dict(image=128, audio=128)), [(0, 0)])[0]
    assert sorted(both["image"][0].tolist()) == [*range(128)]
    assert sorted(both["audio"][0].tolist()) == [*range(10)], "no more rows than there are"


def test_rows_are_drawn_uniformly() -> None:
    training = multimodal(queries=dict(image=40))
    rows = torch.cat(
        [recorded_step(training, [(i, step) for i in range(24)])[0]["image"].flatten() for step in range(8)]
    )
    counts = rows.bincount(minlength=128).double()
    mean = 24 * 8 * 40 / 128
    assert counts.min() > mean - 5 * math.sqrt(mean)
    assert counts.max() < mean + 5 * math.sqrt(mean)


def test_the_loss_covers_decoded_rows_only() -> None:
    training = multimodal(queries=FEW)
    keys = [(3, 0), (5, 0)]
    at, hidden, loss = recorded_step(training, keys)
    given = batch("multimodal_autoencoding", keys)

    # The same loss after decoding everything and picking rows.
    whole = training.model(given["inputs"], hidden=hidden)
    pixels = {
        name: x.movedim(-3, -1).flatten(1, -2) for name, x in (("a", whole["image"]), ("b", given["targets"]["image"]))
    }
    patches = {name: x.unflatten(1, (-1, 16)) for name, x in (("a", whole["audio"]), ("b", given["targets"]["audio"]))}
    pick = lambda rows, index: torch.stack([sample[i] for sample, i in zip(rows, index, strict=True)])  # noqa: E731
    expected = 0.03 * (pick(pixels["a"], at["image"]) - pick(pixels["b"], at["image"])).abs().mean()
    expected += 1.0 * (pick(patches["a"], at["audio"]) - pick(patches["b"], at["audio"])).abs().mean()
    expected += 1e-4 * torch.nn.functional.cross_entropy(whole["label"], given["targets"]["label"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    # Other targets may be NaN; those of decoded rows count.
    frames, rows = given["targets"]["image"], at["image"]
    elsewhere = torch.ones(2, 128, dtype=torch.bool).scatter(1, rows, False)
    t, y, x = rows // 64, rows // 8 % 8, rows % 8
    poisoned = torch.full_like(frames, torch.nan)
    for b in range(2):
        poisoned[b, t[b], :, y[b], x[b]] = frames[b, t[b], :, y[b], x[b]]
    assert poisoned.isnan().sum() == 3 * elsewhere.sum()
    given["targets"]["image"] = poisoned
    assert training.training_step(given, 0).item() == loss.item()
    poisoned[1, t[1, 0], :, y[1, 0], x[1, 0]] += 1
    assert training.training_step(given, 0).item() != loss.item()


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.7])
def test_labels_are_hidden_sample_by_sample_and_always_in_evaluation(rate: float) -> None:
    training = multimodal(model=dict(hide_label=(rate, 1.0)))
    hidden = torch.cat([recorded_step(training, [(i, step) for i in range(24)])[1]["label"] for step in range(20)])
    assert hidden.dtype == torch.bool
    assert abs(hidden.double().mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / len(hidden))
    assert {*hidden.view(20, 24).sum(1).tolist()} - {0, 24}, "samples of a batch differ"

    keys = [(i, 0) for i in range(24)]
    _, hides, _ = recorded_step(training, keys)
    given = batch("multimodal_autoencoding", keys)
    other = given["inputs"] | {"label": given["inputs"]["label"].roll(1, 1)}
    moved = (
        training.model(other, hidden=hides)["image"] - training.model(given["inputs"], hidden=hides)["image"]
    ).abs()
    assert ((moved.flatten(1).amax(1) == 0) == hides["label"]).all(), "only a hidden label has no effect"
    assert 0 < hides["label"].sum() < 24

    training.eval()
    with torch.no_grad():
        a, b = (training(given | {"inputs": inputs})["label"] for inputs in (given["inputs"], other))
    assert torch.equal(a, b)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_labels_hidden_always_or_never_are_not_drawn(rate: float) -> None:
    training = multimodal(model=dict(hide_label=(rate, 1.0)))
    assert recorded_step(training, [(0, 0)])[1] is None


def test_masked_inputs_never_influence_a_step_or_evaluation() -> None:
    training = alone("sequence_classification")
    given = batch("sequence_classification", [(0, 0), (5, 0)])
    text, keep = given["inputs"]["text"], given["mask"]["text"]
    losses, logits = [], []
    for ids in (text, torch.where(keep, text, 7), torch.where(keep, 7, text)):
        other = given | {"inputs": {"text": ids}}
        losses.append(training.training_step(other, 0).item())
        with torch.no_grad():
            logits.append(training(other)["label"])
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(logits[0], logits[1])


def test_flow_is_trained_whole() -> None:
    """The end-point error needs both components of a pixel: (b, 2, h, w), not rows."""
    training = alone("optical_flow", queries=dict(flow=5))
    given = batch("optical_flow", [(0, 0)])
    del given["targets"]["valid"]
    with pytest.raises(kit.InputError, match=r"output 'flow' must be float \(b, 2, h, w\)"):
        training.training_step(given, 0)


def test_some_rows_of_a_text_are_decoded() -> None:
    training = alone("masked_lm", queries=dict(text=6))
    given = batch("masked_lm", [(1, 0), (3, 0)])
    loss = training.training_step(given, 0)
    at = training._draw_rows(given, [(0, 1), (0, 3)])[0]["text"]
    whole = training.model(given["inputs"])["text"]
    rows = torch.arange(2)[:, None]
    expected, _ = MaskedTokens()({"text": whole[rows, at]}, {"text": given["targets"]["text"][rows, at]})
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("recipe", ["masked_lm", "token_classification"])
def test_rows_without_a_target_are_not_decoded(recipe: str) -> None:
    """The loss and its gradients are those of the whole output."""
    training, given = alone(recipe), batch(recipe, [(1, 0), (3, 0)])
    (name,) = training.model.outputs.blocks
    given["targets"][name][:, 9:] = given["targets"][name][0, 2:] = -100  # samples need different numbers of rows
    gradients = []
    for rows in ({}, training.needed_rows(given["targets"])):
        training.zero_grad()
        loss = training.training_step(given | {"rows": rows}, 0)
        loss.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in training.parameters()]
        gradients.append(torch.cat([loss.detach().view(1), *(g.flatten() for g in grads)]))
    targets = given["targets"][name]
    assert {name: index.shape[1] for name, index in rows.items()} == {name: int((targets != -100).sum(1).max())}
    assert rows[name].shape[1] < targets.shape[1], "the test has rows to leave out"
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0][1:].any()


@pytest.mark.parametrize("recipe", kit.list())
def test_a_step_on_targets_that_are_missing_in_part(recipe: str) -> None:
    """Whatever the form of the targets: rows, pixels, boxes or samples."""
    training, given = alone(recipe), batch(recipe, [(1, 0), (3, 0)])
    for target in given["targets"].values():
        if target.dtype == torch.int64 and target.ndim > 1:
            target[..., 1:] = -100
    loss = training.training_step(given | {"rows": training.needed_rows(given["targets"])}, 0)
    assert loss.isfinite()


def test_training_decodes_rows_with_targets_and_evaluation_all(tmp_path: Path) -> None:
    training, _ = prepared("masked_lm", steps=2)
    text = MaskedBytes(b"In the beginning was the Word. " * 9, length=24, visible_target_prob=0.0)
    decoded: dict[bool, set[int]] = {True: set(), False: set()}
    training.model.register_forward_hook(
        lambda model, given, outputs: decoded[model.training].add(outputs["text"].shape[1])
    )
    fit(training, Data(text, text, batch=2, steps=2, held_out_batch=2), tmp_path / "run")
    assert decoded == {True: {round(0.15 * 24)}, False: {24}}
