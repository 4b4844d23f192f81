"""Queries: whole grids, rows at indices, content and positions of inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit import inputs, positions, queries
from perceiver_kit.tokens import Encoded, Layout, take_rows

from .blocks import query_blocks
from .strategies import NAMES, assert_close

FOURIER = positions.Fourier(bands=2, max_resolution=(4,))


def encoded(batch: int = 2, **rows: torch.Tensor) -> Encoded:
    layout = Layout((("points", (4,)), ("image", (2, 3))))
    return Encoded(torch.zeros(batch, 3, 8), layout, ("points",), rows, rows)


@given(data=st.data(), padding=st.integers(0, 2), batch=st.integers(1, 3))
def test_queries_at_indices_equal_those_of_the_whole_grid(data: st.DataObject, padding: int, batch: int) -> None:
    every = inputs.Inputs(points=inputs.Features(3, positions=FOURIER), other=inputs.Features(2))
    value = {"points": torch.randn(batch, 4, 3), "other": torch.randn(batch, 2, 2)}
    tokens, content = every(value, content=[*value])
    rows = {name: tokens[name] for name in value}
    encoding = Encoded(torch.zeros(batch, 3, 8), tokens.layout, tuple(value), rows, content)
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    drawn = {name: data.draw(query_blocks(every, {"points": (4,), "other": (2,)})) for name in names}
    asked = queries.Queries({name: block for name, (block, _) in drawn.items()}, min_padding=padding)
    assert asked.channels == max(block.channels for block, _ in drawn.values()) + padding
    for name, (block, grid) in drawn.items():
        places = torch.randn(*grid, block.axes) if block.takes else None
        seen = replace(encoding, asked=places)
        assert asked.grid(name, seen) == grid
        count = torch.Size(grid).numel()
        whole = asked(name, grid, None, seen)
        assert whole.shape[1:] == (count, asked.channels)
        assert whole.shape[0] in (1, batch)  # batch 1 if independent of the samples
        index = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=3, max_size=3)))
        assert_close(asked(name, grid, index, seen), whole[:, index], 1e-6)
        each = torch.stack([index.roll(shift) for shift in range(batch)])
        wanted = torch.stack([whole[b % len(whole), i] for b, i in enumerate(each)])
        assert_close(asked(name, grid, each, seen), wanted, 1e-6)
        if block.channels < asked.channels:
            vector = asked.padding[name].vector.view(-1)
            assert torch.equal(whole[..., block.channels :], vector.expand_as(whole[..., block.channels :]))


def test_content_queries_concatenate_content_and_positions() -> None:
    query = queries.ContentQuery("points", content_channels=3, positions=FOURIER)
    content = torch.randn(2, 4, 3)
    found = query((4,), None, encoded(points=content))
    assert torch.equal(found, torch.cat([content, FOURIER((4,)).expand(2, -1, -1)], -1))
    assert query.channels == 3 + FOURIER.channels
    plain = queries.ContentQuery("points", content_channels=3)
    assert plain((4,), None, encoded(points=content)) is content


def test_input_queries_equal_the_rows_of_the_encoder() -> None:
    """After padding, hiding and masking."""
    every = inputs.Inputs(
        points=inputs.Features(3, positions=FOURIER), hidden=inputs.Features(2), hide=dict(hidden=1.0), min_padding=1
    )
    model = kit.PerceiverIO(
        every,
        kit.Encoder(every.channels, num_latents=2, latent_dim=8, layers=0),
        queries.Queries({name: queries.InputQuery(name, channels=every.channels) for name in ("points", "hidden")}),
        kit.Decoder(every.channels, 8),
        kit.Outputs({name: kit.outputs.Rows(every.channels) for name in ("points", "hidden")}),
    ).eval()
    value = {"points": torch.randn(2, 4, 3), "hidden": torch.randn(2, 5, 2)}
    mask = {"points": torch.rand(2, 4) < 0.5}
    tokens, _ = every(value, mask)
    seen = model.encode(value, mask=mask)
    for name in value:
        found = model.queries(name, model.queries.grid(name, seen), None, seen)
        assert torch.equal(found, tokens[name])
    assert (seen.rows["hidden"] == every.mask_tokens["hidden"].vector).all()
    assert not (seen.rows["points"][..., :3][~mask["points"]]).any()
    assert seen.rows["points"][..., 3:].any(-1).all()


def test_learned_queries_are_their_table_and_no_query_has_no_channels() -> None:
    learned = queries.LearnedQuery(3, 5)
    assert torch.equal(learned((3,), None, encoded())[0], learned.positions.table)
    nothing = queries.NoQuery()
    assert nothing((1,), None, encoded()).shape == (1, 1, 0)
    assert nothing((1,), torch.tensor([0, 0]), encoded()).shape == (1, 2, 0)
    assert nothing((1,), torch.tensor([[0, 0], [0, 0]]), encoded()).shape == (2, 2, 0)


def test_a_query_follows_the_grid_of_its_input() -> None:
    query = queries.PositionQuery(FOURIER, follows="points")
    assert query.grid(encoded()) == (4,)
    assert queries.PositionQuery(FOURIER, size=(9,)).grid(encoded()) == (9,)
    with pytest.raises(kit.InputError, match="follows the input 'image', which was left out"):
        queries.PositionQuery(FOURIER, follows="image").grid(encoded())


@given(batch=st.integers(1, 3), n=st.integers(1, 5), data=st.data())
def test_take_rows_selects_per_sample(batch: int, n: int, data: st.DataObject) -> None:
    rows = torch.randn(batch, n, 2)
    index = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=4, max_size=4)))
    assert take_rows(rows, None) is rows
    assert torch.equal(take_rows(rows, index), torch.stack([sample[index] for sample in rows]))
    each = torch.stack([index.roll(b) for b in range(batch)])
    assert torch.equal(take_rows(rows, each), torch.stack([s[i] for s, i in zip(rows, each, strict=True)]))


def test_a_query_that_reads_an_input_refuses_another_grid() -> None:
    query = queries.InputQuery("points", channels=3)
    with pytest.raises(kit.InputError, match=r"input 'points', which the query reads, \(4,\); got \(5,\)"):
        query((5,), None, encoded(points=torch.zeros(2, 4, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: queries.PositionQuery(FOURIER), "expected either size or follows, got size=None and follows=None"),
        (
            lambda: queries.PositionQuery(FOURIER, size=(2,), follows="a"),
            r"either size or follows, got size=\(2,\) and follows='a'",
        ),
        (lambda: queries.PositionQuery(FOURIER, size=(0,)), "PositionQuery: size must be an int of at least 1, got 0"),
        (lambda: queries.PositionQuery(3, size=(2,)), "positions must be a block of positions, got an int"),
        (lambda: queries.ContentQuery("a", content_channels=2, positions=3), "a block of positions, got an int"),
        (lambda: queries.ContentQuery("a", content_channels=0), "content_channels must be an int of at least 1, got 0"),
        (lambda: queries.InputQuery("a", channels=-1), "InputQuery: channels must be an int of at least 1, got -1"),
        (lambda: queries.LearnedQuery(0, 3), "LearnedQuery: rows must be an int of at least 1, got 0"),
        (
            lambda: queries.Queries(),
            r"Queries: expected at least one modality, got none; one named like an argument",
        ),
        (lambda: queries.Queries(a=FOURIER), r"'a' must be a block for queries \(Query\), got Fourier"),
        (
            lambda: queries.Queries(a=queries.LearnedQuery(1, 2), min_padding=-1),
            "min_padding must be an int of at least 0",
        ),
        (lambda: positions.Projected(3, 4), "Projected: positions must be a block of positions, got an int"),
    ],
)
def test_wrong_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        make()


def test_a_pooled_query_normalises_the_sum_of_the_content_over_the_batch() -> None:
    query, content = queries.PooledQuery("points", content_channels=3), torch.randn(5, 4, 3)
    found = query((1,), None, encoded(5, points=content))
    assert found.shape == (5, 1, 3)
    total = content.sum(1)
    unit = total / total.square().mean(-1, keepdim=True).sqrt()
    assert_close(found[:, 0], (unit - unit.mean(0)) / unit.std(0, correction=0), 1e-3)
    query.eval()
    mean, deviation = query.norm.running_mean, query.norm.running_var.sqrt()
    assert_close(query((1,), None, encoded(5, points=content))[:, 0], (unit - mean) / deviation, 1e-4)


def test_a_pooled_query_reads_no_masked_row_and_a_batch_of_one() -> None:
    model = kit.assemble(
        dict(text=inputs.TextTokens(9, 8)),
        dict(label=kit.outputs.Classify(3)),
        queries=dict(label=queries.PooledQuery("text")),
        num_latents=2,
        latent_dim=8,
        layers=1,
    )
    text, mask = torch.randint(9, (1, 6)), torch.tensor([[True, True, True, False, True, False]])
    for training in (True, False):
        model.train(training)
        other = text.masked_fill(~mask, 7)
        out, same = (model({"text": ids}, mask={"text": mask})["label"] for ids in (text, other))
        assert_close(out, same, 1e-6)
        assert out.isfinite().all()
