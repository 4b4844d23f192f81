"""What is captured is what Hugging Face calls attentions and hidden states; and nothing stays behind."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.errors import AssemblyError, UnknownName
from perceiver_kit.folding import FOLDABLE
from perceiver_kit.plain import is_plain
from perceiver_kit.training import checkpoint_layers

from .hub.reference import ask, relative
from .hub.test_parity import CASES, Case, at, masks, models, raw
from .strategies import tiny

pytestmark = pytest.mark.usefixtures("checked")

CASES = [case for case in CASES if case.label in ("narrow", "small", "square", "short text", "tall", "widened")]
both = pytest.mark.parametrize("capture", [kit.capture_attention, kit.capture_hidden])


def text(rows: int = 10) -> Tensor:
    return torch.randint(262, (2, rows))


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_maps_and_states_are_the_references(case: Case, masked: bool) -> None:
    theirs, ours = models(case, torch.float64)
    given, options = raw(case, torch.float64), at(case)
    keep = masks(case, given) if masked else None
    _, wanted = ask(case.recipe, theirs, given, keep, output_attentions=True, output_hidden_states=True, **options)
    with kit.capture_attention(ours) as maps, kit.capture_hidden(ours) as states:
        ours(given, mask=keep, **options)
    blocks, layers = ours.encoder.blocks, len(ours.encoder.transformer)

    assert relative(maps["encoder.cross.0"][0], wanted.cross_attentions[0]) < 1e-9
    in_order = [maps[f"encoder.transformer.{layer}"][block] for block in range(blocks) for layer in range(layers)]
    assert len(in_order) == len(wanted.attentions)
    for found, weights in zip(in_order, wanted.attentions, strict=True):
        assert relative(found, weights) < 1e-9
    # All modalities in one map, end to end in alphabetical order; of a text, as many rows as it has.
    (found,) = maps["decoder.cross"]
    if not (case.recipe == "optical_flow" and masked):  # its masked rows ask with nothing here
        assert relative(found, wanted.cross_attentions[1][:, :, : found.shape[2]]) < 1e-9

    # Theirs: what goes into each layer, and what comes out of each block at last.
    path = []
    for block in range(blocks):
        first = states["encoder.cross.0"][0] if block == 0 else states[f"encoder.transformer.{layers - 1}"][block - 1]
        path += [first, *(states[f"encoder.transformer.{layer}"][block] for layer in range(layers))]
    assert len(path) == len(wanted.hidden_states)
    for found, state in zip(path, wanted.hidden_states, strict=True):
        assert relative(found, state) < 1e-9


@pytest.mark.parametrize("chunk", [None, 1, 7, 10**6])
@torch.no_grad()
def test_chunks_and_modalities_are_one_map_and_one_state(chunk: int | None) -> None:
    case = next(case for case in CASES if case.recipe == "multimodal_autoencoding")
    ours, given, options = models(case)[1], raw(case, torch.float32), at(case)
    with kit.capture_attention(ours) as maps, kit.capture_hidden(ours) as states:
        ours(given, chunk=chunk, **options)
        ours(given, at={"label": None}, chunk=chunk)
    rows = [sum(case.points.values()) + 1, 1]
    assert (
        [weights.shape[2] for weights in maps["decoder.cross"]]
        == [state.shape[1] for state in states["decoder.cross"]]
        == rows
    )
    with kit.capture_attention(ours) as whole:
        ours(given, **options)
    assert relative(maps["decoder.cross"][0], whole["decoder.cross"][0]) < 1e-5


@torch.no_grad()
def test_maps_are_distributions_over_readable_rows() -> None:
    ours = tiny("masked_lm")
    keep = torch.rand(2, 10) < 0.6
    keep[1] = False
    with kit.capture_attention(ours) as maps:
        ours(text(), mask=keep)
    for name, calls in maps.items():
        for weights in calls:
            assert weights.shape[:2] == (2, 8) and bool((weights >= 0).all())
            readable = keep.any(1).float()[:, None, None] if name == "encoder.cross.0" else torch.ones(2, 1, 1)
            torch.testing.assert_close(weights.sum(-1), readable.expand(weights.shape[:-1]))
    assert maps["encoder.cross.0"][0].masked_select(~keep[:, None, None]).eq(0).all()


def test_a_map_explains_what_was_read() -> None:
    """The weights of a map, applied to the values, are what the block's attention gives, in training mode too."""
    ours = tiny("masked_lm", train=True)
    attention, seen = ours.encoder.cross[0].attention, {}
    handle = attention.register_forward_hook(lambda m, args, out: seen.update(keys=args[1], read=out))
    with kit.capture_attention(ours, only="encoder.cross.0") as maps:
        ours(text())
    handle.remove()
    (weights,) = maps["encoder.cross.0"]
    assert not weights.requires_grad
    values = attention.value(seen["keys"]).unflatten(-1, (8, -1)).transpose(1, 2)
    read = attention.output((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(read, seen["read"])


@both
def test_only_picks_blocks(capture) -> None:
    ours = tiny("masked_lm")
    every = {
        "encoder.cross.0",
        "encoder.transformer.0",
        "encoder.transformer.1",
        "decoder.cross",
    }
    for only, wanted in [
        (None, every),
        ("*", every),
        ("decoder.cross", {"decoder.cross"}),
        ("*cross*", {"encoder.cross.0", "decoder.cross"}),
        ("encoder.transformer.[01]", {"encoder.transformer.0", "encoder.transformer.1"}),
        ("encoder.transformer.[!0]", {"encoder.transformer.1"}),
        (["decoder.*", "encoder.transformer.1"], {"decoder.cross", "encoder.transformer.1"}),
        ([], set()),
    ]:
        with capture(ours, only=only) as captured, torch.no_grad():
            ours(text())
        assert captured.keys() == wanted and all(len(calls) == 1 for calls in captured.values())
    for wrong in ("encoder.crss.0", ["decoder.cross", "nothing.*"]):
        with (
            pytest.raises(UnknownName, match=r"There are: decoder\.cross, encoder\.cross\.0"),
            capture(ours, only=wrong),
        ):
            pass


def left(model: nn.Module) -> dict:
    """All that a capture could leave behind: hooks, and attributes of modules."""
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), sorted(module.__dict__))
        for name, module in model.named_modules()
    }


@both
@torch.no_grad()
def test_nothing_stays_behind(capture) -> None:
    ours, ids = tiny("masked_lm"), text()
    before, wanted = left(ours), ours(ids)["text"]
    with capture(ours) as captured:
        assert torch.equal(ours(ids)["text"], wanted), "looking changes nothing"
    assert left(ours) == before
    kept = {name: len(calls) for name, calls in captured.items()}
    ours(ids)
    assert {name: len(calls) for name, calls in captured.items()} == kept

    with pytest.raises(RuntimeError, match="on purpose"), capture(ours):
        raise RuntimeError("on purpose")
    assert left(ours) == before
    with capture(ours) as captured:  # a call that fails within does no harm to the next one
        with pytest.raises(kit.InputError):
            ours.decode(ours.encode(ids), at={"text": torch.tensor([10])})
        ours(ids)
    assert left(ours) == before
    assert len(captured["decoder.cross"]) == 1


@both
@torch.no_grad()
def test_captures_nest(capture) -> None:
    ours, ids = tiny("masked_lm"), text()
    before = left(ours)
    with capture(ours) as outer:
        ours(ids)
        with capture(ours, only="decoder.*") as inner, kit.capture_hidden(ours):
            ours(ids, chunk=3)
        ours(ids)
        ours(ids)
    assert left(ours) == before
    assert all(len(calls) == 4 for calls in outer.values())
    assert [*inner] == ["decoder.cross"] and len(inner["decoder.cross"]) == 1
    torch.testing.assert_close(inner["decoder.cross"][0], outer["decoder.cross"][1])


@torch.no_grad()
def test_any_assembly_of_blocks_is_captured() -> None:
    """Shared blocks are called several times; an encoder alone has no decoder to join."""
    encoder = kit.Encoder(5, num_latents=3, latent_dim=8, layers=2, blocks=3, cross_attends=3)
    with kit.capture_attention(encoder) as maps:
        encoder(torch.randn(2, 7, 5))
    assert {name: len(calls) for name, calls in maps.items()} == {
        "cross.0": 1,
        "cross.1": 2,
        "transformer.0": 3,
        "transformer.1": 3,
    }


@both
@torch.no_grad()
def test_captures_overlap(capture) -> None:
    """One that ends before another that began later leaves it as it was, within a decode too."""
    ours, ids = tiny("masked_lm"), text()
    before = left(ours)
    first, second = capture(ours), capture(ours, only="decoder.*")
    a, b = first.__enter__(), second.__enter__()
    ours(ids, chunk=3)
    first.__exit__(None, None, None)
    ours(ids, chunk=4)
    assert left(ours) == before
    second.__exit__(None, None, None)
    ours(ids)
    assert {name: len(calls) for name, calls in a.items()} == dict.fromkeys(a, 1)
    assert [len(calls) for calls in b.values()] == [2]
    torch.testing.assert_close(a["decoder.cross"][0], b["decoder.cross"][0])


@both
@torch.no_grad()
def test_captures_in_threads_record_their_own_calls(capture) -> None:
    ours = tiny("masked_lm")
    texts = [torch.randint(262, (2, 5 + i)) for i in range(4)]
    with capture(ours) as alone:
        for ids in texts:
            ours(ids)
    ready = Barrier(len(texts), timeout=60)

    def look(ids: Tensor):
        with capture(ours) as captured:
            ready.wait()  # all captures are open, then all calls run
            ours(ids, chunk=2)
            ready.wait()
        return captured

    with capture(ours) as outside, ThreadPoolExecutor(len(texts)) as pool:
        found = [*pool.map(look, texts)]
    assert not any(outside.values())
    for i, captured in enumerate(found):
        assert captured.keys() == alone.keys()
        for name, (value,) in captured.items():
            torch.testing.assert_close(value, alone[name][i])


def test_a_capture_changes_nothing_in_other_threads() -> None:
    ours = tiny("masked_lm")
    with kit.capture_attention(ours), ThreadPoolExecutor(1) as pool:
        assert not is_plain(ours.decoder, FOLDABLE)
        assert pool.submit(is_plain, ours.decoder, FOLDABLE).result()
        with kit.capture_hidden(tiny("optical_flow")):
            assert is_plain(tiny("sequence_classification").decoder, FOLDABLE), "nor of another model"
    assert is_plain(ours.decoder, FOLDABLE)


@both
@torch.no_grad()
def test_a_model_is_copied_and_pickled_inside_a_capture(capture) -> None:
    ours, ids = tiny("masked_lm"), text()
    wanted = ours(ids)["text"]
    with capture(ours) as captured:
        copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
        for other in copies:
            assert left(other) == left(ours)
            torch.testing.assert_close(other(ids)["text"], wanted)
        assert not any(captured.values()), "a copy is another model"
        ours(ids)
    assert all(len(calls) == 1 for calls in captured.values())


@both
def test_recomputed_activations_are_recorded_once(capture) -> None:
    ours = copy.deepcopy(tiny("masked_lm", train=True))
    checkpoint_layers(ours)
    with capture(ours) as captured:
        ours(text())["text"].sum().backward()
    assert all(len(calls) == 1 for calls in captured.values())


@torch.no_grad()
def test_maps_are_of_what_forward_got() -> None:
    """A hook before the attention may change its queries."""
    ours, ids, name = copy.deepcopy(tiny("masked_lm")).double(), text(), "encoder.cross.0"
    attention = ours.encoder.cross[0].attention
    with kit.capture_attention(ours, only=name) as plain:
        ours(ids)
    given: list[tuple] = []
    attention.register_forward_pre_hook(lambda _, *call: given.append(call), with_kwargs=True)
    attention.register_forward_pre_hook(lambda _, args: (3 * args[0], *args[1:]))
    with kit.capture_attention(ours, only=name) as maps:
        ours(ids)
    ((queries, *others), options) = given[0]
    wanted = attention.weights(3 * queries, *others, **options)
    assert relative(maps[name][0], plain[name][0]) > 1e-3
    assert relative(maps[name][0], wanted) < 1e-12


@torch.no_grad()
def test_states_are_what_the_next_block_gets() -> None:
    """Hooks and overridden methods included."""

    class Doubled(kit.SelfAttentionLayer):
        def forward(self, rows: Tensor) -> Tensor:
            return 2 * rows

    encoder = kit.Encoder(5, num_latents=3, latent_dim=8, layers=2).eval()
    encoder.transformer[1] = Doubled(8)
    encoder.transformer[0].register_forward_hook(lambda module, args, output: output + 100)
    with kit.capture_hidden(encoder) as states:
        out = encoder(torch.randn(2, 7, 5))
    assert states["transformer.0"][0].mean() > 50
    assert torch.equal(states["transformer.1"][0], out)
    assert torch.equal(2 * states["transformer.0"][0], out)


def test_attention_without_maps_is_refused() -> None:
    encoder = kit.Encoder(5, num_latents=3, latent_dim=8, layers=1)
    encoder.transformer[0].attention = nn.MultiheadAttention(8, 1)
    with (
        pytest.raises(AssemblyError, match=r"transformer\.0\.attention must be an Attention, got a MultiheadAttention"),
        kit.capture_attention(encoder),
    ):
        pass
    with kit.capture_attention(encoder, only="cross.0"):
        pass


def test_queries_that_read_each_other_have_maps_of_their_own_sizes() -> None:
    """Two outputs of two queries have n × n maps of two sizes, which cannot be joined."""
    model = kit.PerceiverIO(
        kit.Inputs(points=kit.inputs.Features(3)),
        kit.Encoder(num_latents=4, latent_dim=8, layers=1, self_heads=2),
        kit.Queries(a=kit.queries.LearnedQuery(5, 8), b=kit.queries.LearnedQuery(2, 8)),
        kit.decoders.SetDecoder(layers=1, heads=2),
        kit.Outputs(a=kit.outputs.Project(3), b=kit.outputs.Project(3)),
    )
    with kit.capture_attention(model, only="decoder.*") as maps:
        model({"points": torch.randn(2, 6, 3)})
    sizes = {name: [tuple(found.shape[2:]) for found in each] for name, each in maps.items()}
    assert [(5, 5), (2, 2)] in sizes.values() and [(7, 4)] in sizes.values()


@both
def test_a_capture_that_ends_in_another_thread_has_ended(capture) -> None:
    model, context = tiny("masked_lm"), capture(tiny("masked_lm"))
    captured = context.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(context.__exit__, None, None, None).result()
    with capture(model) as later:
        model({"text": text()})
    assert len(later["decoder.cross"]) == 1
    assert not any(captured.values())


@both
def test_a_capture_draws_no_random_numbers_of_the_caller(capture) -> None:
    model = copy.deepcopy(tiny("masked_lm")).train()
    attention = model.encoder.cross[0].attention
    attention.query = nn.Sequential(attention.query, nn.Dropout(0.5))
    given = {"text": text()}
    torch.manual_seed(0)
    wanted = model(given)["text"], torch.rand(1)
    torch.manual_seed(0)
    with capture(model):
        found = model(given)["text"], torch.rand(1)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
