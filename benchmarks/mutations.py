"""`make mutations`: put a mistake into the package, see a test fail, take it out again; for each mistake of a list.

The list is benchmarks/mutants/*.txt. Each mistake is one that a good engineer makes: a scale without its root, a mask
in one branch only, a tie that is lost. It is caught where the tests named for its file fail, one exit code of pytest;
where they cannot even be collected, it is broken and proves nothing. Results stay in results/mutations/, so that a run
that was interrupted goes on; survivors are always tried again. docs/mutations.md says what came of all that were tried.

    python benchmarks/mutations.py [--jobs N] [--again] [WORD…]    only mistakes whose file or words hold every WORD
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "benchmarks" / "mutants"
RESULTS = ROOT / "results" / "mutations"
ROWS, PAGE = ROOT / "docs" / "mutations.json", ROOT / "docs" / "mutations.md"
OUTCOMES = {0: "survived", 1: "caught"}  # by pytest's exit code; any other: broken
# One thread. Hypothesis is to find an example that fails, not the smallest.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "first", "COLUMNS": "400"}
OPTIONS = ("-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
# A clip of published size takes a minute, and holds nothing here that a small one does not.
OPTIONS += (
    "--deselect",
    "tests/test_recipes.py::test_a_whole_published_clip_is_encoded_and_decoded_in_three_gibibytes",
)
SLOW_TO_IMPORT = (
    "matplotlib.pyplot",
    "pytorch_lightning.loggers",
    "torchmetrics.image",
    "transformers.models.perceiver.modeling_perceiver",
    "hypothesis.strategies",
    "beartype",
    "safetensors.torch",
    "PIL.Image",
    "torch._dynamo",
)


class Mutant(NamedTuple):
    """A mistake: in a file of the package, some text stands instead of another, which is there exactly once."""

    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]
    closed: str  # of one that survived at first: what caught it afterwards

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def mutants(folder: Path = LISTS) -> list[Mutant]:
    """The whole list, in the order of the package's own files in it."""
    return [mutant for path in sorted(folder.glob("*.txt")) for mutant in parsed(path.read_text(encoding="utf-8"))]


def parsed(text: str) -> list[Mutant]:
    """Blocks of lines, with blank ones between: `= file: tests`, and what holds for it until the next.

    A mistake is a sentence, then `- ` before each line of the old text and `+ ` before each of the new; `@ tests` where
    its own are others, `! words` on what closed it where it survived at first. A block that begins with `#` is none.
    """
    found, file, usual = [], "", ""
    for block in re.split(r"\n{2,}", text.strip()):
        lines = block.splitlines()
        if lines[0].startswith("#"):
            continue
        if lines[0].startswith("="):
            file, _, usual = lines[0].removeprefix("= ").partition(": ")
            continue
        signs = {sign: [line[2:] for line in lines if line.startswith(sign)] for sign in "-+@!"}
        what = " ".join(line for line in lines if line[0] not in signs)
        old, new, closed = "\n".join(signs["-"]), "\n".join(signs["+"]), " ".join(signs["!"])
        found.append(Mutant(file, what, old, new, tuple((signs["@"] or [usual])[0].split()), closed))
    return found


def mutated(mutant: Mutant) -> str:
    """The file with the mistake in it; SystemExit where the old text is not there exactly once."""
    source = (ROOT / "perceiver_kit" / mutant.file).read_text(encoding="utf-8")
    if (count := source.count(mutant.old)) != 1 or not mutant.old:
        raise SystemExit(f"{mutant}: its text stands there {count} times, not once:\n{mutant.old}")
    return source.replace(mutant.old, mutant.new)


# ---- running


class Lane:
    """A copy of the tree that holds one mistake at a time, and a process that runs its tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.clock = int(time.time())
        self.server = subprocess.Popen(
            [sys.executable, folder / "benchmarks" / "mutations.py", "--serve"],
            cwd=folder,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def write(self, file: str, source: str) -> None:
        """A file, each time of another age: compiled modules are told apart by size and second."""
        path = self.folder / "perceiver_kit" / file
        path.write_text(source, encoding="utf-8")
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def tests(self, tests: Iterable[str], limit: float) -> dict[str, Any]:
        """What pytest makes of the tests: the outcome, which test failed first, how, and after how long."""
        log, start = self.folder.with_suffix(".log"), time.monotonic()
        asked, answers = self.server.stdin, self.server.stdout
        assert asked is not None and answers is not None
        asked.write(json.dumps([str(log), [*OPTIONS, *tests]]) + "\n")
        process = int(answers.readline())
        ended, waited = False, 0
        try:
            while (
                not ended and waited < limit
            ):  # second by second: time in which this process is stopped does not count
                ended = bool(select.select([answers], [], [], 1.0)[0])
                waited += 1
        finally:
            if not ended:  # or this run is stopped: what the tests have started ends with them
                os.killpg(process, signal.SIGKILL)
        code, output = int(answers.readline()), log.read_text(encoding="utf-8", errors="replace")
        by, how = first_failure(output)
        return {
            "outcome": OUTCOMES.get(code, "broken") if ended else "hung",
            "by": by,
            "how": how,
            "seconds": round(time.monotonic() - start, 1),
        }


def first_failure(output: str) -> tuple[str, str]:
    """Which test failed first, and how, by pytest's summary; else no name and the end of what it wrote."""
    # What is in brackets, a case of the test, may be any text.
    first = re.search(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?: - (.*))?$", output, re.MULTILINE)
    return (first[1], first[2] or "") if first else ("", output[-500:])


def serve() -> None:
    """Run tests as standard input asks, each time in a copy of this process, which has imported what is slow."""
    folder = os.getcwd()
    sys.path[0] = folder
    for name in SLOW_TO_IMPORT:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    import pytest

    assert "perceiver_kit" not in sys.modules, "it is imported anew each time, with the mistake in it"
    for line in sys.stdin:
        log, arguments = json.loads(line)
        process = os.fork()
        if not process:
            os.setsid()
            into = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(into, 1)
            os.dup2(into, 2)
            code = int(pytest.main(arguments))
            if not str(getattr(sys.modules.get("perceiver_kit"), "__file__", folder)).startswith(folder):
                code = 99  # another copy of the package was tested
            sys.stdout.flush()
            os._exit(code)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def kept(mutant: Mutant) -> Path:
    """Where its result stays, for as long as neither it nor its file changes."""
    source = (ROOT / "perceiver_kit" / mutant.file).read_text(encoding="utf-8")
    return RESULTS / f"{digest(mutant.file, mutant.old, mutant.new, source)}.json"


def result(mutant: Mutant) -> dict[str, Any] | None:
    return json.loads(kept(mutant).read_text()) if kept(mutant).exists() else None


def undisturbed(lane: Lane, tests: tuple[str, ...]) -> float:
    """How long the tests take where nothing is wrong; SystemExit where they fail then."""
    files = sorted(path for part in ("perceiver_kit", "tests") for path in (ROOT / part).rglob("*.py"))
    path = RESULTS / f"right-{digest(*tests, *(file.read_text(encoding='utf-8') for file in files))}.json"
    if not path.exists():
        row = lane.tests(tests, 1800)
        if row["outcome"] != "survived":
            raise SystemExit(f"{' '.join(tests)} fail without any mistake: {row}")
        path.write_text(json.dumps(row))
    return json.loads(path.read_text())["seconds"]


def attempt(lane: Lane, mutant: Mutant) -> dict[str, Any]:
    """Its row of the table."""
    limit = 60 + 4 * undisturbed(lane, mutant.tests)
    right = (ROOT / "perceiver_kit" / mutant.file).read_text(encoding="utf-8")
    lane.write(mutant.file, mutated(mutant))
    try:
        return lane.tests(mutant.tests, limit)
    finally:
        lane.write(mutant.file, right)


def run(chosen: list[Mutant], jobs: int) -> None:
    """Try them all, and keep each result."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        lanes: queue.Queue[Lane] = queue.Queue()
        for number in range(jobs):
            lanes.put(Lane(Path(folder) / str(number)))

        def one(mutant: Mutant) -> tuple[Mutant, dict[str, Any]]:
            lane = lanes.get()
            try:
                row = attempt(lane, mutant)
            finally:
                lanes.put(lane)
            kept(mutant).write_text(json.dumps(row))
            return mutant, row

        for number, (mutant, row) in enumerate(pool.map(one, chosen), 1):
            said = f"{row['by']} {row['how']}"[:160]
            print(f"{number}/{len(chosen)} {row['outcome']:<8} {row['seconds']:5.0f} s  {mutant}  | {said}", flush=True)


# ---- the page


def rows(found: list[tuple[Mutant, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What docs/mutations.json keeps of each."""
    return [
        {"file": m.file, "what": m.what, "old": m.old, "new": m.new, "closed": m.closed}
        | {key: row[key] for key in ("outcome", "by")}
        for m, row in found
    ]


def page(rows: list[dict[str, Any]], listed: int) -> str:
    """docs/mutations.md: how many of each file, which they are, and what the first run taught."""
    files = [*dict.fromkeys(row["file"] for row in rows)]
    count = {file: [row for row in rows if row["file"] == file] for file in files}
    caught = [row for row in rows if row["outcome"] in ("caught", "hung")]
    first = [row for row in rows if row["closed"] and row in caught]
    alive = [row for row in rows if row not in caught]
    table = [
        f"| `{file}` | {len(count[file])} | {sum(row in caught for row in count[file])} |" for file in sorted(files)
    ]
    lines = [
        "# Mutations",
        "",
        "Do the tests notice a mistake? Into each file of the package go mistakes that a good engineer makes, one at",
        "a time, and the tests that are named for the file run. A mistake is caught where one of them fails; where",
        "they could not even be collected, it would count as not caught.",
        "",
        f"**{len(caught)} of {len(rows)} are caught**; {len(rows)} of the list's {listed} have been tried. "
        f"{len(first)} survived the first run; what closed them stands below.",
        "",
        "| file | mistakes | caught |",
        "|---|---|---|",
        *table,
        f"| **all** | **{len(rows)}** | **{len(caught)}** |",
        "",
        "`make mutations` tries them all again (about an hour on one thread; `make mutations ONLY=attention` some).",
        "The list is `benchmarks/mutants/`.",
        "",
        "## Survivors of the first run",
        "",
        "Each has a test that fails now.",
        "",
        *[f"- `{row['file']}`: {row['what']} {row['closed']} {caught_by(row)}" for row in first],
        "",
        *(["## Open", "", "No test that ran notices these yet.", ""] if alive else []),
        *[f"- `{row['file']}`: {row['what']}" for row in alive],
        *([""] if alive else []),
        "## All mistakes",
        "",
    ]
    for file in sorted(files):
        lines += [f'<details markdown="1"><summary><code>{file}</code></summary>', ""]
        for row in count[file]:
            lines.append(f"- {row['what']} {caught_by(row)}")
        lines += ["", "</details>", ""]
    return "\n".join(lines)


def caught_by(row: dict[str, Any]) -> str:
    """The test that failed first, in words."""
    test = row["by"].partition("[")[0].rpartition("::")[2].removeprefix("test_").replace("_", " ")
    return {"caught": f"*{test}*" if test else "", "hung": "*its tests do not end*"}.get(
        row["outcome"], f"**{row['outcome']}**"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mistakes whose file or sentence holds each of these")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--again", action="store_true", help="also those whose result is known")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: the same command goes on from here"))
    every = mutants()
    for mutant in every:
        mutated(mutant)
    chosen = [mutant for mutant in every if all(word.lower() in str(mutant).lower() for word in arguments.words)]
    known = {mutant: row for mutant in every if (row := result(mutant)) is not None}
    done = {mutant for mutant, row in known.items() if row["outcome"] in ("caught", "hung")}
    todo = [mutant for mutant in chosen if arguments.again or mutant not in done]
    run(sorted(todo, key=lambda mutant: mutant in known), arguments.jobs)  # survivors last
    found = [(mutant, row) for mutant in every if (row := result(mutant)) is not None]
    for outcome in ("survived", "broken"):
        for mutant, row in found:
            if row["outcome"] == outcome:
                print(f"{outcome}: {mutant}")
    print(f"{len(found)} of {len(every)} tried, {sum(row['outcome'] in ('caught', 'hung') for _, row in found)} caught")
    ROWS.write_text(json.dumps(rows(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows(found), len(every)), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
