"""`make bench DEVICE=cuda`: the kit beside Hugging Face, perceiver-pytorch and GPT-2 on one GPU, in at most 8 minutes.

Both sides run in this process, in turns, with the same weights, inputs and dtype; outputs are compared before times.
Times are medians by CUDA events, memory is the allocator's peak above the model and its inputs. *Replayed*: the call as
a CUDA graph, without the time that Python and launches take. Finished measurements stay in `results/gpu/`; at the end
docs/gpu.json and docs/gpu.md are written.

    python -m benchmarks.gpu --device cuda
    python -m benchmarks.gpu --quick          # small sizes, on a CPU: checks that all of it runs, writes nothing
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import causal, models
from .bench import TOLERANCE, write_weights
from .device import clock, graphed, name_of, once, peak_memory
from .gpu_page import write
from .kernels import backend_of
from .measure import counting, flops
from .models import Call
from .tasks import HUGGING_FACE, KIT, PARTS, PERCEIVER_PYTORCH, TRANSFORMER, recipes, traits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "gpu"
LIMIT = 8 * 60  # seconds after which no measurement starts
ROUNDS = 3

Entry = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all measurements share."""

    device: torch.device
    small: bool
    weights: Path

    def clock(self, call: Call) -> float:
        """Median seconds; with small sizes those of one call."""
        return once(call, self.device) if self.small else clock(call, self.device)


def turns(sides: dict[str, Call], setting: Setting, *, parts: int = 1, graphs: bool = True) -> dict[str, Entry]:
    """Side → median milliseconds, MiB; the sides take turns. ``parts``: the last side's call is one of so many."""
    found: dict[str, Entry] = {}
    last = [*sides][-1]
    for side, call in sides.items():
        found[side] = {"mebibytes": peak_memory(call, setting.device), "times": []}
    for _ in range(1 if setting.small else ROUNDS):
        for side, call in sides.items():
            factor = parts if side == last else 1
            found[side]["times"].append(1e3 * factor * setting.clock(call))
    for side, call in sides.items():
        found[side]["milliseconds"] = statistics.median(found[side]["times"])
        if graphs and setting.device.type == "cuda":
            factor = parts if side == last else 1
            try:
                found[side]["replayed"] = 1e3 * factor * setting.clock(graphed(call))
            except Exception as error:  # a call that waits for the device cannot be captured: a result, too
                found[side]["not_captured"] = str(error).splitlines()[0][:160]
                torch.cuda.synchronize()
    return found


def compared(found: dict[str, Entry], **known: Any) -> Entry:
    """An entry of the page: the ratios of the two sides."""
    ours, theirs = found.values()
    ratios = sorted(b / a for a, b in zip(ours["times"], theirs["times"], strict=True))
    entry = known | {"sides": found, "ratio": statistics.median(ratios), "range": [ratios[0], ratios[-1]]}
    if "replayed" in ours and "replayed" in theirs:
        entry["replayed_ratio"] = theirs["replayed"] / ours["replayed"]
    return entry


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """‖ours − theirs‖ / ‖theirs‖, the largest of all outputs."""
    return max(
        float((ours[name].float() - value.float()).norm() / value.float().norm().clamp(min=1e-12))
        for name, value in theirs.items()
    )


def backends(call: Call) -> dict[str, str]:
    """Queries × rows × widths → the backend that torch took for its fused attention, asked while a call runs."""
    seen: dict[str, str] = {}
    real = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        key = f"{q.shape[1]} heads, {q.shape[2]} × {k.shape[2]}, {q.shape[3]} and {v.shape[3]} channels"
        choice = {name: options[name] for name in ("attn_mask", "dropout_p", "is_causal") if name in options}
        seen[key] = backend_of(q, k, v, options["scale"], **choice)
        return real(q, k, v, **options)

    with mock.patch.object(F, "scaled_dot_product_attention", spy):
        call()
    return seen


# ---- models of both sides


def on(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: on(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


@functools.lru_cache(maxsize=1)
def weights_of(recipe: str, setting: Setting) -> str:
    directory = str(setting.weights / recipe)
    write_weights(recipe, directory, setting.small)
    return directory


def part(recipe: str, setting: Setting) -> Any:
    """The rows of one of Hugging Face's parts, for recipes with several outputs."""
    if not traits(recipe).several:
        return None
    return on(models.part(models.structure_of(recipe, setting.small), setting.small), setting.device)


def calls(recipe: str, dtype: torch.dtype, setting: Setting, **point: int) -> tuple[dict[str, Call], dict[str, Any]]:
    """A call of each side, and its models. Hugging Face's autocasts where it does not run in bfloat16."""
    directory, at = weights_of(recipe, setting), part(recipe, setting)
    raw = on(models.inputs(recipe, point, setting.small, dtype), setting.device)
    ours = models.kit_model(directory, dtype).to(setting.device)
    theirs = models.reference_model(recipe, directory, dtype).to(setting.device)
    call = models.reference_call(recipe, theirs, raw, at)
    if dtype != torch.float32:
        try:
            with torch.no_grad():
                call()
        except RuntimeError:
            wide = on(models.inputs(recipe, point, setting.small, torch.float32), setting.device)
            theirs = models.reference_model(recipe, directory, torch.float32).to(setting.device)
            call = autocast(models.reference_call(recipe, theirs, wide, at), setting)
    sides = {KIT: models.kit_call(recipe, ours, raw, at), HUGGING_FACE: call}
    return sides, {KIT: ours, HUGGING_FACE: theirs, "raw": raw}


# ---- measurements


def forward(recipe: str, dtype: str, setting: Setting, **point: int) -> Entry:
    """Of several outputs the kit decodes all rows, Hugging Face one of 128 equal parts, whose time is multiplied."""
    sides, made = calls(recipe, getattr(torch, dtype), setting, **point)
    with torch.inference_mode():
        apart = difference(sides[KIT](), sides[HUGGING_FACE]())
        if not apart < TOLERANCE[dtype]:
            raise SystemExit(f"{recipe} in {dtype}: outputs differ by {apart:.2g}")
        parts = 1
        if traits(recipe).several and not setting.small:
            parts, sides = PARTS, sides | {KIT: models.kit_call(recipe, made[KIT], made["raw"])}
        found = turns(sides, setting, parts=parts)
        kernels = backends(sides[KIT])
    with counting(made[KIT]):
        found[KIT]["flops"] = flops(sides[KIT])
    return compared(found, difference=apart, kernels=kernels)


def compiled(recipe: str, dtype: str, setting: Setting, **point: int) -> Entry:
    """``torch.compile`` of both; the first call compiles and is not timed."""
    sides, made = calls(recipe, getattr(torch, dtype), setting, **point)
    start = time.perf_counter()
    with torch.inference_mode():
        made[KIT].compile(fullgraph=True)
        made[HUGGING_FACE].compile()
        for call in sides.values():
            call()
        seconds = time.perf_counter() - start
        return compared(turns(sides, setting, graphs=False), compile_seconds=seconds)


def train(recipe: str, dtype: str, setting: Setting, **point: int) -> Entry:
    """Forward, mean square loss, backward and fused AdamW; bfloat16 is autocast with weights of float32."""
    sides, made = calls(recipe, torch.float32, setting, **point)
    steps = {side: step(made[side], call, dtype, setting) for side, call in sides.items()}
    return compared(turns(steps, setting, graphs=False))


def step(model: nn.Module, call: Call, dtype: str, setting: Setting) -> Call:
    model.train().requires_grad_(True)
    fused = {"fused": True} if setting.device.type == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, **fused)

    def stepped() -> None:
        optimizer.zero_grad()
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = sum(value.float().square().mean() for value in call().values())
        loss.backward()
        optimizer.step()

    stepped()  # the optimizer's state is allocated
    return stepped


def growth(key: str, setting: Setting) -> Entry:
    """The kit alone: rows or queries from 64 k to 4 M."""
    points = []
    for power in (10, 11) if setting.small else range(16, 23):
        model, raw = models.growing({key: 2**power})
        model, raw = model.to(setting.device), on(raw, setting.device)
        with torch.inference_mode():
            call = functools.partial(model, raw)
            memory = peak_memory(call, setting.device)
            points.append({"size": 2**power, "milliseconds": 1e3 * setting.clock(call), "mebibytes": memory})
    return {"points": points}


def tokens(context: int, setting: Setting) -> Entry:
    """A token of ``causal_lm`` after a full context beside one of GPT-2 with its cache, batch 1."""
    sides = {}
    with torch.inference_mode():
        for side in (KIT, TRANSFORMER):
            made = causal.model(side, context).to(setting.device)
            text = causal.ids(context).to(setting.device)
            sides[side], number = causal.tokens(made, side, text, "roll")
            assert number == 1
        return compared(turns(sides, setting, graphs=False))


def generic(train_it: bool, setting: Setting) -> Entry:
    """Beside perceiver-pytorch, as on a CPU (docs/benchmarks.md)."""
    sides: dict[str, Call] = {}
    for side in (KIT, PERCEIVER_PYTORCH):
        with setting.device:
            model, call = models.generic_model(side, setting.small)
        model.to(setting.device)
        model.train(train_it)
        sides[side] = step(model, call, "bfloat16", setting) if train_it else autocast(call, setting)
    with torch.inference_mode(not train_it):
        return compared(turns(sides, setting, graphs=False))


def autocast(call: Call, setting: Setting) -> Call:
    def cast() -> Any:
        with torch.autocast(setting.device.type, torch.bfloat16):
            return call()

    return cast


def peak(setting: Setting) -> Entry:
    """The best of products of square matrices, and of copies, counting bytes read and written."""
    size, found = 512 if setting.small else 8192, {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=setting.device).to(dtype) for _ in range(2))
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / setting.clock(lambda a=a, b=b: a @ b)
    source = torch.empty(2**20 if setting.small else 2**31, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    found["bytes_per_second"] = 2 * source.numel() / setting.clock(lambda: target.copy_(source))
    return found


def measurements(setting: Setting) -> Iterator[tuple[str, Callable[[], Entry]]]:
    """Name → measurement, the most telling first: the last ones may fall to the time limit."""

    def one(kind: Callable[..., Entry], *arguments: Any, **point: int) -> Callable[[], Entry]:
        return functools.partial(kind, *arguments, setting, **point)

    every = recipes()
    many = {"batch": 2 if setting.small else 32}
    images = [recipe for recipe in every if not (traits(recipe).text or traits(recipe).several or traits(recipe).tiled)]
    texts = [recipe for recipe in every if traits(recipe).text]
    yield "peak", one(peak)
    for recipe in every:
        for dtype in ("bfloat16", "float32"):
            yield f"forward/{recipe}/{dtype}", one(forward, recipe, dtype)
    for recipe in [*images, *texts]:
        yield f"batch/{recipe}/bfloat16, batch {many['batch']}", one(forward, recipe, "bfloat16", **many)
    for recipe in every:
        few = {} if traits(recipe).tiled or traits(recipe).several else many
        said = f", batch {few['batch']}" if few else ""
        yield f"train/{recipe}/bfloat16{said}", one(train, recipe, "bfloat16", **few)
    for key in ("rows", "queries", "grouped_rows"):
        yield f"growth/{key}", one(growth, key)
    for context in (64,) if setting.small else (1024, 8192, 65536):
        yield f"generation/context {context:,}", one(tokens, context)
    yield "perceiver-pytorch/forward", one(generic, False)
    yield "perceiver-pytorch/train", one(generic, True)
    if not setting.small:
        for recipe in [each for each in every if traits(each).tiled] + images[-1:] + texts[:1]:
            yield f"compiled/{recipe}/bfloat16", one(compiled, recipe, "bfloat16")


def brief(entry: Entry) -> str:
    if "sides" in entry:
        each = "  ".join(
            f"{side} {found['milliseconds']:.2f} ms"
            + (f" (replayed {found['replayed']:.2f})" if "replayed" in found else "")
            + f" {found['mebibytes']:.0f} MiB"
            for side, found in entry["sides"].items()
        )
        return f"{entry['ratio']:.2f} times faster  {each}"
    return json.dumps(entry)[:160]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="parts of names; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, write nothing")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds after which no measurement starts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results" if arguments.quick else arguments.results
        results.mkdir(parents=True, exist_ok=True)
        setting = Setting(torch.device(arguments.device), arguments.quick, Path(scratch))
        for name, measure in measurements(setting):
            file = results / (name.replace("/", "-") + ".json")
            if file.exists() or (arguments.tasks and not any(part in name for part in arguments.tasks)):
                continue
            if time.monotonic() - start > arguments.limit:
                print(f"{name}: not measured, {arguments.limit} s are over; run again to go on")
                continue
            torch.manual_seed(0)
            began = time.monotonic()
            try:
                entry = measure()
            except torch.OutOfMemoryError as error:
                entry = {"refused": str(error).splitlines()[0]}
            file.write_text(json.dumps({"name": name} | entry))
            print(f"{name}: {brief(entry)} [{time.monotonic() - began:.0f} s]", flush=True)
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
        found = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
        order = [name for name, _ in measurements(setting)]
        entries = sorted((entry for entry in found if entry["name"] in order), key=lambda e: order.index(e["name"]))
        machine = {"device": name_of(setting.device), "torch": torch.__version__, "python": sys.version.split()[0]}
        page = write(Path(scratch) if arguments.quick else arguments.docs, {"machine": machine, "entries": entries})
        print("\n" + page)


if __name__ == "__main__":
    main()
