"""Generation: caches, policies, sampling, batches, and what is refused."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.data.sampling import generator
from perceiver_kit.encoders import Cache
from perceiver_kit.generation import next_logits
from perceiver_kit.generation.sampling import sampled
from perceiver_kit.variants import Rotary

from .strategies import assert_close, noisy, tiny

V = 262
SIZES: dict[str, Any] = dict(channels=8, latent_dim=8, cross_heads=1, self_heads=2, context=14, num_latents=6)
KINDS: dict[str, dict[str, Any]] = {
    "rotary": dict(positions="rotary"),
    "rotary as others have it": dict(rotary=Rotary(100.0, 1.0, spacing="open"), positions="none"),
    "counted back": dict(positions="rotary", count="back", query_offset=1),
    "learned": dict(positions="learned"),
    "sinusoidal": dict(positions="sinusoidal", query="mlp"),
    "fourier": dict(positions="fourier", query="shared", query_residual=False),
    "n-grams": dict(ngrams=(2, 3), buckets=50),
    "cross again": dict(cross_after=(0,)),
}


@functools.cache
def causal(layers: int = 2, dtype: torch.dtype = torch.float64, **options: Any) -> kit.PerceiverIO:
    """A noisy small model, cached for all tests: do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = kit.build("causal_lm", preset="tiny", layers=layers, **(SIZES | options))
        return noisy(model, 0.3).to(dtype).eval()  # type: ignore[return-value]


def ids(*shape: int) -> Tensor:
    return torch.randint(6, V, shape)


def padded(sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    rows = [torch.cat([ids(longest - len(each)), each]) for each in sequences]  # padding is anything
    return torch.stack(rows), torch.stack([torch.arange(longest) >= longest - len(each) for each in sequences])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2)
@given(
    layers=st.integers(1, 8),
    prompts=st.lists(st.integers(1, 4), min_size=2, max_size=3, unique=True),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_cached_equals_uncached_and_a_batch_each_row(
    kind: str, layers: int, prompts: list[int], dtype: torch.dtype
) -> None:
    """Until all latents are in use, from any prompts; and the first step past it, which reads all anew."""
    model = causal(layers, dtype, num_latents=4, **KINDS[kind])
    wholes, cache = [ids(length + 4) for length in prompts], None
    for step in range(4 - max(prompts) + 2):
        rows = [whole[: length + step] for whole, length in zip(wholes, prompts, strict=True)]
        found, cache = next_logits(model, *padded(rows), cache, policy="recompute")
        for one, row in zip(found, rows, strict=True):
            assert_close(one[None], model({"text": row[None]})["text"][:, -1], 1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("policy", ["recompute", "refill", "roll"])
def test_several_tokens_behind_a_cache_are_read_one_by_one(policy: Any) -> None:
    model, text = causal(1, num_latents=3, context=7, ngrams=(2,), buckets=50), ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :2] = False
    one_by_one, several = None, None
    for first, last in ((3, 4), (4, 6), (6, 7), (7, 12)):
        for n in range(first + 1, last + 1):
            wanted, one_by_one = next_logits(model, text[:, :n], mask[:, :n], one_by_one, policy=policy)
        found, several = next_logits(model, text[:, :last], mask[:, :last], several, policy=policy)
        assert_close(found, wanted, 1e-9)
    assert several is not None and several.length.tolist() == [10, 12]


@pytest.mark.parametrize("policy", ["recompute", "refill", "roll"])
@pytest.mark.parametrize("kind", ["rotary", "learned", "n-grams"])
def test_a_batch_of_unequal_prompts_is_each_prompt_alone_under_every_policy(kind: str, policy: Any) -> None:
    """Far past the latents and, for policies that read anew, past the context."""
    model = causal(1, num_latents=3, context=7, **KINDS[kind])
    prompts = [ids(n) for n in (1, 4)]
    options: dict[str, Any] = dict(length=4 if (kind, policy) == ("learned", "roll") else 9, policy=policy, seed=3)
    together = kit.generate(model, prompts, **options)
    for row, prompt in enumerate(prompts):
        alone = kit.generate(model, [ids(1)] * row + [prompt], **options)[row]
        assert torch.equal(together[row], alone)


def test_recompute_is_a_full_pass_at_every_step() -> None:
    model, prompt = causal(1, num_latents=3, context=7), ids(3)
    found = kit.generate(model, prompt, length=8, temperature=0.0, policy="recompute")
    whole = torch.cat([prompt, found])
    for i in range(3, len(whole)):
        logits = model({"text": whole[None, max(0, i - 7) : i]})["text"]
        assert logits[0, -1].argmax() == whole[i]


def test_policies_hold_as_many_latents_as_they_say() -> None:
    model, sequence = causal(1), ids(1, 20)
    held: dict[str, list[tuple[int, int]]] = {"refill": [], "roll": []}
    for policy in held:
        cache = None
        for n in range(4, 20):
            _, cache = next_logits(model, sequence[:, :n], cache=cache, policy=policy, free=2)  # type: ignore[arg-type]
            assert cache is not None
            held[policy].append((int(cache.rows.sum()), int(cache.latents.sum())))
    assert held["refill"][:8] == [(4, 4), (5, 5), (6, 6), (7, 4), (8, 5), (9, 6), (10, 4), (11, 5)]
    assert max(held["refill"]) == (14, 6) and held["refill"][-1][0] <= 14 and (12, 4) in held["refill"]
    assert held["roll"][2:] == [(min(n, 14), 6) for n in range(6, 20)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "place"), [(3, 0), (4, 2), (12, 9)])
def test_no_latent_sees_the_future(kind: str, n: int, place: int) -> None:
    model, text = causal(**KINDS[kind]), ids(1, n)
    other = text.clone()
    other[0, place:] = (other[0, place:] - 5) % 200 + 6
    if KINDS[kind].get("count") == "back":
        text, other = text[:, -6:], other[:, -6:]
    found, changed = model({"text": torch.cat([text, other])})["text"].split(1)
    before = (text == other).all(0)[-found.shape[1] :]
    assert_close(found[:, before], changed[:, before], 1e-9) if before.any() else None
    assert not torch.allclose(found[:, ~before], changed[:, ~before])


# ---- sampling

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0]])


def shares(**options: Any) -> Tensor:
    settings: dict[str, Any] = dict(temperature=1.0, top_k=None, top_p=None) | options
    draws = sampled(LOGITS.expand(2000, -1), [generator(0, i) for i in range(2000)], **settings)
    return torch.bincount(draws, minlength=5) / 2000


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, LOGITS.softmax(-1)[0]),
        (dict(temperature=0.5), (LOGITS * 2).softmax(-1)[0]),
        (dict(temperature=0.0), torch.tensor([1.0, 0, 0, 0, 0])),
        (dict(top_k=2), torch.cat([LOGITS[0, :2].softmax(-1), torch.zeros(3)])),
        (dict(top_k=9), LOGITS.softmax(-1)[0]),
        (dict(top_p=0.7), torch.cat([LOGITS[0, :2].softmax(-1), torch.zeros(3)])),
        (dict(top_p=0.01), torch.tensor([1.0, 0, 0, 0, 0])),
    ],
)
def test_tokens_are_sampled_as_asked(options: dict, wanted: Tensor) -> None:
    found = shares(**options)
    assert (found - wanted).abs().max() < 0.03
    assert (found[wanted == 0] == 0).all()


def test_repeated_tokens_are_penalised() -> None:
    model, prompt = causal(), ids(4)
    free = kit.generate(model, prompt, length=12, temperature=0.0)
    assert len({*kit.generate(model, prompt, length=12, temperature=0.0, repetition_penalty=1e6).tolist()}) == 12
    assert torch.equal(kit.generate(model, prompt, length=12, temperature=0.0, repetition_penalty=1.0), free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        dict(repetition_penalty=1e-300),
        dict(repetition_penalty=1e300),
        dict(temperature=1e-320),
        dict(temperature=1e300),
    ],
)
def test_extreme_numbers_neither_overflow_nor_fail(options: dict, dtype: torch.dtype) -> None:
    model = causal(1, dtype)
    found = kit.generate(model, [70, 71], length=4, seed=0, **options)
    assert len(found) == 4
    if options.get("temperature", 1.0) < 1:
        assert torch.equal(found, kit.generate(model, [70, 71], length=4, temperature=0.0))


def test_arrays_are_prompts() -> None:
    model, prompt = causal(1), ids(3)
    wanted = kit.generate(model, prompt, length=3, seed=0)
    assert torch.equal(kit.generate(model, prompt.numpy(), length=3, seed=0), wanted)  # type: ignore[arg-type]
    assert torch.equal(kit.generate(model, [prompt.numpy()], length=3, seed=0)[0], wanted)


def test_a_seed_repeats_and_rows_of_equal_prompts_differ() -> None:
    model = causal()
    first, second = (kit.generate(model, ["And", "And"], length=8, seed=1) for _ in range(2))
    assert first == second and first[0] != first[1]
    assert kit.generate(model, "And", length=8, seed=1) == first[0]


def test_generation_ends_at_stop_ids() -> None:
    model, prompt = causal(), ids(4)
    whole = kit.generate(model, prompt, length=12, seed=0)
    end = int(whole[5])
    cut = whole[: whole.tolist().index(end)]
    assert torch.equal(kit.generate(model, prompt, length=12, seed=0, stop=[end]), cut)
    rows = kit.generate(model, [prompt, ids(2)], length=12, seed=0, stop=[end])
    assert torch.equal(rows[0], cut)


def test_a_stream_adds_up_to_the_whole() -> None:
    model = causal()
    text = "".join(kit.generate(model, "In thé", length=12, seed=2, stream=True))
    assert text == kit.generate(model, "In thé", length=12, seed=2)
    pieces = [*kit.generate(model, [[70, 71], [80]], length=5, seed=2, stream=True)]
    assert len(pieces) == 5 and all(len(piece) == 2 for piece in pieces)


@pytest.mark.parametrize("context", [1, 4])
def test_refill_with_more_latents_than_rows_reads_at_least_one_row(context: int) -> None:
    model = causal(1, context=context)
    for free in (None, *range(context)):
        assert len(kit.generate(model, ids(1), length=12, seed=0, free=free)) == 12
    with pytest.raises(kit.InputError, match=f"free must be below the {context} latents in use"):
        kit.generate(model, ids(1), free=context)
    # With none free, every token past the context is a full pass.
    wanted = kit.generate(model, ids(1) * 0 + 70, length=12, seed=0, policy="recompute")
    assert torch.equal(kit.generate(model, ids(1) * 0 + 70, length=12, seed=0, free=0), wanted)


# ---- bad input


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt 0 is empty; give at least one token"),
        (["a", ""], {}, "prompt 1 is empty"),
        ([], {}, "prompt must be at least one prompt, got none"),
        ("a" * 15, {}, "prompt 0 has 15 tokens, more than the model's context of 14"),
        ([3, 262], {}, "prompt 0 must be ids from 0 to 261, got 3 to 262"),
        (torch.zeros(2, 3), {}, r"prompt 0 must be text or ids \(n,\) int64, got"),
        (["a", [70]], {}, "prompt must be all texts or all ids, got both; encode the texts"),
        (None, {}, r"prompt 0 must be text or ids \(n,\) int64, got"),
        ("a", dict(length=0), "length must be an int of at least 1, got 0"),
        ("a", dict(temperature=-1), "temperature must be a finite number of at least 0, got -1"),
        ("a", dict(top_k=0), "top_k must be an int of at least 1, got 0"),
        ("a", dict(top_p=1.5), r"top_p must be in \(0, 1\], got 1.5"),
        ("a", dict(top_p="much"), r"top_p must be in \(0, 1\], got 'much'"),
        ("a", dict(top_p=True), r"top_p must be in \(0, 1\], got True"),
        ("a", dict(stop=[True]), r"stop must be a list of ids from 0 to 261, got \[True\]"),
        ("a", dict(stop=5), "stop must be a list of ids from 0 to 261, got 5"),
        ("a", dict(stop="."), "stop must be a list of ids from 0 to 261, got '.'"),
        ("a", dict(stop=[262]), "stop must be a list of ids from 0 to 261"),
        ("\ud800", {}, "lone surrogate"),
        ("a", dict(repetition_penalty=0.0), "repetition_penalty must be a finite number above 0, got 0.0"),
        ("a", dict(seed=0.5), "seed must be an int"),
        ("a", dict(policy="rol"), "policy is 'rol'; did you mean 'roll'"),
        ("a", dict(free=6), "free must be below the 6 latents in use, got 6"),
    ],
)
def test_bad_prompts_and_numbers_are_refused(prompt: Any, options: dict, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        kit.generate(causal(), prompt, **options)


def test_models_that_cannot_generate_are_refused() -> None:
    for model, message in (
        (tiny("masked_lm"), "its encoder must be a CausalEncoder, got"),
        (copy.deepcopy(causal()).train(), r"it is in training mode: call model.eval\(\)"),
    ):
        with pytest.raises(kit.InputError, match=message):
            kit.generate(model, "a")
    with pytest.raises(kit.InputError, match="are more than the context of 14, past which positions"):
        kit.generate(causal(positions="learned"), "a", length=15, policy="roll")
    with pytest.raises(
        kit.InputError, match="prompt 0 is text, but the model's vocabulary of 300 is not that of bytes"
    ):
        kit.generate(causal(vocabulary=300), "a")


def test_caches_of_others_are_refused() -> None:
    model, text = causal(), ids(2, 4)
    _, cache = next_logits(model, text[:, :3])
    with pytest.raises(kit.InputError, match="cache is of another model"):
        next_logits(causal(1), text, cache=cache)
    with pytest.raises(kit.InputError, match="cache is of a batch of 2"):
        next_logits(model, ids(3, 4), cache=cache)
    for n in (2, 3):
        with pytest.raises(kit.InputError, match="longer than those of the cache by the same number of tokens, got"):
            next_logits(model, text[:, :n], cache=cache)
    mask = torch.tensor([[True] * 4, [False] + [True] * 3])
    with pytest.raises(kit.InputError, match=r"got \[4, 3\] tokens for a cache of \[3, 3\]"):
        next_logits(model, text, mask, cache)
    back = causal(positions="learned", count="back")
    assert next_logits(back, text)[1] is None
    with pytest.raises(kit.InputError, match="CausalEncoder: no cache"):
        back.encoder.extend(torch.zeros(1, 2, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ids=[[7]]), r"ids must be int64 \(b, n\), got a list"),
        (dict(ids=torch.tensor([7])), r"ids must be int64 \(b, n\), got int64 \(1,\)"),
        (dict(mask=torch.ones(1, 3).bool()), r"mask must be bool \(2, 3\), as the ids, got bool \(1, 3\)"),
        (dict(mask=torch.ones(2, 3)), r"mask must be bool \(2, 3\), as the ids, got float32 \(2, 3\)"),
        (dict(mask=torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()), "False at the left only, for padding, but it"),
        (dict(mask=torch.tensor([[1, 0, 1], [1, 1, 1]]).bool()), "or has holes"),
        (dict(mask=torch.zeros(2, 3).bool()), "but it ends with False"),
        (dict(policy="rol"), "policy is 'rol'; did you mean 'roll'"),
        (dict(free=9), "free must be below the 6 latents in use, got 9"),
        (dict(latents=0), "latents must be an int of at least 1, got 0"),
    ],
)
def test_bad_calls_of_next_logits_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        next_logits(causal(), **(dict(ids=ids(2, 3)) | options))


def test_nan_logits_are_refused() -> None:
    model = copy.deepcopy(causal(1))
    next(model.outputs.parameters()).data.fill_(float("nan"))  # type: ignore[union-attr]
    for temperature in (0.0, 1.0):
        with pytest.raises(kit.InputError, match="the model's logits are NaN; are its weights finite"):
            kit.generate(model, "a", temperature=temperature)


def test_the_model_holds_no_state() -> None:
    model = causal()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = {name: set(vars(part)) for name, part in model.named_modules()}
    kit.generate(model, "And", length=12)
    assert {name: set(vars(part)) for name, part in model.named_modules()} == attributes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(value, Cache) for part in model.modules() for value in vars(part).values())
