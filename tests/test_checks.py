"""Absurd numbers are refused before anything is allocated, in a short error."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import perceiver_kit as kit
from perceiver_kit.checking import MAX_SIZE, check_elements, check_number, check_positive, check_seed, short
from perceiver_kit.objectives.base import check_classes
from perceiver_kit.request import check_index
from perceiver_kit.training import Data, Training

from .strategies import RECIPES, raws, tiny

BITS = 2**21


@pytest.mark.parametrize(
    ("make", "owner"),
    [
        (lambda: kit.Encoder(3, num_latents=BITS, latent_dim=BITS, layers=0), "learned parameter"),
        (lambda: kit.outputs.Project(BITS, in_channels=BITS), "linear layer"),
        (lambda: kit.inputs.TextTokens(BITS, BITS), "learned parameter"),
        (lambda: kit.inputs.Conv1x1(BITS, channels=BITS), "Conv1x1"),
        (lambda: kit.inputs.ConvStem(BITS, channels=BITS), "ConvStem"),
    ],
)
def test_a_parameter_that_no_memory_holds_is_refused(make, owner: str) -> None:
    with pytest.raises(kit.AssemblyError, match=rf"^{owner}: a parameter of \(.*\) would have more than 2\^40"):
        make()


def test_the_bounds_are_just_beyond_what_is_allowed() -> None:
    check_elements("it", 2**20, 2**20)
    with pytest.raises(kit.AssemblyError, match=r"it: a parameter of \(1048576, 1048577\) would"):
        check_elements("it", 2**20, 2**20 + 1)
    check_positive("it", rows=MAX_SIZE)
    with pytest.raises(kit.AssemblyError, match=r"it: rows must be at most 2,147,483,647, got 2147483648"):
        check_positive("it", rows=MAX_SIZE + 1)


@pytest.mark.parametrize("wrong", [-1e-9, float("nan"), float("inf"), True, "1", None])
def test_a_number_that_is_none_or_below_its_bound_is_refused(wrong: object) -> None:
    with pytest.raises(
        kit.AssemblyError, match=f"^it: rate must be a finite number of at least 0, got {short(wrong)}$"
    ):
        check_number("it", rate=wrong)
    for number in (wrong, 0.5):
        with pytest.raises(
            kit.AssemblyError, match=f"^it: rate must be a finite number above 0.5, got {short(number)}$"
        ):
            check_number("it", above=0.5, rate=number)
    check_number("it", rate=0)
    check_number("it", above=0.5, rate=0.501)


@pytest.mark.parametrize("wrong", [2**63, -(2**63) - 1, 1.0, True, "1", None])
def test_a_seed_is_one_that_pytorch_takes(wrong: object) -> None:
    with pytest.raises(kit.AssemblyError, match=rf"^it: seed must be an int from .* to .*, got {short(wrong)}$"):
        check_seed("it", wrong)
    for seed in (-(2**63), 0, 2**63 - 1):
        check_seed("it", seed)
        torch.Generator().manual_seed(seed)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        ("x" * 118, f"'{'x' * 118}'"),
        ("x" * 119, f"'{'x' * 117}…'"),
        ([7] * 999, f"[{'7, ' * 39}…]"),
        (10**5000, "a very large int"),  # Python refuses to write so many digits
        (nested(10**4), "a very large list"),
    ],
    ids=["number", "longest", "longer", "list", "digits", "depth"],
)
def test_any_value_is_shown_in_one_line(value: object, shown: str) -> None:
    assert short(value) == shown
    assert len(shown) <= 120


def test_errors_are_short_for_any_value() -> None:
    for value in (10**5000, "x" * 10**6, -(10**5000), [7] * 10**4):
        with pytest.raises(kit.AssemblyError) as caught:
            kit.inputs.Features(value)
        assert len(str(caught.value)) < 200


class OnCard(torch.Tensor):
    """A tensor that says it is on a GPU, and counts the looks at its values."""

    looks = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")

    def aminmax(self, **options):
        OnCard.looks += 1
        return self.as_subclass(torch.Tensor).aminmax(**options)


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("on", [None, False, True])
def test_values_are_looked_at_on_the_cpu_or_on_request(card: bool, on: bool | None) -> None:
    wrong = torch.tensor([[999]])
    value = wrong.as_subclass(OnCard) if card else wrong
    looked = (not card) if on is None else on
    text, OnCard.looks = kit.inputs.TextTokens(9, 4), 0
    context = contextlib.nullcontext() if on is None else kit.checks(on)
    with context, pytest.raises(kit.InputError if looked else IndexError):
        text.embed(value, "text")
    assert OnCard.looks == (card and looked)
    with pytest.raises(kit.InputError):  # the context has ended
        text.embed(wrong, "text")


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("on", [None, False, True])
def test_indices_and_classes_are_looked_at_as_ids_are(card: bool, on: bool | None) -> None:
    right = torch.tensor([0]).as_subclass(OnCard) if card else torch.tensor([0])
    context = contextlib.nullcontext() if on is None else kit.checks(on)
    OnCard.looks = 0
    with context:
        check_index(right, "label", (1,), 1)
        check_classes("label", right, 3)
    assert OnCard.looks == (2 if card and on else 0)


class Waits(TorchDispatchMode):
    """Counts the operations that read values, for which a GPU would be waited."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = "index" in function.name() and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:2])
        )
        self.count += by_mask or function.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("recipe", "train"), [*[(recipe, False) for recipe in RECIPES], ("masked_lm", True)])
def test_no_call_waits_for_a_gpu(recipe: str, train: bool) -> None:
    """As on the CPU under ``kit.checks(False)``."""
    model = tiny(recipe, train=train)
    tensors = raws(model, 1)
    at = {name: torch.tensor([0]) for name in model.outputs.blocks}
    at = None if getattr(model.decoder, "mixes_rows", False) else at
    for some in (None, at):
        with kit.checks(False), Waits() as waits, torch.set_grad_enabled(train):
            outputs = model(tensors, at=some)
            if train:
                sum(value.sum() for value in outputs.values()).backward()
        assert waits.count == 0
    if at is not None:
        with Waits() as waits:
            model(tensors, at=at)
        assert waits.count > 0


def test_training_looks_at_a_batch_before_it_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model on a GPU; ``draw`` is not moved, since the CPU reads it."""
    model = kit.build("masked_lm", preset="tiny")
    training = Training(model, kit.objectives.Weighted({"text": kit.objectives.MaskedTokens()}), steps=1)
    ids, far = torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[0, 262, 0]])
    right = {"inputs": {"text": ids}, "targets": {"text": ids - 100}, "draw": torch.zeros(1, 2)}
    data = Data([right], None, batch=1, steps=1)
    data.trainer = SimpleNamespace(lightning_module=training, training=False)
    assert data.on_before_batch_transfer(right | {"inputs": {"text": far}}, 0)["inputs"]["text"] is far
    moved = data.transfer_batch_to_device(right, torch.device("meta"), 0)
    assert moved["draw"].device.type == "cpu"
    assert moved["inputs"]["text"].is_meta and moved["targets"]["text"].is_meta
    monkeypatch.setattr(Training, "device", torch.device("cuda"))
    assert data.on_before_batch_transfer(right, 0) is right
    with pytest.raises(kit.InputError, match="text must be ids from 0 to 261, got 0 to 262"):
        data.on_before_batch_transfer(right | {"inputs": {"text": far}}, 0)
    with pytest.raises(kit.InputError, match="target 'text' must be classes from 0 to 261, got 0 to 262"):
        data.on_before_batch_transfer(right | {"targets": {"text": far}}, 0)
