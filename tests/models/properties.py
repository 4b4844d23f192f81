"""``@holds()`` turns a property of a model into a test over ``MODELS`` drawn models.

A few models by default; ``make fuzz`` draws hundreds and writes the counts. The same number draws the same models.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ..assemblies import assemblies
from ..counting import counts, name_of

MODELS = int(os.environ.get("MODELS", "5"))
properties: list[Callable[..., None]] = []

# No shrinking: it takes minutes for a model. Some properties apply to few models, hence no filter_too_much.
WHOLE = settings(
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.filter_too_much],  # type: ignore[union-attr]
)

# Tolerance in float64: attention may take another path, which rounds differently.
DOUBLE = 1e-9


def holds(*, share: float = 1.0, **options: Any) -> Callable:
    """A property of a drawn model ``case``, with ``data`` to draw more.

    ``share``: multiplies the number of models. ``options``: see ``assemblies``.
    """

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        name = name_of(test)
        strategies = {"case": assemblies(**options), "data": st.data()}
        arguments = {argument: strategies[argument] for argument in inspect.signature(test).parameters}

        @functools.wraps(test)
        def counted(**drawn: Any) -> None:
            test(**drawn)
            counts[name] += 1

        properties.append(test)
        return settings(WHOLE, max_examples=max(3, round(MODELS * share)))(given(**arguments)(counted))

    return wrap
