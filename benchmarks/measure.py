"""One side of one task, measured in this process: seconds, memory above the weights, FLOPs. Started by bench.py.

Prints, as JSON, a list with an entry for each of the task's points.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from . import causal, models
from .models import Call, inputs, part, rows, signature, structure_of
from .tasks import KIT, PARTS, traits


def memory(field: str) -> float:
    """Resident MiB of this process: current (VmRSS) or peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _attention_flops(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    (b, heads, m, e), n, f = q, k[-2], v[-1]
    return 2 * b * heads * m * n * (e + f)


def _attention_backward_flops(_: Any, q: Any, k: Any, v: Any, *__: Any, out_shape: Any = None, **___: Any) -> int:
    """Scores recomputed, then the gradients of q, k, v and of the weights."""
    (b, heads, m, e), n, f = q, k[-2], v[-1]
    return 2 * b * heads * m * n * (3 * e + 2 * f)


# torch's counter does not know torch's fused CPU kernel.
FUSED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def flops(call: Call) -> int:
    """FLOPs of all matrix products, convolutions and fused attention of a call."""
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        call()
    return counter.get_total_flops()


@contextlib.contextmanager
def counting(model: nn.Module) -> Iterator[None]:
    """Disable gradients: the counter fails in inference mode and with parameters that require them."""
    model.requires_grad_(False)
    with torch.no_grad():
        yield


def timed(call: Call, repeats: int, *, processor: bool = False) -> float:
    """Median seconds of the calls, or with ``processor`` the least processor seconds; no call starts after three."""
    clock, times = time.process_time if processor else time.perf_counter, []
    while len(times) < repeats and not (processor and sum(times) > 3):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times) if processor else statistics.median(times)


def measured(call: Call, model: nn.Module, order: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Median seconds, and peak memory above that of the loaded model and inputs.

    With ``warm``, a first call is not measured: libraries allocate buffers in it that they keep.
    """
    order = order | changed
    for parameter in model.parameters():
        parameter.detach().sum()  # memory-mapped weights count once they are read
    if order["warm"]:
        call()
    Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM, the peak
    before = memory("VmRSS")
    seconds = timed(call, order["repeats"], processor=order["processor"])
    return {"seconds": seconds, "mebibytes": max(1.0, memory("VmHWM") - before)}  # less than 1 MiB is noise


def loaded(order: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Module, Callable[..., Call]]:
    """This side's model, and the function that makes a call of it."""
    if order["side"] == KIT:
        return models.kit_model(order["directory"], dtype), models.kit_call
    return models.reference_model(order["recipe"], order["directory"], dtype), models.reference_call


def forward(order: dict[str, Any]) -> list[dict[str, Any]]:
    recipe, dtype = order["recipe"], getattr(torch, order["dtype"])
    model, make = loaded(order, dtype)
    if traits(recipe).several:
        return [video(order, model, make)]
    entries = []
    for number, point in enumerate(order["points"]):
        raw = inputs(recipe, point, order["small"], dtype)
        call = make(recipe, model, raw)
        with torch.inference_mode():
            entry = measured(call, model, order, warm=order["warm"] and number < 2)
        if order["count"]:
            with counting(model):
                outputs: list[Any] = []
                entry["flops"] = flops(lambda call=call, outputs=outputs: outputs.append(call()))
                entry["signature"] = signature(outputs[0])
        entries.append(entry)
    return entries


def video(order: dict[str, Any], model: nn.Module, make: Callable[..., Call]) -> dict[str, Any]:
    """Several outputs: the kit decodes all rows, the reference one of 128 equal parts, whose time is multiplied."""
    recipe, structure = order["recipe"], structure_of(order["recipe"], order["small"])
    raw = inputs(recipe, {}, order["small"], torch.float32)
    one_part = make(recipe, model, raw, part(structure, order["small"]))
    if order["side"] != KIT:
        with torch.inference_mode():
            entry = measured(one_part, model, order)
        entry["seconds"] *= PARTS
    else:
        # One part is the warm-up; all rows are decoded once.
        whole = one_part if order["small"] else make(recipe, model, raw)
        with torch.inference_mode():
            one_part()
            entry = measured(whole, model, order, repeats=1, warm=False)
    if order["count"]:
        with counting(model):
            every_row = order["side"] == KIT and not order["small"]
            entry["flops"] = video_flops(model, raw) if every_row else PARTS * flops(one_part)
            entry["signature"] = signature(one_part())
    return entry


def video_flops(model: Any, raw: dict[str, Tensor]) -> int:
    """FLOPs of decoding all rows, from a sample of them: rows are independent."""
    encoded: list[Any] = []
    total = flops(lambda: encoded.append(model.encode(raw)))
    for name, size in rows(model).items():
        at = {name: torch.arange(min(size, 16384))}
        total += flops(lambda at=at: model.decode(encoded[0], at=at)) * size // len(at[name])
    return total


def train(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Forward, loss, backward and a step of AdamW."""
    recipe = order["recipe"]
    model, make = loaded(order, torch.float32)
    raw = inputs(recipe, {}, order["small"], torch.float32)
    at = part(structure_of(recipe, order["small"]), order["small"]) if traits(recipe).several else None
    return [step(model.train(), make(recipe, model, raw, at), order)]


def step(model: nn.Module, call: Call, order: dict[str, Any]) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

    def once() -> None:
        if not optimizer.state:  # allocate AdamW's averages, as from the second step on
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        optimizer.zero_grad()
        sum(value.square().mean() for value in call().values()).backward()
        optimizer.step()

    return measured(once, model, order)


def growth(order: dict[str, Any]) -> list[dict[str, Any]]:
    entries = []
    with torch.inference_mode():
        model, raw = models.growing({})
        model(raw)  # one-time allocations of libraries are no growth
        for point in order["points"]:
            model, raw = models.growing(point)
            entries.append(measured(lambda model=model, raw=raw: model(raw), model, order))
    return entries


def token(order: dict[str, Any]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    return [one_token(order, **point) for point in order["points"]]


def one_token(order: dict[str, Any], context: int, policy: str) -> dict[str, Any]:
    """A token after a full context; the memory of a cache counts."""
    made, text = causal.model(order["side"], context), causal.ids(context)
    with torch.no_grad():
        made(text[:, :1])  # one-time allocations of libraries are no memory of a token
        gc.collect()  # models of other points
        before = memory("VmRSS")
        call, number = causal.tokens(made, order["side"], text, policy)
        held = max(0.0, memory("VmRSS") - before)
        entry = measured(call, made, order)
    return {"seconds": entry["seconds"] / number, "mebibytes": entry["mebibytes"] + held}


def causal_train(order: dict[str, Any]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    side, entries = order["side"], []
    for point in order["points"]:
        made, text = causal.model(side, point["context"]).train(), causal.ids(point["context"])
        entries.append(step(made, lambda made=made, text=text: causal.logits(made, side, text), order))
    return entries


def generic(order: dict[str, Any]) -> list[dict[str, Any]]:
    model, call = models.generic_model(order["side"], order["small"])
    with torch.inference_mode():
        model.eval()
        entry = measured(call, model, order)
    if order["count"]:
        with counting(model):
            entry["flops"] = flops(call)
    return [entry]


def generic_train(order: dict[str, Any]) -> list[dict[str, Any]]:
    model, call = models.generic_model(order["side"], order["small"])
    return [step(model.train(), call, order)]


def peak(order: dict[str, Any]) -> list[dict[str, Any]]:
    """The best of several products of 4096 × 4096 matrices, in FLOPs a second."""
    size = 512 if order["small"] else 4096
    entries = []
    for point in order["points"]:
        a, b = (torch.randn(size, size).to(getattr(torch, point["dtype"])) for _ in range(2))
        a @ b
        best = min(timed(lambda a=a, b=b: a @ b, 1) for _ in range(order["repeats"]))
        entries.append({"seconds": best, "flops": 2 * size**3, "per_second": 2 * size**3 / best})
    return entries


KINDS = {kind.__name__: kind for kind in (forward, train, growth, token, causal_train, generic, generic_train, peak)}


def run(order: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of an order, one for each point."""
    return KINDS[order["kind"]](order)


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
