"""Ends the processes of a run together: when one is lost, or ends with an error.

Every process tells in the store that it lives, and looks whether the others do. A process that is
lost cannot say so, and where its connections stay open the main thread of another waits for it for
ever: two threads watch, one that asks the store, and one that counts how often it heard nothing.
JAX's own service does the same, but ends a process with a stack trace.
"""

import json
import os
import sys
import threading
import time
from typing import NamedTuple

from hsproto.parallel.store import Store

LOOK_SECONDS = 2
# Looks without a sign of life after which a process is lost. Looks are counted, and no time, so
# that a pause of all processes is no loss of any.
SILENT_LOOKS = 20
_FEW_LOOKS = 3  # that are enough where a connection to one has failed
# What the others may take to see how the run ended: process 0 waits, because it has the store.
_PARTING_SECONDS = 15
# What it leaves them to exit after they have said that they saw it: JAX aborts a process that still
# lives when its service ends.
_EXIT_SECONDS = 2


class Ending(NamedTuple):
    """How the run ends: the status of all its processes, and the line that they print."""

    status: int
    line: str


class Watchdog:
    """Watches the other processes in daemon threads, from `start` to `finish`."""

    def __init__(self, store: Store, index: int, count: int):
        self._store, self._index, self._count = store, index, count
        # Process 0 watches all others, and they watch process 0: looks without a sign of life.
        watched = range(1, count) if index == 0 else (0,)
        self._silent = dict.fromkeys(watched, 0)
        self._last: dict[int, str | None] = dict.fromkeys(watched)
        self._first: str | None = None  # what process 0 told last
        self._stopped = threading.Event()
        self._ends = threading.Lock()  # held by the thread that ends this process

    def start(self) -> None:
        """Start watching."""
        for work in (self._exchange,) if self._index == 0 else (self._exchange, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def finish(self) -> None:
        """Wait until all processes are done, so that an error in one is still that of all."""
        if self._index == 0:
            for i in range(1, self._count):
                self._store.wait(f"done/{i}")
            self._store.put("done/all", "yes")
        else:
            self._store.put(f"done/{self._index}", "yes")
        self._store.wait("done/all")
        self._stopped.set()

    def end(self, status: int, text: str) -> None:
        """End all processes because of an error in this one."""
        told = f"process {self._index} of {self._count}: {text}"
        self._end(Ending(status, text), Ending(status, told))

    def end_if_lost(self, reason: str) -> None:
        """End this process, which failed, if that was because another one has ended or is lost.

        It takes a few looks to tell.
        """
        until = time.monotonic() + (_FEW_LOOKS + 2) * LOOK_SECONDS
        while time.monotonic() < until:
            if ending := _attempt(self._told):
                self._end(ending)
            time.sleep(0.2)
        self._end_without(self._silent_for(_FEW_LOOKS), reason)

    def _exchange(self):
        """Tell that this process lives, and process 0 also how long which others were silent."""
        looks = 0
        while not self._stopped.wait(LOOK_SECONDS if looks else 0):
            looks += 1
            _attempt(lambda number=looks: self._hear(number))
            if self._index == 0:
                self._judge()

    def _hear(self, looks):
        if ending := _attempt(self._told):
            self._end(ending)
        if self._index == 0:
            beats = self._store.all("beat")
            for i in range(1, self._count):
                self._count_look(i, beats.get(str(i)))
            told = {i: silent for i, silent in self._silent.items() if silent}
            self._store.put("beat/0", json.dumps([looks, told]))
        else:
            self._store.put(f"beat/{self._index}", str(looks))
            self._first = self._store.get("beat/0")

    def _listen(self):
        """Count the looks at which process 0 was silent: asking it may take for ever."""
        while not self._stopped.wait(LOOK_SECONDS):
            self._count_look(0, self._first)
            self._judge()

    def _count_look(self, process, beat):
        self._silent[process] = self._silent[process] + 1 if beat == self._last[process] else 0
        self._last[process] = beat

    def _silent_for(self, looks):
        silent = dict(self._silent)
        if self._index and self._first:
            silent |= {int(i): number for i, number in json.loads(self._first)[1].items()}
        return {i for i, number in silent.items() if number >= looks and i != self._index}

    def _judge(self):
        lost = self._silent_for(SILENT_LOOKS)
        self._end_without(lost, f"no sign of life for {SILENT_LOOKS * LOOK_SECONDS:g} s")

    def _told(self):
        text = self._store.get("ending")
        return Ending(*json.loads(text)) if text else None

    def _end_without(self, lost, reason):
        """End the run because processes are lost, if any."""
        if not lost:
            return
        ending = Ending(
            1,
            f"process {min(lost)} of {self._count} is lost ({reason}); the same command resumes",
        )
        if 0 not in lost:
            self._end(ending, ending, lost)
        self._ends.acquire()
        _print(ending.line)  # the store is lost too
        os._exit(ending.status)

    def _end(self, ending, told=None, lost=frozenset()):
        """Print a line and end, after telling the others `told`, if it is not told yet."""
        self._ends.acquire()
        if told is not None:
            _attempt(lambda: self._store.put_first("ending", json.dumps(told)))
        _print(ending.line)
        if self._index == 0:
            self._wait_for_others(lost | self._silent_for(_FEW_LOOKS))
        else:
            _attempt(lambda: self._store.put(f"seen/{self._index}", "yes"))
        os._exit(ending.status)

    def _wait_for_others(self, lost):
        expected = {str(i) for i in range(1, self._count) if i not in lost}
        until = time.monotonic() + _PARTING_SECONDS
        while time.monotonic() < until:
            seen = _attempt(lambda: self._store.all("seen")) or {}
            if expected <= seen.keys():
                time.sleep(_EXIT_SECONDS)
                return
            time.sleep(0.2)


def _attempt(ask):
    """Ask the store; None if it cannot be reached, which is silence."""
    try:
        return ask()
    except Exception:  # JAX's runtime raises several kinds
        return None


def _print(line):
    sys.stdout.flush()
    print(f"hsproto: {line}", file=sys.stderr, flush=True)
