"""Ragged samples as one batch: every value is kept, the rest is padding that the masks tell."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_padding_keeps_every_value_and_masks_the_rest(lengths: list[int]) -> None:
    samples = [
        {
            "inputs": {"set": torch.randn(n, 2), "image": torch.randn(3, 4, 4)},
            "targets": {"tags": torch.randint(9, (n,)), "values": torch.randn(n, 2), "kind": torch.tensor(n)},
            "queries": {"future": torch.rand(n, 1)},
        }
        for n in lengths
    ]
    batch = kit.pad(samples)
    longest = max(lengths)
    assert batch["inputs"]["image"].shape == (len(lengths), 3, 4, 4)
    assert ("mask" in batch) == (len(set(lengths)) > 1)
    for i, (n, sample) in enumerate(zip(lengths, samples, strict=True)):
        if "mask" in batch:
            assert [*batch["mask"]] == ["set"]
            assert batch["mask"]["set"][i].tolist() == [row < n for row in range(longest)]
        for part, name in (("inputs", "set"), ("targets", "tags"), ("targets", "values"), ("queries", "future")):
            assert torch.equal(batch[part][name][i, :n], sample[part][name])
        assert batch["inputs"]["set"][i, n:].eq(0).all()
        assert batch["targets"]["tags"][i, n:].eq(-100).all()
        assert batch["targets"]["values"][i, n:].isnan().all()
        assert batch["queries"]["future"][i, n:].isnan().all()
    assert batch["targets"]["kind"].tolist() == lengths


def test_a_given_mask_and_a_grid_are_padded_too() -> None:
    samples = [
        {"inputs": {"map": torch.ones(h, w, 2)}, "targets": {}, "mask": {"map": torch.ones(h, w) > 0}}
        for h, w in ((2, 3), (3, 1))
    ]
    samples[0]["mask"]["map"][0, 0] = False
    batch = kit.pad(samples)
    wanted = torch.zeros(2, 3, 3, dtype=torch.bool)
    wanted[0, :2, :3], wanted[1, :3, :1] = True, True
    wanted[0, 0, 0] = False
    assert torch.equal(batch["mask"]["map"], wanted)


def test_a_padded_batch_gives_the_outputs_of_each_sample() -> None:
    torch.manual_seed(0)
    inputs = kit.Inputs(set=kit.inputs.Points(2, channels=1))
    encoder = kit.Encoder(inputs.channels, num_latents=4, latent_dim=16, layers=1)
    queries = kit.Queries(kind=kit.queries.LearnedQuery(1, 8))
    outputs = kit.Outputs(kind=kit.outputs.Classify(3, in_channels=8))
    model = kit.PerceiverIO(inputs, encoder, queries, kit.Decoder(8, 16), outputs).eval()
    samples = [{"inputs": {"set": torch.randn(n, 3)}, "targets": {"kind": torch.tensor(0)}} for n in (4, 1, 7)]
    batch = kit.pad(samples)
    together = model(batch["inputs"], mask=batch["mask"])["kind"]
    for i, sample in enumerate(samples):
        assert (model(sample["inputs"]["set"][None])["kind"] - together[i]).abs().max() < 1e-5


@pytest.mark.parametrize("block", [kit.inputs.LogMel(800, bands=4, window=16, hop=8), kit.inputs.AudioPatches(8)])
def test_padded_sound_gives_the_outputs_of_each_sample(block: kit.inputs.Input) -> None:
    torch.manual_seed(0)
    model = kit.assemble(
        dict(sound=block), dict(kind=kit.outputs.Classify(3)), num_latents=4, latent_dim=16, layers=1
    ).eval()
    samples = [{"inputs": {"sound": torch.randn(n)}, "targets": {"kind": torch.tensor(0)}} for n in (64, 16, 96)]
    batch = kit.pad(samples)
    noise = torch.where(batch["mask"]["sound"], batch["inputs"]["sound"], math.nan)
    for raw in (batch["inputs"]["sound"], noise):
        together = model(raw, mask=batch["mask"])["kind"]
        for i, one in enumerate(samples):
            assert (model(one["inputs"]["sound"][None])["kind"] - together[i]).abs().max() < 1e-5


def sample(**inputs: object) -> dict:
    return {"inputs": inputs, "targets": {}}


REFUSED = {
    "numbers of axes": (
        [sample(a=torch.zeros(3)), sample(a=torch.zeros(3, 1))],
        "inputs 'a' must be tensors of one dtype",
    ),
    "types": ([sample(a=torch.zeros(3)), sample(a=torch.zeros(3).long())], "such as float32 (3,), got int64 (3,)"),
    "widths": (
        [sample(a=torch.zeros(3, 2)), sample(a=torch.zeros(4, 3))],
        "differs in its last axis, which is not one of rows: (3, 2) and (4, 3); resize or crop",
    ),
    "lists": ([sample(a=[1.0])], "got a list"),
    "parts": (
        [sample(a=torch.zeros(3)), sample(b=torch.zeros(3))],
        "inputs must have the same parts in all samples, got a, b in some only; for an input that a sample lacks",
    ),
    "tensors": ([torch.zeros(3)], "a sample must be a dict by name, got float32 (3,)"),
    "nothing": ([], "a sample must be a dict by name, got none"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_samples_that_cannot_be_padded_are_refused(what: str) -> None:
    samples, said = REFUSED[what]
    with pytest.raises(kit.InputError) as caught:
        kit.pad(samples)
    assert said in str(caught.value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_and_lists_are_refused_with_the_remedy() -> None:
    ragged = [torch.randn(n, 3) for n in (2, 4)]
    inputs = kit.Inputs(points=kit.inputs.Features(3))
    for value, got in ((ragged, "a list"), (torch.nested.nested_tensor(ragged), "a nested tensor")):
        with pytest.raises(kit.InputError) as caught:
            inputs({"points": value})
        assert f"got {got}; pad samples of different lengths and mask the padding, as kit.pad does" in str(caught.value)


def test_training_takes_a_collation_missing_values_and_queries(tmp_path) -> None:
    training = pytest.importorskip("perceiver_kit.training")
    clock = kit.positions.Fourier(bands=4, max_resolution=(8,))
    inputs = kit.Inputs(history=kit.inputs.Points(1, channels=1, positions=clock), row=kit.inputs.Table(2, channels=8))
    encoder = kit.Encoder(inputs.channels, num_latents=4, latent_dim=16, layers=1)
    queries = kit.Queries(future=kit.queries.CoordinateQuery(clock))
    decoder = kit.Decoder(queries.channels, 16, out_channels=8)
    model = kit.PerceiverIO(
        inputs, encoder, queries, decoder, kit.Outputs(future=kit.outputs.Project(1, in_channels=8))
    )
    samples = [
        {
            "inputs": {"history": torch.rand(n, 2), "row": torch.tensor([0.5, math.nan])},
            "targets": {"future": torch.rand(n % 3 + 1, 1)},
            "queries": {"future": torch.rand(n % 3 + 1, 1)},
        }
        for n in (3, 4, 7, 5)
    ]
    objective = kit.objectives.Regression("future")
    options = dict(batch=2, steps=2, missing=("row",))
    fitted = training.Data(samples, samples, collate=kit.pad, **options)
    training.fit(training.Training(model, objective, steps=2), fitted, tmp_path / "a", progress=False)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    with pytest.raises(kit.InputError, match=r"crop or resize, or pad with Data\(collate=kit.pad\)"):
        training.fit(
            training.Training(model, objective, steps=2), training.Data(samples, None, **options), tmp_path / "b"
        )
    with pytest.raises(kit.InputError, match="input 'row' must be finite"):
        training.Data(samples, None, batch=2, steps=2, collate=kit.pad)
    with pytest.raises(kit.AssemblyError, match="collate must be callable, such as"):
        training.Data(samples, None, batch=2, steps=2, collate="pad")
