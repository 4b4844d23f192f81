"""What is held of every model that can be drawn: one test a property, each over as many models as ``MODELS`` says.

A few models each by default; ``make fuzz`` draws hundreds and keeps the counts. The same number draws the same models.
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

MODELS = int(os.environ.get("MODELS", "12"))
properties: list[Callable[..., None]] = []

# A whole model takes minutes to shrink: the first that fails is shown as it is. Some properties are of few models only.
WHOLE = settings(
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.filter_too_much],  # type: ignore[union-attr]
)

# Each of these may go another way through attention, which rounds differently.
SINGLE, DOUBLE = 1e-5, 1e-9


def holds(*, share: float = 1.0, **options: Any) -> Callable:
    """A property of a drawn model, ``case``; it may draw more from ``data``. ``share`` of the usual number of models.

    ``options`` are those of ``assemblies``.
    """

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        name = name_of(test)
        strategies = {"case": assemblies(**options), "data": st.data()}
        taken = {argument: strategies[argument] for argument in inspect.signature(test).parameters}

        @functools.wraps(test)
        def counted(**drawn: Any) -> None:
            test(**drawn)
            counts[name] += 1

        properties.append(test)
        return settings(WHOLE, max_examples=max(3, round(MODELS * share)))(given(**taken)(counted))

    return wrap
