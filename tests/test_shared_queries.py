"""Queries that read each other, and one query for several outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import decoding
from perceiver_kit.inputs import Features
from perceiver_kit.outputs import Project
from perceiver_kit.queries import LearnedQuery

from . import restated
from .restated import array, arrays
from .strategies import assert_close, noisy

INPUT = {"p": torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))}


def detector(decoder: kit.Block | None = None) -> kit.PerceiverIO:
    """Six objects, each with a kind and a box."""
    torch.manual_seed(0)
    decoder = kit.decoders.SetDecoder(32, 16, heads=4) if decoder is None else decoder
    outputs = kit.Outputs(
        kind=Project(5, in_channels=32), box=Project(4, in_channels=32), of={"kind": "objects", "box": "objects"}
    )
    encoder = kit.Encoder(8, num_latents=4, latent_dim=16, layers=1)
    queries = kit.Queries(objects=LearnedQuery(6, 32))
    return noisy(kit.PerceiverIO(kit.Inputs(p=Features(8)), encoder, queries, decoder, outputs)).eval()


def sizes_of_calls(model: kit.PerceiverIO) -> list[int]:
    """Filled with the number of queries of each call of the decoder."""
    calls: list[int] = []
    model.decoder.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[0].shape[1]))
    return calls


def test_the_set_decoder_equals_its_formula() -> None:
    decoder = noisy(kit.decoders.SetDecoder(12, 8, layers=2, heads=3, out_channels=5)).double().eval()
    queries, latents = torch.randn(1, 4, 12).double(), torch.randn(2, 3, 8).double()
    p = arrays(decoder)
    rows = array(queries.expand(2, -1, -1))
    for layer in range(2):
        rows = restated.self_attend(p, f"own.{layer}.", rows, heads=3)
        rows = restated.cross_attend(p, f"cross.{layer}.", rows, array(latents), None, heads=3)
    wanted = rows @ p["project.weight"].T + p["project.bias"]
    assert_close(decoder(queries, latents), torch.from_numpy(wanted), 1e-9)


def test_absent_queries_are_not_read() -> None:
    decoder = noisy(kit.decoders.SetDecoder(12, 8)).eval()
    queries, latents = torch.randn(2, 4, 12), torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, True, False]]).expand(2, -1)
    assert_close(decoder(queries, latents, query_mask=mask)[:, :3], decoder(queries[:, :3], latents), 1e-5)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_query_of_two_outputs_is_decoded_once_and_whole(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decoding.CHUNK_BYTES, "cpu", 1)
    model = detector()
    calls = sizes_of_calls(model)
    with torch.set_grad_enabled(gradients):
        found = model(INPUT)
    assert calls == [6], "automatic chunks would hide queries from each other"
    assert {name: value.shape for name, value in found.items()} == {"box": (2, 6, 4), "kind": (2, 6, 5)}
    alone = model(INPUT, at={"kind": None})
    assert [*alone] == ["kind"]
    assert_close(alone["kind"], found["kind"], 1e-6)


def test_a_decoder_that_mixes_rows_refuses_at_and_chunk_before_encoding() -> None:
    model = detector()
    model.encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder runs before the request is refused"))
    with pytest.raises(kit.InputError, match="at: the rows of output 'kind' depend on each other; decode it whole"):
        model(INPUT, at={"kind": torch.arange(2)})
    with pytest.raises(kit.InputError, match="chunk: the queries of SetDecoder read each other; leave chunk out"):
        model(INPUT, chunk=3)


def test_outputs_with_different_rows_are_decoded_apart() -> None:
    model = detector(kit.Decoder(32, 16))
    calls = sizes_of_calls(model)
    whole = model(INPUT)
    index, other = torch.tensor([0, 3]), torch.tensor([5])
    both = model(INPUT, at={"kind": index, "box": index})
    apart = model(INPUT, at={"kind": index, "box": other})
    assert calls == [6, 2, 1, 2]
    assert_close(both["kind"], whole["kind"][:, index], 1e-5)
    assert_close(both["box"], whole["box"][:, index], 1e-5)
    assert_close(apart["box"], whole["box"][:, other], 1e-5)
    assert_close(model(INPUT, chunk=4)["box"], whole["box"], 1e-5)
    assert calls[4:] == [4, 2]


def test_shared_queries_are_saved_described_and_drawn(tmp_path) -> None:
    model = detector()
    found: dict[str, Tensor] = kit.load(str(kit.save(model, tmp_path / "m")))(INPUT)
    for name, value in model(INPUT).items():
        assert torch.equal(found[name], value)
    text = kit.describe(model)
    assert text.count(", of query objects") == 2
    drawing = kit.draw(model)
    assert drawing.svg.count("of query objects") == 2
    assert "queries read each other, then the latents: 4 heads" in " ".join(
        line for box in drawing.boxes if box.kind == "decoder" for line in box.lines
    )


@pytest.mark.parametrize(
    ("of", "error", "said"),
    [
        ({"boxes": "objects"}, kit.UnknownName, "Outputs: of names 'boxes'; did you mean 'box'?"),
        ({"box": 3}, kit.AssemblyError, "Outputs: of must map outputs to names of queries, got {'box': 3}"),
        ("objects", kit.AssemblyError, "Outputs: of must map outputs to names of queries, got 'objects'"),
    ],
)
def test_wrong_names_are_refused(of, error: type, said: str) -> None:
    with pytest.raises(error) as caught:
        kit.Outputs(kind=Project(5, in_channels=32), box=Project(4, in_channels=32), of=of)
    assert said in str(caught.value)


def test_an_output_of_no_query_is_refused() -> None:
    outputs = kit.Outputs(box=Project(4, in_channels=32), of={"box": "object"})
    queries = kit.Queries(objects=LearnedQuery(6, 32))
    encoder = kit.Encoder(8, num_latents=4, latent_dim=16, layers=1)
    with pytest.raises(kit.UnknownName, match="outputs names 'object'; did you mean 'objects'"):
        kit.PerceiverIO(kit.Inputs(p=Features(8)), encoder, queries, kit.Decoder(32, 16), outputs)
