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
# What the others may take to see how the run ended: process 0 waits, because it has the store.
_PARTING_SECONDS = 15


class Ending(NamedTuple):
    """How the run ends: the status of all its processes, and the line that they print."""

    status: int
    line: str


class Watchdog:
    """Watches the other processes in daemon threads, from `start` to `finish`."""

    def __init__(self, store: Store, index: int, count: int):
        self._store, self._index, self._count = store, index, count
        self._heard: dict[int, str | None] = {}
        self._stopped = threading.Event()
        self._ends = threading.Lock()  # held by the thread that ends this process

    def start(self) -> None:
        """Start watching."""
        for work in (self._exchange, self._judge):
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

    def end_as_told(self) -> None:
        """End this process if another one tells why within a few seconds.

        For one whose connections failed: the other has ended.
        """
        until = time.monotonic() + 2 * LOOK_SECONDS
        while time.monotonic() < until:
            if ending := _attempt(self._told):
                self._end(ending)
            time.sleep(0.2)

    def leave(self, line: str) -> None:
        """End this process with status 1, when the others cannot be reached."""
        self._leave(Ending(1, line))

    def _exchange(self):
        beats = 0
        while not self._stopped.wait(LOOK_SECONDS if beats else 0):
            beats += 1
            _attempt(lambda number=beats: self._hear(number))

    def _hear(self, beats):
        self._store.put(f"beat/{self._index}", str(beats))
        if ending := self._told():
            self._end(ending)
        if self._index == 0:
            self._heard = {int(i): text for i, text in self._store.all("beat").items()}
        else:
            self._heard = {0: self._store.get("beat/0")}

    def _told(self):
        text = self._store.get("ending")
        return Ending(*json.loads(text)) if text else None

    def _judge(self):
        """Process 0 watches all others, and they watch process 0."""
        watched = range(1, self._count) if self._index == 0 else (0,)
        silent, last = dict.fromkeys(watched, 0), {}
        while not self._stopped.wait(LOOK_SECONDS):
            for process in watched:
                beat = self._heard.get(process)
                silent[process] = silent[process] + 1 if beat == last.get(process) else 0
                last[process] = beat
            if lost := {process for process in watched if silent[process] >= SILENT_LOOKS}:
                ending = Ending(1, self._lost_line(min(lost)))
                if self._index == 0:
                    self._end(ending, ending, lost)
                self._leave(ending)  # the store is lost too

    def _lost_line(self, process):
        return (
            f"process {process} of {self._count} is lost, without a sign of life for "
            f"{SILENT_LOOKS * LOOK_SECONDS} s; the same command resumes"
        )

    def _end(self, ending, told=None, lost=frozenset()):
        """Print a line and end, after telling the others `told`, if it is not told yet."""
        self._ends.acquire()
        if told is not None:
            _attempt(lambda: self._store.put_first("ending", json.dumps(told)))
        _print(ending.line)
        if self._index == 0:
            self._wait_for_others(lost)
        else:
            _attempt(lambda: self._store.put(f"seen/{self._index}", "yes"))
        os._exit(ending.status)

    def _leave(self, ending):
        """Print a line and end without the store."""
        self._ends.acquire()
        _print(ending.line)
        if self._index == 0:
            time.sleep(2)  # the others depend on it: time for their lines
        os._exit(ending.status)

    def _wait_for_others(self, lost):
        expected = {str(i) for i in range(1, self._count) if i not in lost}
        until = time.monotonic() + _PARTING_SECONDS
        while time.monotonic() < until:
            seen = _attempt(lambda: self._store.all("seen")) or {}
            if expected <= seen.keys():
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
