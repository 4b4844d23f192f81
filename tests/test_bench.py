"""Logic of the benchmark: statistics, targets, the page, choice of tasks, FLOPs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import perceiver_kit as kit
from benchmarks import bench, figures, gpu, gpu_page, page
from benchmarks.measure import FUSED, counting, flops
from benchmarks.tasks import HUGGING_FACE, KIT, Target, Task, all_tasks, chosen, quick


def rounds(*seconds: float, mebibytes: float = 100, flops: float | None = None) -> figures.Rounds:
    """One point per round; the first round counts FLOPs."""
    made = [[{"seconds": each, "mebibytes": mebibytes, "per_second": 1e11}] for each in seconds]
    if flops is not None:
        made[0][0]["flops"] = flops
    return made


def test_slope_of_a_power_is_its_exponent() -> None:
    sizes = [64, 128, 256, 1024]
    for exponent in (0.0, 0.5, 1.0, 2.0):
        assert figures.slope(sizes, [7 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-12)


def test_ratios_are_taken_within_rounds() -> None:
    ours, theirs = rounds(1, 10, 2), rounds(2, 50, 2)  # a slow machine in the second round
    assert figures.ratios(ours, theirs) == [1, 2, 5]
    entry = figures.row(Task("forward/a", "forward"), {KIT: ours, HUGGING_FACE: theirs}, {})
    assert (entry["points"][0]["ratio"], entry["points"][0]["least"], entry["points"][0]["most"]) == (2, 1, 5)
    assert entry["points"][0][KIT]["seconds"] == 2


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(faster=2.0), True),
        (Target(faster=2.01), False),
        (Target(memory=0.25), True),
        (Target(memory=0.24), False),
        (Target(floor=1.25), True),  # 8e10 FLOPs in a second at a peak of 1e11
        (Target(floor=1.24), False),
    ],
)
def test_targets_are_judged_by_the_figures(target: Target, met: bool) -> None:
    found = {KIT: rounds(1, mebibytes=50, flops=8e10), HUGGING_FACE: rounds(2, mebibytes=200)}
    entry = figures.row(Task("forward/a", "forward", target=target), found, {"float32": 1e11})
    assert [each["met"] for each in entry["targets"]] == [met]
    assert ("**not met**" in page.verdict(entry)) == (not met)


def growth(exponent: float) -> dict:
    points = tuple({"rows": 2**power} for power in range(10, 15))
    entries = [{"seconds": 1e-6 * p["rows"] ** exponent, "mebibytes": 0.1 * p["rows"]} for p in points]
    task = Task("growth/a", "growth", sides=(KIT,), points=points, target=Target(time_slope=1.05, memory_slope=1.0))
    return figures.row(task, {KIT: [entries, entries]}, {})


def test_growth_is_judged_by_slopes() -> None:
    assert [each["met"] for each in growth(1.0)["targets"]] == [True, True]
    assert [each["met"] for each in growth(1.1)["targets"]] == [False, True]


ORIGIN = {
    "machine": dict(cpu="a CPU", instructions="AVX2", threads=2, python="3", torch="2", transformers="5")
    | {"perceiver-pytorch": "0"},
    "commits": ["abc"],
}


def all_figures(ratio: float, **chosen: bool) -> dict:
    """Figures of every task: the kit takes one second, others ``ratio`` seconds."""
    found = {}
    for task in all_tasks(**chosen):
        sides = {}
        for side in task.sides:
            seconds = 1.0 if side == KIT else ratio
            entry = {"seconds": seconds, "mebibytes": 10.0, "flops": 1e11, "per_second": 1e11}
            sides[side] = [[{**entry} for _ in task.points] for _ in range(max(1, task.rounds))]
        found[task.name] = sides
    return figures.summary(all_tasks(**chosen), found)


def test_page_lists_targets_and_explains_missed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "NOTES", {"forward/optical_flow": "Because of this.", "forward/masked_lm": "Unused."})
    data = all_figures(2.0)
    assert data["geometric_mean"] == pytest.approx(2.0)
    page.write(tmp_path, data | ORIGIN)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "times faster ≥ 3.00: **not met** (2.00)" in text and "times faster ≥ 1.00: met" in text
    assert "Because of this." in text and "Unused." not in text
    assert "**2.00** times faster (target ≥ 1.5: met)" in text
    assert {path.name for path in tmp_path.rglob("*.*")} == {"benchmarks.md", "benchmarks.json", "benchmarks.svg"}
    for line in text.splitlines():  # every line of a table has all cells
        if line.startswith("| `"):
            assert line.count(" | ") in (8, 9), line
    assert "| 65,536 | `roll` | 1.00 | 0.50 | 10 | 10 |" in text  # a token a second, a second of GPT-2's two


def test_a_cpu_without_bfloat16_is_measured_in_float32_alone() -> None:
    data = all_figures(2.0, bfloat16=False)
    assert {*data["peak_flops_per_second"]} == {"float32"}
    assert len(all_tasks()) - len(all_tasks(bfloat16=False)) == 2
    text = page.markdown(data | ORIGIN)
    assert "Not measured: this CPU has no instructions for bfloat16" in text and "Both in bfloat16" not in text


def test_new_figures_take_the_places_of_known_ones() -> None:
    known, new = all_figures(2.0) | {"commits": ["b"]}, all_figures(3.0) | {"commits": ["a"], "machine": "m"}
    new["tasks"] = [entry for entry in new["tasks"] if entry["task"].startswith("forward/")]
    found = bench.merged(known, new, [task.name for task in all_tasks()])
    assert [entry["task"] for entry in found["tasks"]] == [entry["task"] for entry in known["tasks"]]
    ratios = {entry["task"]: entry["points"][0]["ratio"] for entry in found["tasks"] if "ratio" in entry["points"][0]}
    assert ratios["forward/masked_lm"] == 3 and ratios["train/masked_lm"] == 2
    assert found["geometric_mean"] == pytest.approx(3) and found["commits"] == ["a", "b"]


def test_tasks_are_chosen_by_words() -> None:
    tasks = all_tasks()
    assert [task.name for task in chosen([], tasks)] == [task.name for task in tasks]
    assert {task.name for task in chosen(["growth", "length"], tasks)} == {
        "growth/context",
        "growth/hierarchy",
        "growth/inputs",
        "growth/queries",
        "length/masked_lm",
    }
    with pytest.raises(ValueError, match="no task 'flow2'; there are: peak, forward/"):
        chosen(["flow2"], tasks)
    assert all(quick(task).rounds == 0 and quick(task).target == Target() for task in tasks)
    assert len({task.name for task in tasks}) == len(tasks)


def test_flops_of_fused_attention_match_the_formula() -> None:
    q, k, v = (torch.randn(2, 3, rows, 8, requires_grad=True) for rows in (5, 7, 7))

    def fused() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def plain() -> torch.Tensor:
        return (q @ k.mT).softmax(-1) @ v

    assert flops(fused) == flops(plain) == 2 * 2 * 3 * 5 * 7 * 16
    recomputed = 2 * 2 * 3 * 5 * 7 * 8  # the fused kernel recomputes scores in the backward pass
    assert flops(lambda: fused().sum().backward()) == flops(lambda: plain().sum().backward()) + recomputed
    assert len(FUSED) == 2


def test_flops_of_a_model_without_gradients() -> None:
    encoder = kit.Encoder(6, num_latents=4, latent_dim=8, layers=0, cross_qk_channels=8, cross_heads=2)
    rows = torch.randn(2, 10, 6)
    with counting(encoder):
        found = flops(lambda: encoder(rows))
    attention = 4 * 8 * 8 + 2 * 10 * 6 * 16 + 2 * 4 * 10 * 16 + 2 * 4 * 8 * 8
    assert found == 2 * (attention + 2 * 2 * 4 * 8 * 8)


def test_the_bench_of_a_gpu_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--quick", "peak", "generation"])
    gpu.main()
    shown = capsys.readouterr().out
    assert "| context 64 | **" in shown
    assert "Products of 8192 × 8192 matrices reach" in shown


def test_shares_of_a_gpus_peak_are_of_replayed_time() -> None:
    """2e12 FLOPs in 10 ms of work are 20 % of 1e15 a second, however long Python takes."""
    side = {"flops": 2e12, "milliseconds": 100.0, "replayed": 10.0}
    assert gpu_page.share(side, 1e15) == "20%"
    assert gpu_page.share({"milliseconds": 100.0}, 1e15) == "–"
