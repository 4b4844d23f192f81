"""Runs the training of each line of standard input (JSON) in a process that may be killed; prints its exit code.

It imports once and forks for each line, since imports take longer than these trainings. Under torchrun it reads one
line from a file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings

import torch
import toys

torch.set_num_threads(1)


def forked(config: dict) -> int:
    """The exit code: 0, or minus the signal. The process is killed after ``kill_after`` seconds."""
    after = config.pop("kill_after", None)
    child = os.fork()
    if child == 0:
        try:
            sys.stdout = sys.stderr
            print(toys.run(config))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        with open(sys.argv[1], encoding="utf-8") as file:
            toys.run(json.load(file))
    else:
        for line in sys.stdin:
            print(forked(json.loads(line)), flush=True)
