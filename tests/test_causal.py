"""The causal encoder, its data and its objective."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.next_bytes import NextBytes
from perceiver_kit.decoders import PassThrough
from perceiver_kit.encoders import CausalEncoder
from perceiver_kit.inputs import Inputs, Patches, TextTokens
from perceiver_kit.objectives import NextTokens
from perceiver_kit.outputs import Outputs, Project
from perceiver_kit.positions import Learned, Sinusoidal
from perceiver_kit.queries import LatentQuery, Queries
from perceiver_kit.variants import Rotary

from .strategies import assert_close, noisy

SIZES: dict[str, Any] = dict(num_latents=4, latent_dim=6, layers=2, context=12)


def causal(**options: Any) -> Any:
    return noisy(CausalEncoder(5, **(SIZES | options)), 0.3).double().eval()


@given(
    per_position=st.sampled_from([1, 2]),
    back=st.booleans(),
    learned=st.booleans(),
    length=st.integers(1, 8),
    left=st.integers(0, 2),
    right=st.integers(0, 2),
)
def test_padding_on_either_side_changes_nothing(
    per_position: int, back: bool, learned: bool, length: int, left: int, right: int
) -> None:
    options: dict[str, Any] = dict(positions=Learned((12,), 5)) if learned else dict(rotary=Rotary(20.0))
    encoder = causal(
        latents_per_position=per_position, count="back" if back else "forward", cross_after=(0,), **options
    )
    rows = torch.randn(1, length, 5).double()
    garbage = torch.full((1, 1, 5), math.nan).double()
    padded = torch.cat([garbage.expand(-1, left, -1), rows, garbage.expand(-1, right, -1)], 1)
    mask = torch.tensor([[False] * left + [True] * length + [False] * right])
    wanted, found = encoder(rows), encoder(padded, mask)
    m = wanted.shape[1]
    assert_close(found[:, -m:], wanted, 1e-9)
    assert (found[:, :-m] == 0).all()


def test_a_sample_of_padding_alone_is_zero_and_has_gradients() -> None:
    encoder = causal(rotary=Rotary())
    rows = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    found = encoder(rows, torch.tensor([[False] * 3, [True] * 3]))
    found.square().sum().backward()
    assert (found[0] == 0).all() and (rows.grad[0] == 0).all() and rows.grad[1].abs().min() > 0  # type: ignore[index]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_hidden_rows_are_not_read_in_training_alone() -> None:
    encoder, rows = causal(row_dropout=1.0, latent_dropout=1.0), torch.randn(1, 8, 5).double()
    other = rows.clone()
    other[:, :4, 0] += 1  # before the rows that latents sit on
    assert not torch.allclose(encoder(other), encoder(rows))
    assert_close(encoder.train()(other), encoder(rows), 1e-9)
    other = rows.clone()
    other[:, 4, 0] += 1  # the first latent, which no other reads
    assert_close(encoder(other)[:, 1:], encoder(rows)[:, 1:], 1e-9)
    assert not torch.allclose(encoder(other)[:, 0], encoder(rows)[:, 0])


def test_positions_may_be_given() -> None:
    encoder, rows = causal(positions=Sinusoidal(5), context=100), torch.randn(2, 6, 5).double()
    assert_close(encoder(rows, index=torch.arange(6)[None]), encoder(rows), 1e-9)
    assert not torch.allclose(encoder(rows, index=torch.arange(6)[None] + 7), encoder(rows))
    assert_close(encoder(rows, index=torch.arange(6)[None] + 7), _later(encoder, 7)(rows), 1e-9)


def _later(encoder: Any, first: int) -> Any:
    other = causal(positions=Sinusoidal(5), context=100, first_position=first)
    other.load_state_dict(encoder.state_dict())
    return other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_latents=3, latents_per_position=2), "num_latents 3 must be divisible by latents_per_position 2"),
        (dict(cross_after=(2,)), r"cross_after must name layers from 0 to 1, got \(2,\)"),
        (dict(positions=Learned((12,), 4)), "positions of 4 channels cannot be added to rows of 5"),
        (dict(query="mean"), "CausalEncoder: query is 'mean'; "),
        (dict(count="backward"), "CausalEncoder: count is 'backward'; did you mean"),
        (dict(row_dropout=2.0), r"row_dropout must be a number in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        causal(**options)


def test_rows_and_positions_past_the_context_are_refused() -> None:
    with pytest.raises(kit.InputError, match="13 rows are more than its context of 12"):
        causal()(torch.zeros(1, 13, 5))
    with pytest.raises(kit.InputError, match="positions must be from 0 to 11, its context, got 3 to 12"):
        causal(positions=Learned((12,), 5))(torch.zeros(1, 10, 5), index=torch.arange(3, 13)[None])


@pytest.mark.parametrize("chunk", [None, 2])
def test_latents_can_be_decoded_in_part(chunk: int | None) -> None:
    model: Any = noisy(kit.build("causal_lm", preset="tiny", num_latents=5)).eval()
    whole = model({"text": torch.randint(262, (2, 9))}, chunk=chunk)["text"]
    torch.manual_seed(0)
    ids = torch.randint(262, (2, 9))
    some = model({"text": ids}, at={"text": torch.tensor([4, 1])})["text"]
    assert whole.shape == (2, 5, 262)
    assert_close(some, model({"text": ids}, chunk=chunk)["text"][:, [4, 1]], 1e-5)
    assert model({"text": ids[:, :3]})["text"].shape == (2, 3, 262)


def test_the_first_perceiver_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = kit.build("perceiver_image_classification")
    assert sum(parameter.numel() for parameter in model.parameters()) == 44_912_254


def test_the_published_image_model_has_770_million_parameters() -> None:
    with torch.device("meta"):
        model: Any = kit.build("causal_lm", preset="imagenet")
    places = sum(parameter.numel() for parameter in model.encoder.positions.parameters())
    assert round((sum(parameter.numel() for parameter in model.parameters()) - places) / 1e6) == 770


def test_several_modalities_are_one_causal_stream() -> None:
    inputs = Inputs(image=Patches((4, 4), channels=3), text=TextTokens(50, 48))
    encoder = CausalEncoder(48, rotary=Rotary(40.0), **(SIZES | dict(context=40)))
    queries = Queries(text=LatentQuery(4, latent_dim=6))
    outputs = Outputs(text=Project(50, in_channels=6))
    model = noisy(kit.PerceiverIO(inputs, encoder, queries, PassThrough(6), outputs), 0.3).eval()
    image, text = torch.rand(2, 3, 16, 16), torch.randint(49, (2, 9))
    later = torch.cat([text[:, :7], text[:, 7:] + 1], 1)
    calls = ((image, text), (image, later), (-image, text))
    rows, others, seen = (model(dict(image=pixels, text=ids))["text"] for pixels, ids in calls)
    assert rows.shape == (2, 4, 50)  # of the last four of 16 patches and 9 ids
    assert rows[:, :2].equal(others[:, :2]) and not rows[:, 2:].allclose(others[:, 2:])
    assert not rows[:, 0].allclose(seen[:, 0])


# ---- data and objective


def test_every_byte_is_predicted_once_and_in_training_at_every_place() -> None:
    text = bytes(range(100))
    data = NextBytes(text, length=12, predicted=4)
    seen: list[int] = []
    for i in range(len(data)):
        item = data[i]
        ids, targets = item["inputs"]["text"] - 6, item["targets"]["text"] - 6
        assert torch.equal(targets, ids[-4:] + 1)
        seen += targets.tolist()
    assert seen == [*range(9, 9 + 4 * len(data))] and seen[-1] >= 95
    places = {(int(data[5, step]["inputs"]["text"][0]) - 6) % 4 for step in range(50)}
    assert places == {0, 1, 2, 3}


def test_short_windows_are_padded_and_masked() -> None:
    data = NextBytes(bytes(range(100)), length=12, predicted=4, short=1.0)
    lengths = set()
    for step in range(60):
        item = data[3, step]
        keep, targets = item["mask"]["text"], item["targets"]["text"]
        n = int(keep.sum())
        lengths.add(n)
        assert (item["inputs"]["text"][n:] == 0).all() and keep[:n].all()
        assert (targets != -100).sum() == min(n, 4) and targets[-1] == item["inputs"]["text"][n - 1] + 1
    assert min(lengths) == 1 and max(lengths) == 12
    assert "mask" not in data[3]


@given(smooth=st.sampled_from([0.0, 0.1, 1.0]), z=st.sampled_from([0.0, 0.01]))
def test_the_loss_is_smoothed_cross_entropy_above_its_least_value(smooth: float, z: float) -> None:
    logits, targets = torch.randn(2, 3, 7), torch.tensor([[1, -100, 3], [6, 0, -100]])
    found, _ = NextTokens(label_smoothing=smooth, z_loss=z)({"text": logits}, {"text": targets})
    total = 0.0
    for b, i in (targets != -100).nonzero().tolist():
        soft = torch.full((7,), smooth / 6)
        soft[targets[b, i]] = 1 - smooth
        entropy = -(soft * soft.clamp(min=1e-30).log()).sum()
        total += float(-(soft * logits[b, i].log_softmax(-1)).sum() - entropy + z * logits[b, i].logsumexp(-1) ** 2)
    assert abs(float(found) - total / 4) < 1e-4


def test_bits_are_measured() -> None:
    objective = NextTokens(z_loss=1.0, label_smoothing=0.5)
    meters = objective.meters()
    objective.measure(meters, {"text": torch.zeros(1, 2, 8)}, {"text": torch.tensor([[0, -100]])})
    assert {name: float(meter.compute()) for name, meter in meters.items()} == {"bits": 3.0, "accuracy": 1.0}
