"""How every test runs: the same examples each time, the same random numbers, and a way round the type checker."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

# Tensors here are small: threads that wait for each other on a busy machine cost a hundred times what they compute.
torch.set_num_threads(1)

# No deadline: the machine may be busy. HYPOTHESIS_PROFILE=search looks for new counterexamples, at length.
slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=15, deadline=None, derandomize=True, suppress_health_check=slow)
settings.register_profile("search", max_examples=300, deadline=None, suppress_health_check=slow)
settings.register_profile(  # benchmarks/mutations.py: whether something fails, not the smallest that does
    "first", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The kit's own errors, where the type checker that only tests have would come first."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
