"""Numbers that nobody means are refused before anything is allocated, in an error that is short enough to read."""

from __future__ import annotations

import pytest

import perceiver_kit as kit
from perceiver_kit.checks import MOST, check_elements, check_positive, short

BITS = 2**21


@pytest.mark.parametrize(
    ("make", "owner"),
    [
        (lambda: kit.Encoder(3, num_latents=BITS, latent_dim=BITS, layers=0), "learned parameter"),
        (lambda: kit.outputs.Project(BITS, BITS), "linear layer"),
        (lambda: kit.inputs.TextTokens(BITS, BITS), "learned parameter"),
        (lambda: kit.inputs.Conv1x1(BITS, channels=BITS), "Conv1x1"),
        (lambda: kit.inputs.ConvStem(BITS, channels=BITS), "ConvStem"),
    ],
)
def test_a_parameter_that_no_memory_holds_is_refused(make, owner: str) -> None:
    with pytest.raises(kit.AssemblyError, match=rf"^{owner}: a parameter of \(.*\) would have more than 2\^40"):
        make()


def test_the_bounds_are_just_beyond_what_is_allowed() -> None:
    check_elements("it", 2**20, 2**20)
    with pytest.raises(kit.AssemblyError, match=r"it: a parameter of \(1048576, 1048577\) would"):
        check_elements("it", 2**20, 2**20 + 1)
    check_positive("it", rows=MOST)
    with pytest.raises(kit.AssemblyError, match=r"it: rows must be at most 2,147,483,647, got 2147483648"):
        check_positive("it", rows=MOST + 1)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        ("x" * 118, f"'{'x' * 118}'"),
        ("x" * 119, f"'{'x' * 117}…'"),
        ([7] * 999, f"[{'7, ' * 39}…]"),
        (10**5000, "a very large int"),  # Python refuses to write so many digits
        (nested(10**5), "a very large list"),
    ],
    ids=["number", "longest", "longer", "list", "digits", "depth"],
)
def test_what_came_is_shown_in_a_line_whatever_it_is(value: object, shown: str) -> None:
    assert short(value) == shown
    assert len(shown) <= 120


@pytest.mark.usefixtures("unchecked")
def test_an_error_is_short_whatever_came() -> None:
    for value in (10**5000, "x" * 10**6, -(10**5000), [7] * 10**4):
        with pytest.raises(kit.AssemblyError) as caught:
            kit.inputs.Features(value)
        assert len(str(caught.value)) < 200
