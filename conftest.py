"""Examples in docstrings need no imports: they see torch and the kit's public blocks."""

from __future__ import annotations

import pytest
from _pytest.doctest import DoctestItem


@pytest.fixture(autouse=True)
def _names_for_examples(request: pytest.FixtureRequest) -> None:
    if not isinstance(request.node, DoctestItem):
        return
    import torch  # not above: shapes are checked only in modules imported after pytest has begun

    import perceiver_kit as kit

    # The names of the module itself come first.
    for module in (vars(kit), {"kit": kit, "torch": torch}, *_blocks(kit)):
        for name, value in module.items():
            if not name.startswith("_"):
                request.node.dtest.globs.setdefault(name, value)


def _blocks(kit) -> list[dict]:
    modules = (kit.outputs, kit.inputs, kit.queries, kit.positions, kit.decoders, kit.encoders, kit.objectives)
    return [{name: value for name, value in vars(module).items() if isinstance(value, type)} for module in modules]
