"""Runs the training of each line of standard input (JSON) in a process that may be killed; prints its exit code.

It imports once and forks for each line, since imports take longer than these trainings; with ``devices`` it forks
several processes with the environment that torchrun gives them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from importlib import import_module

import torch
import toys

torch.set_num_threads(1)
# Drawing takes longer than training here.
import_module("perceiver_kit.training.fit").curves = lambda _, picture: picture.touch()


def forked(config: dict) -> int:
    """The exit code: 0, minus the signal, or that of the first of several processes to fail.

    The processes are killed after ``kill_after`` seconds, or as under torchrun when one of them fails.
    """
    after = config.pop("kill_after", None)
    port = free_port()
    children = {start(config, rank, port) for rank in range(config.get("devices", 1))}
    if after is not None:
        time.sleep(after)
        kill(children)
    code = 0
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and not code:
            code = os.waitstatus_to_exitcode(status)
            kill(children)
    return code


def start(config: dict, rank: int, port: int) -> int:
    """Fork a process that trains, with the environment of torchrun if it is one of several; returns its id."""
    child = os.fork()
    if child:
        return child
    if (size := config.get("devices", 1)) > 1:
        ranks = dict(RANK=rank, LOCAL_RANK=rank, GROUP_RANK=0, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
        address = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="none")
        os.environ.update({name: str(value) for name, value in (ranks | address).items()})
    try:
        sys.stdout = sys.stderr
        print(toys.run(config))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill(children: set[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(forked(json.loads(line)), flush=True)
