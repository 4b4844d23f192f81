"""Tables: a token for each column, missing values, classes out of range."""

from __future__ import annotations

import math

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.inputs import Table

from ..strategies import noisy

pytestmark = pytest.mark.usefixtures("checked")


def test_every_value_becomes_its_token() -> None:
    table = noisy(Table(2, categories=(3, 2), channels=4))
    raw = torch.tensor([[0.5, math.nan, 2.0, 0.0], [math.nan, -1.5, math.nan, 1.0]])
    rows = table(raw).rows
    assert rows.shape == (2, 4, 4)
    number = lambda value, column: value * table.scale[column] + table.shift[column]  # noqa: E731
    wanted = [
        [number(0.5, 0), table.absent[1], table.classes[0].weight[2], table.classes[1].weight[0]],
        [table.absent[0], number(-1.5, 1), table.absent[2], table.classes[1].weight[1]],
    ]
    assert torch.allclose(rows, torch.stack([torch.stack(row) for row in wanted]))
    rows.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in table.parameters())


@pytest.mark.parametrize(("numeric", "categories"), [(3, ()), (0, (2,))])
def test_one_kind_of_column_is_enough(numeric: int, categories: tuple) -> None:
    table = Table(numeric, categories=categories, channels=4)
    assert table(torch.zeros(2, numeric + len(categories))).rows.shape == (2, numeric + len(categories), 4)
    assert kit.spec(table) == kit.spec(kit.build(kit.spec(table)))


def test_wrong_tables_are_refused() -> None:
    table = Table(1, categories=(3,), channels=4)
    for wrong in (3.0, -1.0, 0.5):
        with pytest.raises(kit.InputError, match="row: column 1 must be class indices from 0 to 2, or NaN; got"):
            table(torch.tensor([[0.0, wrong]]), "row")
    with pytest.raises(kit.InputError, match=r"row must be float \(b, 2\), got float32 \(1, 3\); 1 numbers, then 1"):
        table(torch.zeros(1, 3), "row")
    with pytest.raises(kit.AssemblyError, match="at least one column"):
        Table(0, channels=4)
