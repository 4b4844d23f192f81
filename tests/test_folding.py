"""A folded decoder and output equal the decoder and then the output; hooked or changed modules are not folded."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from perceiver_kit import decoding, folding, outputs
from perceiver_kit.decoders import Decoder, MeanPool
from perceiver_kit.folding import fold
from perceiver_kit.inputs import TextTokens
from perceiver_kit.outputs.base import Output

from .strategies import assert_close, noisy, raws, tiny

# bfloat16 has eight bits: up to six roundings one after another.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 4e-2}
MANY = 10**9  # rows: whatever can be folded saves work

OUTPUTS: dict[str, Callable[[int], Output]] = {
    "project": lambda c: outputs.Project(3, in_channels=c),
    "pixels": lambda c: outputs.ToPixels(2, in_channels=c),
    "flow": lambda c: outputs.Flow(c, scale=0.3),
    "classify": lambda c: outputs.Classify(5, in_channels=c),
    "tied": lambda c: outputs.TiedText(TextTokens(7, c)),
}


def parts(output: str = "project", *, padding: int = 4, **options: object) -> tuple[Decoder, Output]:
    torch.manual_seed(0)
    decoder = noisy(Decoder(3 + padding, 6, **options), 0.5).eval()
    return decoder, noisy(OUTPUTS[output](decoder.out_channels), 0.5).eval()


@pytest.mark.parametrize("output", OUTPUTS)
@given(
    padding=st.integers(0, 5),
    project=st.booleans(),
    widths=st.sampled_from([{}, dict(qk_channels=4, v_channels=2), dict(qk_channels=1, v_channels=5)]),
    widening=st.integers(1, 3),
    activation=st.sampled_from(["gelu", "gelu_tanh"]),
    batch=st.integers(1, 3),
    shared=st.booleans(),
    m=st.integers(1, 5),
    far=st.sampled_from([0.0, 30.0]),
    dtype=st.sampled_from([*TOLERANCE]),
)
def test_folded_equals_decoder_and_then_output(
    output: str,
    padding: int,
    project: bool,
    widths: dict,
    widening: int,
    activation: str,
    batch: int,
    shared: bool,
    m: int,
    far: float,
    dtype: torch.dtype,
) -> None:
    options = dict(out_channels=6 if project else None, widening=widening, activation=activation, **widths)
    decoder, last = parts(output, padding=padding, **options)
    decoder.cross.query_norm.eps = 0.1
    decoder, last = decoder.to(dtype), last.to(dtype)
    queries = torch.randn(1 if shared else batch, 9, 3, dtype=dtype) + (far if dtype != torch.bfloat16 else 0)
    latents, pad = torch.randn(batch, m, 6, dtype=dtype), torch.randn(1, padding, dtype=dtype) if padding else None
    with torch.no_grad():
        read = fold(decoder, last, latents, pad, MANY)
        assert read is not None
        found = read(queries)
        padded = queries if pad is None else torch.cat([queries, pad.expand(*queries.shape[:-1], -1)], -1)
        double = [module.double() for module in (decoder, last)]
        wanted = double[1](double[0](padded.double(), latents.double()))
    assert found.dtype == dtype
    assert found.shape == (batch, 9, last.channels)
    # Far from zero, float32 is coarser by as much.
    assert_close(found.double(), wanted, TOLERANCE[dtype] * (1 + far))


def test_statistics_are_in_float32_where_the_model_is_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from zero, rounding a mean to bfloat16 makes an error of the size of the deviation."""
    decoder, last = (module.bfloat16() for module in parts(padding=1))
    queries, pad = ((100 + 2 * torch.randn(shape)).bfloat16() for shape in ((2, 99, 3), (1, 1)))
    read = []
    monkeypatch.setattr(folding, "weighted_sum", lambda q, k, v, **_: read.append(q) or v[:, :, [0] * 99])
    with torch.no_grad():
        fold(decoder, last, torch.randn(2, 3, 6).bfloat16(), pad, MANY)(queries)
        wanted = folding._normalise(queries.double(), pad.double(), decoder.cross.query_norm.eps)
    assert ((read[0][:, 0] - wanted).abs() <= wanted.abs() * 2**-8 + 1e-5).all()


@given(
    options=st.sampled_from([dict(heads=2, qk_channels=4, v_channels=2), dict(query_residual=True)]),
    rows=st.integers(1, 400),
    project=st.booleans(),
)
def test_folding_is_skipped_where_it_is_not_exact_or_saves_nothing(options: dict, rows: int, project: bool) -> None:
    with torch.no_grad():
        decoder, last = parts(out_channels=6 if project else None, **options)
        assert fold(decoder, last, torch.randn(2, 3, 6), None, MANY) is None
        assert fold(MeanPool(6, out_channels=6).eval(), last, torch.randn(2, 3, 6), None, MANY) is None
        decoder, last = parts(out_channels=6)
        folded = fold(decoder, last, torch.randn(2, 3, 6), None, rows) is not None
    # The product of the weights costs 3 × 6 × 7, then 3 × 7 a row in place of 6 × (3 + 7); attention may decide, too.
    assert not folded or rows * 6 * (3 + 7) > 3 * 6 * 7 + rows * 3 * 7


def hook(decoder: Decoder, _: Output) -> None:
    decoder.cross.mlp[2].register_forward_hook(lambda *_: None)


def hook_before(_: Decoder, output: Output) -> None:
    output.register_forward_pre_hook(lambda *_: None)


def train_dropout(decoder: Decoder, _: Output) -> None:
    decoder.cross.dropout.train()


def patch(decoder: Decoder, _: Output) -> None:
    decoder.cross.forward = types.MethodType(lambda self, *_: torch.zeros(()), decoder.cross)


class Adapted(nn.Linear):
    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) + 1


def adapt(decoder: Decoder, _: Output) -> None:
    decoder.cross.attention.key.__class__ = Adapted


def adapt_output(_: Decoder, output: Output) -> None:
    output.project.__class__ = Adapted


def another_output(_: Decoder, output: Output) -> None:
    output.project = nn.Sequential(output.project, nn.ReLU())


def override(_: Decoder, output: Output) -> None:
    class Positive(outputs.Project):
        def forward(self, rows: Tensor) -> Tensor:
            return super().forward(rows).relu()

    output.__class__ = Positive


def subclass(decoder: Decoder, _: Output) -> None:
    class Louder(Decoder):
        def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
            return 2 * super().forward(queries, latents)

    decoder.__class__ = Louder


def another_activation(decoder: Decoder, _: Output) -> None:
    decoder.cross.mlp[1] = nn.ReLU()


def another_layer(decoder: Decoder, _: Output) -> None:
    decoder.cross.mlp.append(nn.GELU())


def another_norm(decoder: Decoder, _: Output) -> None:
    decoder.cross.query_norm = nn.Identity()


def another_mlp(decoder: Decoder, _: Output) -> None:
    decoder.cross.mlp = nn.Linear(decoder.query_channels, decoder.query_channels)


def prune_output(_: Decoder, output: Output) -> None:
    prune.l1_unstructured(output.project, "weight", amount=0.5)


def no_bias(decoder: Decoder, _: Output) -> None:
    decoder.cross.mlp[2].bias = None


CHANGES = [hook, hook_before, train_dropout, patch, adapt, adapt_output, override, subclass, another_activation]
CHANGES += [another_layer, another_output, another_norm, another_mlp, prune_output, no_bias]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_hooked_or_changed_module_is_not_folded(change: Callable) -> None:
    with torch.no_grad():
        decoder, output = parts(out_channels=6)
        latents = torch.randn(2, 3, 6)
        assert fold(decoder, output, latents, None, MANY) is not None
        change(decoder, output)
        assert fold(decoder, output, latents, None, MANY) is None


def test_folding_is_skipped_with_gradients_and_in_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, output = parts()
    assert fold(decoder, output, torch.randn(2, 3, 6), None, MANY) is None
    with torch.inference_mode():
        assert fold(decoder, output, torch.randn(2, 3, 6), None, MANY) is not None
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert fold(decoder, output, torch.randn(2, 3, 6), None, MANY) is None


@pytest.mark.parametrize("recipe", ["optical_flow", "multimodal_autoencoding"])
def test_a_model_folds_many_rows_and_follows_its_weights(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(recipe)
    tensors, folded = raws(model, 2), []
    wanted = {name: value.detach() for name, value in model(tensors).items()}  # gradients prevent folding

    def spy(*arguments: object) -> object:
        folded.append(fold(*arguments))
        return folded[-1]

    monkeypatch.setattr(decoding, "fold", spy)
    with torch.inference_mode():
        found = model(tensors)
    assert any(folded)
    for name in wanted:
        assert_close(found[name], wanted[name], 1e-5)
    parameter = model.decoder.cross.mlp[2].weight
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.mul_(2.0)
            found = model(tensors)
        wanted = {name: value.detach() for name, value in model(tensors).items()}
        for name in wanted:
            assert_close(found[name], wanted[name], 1e-5)
    finally:
        parameter.data.copy_(before)


def test_a_hook_on_the_queries_is_called() -> None:
    model = tiny("multimodal_autoencoding")
    seen = set()
    handle = model.queries.register_forward_hook(lambda _, arguments, __: seen.add(arguments[0]))
    try:
        with torch.no_grad():
            model(raws(model, 1))
    finally:
        handle.remove()
    assert seen == {"audio", "image", "label"}
