"""Rounds of processes that want one folder at the same moment; run as a script, without jax.

Prints per round what each of them said. In half of the rounds the owner before them was killed.
"""

import json
import multiprocessing
import os
import signal
import sys

from hsproto.errors import UserError
from hsproto.runs import owner

_context = multiprocessing.get_context("fork")


def want(folder, start, end, answers):
    said = []
    start.wait()
    try:
        with owner.owned(folder, log=said.append):
            answers.put((os.getpid(), "mine", said))
            end.wait()
    except UserError as error:
        answers.put((os.getpid(), str(error), said))
        end.wait()


def race(folder, size, kill):
    start, end = _context.Barrier(size), _context.Barrier(size + 1)
    answers = _context.SimpleQueue()
    children = [
        _context.Process(target=want, args=(folder, start, end, answers)) for _ in range(size)
    ]
    for child in children:
        child.start()
    told = [answers.get() for _ in children]
    if kill:
        for child in children:
            os.kill(child.pid, signal.SIGKILL)  # not reaped yet
    else:
        end.wait()
        for child in children:
            child.join()
    return told, children


def main(folder, rounds, size):
    assert "numpy" not in sys.modules and "jax" not in sys.modules
    found, zombies = [], []
    for number in range(rounds):
        kill = number % 2 == 0
        told, children = race(folder, size, kill)
        zombies += children if kill else []
        found.append({"told": told, "left": sorted(os.listdir(folder))})
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
