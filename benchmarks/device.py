"""Time and memory of calls on any device: events and the allocator's peak on a GPU, the clock on a CPU."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch

# No call starts after so many seconds of measuring.
ENOUGH = 0.05


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def clock(call: Callable[[], object], device: torch.device, *, repeats: int = 20, warm: int = 1) -> float:
    """Median seconds of at least three calls, or of one that takes long."""
    for _ in range(warm):
        call()
    synchronise(device)
    times: list[float] = []
    while sum(times) < ENOUGH or (len(times) < 3 and sum(times) < 10 * ENOUGH):
        if len(times) == repeats:
            break
        times.append(once(call, device))
    return statistics.median(times)


def peak_memory(call: Callable[[], object], device: torch.device) -> float:
    """MiB that a call needs at most above what is allocated before it; on a CPU 0, which is measured by process."""
    if device.type != "cuda":
        return 0.0
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph: its replay launches all kernels at once, without Python between them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
