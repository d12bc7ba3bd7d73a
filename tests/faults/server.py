"""Forks commands from a process that has imported everything, with faults preloaded.

Reads requests from standard input, a JSON list per line: arguments of `hsproto`, environment, path
of the log, seconds. Answers each with the exit status on a line; null where it hung and was killed.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time


def main():
    importlib.import_module("matplotlib.pyplot")  # so that no child has to
    cli, figures, storage = (
        importlib.import_module(f"hsproto.{name}")
        for name in ("cli", "reporting.figures.runs", "runs.storage")
    )
    importlib.import_module("hsproto.train")
    # What is drawn and how long is waited are not at stake here.
    figures.cosine_figure = figures.training_figure = lambda _: plain_figure()
    storage.PAUSES = (0.1, 0.1, 0.1)
    print("ready", flush=True)
    for line in sys.stdin:
        arguments, environment, log, seconds = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(environment, log)
            cli.main(arguments)
        print(json.dumps(_wait(child, seconds)), flush=True)


def plain_figure():
    return importlib.import_module("matplotlib.pyplot").figure(figsize=(1, 1))


def _become(environment, log):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    os.environ |= environment
    ctypes.CDLL(None).faulty_begin()


def _wait(child, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    main()
