"""N-grams, stride and convolutions of text: what a row depends on, and what it may not."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import perceiver_kit as kit
from perceiver_kit.data.texts import MaskedBytes
from perceiver_kit.inputs import TextTokens
from perceiver_kit.inputs.text import RECALL, hash_ngrams, recalled_ids

from ..strategies import noisy

pytestmark = pytest.mark.usefixtures("checked")

OPTIONS = {
    "n-grams": dict(ngrams=(3, 4)),
    "stride": dict(stride=4),
    "convolutions": dict(convolutions=2, kernel=3),
    "recall": dict(recall=(1, 2)),
    "all": dict(ngrams=(2, 5), stride=4, convolutions=1, recall=(2,)),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def block(**options) -> nn.Module:
    torch.manual_seed(0)
    return noisy(TextTokens(50, 8, buckets=997, **options))


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_an_ngram_is_hashed_by_its_own_ids(size: int) -> None:
    """Places share a bucket if their n-grams are equal; of 64 different pairs in 100,000 buckets, none does."""
    ids = torch.randint(6, 12, (1, 400))
    found = hash_ngrams(ids, size, (size - 1) // 2, 10**5)[0].tolist()
    left = (size - 1) // 2
    padded = [0] * left + ids[0].tolist() + [0] * (size - 1 - left)
    grams = [tuple(padded[i : i + size]) for i in range(400)]
    seen: dict[int, tuple[int, ...]] = {}
    for bucket, gram in zip(found, grams, strict=True):
        assert 0 <= bucket < 10**5
        seen.setdefault(bucket, gram)
    same = sum(seen[bucket] == gram for bucket, gram in zip(found, grams, strict=True))
    assert same >= 398
    by_gram = {}
    assert all(by_gram.setdefault(gram, bucket) == bucket for gram, bucket in zip(grams, found, strict=True))


@torch.no_grad()
def test_a_row_is_the_sum_of_its_bytes_and_their_ngrams() -> None:
    ours = block(ngrams=(2, 3), stride=4)
    ids = torch.randint(50, (2, 10))
    padded = torch.nn.functional.pad(ids, (0, 2))
    rows = ours(ids).rows
    for b, row in itertools.product(range(2), range(3)):
        wanted = ours.embedding(padded[b, 4 * row : 4 * row + 4]).sum(0)
        for size in (2, 3):
            buckets = hash_ngrams(padded, size, (size - 1) // 2, 997)[b, 4 * row : 4 * row + 4]
            wanted += ours.table.weight[buckets].sum(0)
        torch.testing.assert_close(rows[b, row], wanted)


@torch.no_grad()
@given(
    ids=st.lists(st.lists(st.sampled_from((1, 3, 5)), min_size=12, max_size=12), min_size=1, max_size=3),
    size=st.integers(1, 4),
    separator=st.sampled_from((1, 5)),
    after=st.booleans(),
)
def test_what_is_recalled_stands_beside_the_same_ids_before_the_separator(
    ids: list[list[int]], size: int, separator: int, after: bool
) -> None:
    found = recalled_ids(torch.tensor(ids), size, separator, after=after)
    for row, own in zip(ids, found.tolist(), strict=True):
        text = dict(enumerate(row))
        steps = range(-size, 0) if after else range(1, size + 1)
        near = [tuple(text.get(place + step, 0) for step in steps) for place in text]
        middle = row.index(separator) if separator in row else 12
        for place in text:
            alike = [row[k] for k in range(middle) if near[k] == near[place]]
            assert own[place] == (alike[-1] if alike and place >= middle else 0)


def test_no_ids_of_that_test_share_a_bucket() -> None:
    for size in (1, 2, 3, 4):
        grams = torch.tensor([*itertools.product((0, 1, 3, 5), repeat=size)])
        assert hash_ngrams(grams, size, 0, RECALL)[:, 0].unique().numel() == len(grams)


@torch.no_grad()
def test_a_row_adds_what_its_place_recalls() -> None:
    ours = block(recall=(2, 3), stride=4, separator=4)
    ids = torch.tensor([[7, 8, 9, 6, 4, 7, 8, 6, 9, 7, 8, 9]])
    with_none = TextTokens(50, 8, stride=4)
    with_none.load_state_dict(ours.state_dict(), strict=False)
    added = (ours(ids).rows - with_none(ids).rows)[0]
    kinds = [(size, after) for size in (2, 3) for after in (True, False)]
    for row in range(3):
        wanted = torch.zeros(8)
        for kind, (size, after) in enumerate(kinds):
            recalled = recalled_ids(ids, size, 4, after=after)[0, 4 * row : 4 * row + 4]
            wanted += ours.recalled.weight[50 * kind + recalled].sum(0)
        torch.testing.assert_close(added[row], wanted)


@torch.no_grad()
@every_option
def test_a_row_depends_on_near_ids_only(options: dict) -> None:
    ours = block(**options)
    ids = torch.randint(6, 50, (1, 40))  # no separator
    for place in (0, 17, 39):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % 50
        changed = (ours(other).rows - ours(ids).rows).abs().amax(-1)[0] > 0
        stride = options.get("stride", 1)
        reach = 2 + options.get("convolutions", 0) * (options.get("kernel", 5) // 2) * stride
        near = torch.arange(len(changed))
        near = (near * stride - place).abs() <= reach + stride
        assert changed[place // stride]
        assert not changed[~near].any()


@torch.no_grad()
@every_option
def test_masked_ids_never_change_a_result_and_padding_is_invisible(options: dict) -> None:
    ours = kit.Inputs(text=block(**options))
    ids = torch.randint(1, 7, (2, 40))  # with separators, and few others, so that much is recalled
    keep = torch.arange(40) < torch.tensor([[40], [24]])
    other = torch.where(keep, ids, torch.randint(7, ids.shape))
    stride = options.get("stride", 1)
    rows = keep[:, ::stride]
    found, _ = ours({"text": ids}, {"text": keep})
    for changed, mask in ((other, keep), (ids, rows), (other, rows)):
        same, _ = ours({"text": changed}, {"text": mask})
        assert torch.equal(same.rows, found.rows)
        assert torch.equal(same.mask, found.mask)
        assert torch.equal(same.mask, rows)
    alone, _ = ours({"text": ids[1:, :24]})
    torch.testing.assert_close(alone.rows[0], found.rows[1, : 24 // stride])


@torch.no_grad()
def test_a_hidden_byte_cannot_reach_the_output() -> None:
    """Two texts that differ only in bytes under [MASK] give equal inputs and outputs, but other targets."""
    torch.manual_seed(0)
    model = noisy(kit.build("masked_lm", preset="quick", max_length=64, layers=1)).eval()
    text = torch.randint(32, 120, (64,), dtype=torch.uint8).numpy()
    sample = MaskedBytes(text, length=64)[0]
    hidden = (sample["inputs"]["text"] == 3).numpy()
    assert 5 <= hidden.sum() <= 10
    changed = text.copy()
    changed[hidden] += 1
    other = MaskedBytes(changed, length=64)[0]
    assert (other["targets"]["text"] != sample["targets"]["text"]).sum() == hidden.sum()
    found, same = (model({"text": item["inputs"]["text"][None]})["text"] for item in (sample, other))
    assert torch.equal(found, same)
    seen = sample["inputs"]["text"].clone()
    seen[hidden.argmax() - 1] += 1
    assert not torch.equal(model({"text": seen[None]})["text"], found), "a visible neighbour does reach it"


@every_option
def test_gradients_reach_every_parameter(options: dict) -> None:
    ours = block(**options)
    ours(torch.randint(50, (4, 200))).rows.square().sum().backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kernel=4), "kernel must be odd"),
        (dict(ngrams=(0,)), "ngrams"),
        (dict(recall=(0,)), "recall"),
        (dict(recall=(3,), separator=50), "separator"),
        (dict(separator=-1), "separator"),
        (dict(stride=0), "stride"),
        (dict(convolutions=-1), "convolutions"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        TextTokens(50, 8, **options)


def test_a_mask_of_another_length_is_refused() -> None:
    ours = kit.Inputs(text=block(ngrams=(3,), stride=4))
    with pytest.raises(kit.InputError, match="mask of 'text' must be bool"):
        ours({"text": torch.zeros(2, 40, dtype=torch.int64)}, {"text": torch.ones(2, 11, dtype=torch.bool)})
