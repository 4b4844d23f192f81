"""Rows by modality, and the pytrees of ``Tokens`` and ``Encoded``."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import perceiver_kit as kit
from perceiver_kit.tokens import Encoded, Layout, Tokens

pytestmark = pytest.mark.usefixtures("checked")

LAYOUT = Layout((("audio", (6,)), ("image", (2, 4, 4))))


def test_rows_are_found_by_name() -> None:
    rows = torch.arange(38.0).view(1, 38, 1)
    tokens = Tokens(rows, LAYOUT)
    assert LAYOUT.rows == 38
    assert [*LAYOUT] == ["audio", "image"]
    assert "image" in LAYOUT
    assert "label" not in LAYOUT
    assert tokens["audio"].flatten().tolist() == [*range(6)]
    assert tokens["image"].flatten().tolist() == [*range(6, 38)]


def test_an_unknown_modality_is_refused_with_the_nearest() -> None:
    tokens = Tokens(torch.zeros(1, 38, 2), LAYOUT)
    for call in (LAYOUT.grid, LAYOUT.slice, tokens.__getitem__):
        with pytest.raises(
            kit.UnknownName, match=r"there are no rows of 'imgae'; did you mean 'image'\? There are: audio"
        ):
            call("imgae")


@pytest.mark.parametrize("mask", [None, torch.ones(2, 38, dtype=torch.bool)], ids=["", "masked"])
def test_tokens_are_a_pytree(mask: torch.Tensor | None) -> None:
    tokens = Tokens(torch.randn(2, 38, 3), LAYOUT, mask)
    leaves, tree = pytree.tree_flatten(tokens)
    assert [leaf for leaf in leaves if leaf is not None] == [tokens.rows, *([] if mask is None else [mask])]
    rebuilt = pytree.tree_unflatten(leaves, tree)
    assert rebuilt.rows is tokens.rows
    assert rebuilt.mask is mask
    assert rebuilt.layout == LAYOUT


def test_encoded_can_be_mapped_and_decoded() -> None:
    """As wrappers do that move, split or cast tensors."""
    model = kit.build("optical_flow", preset="tiny").eval()
    with torch.no_grad():
        encoded = model.encode({"frames": torch.rand(2, 2, 3, *model.tile)})
        first = pytree.tree_map(lambda tensor: tensor[:1], encoded)
        assert isinstance(first, Encoded)
        assert first.latents.shape[0] == first.rows["frames"].shape[0] == 1
        assert (first.layout, first.given) == (encoded.layout, encoded.given)
        wanted = model.decode(encoded)["flow"][:1]
        torch.testing.assert_close(model.decode(first)["flow"], wanted)


def test_encoded_survives_a_pytree_round_trip() -> None:
    rows, content = {"audio": torch.randn(2, 6, 3)}, {"image": torch.randn(2, 32, 1)}
    encoded = Encoded(torch.randn(2, 4, 8), LAYOUT, ("audio",), rows, content)
    leaves, tree = pytree.tree_flatten(encoded)
    assert {id(leaf) for leaf in leaves} == {
        id(tensor) for tensor in (encoded.latents, rows["audio"], content["image"])
    }
    assert vars(pytree.tree_unflatten(leaves, tree)) == vars(encoded)
