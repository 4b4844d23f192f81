"""The anchored start: places are evenly spread, attention is as narrow as asked, queries read the latents near them."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.anchoring import perplexity, sharpness, spread_out
from perceiver_kit.inputs import Features, Patches, TextTokens
from perceiver_kit.outputs import Classify, Project, ToPatches
from perceiver_kit.positions import Fourier, Learned
from perceiver_kit.queries import LearnedQuery, PositionQuery

pytestmark = pytest.mark.usefixtures("checked")


@given(grid=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), count=st.integers(0, 60))
def test_places_are_distinct_and_evenly_spread(grid: tuple[int, ...], count: int) -> None:
    total = math.prod(grid)
    places = spread_out(grid, count)
    assert places.shape == (count,)
    assert all(0 <= place < total for place in places.tolist())
    assert len({*places.tolist()}) == min(count, total)
    times = places.bincount(minlength=total)
    assert times.max() - times.min() <= 1
    if count:  # each half of an axis has about half of the places
        for axis, size in enumerate(grid):
            index = places // math.prod(grid[axis + 1 :]) % size
            half = int((index < size // 2).sum())
            assert abs(half - count * (size // 2) / size) <= 2 + 0.1 * count


@given(heads=st.integers(1, 3), rows=st.integers(3, 40), share=st.floats(0.1, 0.9))
def test_scores_are_scaled_to_the_wanted_perplexity(heads: int, rows: int, share: float) -> None:
    scores = 100 * torch.randn(heads, 5, rows)
    wanted = 1 + share * (rows - 1)
    weights = (sharpness(scores, wanted) * scores).softmax(-1)
    uniform = 1 / weights.square().sum(-1)  # another number of rows: between 1 and the perplexity
    assert perplexity(weights).mean().item() == pytest.approx(wanted, rel=1e-3)
    assert (uniform <= perplexity(weights) + 1e-4).all()


_ROWS = dict(picture=48, line=24, points=12)


def model() -> tuple[kit.PerceiverIO, dict[str, Tensor]]:
    """A picture of 6 × 8 patches, a line of 24 steps, points without positions and a label."""
    torch.manual_seed(0)
    picture = dict(bands=6, max_resolution=(6, 8))
    inputs = kit.Inputs(
        picture=Patches((2, 2), channels=1, positions=Fourier(**picture)),
        line=Features(2, positions=Learned((24,), 16, start="sines")),
        points=Features(5),
        label=kit.inputs.OneHot(3),
        hide=dict(label=(0.5, 1.0)),
    )
    queries = kit.Queries(
        picture=PositionQuery(Fourier(**picture, ends="half_open"), size=(6, 8)),
        later=PositionQuery(Learned((24,), 16, start="sines"), follows="line"),
        label=LearnedQuery(1, 20),
    )
    encoder = kit.Encoder(inputs.channels, num_latents=32, latent_dim=48, layers=1, cross_heads=2, self_heads=2)
    decoder = kit.Decoder(queries.channels, 48, heads=2, qk_channels=48)
    outputs = kit.Outputs(picture=ToPatches((2, 2), values=1), later=Project(2), label=Classify(3))
    raw = dict(picture=torch.zeros(1, 1, 12, 16), line=torch.zeros(1, 24, 2), points=torch.randn(1, 12, 5))
    return kit.PerceiverIO(inputs, encoder, queries, decoder, outputs), raw


def maps(assembled: nn.Module, raw: dict[str, Tensor], mask: dict[str, Tensor] | None = None) -> list[Tensor]:
    """Attention of latents over rows, then of the queries of label, later and picture over latents: (heads, m, n)."""
    with torch.no_grad(), kit.capture_attention(assembled.eval()) as found:
        assembled(raw, mask=mask)
    return [found["encoder.cross.0"][0][0], *found["decoder.cross"][0][0].split([1, 24, 48], dim=1)]


@pytest.mark.parametrize(("overlap", "latents_per_query"), [(1.0, 2.0), (3.0, 6.0)])
def test_attention_is_as_narrow_as_asked(overlap: float, latents_per_query: float) -> None:
    ours, raw = model()
    before = maps(ours, raw)
    kit.anchor(ours, raw, overlap=overlap, latents_per_query=latents_per_query)
    reads, label, later, picture = maps(ours, raw)
    rows = 48 + 24 + 12
    assert perplexity(before[0]).mean() > 0.6 * rows
    assert perplexity(reads).mean().item() == pytest.approx(overlap * rows / 32, rel=0.1)
    assert perplexity(torch.cat([later, picture], 1)).mean().item() == pytest.approx(latents_per_query, rel=0.15)
    assert perplexity(label).mean() > 2 * latents_per_query, "a query without a place reads many latents"


def test_latents_read_distinct_places_in_proportion_to_rows() -> None:
    ours, raw = model()
    reads = maps(kit.anchor(ours, raw), raw)[0].mean(0)
    place = reads.argmax(-1)
    assert len({*place.tolist()}) == 32
    starts = dict(label=(0, 1), line=(1, 25), picture=(25, 73), points=(73, 85))
    counts = {name: int(((place >= low) & (place < high)).sum()) for name, (low, high) in starts.items()}
    assert counts["label"] == 0
    for name, (low, high) in starts.items():
        assert abs(counts[name] - 32 * (high - low) / 85) <= 1, counts


def test_queries_read_the_latents_anchored_near_them() -> None:
    ours, raw = model()
    kit.anchor(ours, raw)
    reads, _, later, picture = (weights.mean(0) for weights in maps(ours, raw))
    rows = later @ reads  # of the inputs
    near = (rows[:, 1:25].argmax(-1) - torch.arange(24)).abs()
    assert near.median() <= 2, "nine latents for 24 steps"
    y, x = (rearrange(axis, "h w -> (h w)") for axis in torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij"))
    place = (picture @ reads)[:, 25:73].argmax(-1)
    assert ((y[place] - y).abs() + (x[place] - x).abs()).median() <= 2


def test_masked_rows_are_no_places() -> None:
    ours, raw = model()
    mask = dict(line=torch.arange(24)[None] >= 16, picture=torch.arange(48).reshape(1, 6, 8) % 8 < 4)
    kit.anchor(ours, raw, mask=mask)
    reads = maps(ours, raw, mask)[0].mean(0)
    place = reads.argmax(-1)
    readable = torch.cat([torch.tensor([True]), mask["line"][0], mask["picture"].flatten(), torch.ones(12).bool()])
    assert readable[place].all()
    assert len({*place.tolist()}) >= 28
    assert perplexity(reads).mean().item() == pytest.approx(44 / 32, rel=0.25)


def test_content_and_modes_do_not_matter() -> None:
    ours, raw = model()
    other, _ = model()
    ours.encoder.eval()
    modes = [module.training for module in ours.modules()]
    torch.manual_seed(1)
    kit.anchor(ours, raw)
    assert modes == [module.training for module in ours.modules()]
    content = dict(
        picture=torch.randn(3, 1, 12, 16), line=torch.randn(3, 24, 2), points=raw["points"].expand(3, -1, -1)
    )
    torch.manual_seed(1)
    kit.anchor(other, content)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, dict(other.named_parameters())[name], msg=name)


def test_text_and_pooling_decoders() -> None:
    torch.manual_seed(0)
    text = TextTokens(20, 16, positions=Learned((30,), 16, start="sines"))
    encoder = kit.Encoder(16, num_latents=6, latent_dim=16, layers=1, self_heads=1)
    ours = kit.PerceiverIO(
        kit.Inputs(text=text), encoder, None, kit.MeanPool(16, out_channels=4), kit.Outputs(label=Classify(2))
    )
    raw = {"text": torch.zeros(1, 30, dtype=torch.int64)}
    with kit.capture_attention(kit.anchor(ours, raw)) as found:
        ours(raw)
    place = found["encoder.cross.0"][0][0, 0].argmax(-1)
    assert (place - torch.tensor([2, 7, 12, 17, 22, 27])).abs().max() <= 2


def test_the_recipe_starts_anchored() -> None:
    ours = kit.build("multimodal_autoencoding", preset="quick")
    raw = {"image": torch.zeros(1, 4, 3, 32, 32), "audio": torch.zeros(1, 1280)}
    with torch.no_grad(), kit.capture_attention(ours.eval()) as found:
        ours(raw)
    assert perplexity(found["encoder.cross.0"][0]).mean() < 1.5
    plain = kit.build("multimodal_autoencoding", preset="quick", anchored=False)
    assert kit.spec(plain)["model"] == kit.spec(ours)["model"]
    with torch.device("meta"):
        assert kit.build("multimodal_autoencoding", preset="quick").encoder.latents.is_meta


def test_what_cannot_be_anchored_is_refused() -> None:
    ours, raw = model()
    with pytest.raises(kit.AssemblyError, match="an input of several rows"):
        kit.anchor(ours, raw, mask={name: torch.zeros(1, n, dtype=torch.bool) for name, n in _ROWS.items()})
    with pytest.raises(kit.AssemblyError, match="overlap"):
        kit.anchor(ours, raw, overlap=-1.0)
    ours.encoder = nn.Identity()
    with pytest.raises(kit.AssemblyError, match="expected an encoder with latents and cross-attention, got Identity"):
        kit.anchor(ours, raw)
