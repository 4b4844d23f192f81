"""How every test runs: fixed examples and seeds, one thread, and a fixture that turns the type checker off."""

from __future__ import annotations

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


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Turn off the type checker, which only tests have, so that the kit's own errors are seen."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def pytest_sessionfinish() -> None:
    write_counts()
