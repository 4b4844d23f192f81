"""Objectives compared with NumPy, element by element: sums, counts and metrics; errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.objectives import (
    Classification,
    EndPointError,
    MaskedTokens,
    MultiLabel,
    Objective,
    Reconstruction,
    Regression,
    Weighted,
    combine,
)
from perceiver_kit.recipe import objective_for

from .restated import Array, array
from .strategies import raws, tiny

sizes = st.integers(1, 4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# ---- the sum and the count of each objective in NumPy


def cross_entropy(logits: Array, target: Array, smoothing: float) -> tuple[float, int]:
    total = 0.0
    for row, wanted in zip(logits, target, strict=True):
        classes = len(row)
        share = wanted if target.ndim == 2 else [float(c == wanted) for c in range(classes)]
        for c in range(classes):
            total -= ((1 - smoothing) * share[c] + smoothing / classes) * log_softmax(row)[c]
    return total, len(logits)


def binary_cross_entropy(logits: Array, target: Array) -> tuple[float, int]:
    chance = 1 / (1 + np.exp(-logits))
    return -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).sum(), target.size


def masked_tokens(logits: Array, target: Array) -> tuple[float, int]:
    counted = [(b, i) for b, i in np.ndindex(target.shape) if target[b, i] != -100]
    return -sum(log_softmax(logits[b, i])[target[b, i]] for b, i in counted), len(counted)


def end_point_error(flow: Array, target: Array, valid: Array, scales: int, robust: bool) -> tuple[float, int]:
    """The mean over valid places of each scale, times the number of valid pixels at full size."""
    count, total = int(valid.sum()), 0.0
    for scale in range(scales):
        side = 2**scale
        found = []
        for b, y, x in np.ndindex(len(flow), flow.shape[2] // side, flow.shape[3] // side):
            # Halved repeatedly: means of means, each over the valid values below it.
            error = pooled(flow[b] - target[b], valid[b], y, x, scale)
            if error is not None:
                distance = math.hypot(*error)
                found.append((distance + 0.01) ** 0.4 if robust else distance)
        total += sum(found) / max(1, len(found)) * count / scales
    return total, count


def pooled(error: Array, valid: Array, y: int, x: int, scale: int) -> Array | None:
    if scale == 0:
        return error[:, y, x] if valid[y, x] else None
    below = [pooled(error, valid, 2 * y + i, 2 * x + j, scale - 1) for i in (0, 1) for j in (0, 1)]
    below = [part for part in below if part is not None]
    return np.mean(below, axis=0) if below else None


def agrees(objective: Objective, output: Tensor, targets: dict[str, Tensor], wanted: tuple[float, int]) -> None:
    """Check the objective's sum, count, mean and reported part, also for bfloat16."""
    name, (total, count) = objective.output, wanted
    term = objective.terms({name: output}, targets)[name]
    assert term.total.item() == pytest.approx(total, rel=1e-5, abs=1e-5)
    assert int(term.count) == count
    loss, parts = objective({name: output.requires_grad_()}, targets)
    assert loss.requires_grad
    assert loss.item() == pytest.approx(total / max(1, count), rel=1e-5, abs=1e-5)
    assert [*parts] == [name]
    assert parts[name].item() == pytest.approx(loss.item())
    assert not parts[name].requires_grad
    half = objective({name: output.bfloat16()}, targets)[0]
    assert half.dtype == torch.float32, "losses are in float32, whatever the model computes in"
    assert half.item() == pytest.approx(loss.item(), rel=0.03, abs=0.03)
    halves = {key: target.bfloat16() if target.is_floating_point() else target for key, target in targets.items()}
    term = objective.terms({name: output.bfloat16()}, halves)[name]
    assert term.total.dtype == torch.float32, "a sum in bfloat16 stops growing at 256"


@given(b=sizes, classes=st.integers(1, 5), smoothing=st.sampled_from([0.0, 0.1, 1.0]), soft=st.booleans())
def test_classification(b: int, classes: int, smoothing: float, soft: bool) -> None:
    logits = random(b, classes)
    target = random(b, classes, seed=1).softmax(-1) if soft else torch.arange(b) % classes
    wanted = cross_entropy(array(logits), array(target) if soft else target.numpy(), smoothing)
    agrees(Classification(label_smoothing=smoothing), logits, {"label": target}, wanted)


@given(shape=st.lists(sizes, min_size=1, max_size=4))
def test_regression_and_reconstruction(shape: list[int]) -> None:
    output, target = random(*shape), random(*shape, seed=1)
    error = array(output) - array(target)
    agrees(Regression("y"), output, {"y": target}, ((error**2).sum(), error.size))
    agrees(Reconstruction("y"), output, {"y": target}, (np.abs(error).sum(), error.size))


@given(b=sizes, labels=sizes, soft=st.booleans())
def test_multi_label(b: int, labels: int, soft: bool) -> None:
    logits, target = random(b, labels), random(b, labels, seed=1).sigmoid()
    target = target if soft else target.round().long()
    agrees(MultiLabel(labels=labels), logits, {"label": target}, binary_cross_entropy(array(logits), array(target)))


@given(b=sizes, n=sizes, asked=st.sampled_from([0.0, 0.5, 1.0]))
def test_masked_tokens(b: int, n: int, asked: float) -> None:
    logits, target = random(b, n, 6), torch.randint(6, (b, n), generator=torch.Generator().manual_seed(1))
    target[torch.rand(b, n) >= asked] = -100
    agrees(MaskedTokens(), logits, {"text": target}, masked_tokens(array(logits), target.numpy()))


@given(
    b=st.integers(1, 2),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    share=st.sampled_from([None, 0.0, 0.1, 0.7]),
    scales=st.integers(1, 3),
    robust=st.booleans(),
)
def test_end_point_error(b: int, height: int, width: int, share: float | None, scales: int, robust: bool) -> None:
    flow, target = random(b, 2, height, width), random(b, 2, height, width, seed=1)
    targets, valid = {"flow": target}, torch.ones(b, height, width, dtype=torch.bool)
    if share is not None:
        valid = torch.rand(b, height, width) < share
        targets = {"flow": target.masked_fill(~valid[:, None], float("nan")), "valid": valid}
    wanted = end_point_error(array(flow), array(target), valid.numpy(), scales, robust)
    agrees(EndPointError(scales=scales, robust=robust), flow, targets, wanted)


def test_ignored_elements_have_no_gradient_even_if_nan() -> None:
    flow, valid = random(1, 2, 4, 4).requires_grad_(), torch.zeros(1, 4, 4, dtype=torch.bool)
    valid[:, :2] = True
    target = torch.zeros(1, 2, 4, 4).masked_fill(~valid[:, None], torch.nan)
    EndPointError(scales=2)({"flow": flow}, {"flow": target, "valid": valid})[0].backward()
    assert flow.grad.isfinite().all()
    assert flow.grad[:, :, :2].abs().min() > 0
    assert flow.grad[:, :, 2:].eq(0).all()

    logits, text = random(1, 3, 5).requires_grad_(), torch.tensor([[-100, 2, -100]])
    MaskedTokens()({"text": logits}, {"text": text})[0].backward()
    assert logits.grad[:, [0, 2]].eq(0).all()
    assert logits.grad[:, 1].abs().min() > 0


@pytest.mark.parametrize("objective", [EndPointError(), EndPointError(scales=2, robust=True)])
def test_exact_flow_has_a_finite_gradient(objective: Objective) -> None:
    flow = torch.zeros(1, 2, 4, 4, requires_grad=True)
    objective({"flow": flow}, {"flow": torch.zeros(1, 2, 4, 4)})[0].backward()
    assert flow.grad.eq(0).all()


def test_no_counted_elements_give_zero_loss_and_gradient() -> None:
    logits = random(2, 3, 5).requires_grad_()
    loss, _ = MaskedTokens()({"text": logits}, {"text": torch.full((2, 3), -100)})
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()
    flow = random(1, 2, 4, 4).requires_grad_()
    nowhere = {"flow": random(1, 2, 4, 4, seed=1), "valid": torch.zeros(1, 4, 4, dtype=torch.bool)}
    loss, _ = EndPointError(scales=2)({"flow": flow}, nowhere)
    loss.backward()
    assert loss.item() == 0
    assert flow.grad.eq(0).all()


def three() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    outputs = {"image": random(2, 3, 4, 4), "audio": random(2, 8), "label": random(2, 3)}
    targets = {"image": random(2, 3, 4, 4, seed=1), "audio": random(2, 8, seed=1), "label": torch.tensor([0, 2])}
    return outputs, targets


@given(weights=st.lists(st.sampled_from([0.0, 1e-4, 0.03, 2.0]), min_size=3, max_size=3), data=st.data())
def test_weighted_is_the_weighted_sum_over_the_decoded_outputs(weights: list[float], data: st.DataObject) -> None:
    parts = dict(image=Reconstruction("image"), audio=Regression("audio"), label=Classification())
    outputs, targets = three()
    asked = data.draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, unique=True))
    objective = Weighted(parts, weights=dict(zip(parts, weights, strict=True)))
    loss, means = objective({name: outputs[name] for name in asked}, targets)
    alone = {name: parts[name](outputs, targets)[0] for name in asked}
    assert loss.item() == pytest.approx(sum(objective.weights[name] * alone[name].item() for name in asked), abs=1e-6)
    assert {name: mean.item() for name, mean in means.items()} == pytest.approx(
        {name: value.item() for name, value in alone.items()}
    )


def test_weighted_takes_several_objectives_of_one_output_and_nests() -> None:
    outputs, targets = three()
    both = Weighted(dict(near=Reconstruction("image"), far=Regression("image")), weights=dict(near=2.0))
    near, far = Reconstruction("image")(outputs, targets)[0], Regression("image")(outputs, targets)[0]
    loss, parts = both(outputs, targets)
    assert {*parts} == {"near", "far"}
    assert loss.item() == pytest.approx(2 * near.item() + far.item())

    nested = Weighted(dict(both=both, label=Classification()), weights=dict(both=0.5))
    loss, parts = nested({"image": outputs["image"]}, targets)
    assert {*parts} == {"both_near", "both_far"}
    assert loss.item() == pytest.approx(near.item() + far.item() / 2)
    of_two = Weighted(dict(near=Reconstruction("image"), sound=Regression("audio")))
    loss, parts = Weighted(dict(two=of_two, label=Classification()))({"image": outputs["image"]}, targets)
    assert {*parts} == {"two_near"}, "audio was not decoded"
    assert loss.item() == pytest.approx(near.item())
    assert {*nested.meters()} == {"both_near_psnr", "both_far_mse", "both_far_mae", "label_accuracy"}


def test_sums_and_counts_of_several_processes_combine_to_the_mean_over_all_elements() -> None:
    """Two halves with one and three masked bytes."""
    logits, text = random(2, 3, 5), torch.tensor([[1, -100, -100], [2, 3, 4]])
    halves = [MaskedTokens().terms({"text": logits[i : i + 1]}, {"text": text[i : i + 1]})["text"] for i in (0, 1)]
    count = halves[0].count + halves[1].count
    mean = sum(combine({"text": half._replace(count=count)})[0] for half in halves)
    assert mean.item() == pytest.approx(MaskedTokens()({"text": logits}, {"text": text})[0].item())


def measured(objective: Objective, batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> dict[str, float]:
    pytest.importorskip("torchmetrics")
    meters = objective.meters()
    for outputs, targets in batches:
        objective.measure(meters, outputs, targets)
    return {name: float(meter.compute()) for name, meter in meters.items()}


def in_batches(objective: Objective, output: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
    """Measured over samples 0, 1 to 3, and all others."""
    cuts = (slice(0, 1), slice(1, 4), slice(4, None))
    batches = [({objective.output: output[c]}, {name: t[c] for name, t in targets.items()}) for c in cuts]
    return measured(objective, batches)


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

    flow, target, valid = random(9, 2, 4, 4), random(9, 2, 4, 4, seed=1), torch.rand(9, 4, 4) < 0.5
    valid[0] = False
    epe = np.hypot(*np.moveaxis(array(flow - target), 1, 0))[valid.numpy()].mean()
    target = target.masked_fill(~valid[:, None], torch.nan)
    assert in_batches(EndPointError(), flow, {"flow": target, "valid": valid}) == pytest.approx({"epe": epe}, rel=1e-5)


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


EVERY = [
    Classification("a", label_smoothing=0.1),
    Regression("a"),
    MultiLabel("a", labels=3),
    MaskedTokens("a"),
    EndPointError("a", valid="seen", scales=2, robust=True),
    Reconstruction("a"),
    Weighted({"x": Regression("a"), "type": Weighted({"y.z": MaskedTokens("b")})}, weights={"x": 0.5}),
    objective_for("multimodal_autoencoding"),
]


@pytest.mark.parametrize("objective", EVERY, ids=lambda objective: type(objective).__name__)
def test_an_objective_is_plain_json(objective: Objective) -> None:
    document = kit.spec(objective)
    again = kit.build(document)
    assert kit.spec(again) == document
    assert type(again) is type(objective)
    plain = {name: value for name, value in vars(objective).items() if name[0] != "_" and name != "recorded"}
    assert {name: value for name, value in vars(again).items() if name in plain} == plain


def test_every_registered_objective_is_tested() -> None:
    assert {type(objective).__name__ for objective in EVERY} == set(kit.list("objectives"))


@pytest.mark.parametrize("recipe", kit.list())
def test_the_objective_of_every_recipe_gives_gradients(recipe: str) -> None:
    model, objective = tiny(recipe, train=True), objective_for(recipe)
    outputs = model(raws(model, 2))
    targets = {name: _target(output, name, recipe) for name, output in outputs.items()}
    loss, parts = objective(outputs, targets)
    assert {*parts} == {*outputs}
    gradients = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    model.requires_grad_(False)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.abs().max() > 0) for gradient in gradients) > len(gradients) / 2
    found = measured(objective, [(outputs, targets)])
    assert found
    assert all(math.isfinite(value) for value in found.values())


def _target(output: Tensor, name: str, recipe: str) -> Tensor:
    if recipe == "masked_lm":
        text = torch.randint(output.shape[-1], output.shape[:2])
        return torch.where(torch.rand(text.shape) < 0.3, text, -100)
    return torch.arange(len(output)) if name == "label" else torch.rand_like(output) * 2 - 1


def test_the_weights_of_multimodal_autoencoding_are_published() -> None:
    assert objective_for("multimodal_autoencoding").weights == {"image": 0.03, "audio": 1.0, "label": 1e-4}


def _apply(objective: Objective, output: Tensor, **targets: Tensor) -> None:
    objective({objective.output: output}, targets)


IMAGE = torch.zeros(2, 2, 4, 4)
REFUSED = {
    "classes of another batch": (
        lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.zeros(5).long()),
        "(4,)",
    ),
    "classes in a column": (
        lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.zeros(4, 1).long()),
        "(4, 1)",
    ),
    "classes as floats": (lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.zeros(4)), "int64 (4,)"),
    "one-hot integers": (
        lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.eye(4, 3).long()),
        "float (4, 3)",
    ),
    "values of another shape": (lambda: _apply(Regression("y"), torch.zeros(4, 1), y=torch.zeros(4)), "float32 (4, 1)"),
    "an image of another shape": (lambda: _apply(Reconstruction("y"), IMAGE, y=IMAGE[..., :1]), "(2, 2, 4, 1)"),
    "labels of another shape": (
        lambda: _apply(MultiLabel(labels=3), torch.zeros(2, 3), label=torch.zeros(2)),
        "(2, 3)",
    ),
    "text of another length": (
        lambda: _apply(MaskedTokens(), torch.zeros(2, 5, 9), text=torch.zeros(2, 4).long()),
        "(2, 5)",
    ),
    "text as floats": (lambda: _apply(MaskedTokens(), torch.zeros(2, 5, 9), text=torch.zeros(2, 5)), "float32"),
    "flow of another size": (lambda: _apply(EndPointError(), IMAGE, flow=IMAGE[:1]), "(1, 2, 4, 4)"),
    "validity with channels": (lambda: _apply(EndPointError(), IMAGE, flow=IMAGE, valid=IMAGE[:, :1] > 0), "(2, 4, 4)"),
    "more scales than pixels": (
        lambda: _apply(EndPointError(scales=4), IMAGE, flow=IMAGE),
        "scales: expected at most 3",
    ),
    "no output of an objective": (lambda: Weighted({"a": Regression("a")})({"b": IMAGE}, {"b": IMAGE}), "none of a"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_targets_are_refused(what: str) -> None:
    call, said = REFUSED[what]
    with pytest.raises(kit.InputError) as error:
        call()
    assert said in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_wrong_names_and_arguments_are_refused_with_a_hint() -> None:
    outputs, targets = three()
    with pytest.raises(kit.UnknownName, match="outputs has no 'labels'; did you mean 'label'"):
        Classification("labels")(outputs, targets)
    with pytest.raises(kit.UnknownName, match=r"targets has no 'label'.*audio"):
        Classification()(outputs, {"audio": targets["audio"]})
    with pytest.raises(kit.UnknownName, match="did you mean 'multimodal_autoencoding'"):
        objective_for("multimodal_autoencoder")
    with pytest.raises(kit.UnknownName, match="weights names 'imgae'; did you mean 'image'"):
        Weighted(dict(image=Reconstruction("image")), weights=dict(imgae=0.1))
    for nothing in ({}, None, [Regression("image")]):
        with pytest.raises(kit.AssemblyError, match="at least one objective by name"):
            Weighted(nothing)
    for weight, shown in ((math.nan, "nan"), ("1", "'1'"), (True, "True"), (None, "None")):
        with pytest.raises(kit.AssemblyError, match=f"weight of 'image' must be a finite number, got {shown}"):
            Weighted(dict(image=Reconstruction("image")), weights=dict(image=weight))
    with pytest.raises(kit.AssemblyError, match="'image' must be an objective, got a Linear"):
        Weighted(dict(image=torch.nn.Linear(1, 1)))
    with pytest.raises(kit.AssemblyError, match="label_smoothing"):
        Classification(label_smoothing=1.5)
    for wrong in (lambda: EndPointError(scales=0), lambda: MultiLabel(labels=0)):
        with pytest.raises(kit.AssemblyError, match="at least 1"):
            wrong()


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_classes_out_of_range_are_refused_with_the_range(wrong: int) -> None:
    said = f"^target '.*' must be classes from 0 to 2, got {min(wrong, 0)} to {max(wrong, 0)}$"
    with pytest.raises(kit.InputError, match=said):
        Classification("label")({"label": torch.zeros(2, 3)}, {"label": torch.tensor([0, wrong])})
    with pytest.raises(kit.InputError, match=said):
        MaskedTokens("text")({"text": torch.zeros(1, 3, 3)}, {"text": torch.tensor([[0, -100, wrong]])})
