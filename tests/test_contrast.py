"""Contrast of views: the loss of SimCLR in NumPy, its symmetries and gradient; views of texts and of other data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.data.images import Images
from perceiver_kit.data.views import SpanViews, Views, each_view
from perceiver_kit.objectives import Contrast
from perceiver_kit.training import Data, Training, fit

from .objective_cases import in_batches, random
from .restated import Array, array
from .training.toys import QUIET

pytestmark = QUIET

views = st.lists(st.sampled_from([-100, 0, 1, 2, 7]), min_size=1, max_size=7)


def nt_xent(rows: Array, target: list[int], temperature: float) -> tuple[float, int, int]:
    """The summed loss, its number of views, and how many are nearest to a partner: view by view."""
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    there = [i for i, number in enumerate(target) if number != -100]
    total, count, right = 0.0, 0, 0
    for i in there:
        others = [j for j in there if j != i]
        partners = [j for j in others if target[j] == target[i]]
        if partners:
            alike = {j: rows[i] @ rows[j] / temperature for j in others}
            total -= np.mean([alike[j] for j in partners]) - np.log(sum(np.exp(value) for value in alike.values()))
            count, right = count + 1, right + (max(others, key=lambda j: alike[j]) in partners)
    return total, count, right


@given(target=views, temperature=st.sampled_from([0.1, 1.0]), shape=st.sampled_from([(3,), (1, 3), (2, 2)]))
def test_the_loss_is_that_of_simclr(target: list[int], temperature: float, shape: tuple[int, ...]) -> None:
    rows, objective = random(len(target), *shape).requires_grad_(), Contrast(temperature=temperature)
    targets = {"view": torch.tensor(target)}
    total, count, right = nt_xent(array(rows.detach().flatten(1)), target, temperature)
    term = objective.terms({"view": rows}, targets)["view"]
    assert term.total.item() == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert term.count == count
    loss, _ = objective({"view": rows}, targets)
    assert loss.item() == pytest.approx(total / max(1, count), rel=1e-4, abs=1e-4)
    loss.backward()
    assert rows.grad.isfinite().all()
    missing = torch.tensor(target) == -100
    assert rows.grad[missing].eq(0).all()
    if count:
        found = in_batches(objective, torch.cat([random(1, *shape), random(3, *shape), rows]), _last(targets))
        assert found["accuracy"] == pytest.approx(right / count)


def _last(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """The targets after a batch of one and one of three views without partners, which count for nothing."""
    return {"view": torch.cat([torch.arange(90, 94), targets["view"]])}


@given(seed=st.integers(0, 9), temperature=st.sampled_from([0.1, 0.5]))
def test_order_numbers_and_lengths_do_not_matter(seed: int, temperature: float) -> None:
    rows, target = random(8, 5, seed=seed), torch.tensor([4, 2, 4, 0, 2, 0, 9, 4])
    objective, order = Contrast(temperature=temperature), torch.randperm(8)
    loss = objective({"view": rows}, {"view": target})[0]
    others = {
        "order": (rows[order], target[order]),
        "numbers": (rows, 5 * target + 3),
        "lengths": (rows * torch.rand(8, 1).add(0.1), target),
    }
    for name, (changed, numbers) in others.items():
        assert objective({"view": changed}, {"view": numbers})[0].item() == pytest.approx(loss.item(), rel=1e-4), name
    apart = objective({"view": rows}, {"view": target.where(target != 9, 4)})[0]
    assert apart.item() != pytest.approx(loss.item(), rel=1e-4)


def test_the_gradient_draws_partners_together_and_others_apart() -> None:
    rows, target = random(6, 4).requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])

    def alike() -> Tensor:
        unit = F.normalize(rows.detach(), dim=-1)
        return unit @ unit.T

    before, same = alike(), (target[:, None] == target) & ~torch.eye(6, dtype=torch.bool)
    optimizer = torch.optim.SGD([rows], 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        Contrast(temperature=0.5)({"view": rows}, {"view": target})[0].backward()
        optimizer.step()
    assert alike()[same].mean() > before[same].mean() + 0.1
    others = ~same & ~torch.eye(6, dtype=torch.bool)
    assert alike()[others].mean() < before[others].mean()


@pytest.mark.parametrize("target", [torch.zeros(3), torch.zeros(2).long(), torch.zeros(3, 1).long()])
def test_wrong_targets_are_refused(target: Tensor) -> None:
    with pytest.raises(kit.InputError, match=r"target 'view' must be int64 \(3,\), a number for each view"):
        Contrast()({"view": torch.zeros(3, 2)}, {"view": target})


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), True])
def test_wrong_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(kit.AssemblyError, match="temperature must be a finite number above 0"):
        Contrast(temperature=temperature)


# ---- views


@given(size=st.integers(16, 400), span=st.integers(1, 70), length=st.integers(8, 150), step=st.integers(0, 3))
def test_the_views_of_a_text_are_halves_without_a_common_span(size: int, span: int, length: int, step: int) -> None:
    text = "".join(chr(0x100 + i) for i in range(size // 2))  # two bytes each
    data = SpanViews([text, text], length=length, span=span)
    item = data[1, step]
    one, other = item["inputs"]["text"]
    assert item["targets"]["view"].tolist() == [1, 1]
    assert 0 < len(one) == len(other) <= length
    used = len(text.encode()[: 2 * length])
    assert 2 * len(one) > used - 2 * min(span, used // 16) >= used * 7 // 8 - 1
    ids = torch.tensor([*text.encode()][: 2 * len(one)]) + 6
    spans = [[tuple(part.tolist()) for part in view.split(min(span, used // 16))] for view in (ids, one, other)]
    assert sorted(spans[0]) == sorted(spans[1] + spans[2]), "each span of the text is in one of the views"
    for view in spans[1:]:
        whole = iter(spans[0])
        assert all(part in whole for part in view), "in the order of the text"


def test_views_are_drawn_anew_at_each_step_and_alike_in_evaluation() -> None:
    data = SpanViews(["".join(map(chr, range(33, 120)))], length=64, span=4)
    drawn = [tuple(data[0, step]["inputs"]["text"][0].tolist()) for step in range(5)]
    assert len({*drawn}) == 5
    assert data[0]["inputs"]["text"].equal(data[0]["inputs"]["text"])
    assert data[0, 3]["inputs"]["text"].equal(data[0, 3]["inputs"]["text"])


def test_texts_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(kit.InputError, match="texts of 16 bytes or more, got 3 in text 1"):
        SpanViews(["a" * 16, "abc"], length=64)
    with pytest.raises(kit.InputError, match="got none"):
        SpanViews([], length=64)


def test_views_of_other_data_are_two_training_draws() -> None:
    pixels = torch.randint(256, (4, 1, 9, 9), dtype=torch.uint8)
    data = Views(Images(pixels, torch.arange(4), shift=3))
    shown = [data[2, step]["inputs"]["image"] for step in range(3)]
    assert {tuple(image.shape) for image in shown} == {(2, 3, 9, 9)}
    assert len({tuple(view.flatten().tolist()) for image in shown for view in image}) > 3
    assert data[2]["inputs"]["image"].equal(data[2]["inputs"]["image"])
    assert not data[2]["inputs"]["image"][0].equal(data[2]["inputs"]["image"][1])


def test_a_model_learns_which_views_belong_together(tmp_path: Path) -> None:
    words = ("alpha beta gamma delta ", "one two three four five ", "red green blue white ", "do re mi fa so la ")
    texts = [word * 8 for word in words]
    model = kit.assemble(
        dict(text=kit.inputs.TextTokens(262, 16)),
        dict(view=kit.outputs.Project(8, size=(1,))),
        num_latents=4,
        latent_dim=16,
        layers=1,
    )
    training = Training(model, Contrast(), steps=30, rate=5e-3)
    data = SpanViews(texts, length=64, span=16)
    found = fit(training, Data(data, data, batch=4, steps=30, collate=each_view), tmp_path / "run", progress=False)
    assert found["accuracy"] == 1.0
    assert found["loss"] < 0.5
