"""Fork children that save states of a model repeatedly, and may kill them; each line of stdin is a command in JSON.

It imports once and forks for each command, since imports take longer than these saves. A child may drop root
privileges: for root no folder is read-only.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from states import state

import perceiver_kit as kit

torch.set_num_threads(1)
NOBODY = 65534


def child(command: dict[str, Any], number: int, pipe: int) -> None:
    """Save ``command["saves"]`` times, random states, loading in between; report through the pipe."""
    rng, directory, saves, errors = random.Random(f"{command['seed']} {number}"), Path(command["directory"]), 0, []
    if command.get("nobody"):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    while saves < command["saves"]:
        try:
            kit.save(state(rng.randrange(command["states"])), directory)
            if command.get("loads"):
                kit.load(directory)
        except kit.PerceiverKitError as error:
            errors.append(f"{type(error).__name__}: {error}")
        saves += 1
    os.write(pipe, json.dumps({"saves": saves, "errors": errors[:5]}).encode())


def run(command: dict[str, Any]) -> list[dict[str, Any]]:
    children = []
    for number in range(command.get("children", 1)):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(command, number, write)
            except BaseException as error:
                os.write(write, json.dumps({"saves": 0, "errors": [f"not an error of the kit: {error!r}"]}).encode())
                os._exit(1)
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    if "kill_after" in command:
        time.sleep(command["kill_after"])
        for pid, _ in children[: command.get("killed", len(children))]:
            os.kill(pid, signal.SIGKILL)
    answers = []
    for pid, read in children:
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read()
        answer = json.loads(text) if text else {"saves": 0, "errors": []}
        answers.append(answer | {"ended": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
    return answers


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:  # triggers late imports, which the unprivileged child may not read
        for number in range(4):
            kit.load(kit.save(state(number), folder))
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
