"""Latents read the inputs and then each other, in the order and with the weight sharing of the arguments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import perceiver_kit as kit
from perceiver_kit import Attention, Encoder, Layout, Tokens

from . import restated
from .strategies import assert_close, distance, noisy

# Which weights each cross-attend uses, in order, for up to four of them.
SHARING = {"all": [0, 0, 0, 0], "after_first": [0, 1, 1, 1], "none": [0, 1, 2, 3]}


@given(
    sharing=st.sampled_from(sorted(SHARING)),
    share_blocks=st.booleans(),
    cross_attends=st.integers(1, 3),
    more_blocks=st.integers(0, 2),
    layers=st.integers(0, 2),
    masked=st.booleans(),
    residual=st.booleans(),
    heads=st.sampled_from([(1, 2), (2, 1)]),
    activation=st.sampled_from(["gelu", "gelu_tanh"]),
)
def test_encoder_equals_numpy(
    sharing: str,
    share_blocks: bool,
    cross_attends: int,
    more_blocks: int,
    layers: int,
    masked: bool,
    residual: bool,
    heads: tuple[int, int],
    activation: str,
) -> None:
    blocks = cross_attends + more_blocks
    encoder = noisy(
        Encoder(
            6,
            num_latents=3,
            latent_dim=4,
            layers=layers,
            blocks=blocks,
            share_blocks=share_blocks,
            cross_attends=cross_attends,
            share_cross_attends=sharing,
            cross_heads=heads[0],
            self_heads=heads[1],
            cross_widening=2,
            self_widening=3,
            query_residual=residual,
            activation=activation,
        )
    ).double()
    rows = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False], [False] * 5]) if masked else None

    p, (keys, keep) = restated.arrays(encoder), (restated.array(rows), restated.boolean(mask))
    latents = p["latents"][None].repeat(2, axis=0)
    for block in range(blocks):
        if block < cross_attends:
            prefix = f"cross.{SHARING[sharing][block]}."
            latents = restated.cross_attend(
                p, prefix, latents, keys, keep, heads=heads[0], residual=residual, activation=activation
            )
        for layer in range(layers):
            number = layer if share_blocks else block * layers + layer
            latents = restated.self_attend(p, f"transformer.{number}.", latents, heads=heads[1], activation=activation)
    assert_close(encoder(rows, mask), torch.from_numpy(latents), 1e-7)
    tokens = Tokens(rows, Layout((("a", (2,)), ("b", (3,)))), mask)
    assert torch.equal(encoder(tokens), encoder(rows, mask))

    # No shared parameter exists twice, and none is unused.
    norms = 2 * 4 + 2 * 6 + 2 * 4
    cross = norms + (4 * 6 + 6) + 2 * (6 * 6 + 6) + (6 * 4 + 4) + (4 * 8 + 8) + (8 * 4 + 4)
    layer = 4 * 4 + 4 * (4 * 4 + 4) + (4 * 12 + 12) + (12 * 4 + 4)
    distinct = len(set(SHARING[sharing][:cross_attends]))
    wanted = 3 * 4 + distinct * cross + layers * (1 if share_blocks else blocks) * layer
    assert sum(parameter.numel() for parameter in encoder.parameters()) == wanted


def test_widths_apply_to_all_attention_unless_cross_attention_overrides_them() -> None:
    def widths(**options: int) -> list[list[int]]:
        encoder = Encoder(6, num_latents=3, latent_dim=8, layers=1, self_heads=2, **options)
        blocks = encoder.cross[0].attention, encoder.transformer[0].attention
        return [[layer.out_features for layer in (a.query, a.key, a.value, a.output)] for a in blocks]

    assert widths() == [[8, 8, 8, 8], [8, 8, 8, 8]]
    assert widths(qk_channels=14, v_channels=16) == [[14, 14, 16, 8], [14, 14, 16, 8]]
    own = dict(cross_qk_channels=10, cross_v_channels=12)
    assert widths(qk_channels=14, v_channels=16, **own) == [[10, 10, 12, 8], [14, 14, 16, 8]]
    assert widths(**own) == [[10, 10, 12, 8], [8, 8, 8, 8]]


# Channels of queries and of keys, heads, and the width of the keys.
WIDTHS = [(64, 261, 1, 261), (64, 32, 8, 32), (64, 16, 1, 16), (64, 15, 1, 16), (64, 3, 4, 16), (64, 3, 6, 18)]
WIDTHS += [(8, 3, 1, 8), (8, 8, 2, 8), (2, 64, 1, 64), (16, 12, 32, 32)]


@pytest.mark.parametrize(("queries", "keys", "heads", "width"), WIDTHS)
def test_narrow_keys_get_a_sane_width(queries: int, keys: int, heads: int, width: int) -> None:
    """The keys' own width, as published; at least 16 or the queries', divisible by the heads."""
    attention = Attention(queries, keys, heads=heads)
    assert (attention.key.out_features, attention.value.out_features) == (width, width)


def test_recipes_keep_the_published_width() -> None:
    for recipe in kit.list():
        with torch.device("meta"):
            encoder = kit.build(recipe).encoder
        if type(encoder) is Encoder:
            own = encoder.recorded["cross_qk_channels"] or encoder.recorded["qk_channels"] or encoder.channels
            assert encoder.cross[0].attention.key.out_features == own


def test_one_channel_is_refused_with_the_remedy() -> None:
    """Different inputs would give the same output."""
    for make, name in (
        (lambda: Encoder(1, num_latents=2, latent_dim=8, layers=1), "CrossAttentionLayer: key_channels"),
        (lambda: Encoder(8, num_latents=2, latent_dim=1, layers=1), "CrossAttentionLayer: query_channels"),
        (lambda: kit.Decoder(1, 8), "CrossAttentionLayer: query_channels"),
        (lambda: kit.SelfAttentionLayer(1, heads=1), "SelfAttentionLayer: channels"),
    ):
        with pytest.raises(kit.AssemblyError, match=rf"^{name} must be at least 2, got 1: .*add positions, or pad"):
            make()
    kit.SelfAttentionLayer(1, heads=1, norm=kit.variants.RMSNorm())  # which keeps the sign
    inputs = kit.Inputs(dna=kit.inputs.Features(1), min_padding=8)
    encoder = Encoder(inputs.channels, num_latents=8, latent_dim=32, layers=2, self_heads=4)
    outputs = kit.Outputs(label=kit.outputs.Classify(4, in_channels=32))
    model = kit.PerceiverIO(inputs, encoder, None, kit.MeanPool(32, out_channels=32), outputs)
    one, other = (model({"dna": torch.randint(0, 4, (1, 99, 1)).float()})["label"] for _ in range(2))
    assert distance(one, other) > 1e-4


def test_defaults_are_the_papers() -> None:
    """One cross-attend of one head, self-attends of eight, widening 1, queries added, no dropout."""
    encoder = Encoder(6, num_latents=3, latent_dim=8, layers=2)
    assert (len(encoder.cross), len(encoder.transformer)) == (1, 2)
    cross = encoder.cross[0]
    assert (cross.attention.heads, cross.query_residual, cross.mlp[1].approximate) == (1, True, "none")
    assert {block.attention.heads for block in encoder.transformer} == {8}
    for block in [cross, *encoder.transformer]:
        assert block.mlp[0].out_features == 8
        assert block.attention.dropout == 0
        assert isinstance(block.dropout, nn.Identity)


def test_dropout_reaches_every_layer() -> None:
    encoder = Encoder(4, num_latents=2, latent_dim=8, layers=2, dropout=0.25, residual_dropout=0.5)
    for block in [*encoder.cross, *encoder.transformer]:
        assert block.attention.dropout == 0.25
        assert block.dropout.p == 0.5


@given(seed=st.integers(0, 2**16), n=st.integers(1, 8))
def test_row_order_does_not_change_the_latents(seed: int, n: int) -> None:
    torch.manual_seed(seed)
    encoder = noisy(Encoder(5, num_latents=3, latent_dim=8, layers=1)).double()
    rows, mask, order = torch.randn(2, n, 5).double(), torch.rand(2, n) < 0.7, torch.randperm(n)
    assert_close(encoder(rows[:, order], mask[:, order]), encoder(rows, mask), 1e-9)


@given(seed=st.integers(0, 2**16), n=st.integers(2, 8))
def test_masked_content_never_changes_latents_or_gradients(seed: int, n: int) -> None:
    torch.manual_seed(seed)
    encoder = noisy(Encoder(5, num_latents=3, latent_dim=8, layers=1, cross_attends=2, blocks=2)).double()
    rows, mask = torch.randn(3, n, 5).double(), torch.rand(3, n) < 0.5
    mask[0], mask[1, 0] = False, True  # fully and partly masked
    results = []
    for poison in (0.0, 1e30, float("nan"), float("inf")):
        encoder.zero_grad()
        latents = encoder(rows.masked_fill(~mask[..., None], poison), mask)
        latents.square().sum().backward()
        results.append([latents.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    for others in results[1:]:
        for first, other in zip(results[0], others, strict=True):
            assert first.isfinite().all()
            assert torch.equal(first, other)
    assert_close(encoder(rows[1:2, mask[1]]), results[0][0][1:2], 1e-9)  # as without these rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_latents=0), "num_latents must be an int of at least 1, got 0"),
        (dict(layers=-1), "layers must be an int of at least 0, got -1"),
        (dict(blocks=2, cross_attends=3), "cross_attends must be at most blocks, got cross_attends=3, blocks=2"),
        (dict(self_heads=3), "qk_channels 8 must be divisible by heads 3"),
        (dict(latents=3), "unexpected keyword argument 'latents'; did you mean 'num_latents'"),
        (dict(residual_dropout=-0.1), r"dropout must be a number in \[0, 1\], got -0.1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        Encoder(5, **dict(num_latents=3, latent_dim=8, layers=1) | arguments)


@pytest.mark.parametrize(
    ("rows", "mask", "message"),
    [
        (torch.zeros(2, 7, 4), None, r"inputs must be float \(b, n, 5\), got float32 \(2, 7, 4\)"),
        (torch.zeros(2, 5), None, r"inputs must be float \(b, n, 5\), got float32 \(2, 5\)"),
        (torch.zeros(2, 7, 5).long(), None, r"inputs must be float \(b, n, 5\), got int64 \(2, 7, 5\)"),
        (torch.zeros(0, 7, 5), None, r"inputs has no elements along b: float32 \(0, 7, 5\)"),
        (torch.zeros(2, 0, 5), None, r"inputs has no elements along n: float32 \(2, 0, 5\)"),
        (torch.zeros(2, 7, 5), torch.ones(2, 6) > 0, r"mask must be bool \(2, 7\) or .*; got bool \(2, 6\)"),
        (torch.zeros(2, 7, 5), torch.ones(2, 7), r"mask must be bool \(2, 7\) or .*; got float32 \(2, 7\)"),
        (Tokens(torch.zeros(2, 7, 4), Layout((("a", (7,)),))), None, "inputs must have 5 channels, got 4"),
        ([[0.0]], None, r"inputs must be float \(b, n, 5\), got a list"),
    ],
)
def test_wrong_rows_are_refused(rows: object, mask: torch.Tensor | None, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        Encoder(5, num_latents=3, latent_dim=8, layers=1)(rows, mask)


def test_an_unknown_sharing_is_refused_with_the_nearest() -> None:
    with pytest.raises(kit.AssemblyError, match="share_cross_attends is 'first'; did you mean 'after_first'"):
        Encoder(5, num_latents=3, latent_dim=8, layers=1, share_cross_attends="first")


@pytest.mark.parametrize("sizes", [dict(layers=1025), dict(layers=64, blocks=17), dict(layers=0, blocks=1025)])
def test_too_many_layers_are_refused_before_they_are_made(sizes: dict) -> None:
    with pytest.raises(kit.AssemblyError, match=r"Encoder: .* must be at most 1,024, got"):
        kit.Encoder(4, num_latents=2, latent_dim=8, **sizes)
