"""Runs code in processes without shape checks, forked from one that has imported large packages already.

Importing them takes longer than most of the code that tests run. The kit itself is not imported before the fork.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import IO, Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "torch", "einops", "jaxtyping", "safetensors.torch", "huggingface_hub", "matplotlib.pyplot")
OPTIONAL = ("hypothesis", "pytorch_lightning", "torchmetrics", "torch.utils.tensorboard")


def run(
    code: str, *argv: str, cwd: Path = ROOT, path: Sequence[Path] = (), warn: str = "default", server: int = 0
) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of code; ``path`` is searched for modules first.

    Threads that run code at the same time need a ``server`` each.
    """
    process = _server(server)
    assert process.stdin and process.stdout
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("out", "err")]
        request = dict(code=dedent(code), argv=argv, cwd=str(cwd), path=[*map(str, path)], warn=warn, files=files)
        print(json.dumps(request), file=process.stdin, flush=True)
        status = int(process.stdout.readline())
        out, err = (Path(file).read_text(encoding="utf-8") for file in files)
    return status, out, err


@functools.cache
def _server(number: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    atexit.register(server.communicate)  # closes its standard input and waits
    return server


def _serve(requests: IO[str]) -> None:
    for package in (*PACKAGES, *OPTIONAL):
        with contextlib.suppress(ImportError) if package in OPTIONAL else contextlib.nullcontext():
            importlib.import_module(package)
    for line in requests:
        child = os.fork()
        if child == 0:
            _execute(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _execute(code: str, argv: list[str], cwd: str, path: list[str], warn: Any, files: list[str]) -> None:
    """Like ``python -W warn -c code argv`` in a folder, with output to files; never returns."""
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    sys.path[0:1] = ["", *path]
    sys.argv = ["-c", *argv]
    warnings.resetwarnings()
    warnings.simplefilter(warn)
    status = 0
    try:
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(module))
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.stdin)
