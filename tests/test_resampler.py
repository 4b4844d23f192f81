"""Resampler and gated cross-attention: what their arguments mean, and weights of other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import perceiver_kit as kit

from .strategies import assert_close, noisy

pytestmark = pytest.mark.usefixtures("checked")

REFERENCES = Path(__file__).parent / "references"


def resampler(**options: object) -> kit.Resampler:
    sizes = dict(num_latents=3, layers=2, heads=2, head_channels=4)
    return noisy(kit.Resampler(6, **(sizes | options)), 0.3).double()


def test_media_are_resampled_alone_and_frames_are_told_apart() -> None:
    block, rows = resampler(frames=4, media=3), torch.randn(2, 3, 2, 5, 6).double()
    found = block(rows)
    assert found.shape == (2, 3, 3, 6)
    other = rows.clone()
    other[:, 1] = torch.randn(2, 2, 5, 6)
    assert torch.equal((block(other) - found).abs().amax((0, 2, 3)) > 1e-9, torch.tensor([False, True, False]))
    assert (block(rows.flip(2)) - found).abs().max() > 1e-6  # the order of frames
    without = resampler()
    assert_close(without(rows.flip(2)), without(rows), 1e-9)


@pytest.mark.parametrize("read_latents", [True, False])
def test_latents_are_among_the_keys_unless_they_are_not(read_latents: bool) -> None:
    block, rows = resampler(read_latents=read_latents), torch.randn(2, 5, 6).double()
    with kit.capture_attention(block) as maps:
        block(rows, torch.tensor([[True] * 5, [False] * 5]))
    [one, _] = [maps[name][0] for name in ("layers.0", "layers.1")]
    assert one.shape == (2, 2, 3, 8 if read_latents else 5)
    assert torch.allclose(one[0].sum(-1), torch.ones(2, 3).double())
    assert one[1, :, :, :5].abs().max() == 0  # nothing is read of a sample without readable rows


def test_grouped_heads_equal_repeated_ones() -> None:
    grouped, whole = resampler(heads=4, kv_heads=2), resampler(heads=4)
    state = grouped.state_dict()
    for name in [name for name in state if "attention.key.weight" in name or "attention.value.weight" in name]:
        state[name] = state[name].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    whole.load_state_dict(state)
    rows = torch.randn(2, 5, 6).double()
    assert_close(whole(rows), grouped(rows), 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads=4, kv_heads=3), "heads 4 must be divisible by kv_heads 3"),
        (dict(layers=0), "layers must be an int of at least 1"),
        (dict(frames=0), "frames must be an int of at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        kit.Resampler(6, **options)


def test_wrong_rows_are_refused() -> None:
    block = resampler(frames=2)
    for rows, message in [
        (torch.zeros(2, 3, 4, 6), r"must be \(b, n, 6\) or \(b, media, frames, n, 6\)"),
        (torch.zeros(2, 3, 3, 4, 6), "inputs have 3 frames, but at most 2 have embeddings"),
        (torch.zeros(2, 3, 5), "6"),
    ]:
        with pytest.raises((kit.InputError, TypeError), match=message if rows.ndim != 4 else None):
            block(rows.double())


# ---- gated cross-attention


def gated(**options: object) -> tuple[kit.GatedCrossAttention, Tensor, Tensor]:
    block = noisy(kit.GatedCrossAttention(6, 4, heads=2, head_channels=3, **options)).double()
    return block, torch.randn(1, 6, 6).double(), torch.randn(1, 2, 3, 4).double()


def test_a_new_layer_changes_nothing_and_learns() -> None:
    block = kit.GatedCrossAttention(6, 4, heads=2, head_channels=3)
    text = torch.randn(2, 5, 6)
    found = block(text, torch.randn(2, 2, 3, 4))
    assert torch.equal(found, text)
    found.square().sum().backward()
    assert block.attention_gate.gate.grad.abs() > 0 and block.mlp_gate.gate.grad.abs() > 0


@pytest.mark.parametrize("latest_only", [True, False])
def test_a_token_reads_the_media_that_began_by_it(latest_only: bool) -> None:
    block, text, media = gated(latest_only=latest_only)
    starts = torch.tensor([[False, True, False, True, False, False]])
    wanted = block(text, media, starts)
    for number, readers in enumerate([range(1, 3) if latest_only else range(6), range(3, 6)]):
        other = media.clone()
        other[:, number] += 1
        changed = (block(text, other, starts) - wanted).abs().amax((0, 2)) > 1e-9
        expected = [token in readers or (token == 0 and not latest_only) for token in range(6)]
        assert changed.tolist() == expected


def test_text_behind_the_media_reads_as_the_last_token() -> None:
    block, text, media = gated()
    starts = torch.tensor([[True, False, True, False, False, False]])
    assert_close(block(text[:, 5:], media, starts, behind=True), block(text, media, starts)[:, 5:], 1e-12)
    assert_close(block(text[:, 5:], media), block(text, media, starts)[:, 5:], 1e-12)
    with pytest.raises(kit.InputError, match="behind=True is for text that continues"):
        block(text[:, 5:], media, starts)


# ---- weights of others


def state(name: str) -> dict[str, Tensor]:
    with np.load(REFERENCES / f"{name}.npz") as file:
        return {n.removeprefix("params/"): torch.from_numpy(file[n]) for n in file.files if n.startswith("params/")}


def test_weights_load_from_a_whole_models_state_and_survive_saving(tmp_path: Path) -> None:
    weights = state("resampler_idefics2_one_kv")
    inside = {f"model.connector.{name}": value for name, value in weights.items()} | {"other": torch.zeros(1)}
    block = kit.resampler_from_state(inside, heads=4, prefix="model.connector.")
    assert not block.training
    loaded = kit.load(str(kit.save(block, tmp_path)))
    rows = torch.randn(2, 7, 20)
    assert torch.equal(loaded(rows), block(rows))


@pytest.mark.parametrize(
    ("change", "heads", "message"),
    [
        (lambda w: {}, 4, "no resampler of OpenFlamingo, IDEFICS or IDEFICS-2 has these names"),
        (lambda w: w, 5, "heads: a width of 24 is not a multiple of 5"),
        (lambda w: w | {"latents": w["latents"][:, :3]}, 4, "the weights do not fit"),
        (lambda w: {n: v for n, v in w.items() if n != "norm.weight"}, 4, "the weights do not fit"),
    ],
)
def test_other_weights_are_refused(change: object, heads: int, message: str) -> None:
    with pytest.raises(kit.CheckpointError, match=message):
        kit.resampler_from_state(change(state("resampler_idefics2_one_kv")), heads=heads)
    with pytest.raises(kit.CheckpointError, match="no gated cross-attention of OpenFlamingo: it lacks attn"):
        kit.gated_from_state({"attn.to_q.weight": torch.zeros(2, 2)}, heads=1)
