"""Each query reads the latents independently; queries of batch 1 serve every sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.decoders import Decoder, MeanPool

from . import restated
from .strategies import assert_close, noisy

pytestmark = pytest.mark.usefixtures("checked")


@given(
    out=st.sampled_from([None, 5]),
    residual=st.booleans(),
    widening=st.integers(1, 2),
    activation=st.sampled_from(["gelu", "gelu_tanh"]),
    heads=st.sampled_from([1, 2]),
    b=st.integers(1, 3),
    o=st.integers(1, 9),
    shared=st.booleans(),
)
def test_decoder_equals_numpy(
    out: int | None, residual: bool, widening: int, activation: str, heads: int, b: int, o: int, shared: bool
) -> None:
    options = dict(
        heads=heads, qk_channels=6, v_channels=4, query_residual=residual, widening=widening, activation=activation
    )
    decoder = noisy(Decoder(3, 8, out_channels=out, **options)).double()
    queries, latents = torch.randn(1 if shared else b, o, 3).double(), torch.randn(b, 4, 8).double()
    p = restated.arrays(decoder)
    arguments = (restated.array(queries), restated.array(latents), None)
    wanted = restated.cross_attend(p, "cross.", *arguments, heads=heads, residual=residual, activation=activation)
    if out is not None:
        wanted = wanted @ p["project.weight"].T + p["project.bias"]
    assert decoder.cross.mlp[0].out_features == 3 * widening
    found = decoder(queries, latents)
    assert found.shape == (b, o, decoder.out_channels)
    assert_close(found, torch.from_numpy(wanted), 1e-8)
    assert_close(decoder(queries.expand(b, -1, -1), latents), found, 1e-9)
    index = torch.randint(o, (3,))  # rows are independent
    assert_close(decoder(queries[:, index], latents), found[:, index], 1e-8)


def test_the_final_linear_layer_is_optional() -> None:
    assert Decoder(3, 8).project is None
    assert Decoder(3, 8).out_channels == 3


def test_zero_output_starts_at_zero_and_learns() -> None:
    decoder = Decoder(3, 8, out_channels=5, zero_output=True)
    queries, latents = torch.randn(1, 7, 3), torch.randn(2, 4, 8)
    rows = decoder(queries, latents)
    assert not rows.any()
    (rows - 1).square().sum().backward()
    assert decoder.project.weight.grad.any()
    assert Decoder(3, 8, out_channels=5)(queries, latents).any()


@given(b=st.integers(1, 3), o=st.integers(1, 4))
def test_mean_pooling_ignores_queries(b: int, o: int) -> None:
    decoder, latents = MeanPool(8, out_channels=5), torch.randn(b, 4, 8)
    found = decoder(torch.zeros(1, o, 0), latents)
    wanted = decoder.project(sum(latents[:, i] for i in range(4)) / 4)
    assert_close(found, wanted[:, None].expand(-1, o, -1), 1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decoder(0, 8), "Decoder: query_channels must be an int of at least 1, got 0"),
        (lambda: Decoder(3, 0), "Decoder: latent_dim must be an int of at least 1, got 0"),
        (lambda: Decoder(3, 8, out_channels=0), "out_channels must be an int of at least 1, got 0"),
        (lambda: Decoder(3, 8, heads=3), "qk_channels 8 must be divisible by heads 3"),
        (lambda: MeanPool(8, out_channels=0), "MeanPool: out_channels must be an int of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        make()
