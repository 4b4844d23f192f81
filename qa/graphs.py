"""`make graphs`: every registered recipe compiles as one graph and exports with dynamic sizes, also to ONNX.

Dynamic sizes: the batch, the length of a text, height and width of an image without a declared grid or tiles. The
second batch has the size of the recipe's positions, where a graph is most easily specialised.

    python -m qa.graphs masked_lm optical_flow/exported    # JSON lines: [recipe, check, traceback or ""]

Without arguments all run, and the count is written. It needs a process without shape checks, which do not trace.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim

import perceiver_kit as kit
from qa.report import write
from tests.strategies import assert_close, noisy, raws

Raw = dict[str, Tensor]
Axes = dict[str, dict[int, Dim]]


class Case:
    """A tiny recipe of one layer (tracing time grows with depth) and two batches for it."""

    def __init__(self, recipe: str) -> None:
        torch.manual_seed(0)
        parameters = kit.build(recipe, preset="tiny").recipe["parameters"]
        least = {"blocks": parameters.get("cross_attends", 1), "layers": 1}
        shallow = {name: least[name] for name in least if isinstance(parameters.get(name), int)}
        self.model: nn.Module = noisy(kit.build(recipe, preset="tiny", **shallow)).eval()
        self.raw, self.other = raws(self.model, 2), raws(self.model, 3)
        self.axes: Axes = {name: {0: Dim.DYNAMIC} for name in self.raw}
        for name in self.raw:
            self._open(name, self.model.inputs.blocks[name])
        self.masks, self.other_masks = self._masks(self.raw), self._masks(self.other)
        # Masks have as many dynamic axes as rows.
        open_rows = {name: len(self.axes[name]) > 1 for name in self.raw}
        self.mask_axes: Axes = {
            name: dict.fromkeys(range(1 + opened), Dim.DYNAMIC) for name, opened in open_rows.items()
        }

    def _open(self, name: str, block: nn.Module) -> None:
        kind, batches = type(block).__name__, (self.raw, self.other)
        if kind == "TextTokens":
            # A causal model has fewer latents below num_latents: another graph.
            causal = block.positions is None
            longest = self.model.encoder.context if causal else block.positions.grid[0]
            least = 1 + self.model.encoder.num_latents if causal else 0
            for batch, length in zip(batches, (least + 17, longest), strict=True):
                batch[name] = torch.randint(block.vocabulary, (len(batch[name]), length))
            self.axes[name][1] = Dim("length", min=least, max=longest)
        elif kind in ("Pixels", "Conv1x1", "ConvStem") and block.grid is None and not hasattr(self.model, "tile"):
            for batch, size in zip(batches, ((20, 24), (28, 28)), strict=True):
                batch[name] = torch.randn(*batch[name].shape[:-2], *size)
            self.axes[name] |= {batch[name].ndim - 2: Dim.DYNAMIC, batch[name].ndim - 1: Dim.DYNAMIC}

    def _masks(self, raw: Raw) -> Raw:
        tokens, _ = self.model.inputs(raw)
        masks = {name: torch.rand(tokens[name].shape[:2]) > 0.3 for name in raw}
        masks[next(iter(masks))][0] = False  # one fully masked sample
        return masks

    def export(self, masked: bool) -> torch.export.ExportedProgram:
        given, open_axes = ({"mask": self.masks}, {"mask": self.mask_axes}) if masked else ({}, {})
        return torch.export.export(self.model, (self.raw,), given, dynamic_shapes={"inputs": self.axes} | open_axes)


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    """Two models gave the same outputs."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert_close(found[name], wanted[name], tolerance)


@torch.no_grad()
def compiled(case: Case) -> None:
    """At most two graphs (one size may be specialised); another batch size does not recompile."""
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> Callable:
        graphs.append(graph)
        return graph.forward

    model = torch.compile(case.model, fullgraph=True, dynamic=True, backend=count)
    larger = {name: torch.cat([value] * 2) for name, value in case.raw.items()}
    for raw in (case.raw, case.other, larger):
        same(model(raw), case.model(raw))
    assert 1 <= len(graphs) <= 2, f"{len(graphs)} graphs"


@torch.no_grad()
def inductor(case: Case) -> None:
    """The default backend."""
    same(torch.compile(case.model, fullgraph=True)(case.raw), case.model(case.raw))


def trained_compiled(case: Case) -> None:
    """Forward and backward in training mode, with masks."""
    model = torch.compile(case.model.train(), fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (model, case.model):
        case.model.zero_grad()
        torch.manual_seed(1)  # hides the same inputs
        out = run(case.raw, mask=case.masks)
        sum((rows * torch.linspace(-1, 1, rows.numel()).view_as(rows)).sum() for rows in out.values()).backward()
        parts = [parameter.grad.flatten() for parameter in case.model.parameters() if parameter.grad is not None]
        gradients.append(torch.cat(parts))
    case.model.eval()
    assert_close(*gradients, 1e-4)


@torch.no_grad()
def exported_masked(case: Case) -> None:
    """With masks, one of a fully masked sample."""
    graph = case.export(masked=True).module()
    for raw, mask in ((case.raw, case.masks), (case.other, case.other_masks)):
        same(graph(raw, mask=mask), case.model(raw, mask=mask))


@torch.no_grad()
def exported(case: Case) -> None:
    """Without masks, also as ONNX, saved to a file and run by onnxruntime."""
    import onnxruntime

    exported = case.export(masked=False)
    for raw in (case.raw, case.other):
        same(exported.module()(raw), case.model(raw))
    program = torch.onnx.export(exported, dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for raw in (case.raw, case.other):
        leaves = [raw[name].numpy() for name in raw]
        named = {node.name: leaf for node, leaf in zip(session.get_inputs(), leaves, strict=True)}
        wanted = case.model(raw)
        found = [torch.from_numpy(value) for value in session.run(None, named)]
        same(dict(zip(wanted, found, strict=True)), wanted, 1e-4)


CHECKS: dict[str, Callable[[Case], None]] = {
    "compiled": compiled,
    "inductor": inductor,
    "trained_compiled": trained_compiled,
    "exported": exported,
    "exported_masked": exported_masked,
}
ONLY = {"inductor": {"masked_lm"}}  # it does not depend on the recipe


def checks(recipe: str) -> list[str]:
    """The names of the checks of a recipe."""
    return [name for name in CHECKS if recipe in ONLY.get(name, {recipe})]


def run(recipe: str, wanted: str = "") -> list[str]:
    """Print the result of each check of a recipe, or of the one wanted; returns those that failed."""
    case, failed = Case(recipe), []
    for name in [wanted] if wanted else checks(recipe):
        torch.compiler.reset()
        try:
            CHECKS[name](case)
            failure = ""
        except Exception:
            failure = traceback.format_exc()[-3000:]
            failed.append(f"{recipe}/{name}")
        print(json.dumps([recipe, name, failure]), flush=True)
    return failed


def main(arguments: list[str]) -> None:
    """Run what is asked for; without arguments everything, and write the count when all pass."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # deprecations of torch and onnxscript
    logging.disable(logging.WARNING)
    failed = [name for argument in arguments or kit.list() for name in run(*argument.split("/"))]
    if not arguments:
        if failed:
            raise SystemExit(f"failed: {', '.join(failed)}. Nothing was written.")
        found = {recipe: checks(recipe) for recipe in kit.list()}
        counts = f"{sum(map(len, found.values()))} checks of {len(found)} recipes"
        write("graphs", counts, [f"- {recipe}: {', '.join(names)}" for recipe, names in found.items()])


if __name__ == "__main__":
    main(sys.argv[1:])
