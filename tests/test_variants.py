"""Norms and MLPs that are injected into the layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perceiver_kit as kit
from perceiver_kit import variants
from perceiver_kit.layers import MLP

VARIANTS = [[name for name in kit.list("variants") if kind in name] for kind in ("Norm", "MLP")]


@pytest.mark.parametrize("mlp", VARIANTS[1])
@pytest.mark.parametrize("norm", VARIANTS[0])
def test_encoder_and_decoder_use_every_variant_and_have_a_spec(norm: str, mlp: str) -> None:
    made = dict(norm=getattr(variants, norm)(), mlp=getattr(variants, mlp)(3, activation="squared_relu", bias=False))
    for block in (kit.Encoder(3, num_latents=4, latent_dim=8, layers=1, **made), kit.Decoder(4, 8, **made)):
        assert kit.spec(kit.build(kit.spec(block))) == kit.spec(block)
        kinds = {type(part) for part in block.modules()}
        assert type(made["norm"](4)) in kinds and (nn.LayerNorm in kinds) == (norm == "LayerNorm")
        assert all(
            m.mlp[0].bias is None and len(m.mlp[0].weight) % 3 == 0 for m in block.modules() if hasattr(m, "mlp")
        )


def test_a_gated_mlp_is_the_product_of_two_halves() -> None:
    mlp = MLP(4, widening=2, activation="silu", gated=True).double()
    rows = torch.randn(3, 4, dtype=torch.float64)
    values, gates = mlp[0](rows).chunk(2, -1)
    torch.testing.assert_close(mlp(rows), mlp[2](values * F.silu(gates)))


def test_a_spec_refuses_a_callable_that_is_not_registered() -> None:
    with pytest.raises(kit.AssemblyError, match=r"model\.norm is"):
        kit.spec(kit.Encoder(3, num_latents=4, latent_dim=8, layers=1, norm=nn.LayerNorm))
