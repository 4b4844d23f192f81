"""How every test runs: fixed examples and seeds, one thread, shapes of signatures checked where a test asks for it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from .counting import write_counts

# Tensors here are small: more threads cost more than they compute.
torch.set_num_threads(1)

# No deadline: the machine may be busy. HYPOTHESIS_PROFILE=search draws many new examples.
slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=15, deadline=None, derandomize=True, suppress_health_check=slow)
settings.register_profile("search", max_examples=300, deadline=None, suppress_health_check=slow)
settings.register_profile(  # qa/mutations.py: any failure will do, not the smallest
    "first", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shapes are checked at every call in tests that ask for ``checked``: elsewhere this would double the time.

    Without it the kit's own errors are seen, and what is traced can be traced.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", "checked" not in request.fixturenames)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def checked() -> None:
    """Check the shapes of signatures at every call."""


def pytest_collection_finish() -> None:
    """What imports and collection made lives to the end: garbage collections need not visit it (5 % of the time)."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    write_counts()
