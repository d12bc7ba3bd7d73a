"""Worker processes that load batches, in order, into memory that they share with the run.

Grain's processes are not used: it starts them in threads and cannot be closed meanwhile, and leaves
shared memory behind whenever a run ends early. Here one thread starts and ends everything, and all
shared memory is the run's own.
"""

import atexit
import collections
import itertools
import math
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from hsproto.errors import UserError

_AHEAD = 2  # batches per worker that are loaded or wait: more would hide no more latency


class WorkerStream:
    """An iterator over load(step) of each step, in order, computed in `workers` processes.

    Args:
        load: step -> (images uint8 of `shape`, labels); it is sent to the processes once.
        steps: the steps.
        workers: the number of processes; each loads every n-th step.
        shape: of the images of a step.

    Raises:
        UserError: an image cannot be used, or a process has died.
    """

    def __init__(
        self,
        load: Callable[[int], tuple[np.ndarray, np.ndarray]],
        steps: Sequence[int],
        workers: int,
        shape: tuple[int, ...],
    ):
        workers = min(workers, len(steps))
        self._images_shape, self._places = shape, _AHEAD * workers
        size = max(1, math.prod(shape))
        _check_room(size * self._places, workers)
        self._memory = shared_memory.SharedMemory(create=True, size=size * self._places)
        self._workers: list[Any] = []
        # multiprocessing would wait for processes that wait for this one.
        atexit.register(self.close)
        context = multiprocessing.get_context("spawn")
        # A scheduler or Ctrl-C signals every process of a run; the main one still needs batches
        # until it has reached the end of its step, and ends the workers then. A process inherits
        # what is blocked here from its first moment on.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(load, self._memory.name, shape, theirs), daemon=True
                )
                process.start()
                theirs.close()
                self._workers.append((process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._tasks = zip(steps, itertools.cycle(range(self._places)), strict=False)
        self._waiting = collections.deque()
        for _ in range(self._places):
            self._send_next()

    def __iter__(self):
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._waiting:
            raise StopIteration
        place = self._waiting.popleft()
        process, connection = self._worker(place)
        try:
            labels, error = connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            raise UserError(
                f"a worker process that loads images died (status {process.exitcode}); the machine "
                "may have too little memory for it: use fewer `workers`"
            ) from None
        if error is not None:
            raise error
        images = _place(self._memory, place, self._images_shape).copy()
        self._send_next()
        return images, labels

    def _send_next(self):
        """Hand out the next step, into the place that is free by now."""
        for step, place in itertools.islice(self._tasks, 1):
            self._waiting.append(place)
            try:
                self._worker(place)[1].send((int(step), place))
            except ConnectionError:  # told when its batch is asked for
                pass

    def _worker(self, place):
        return self._workers[place % len(self._workers)]

    def close(self) -> None:
        """End the processes, and free the memory. May be called again."""
        atexit.unregister(self.close)
        workers, self._workers = self._workers, []
        self._waiting.clear()
        for process, connection in workers:
            connection.close()
            process.kill()  # they write to nothing but this memory
        for process, _ in workers:
            process.join()
        if workers:
            self._memory.close()
            self._memory.unlink()


def _place(memory, place, shape):
    return np.ndarray(shape, np.uint8, memory.buf, offset=place * math.prod(shape))


def _check_room(size, workers):
    """Raise UserError if the memory cannot be had: a write beyond it would be a signal's end."""
    folder = "/dev/shm"
    if os.path.isdir(folder) and shutil.disk_usage(folder).free < size:
        raise UserError(
            f"config key workers={workers} needs {size / 2**20:.0f} MB of shared memory, more than "
            f"{folder} has: enlarge it (docker run --shm-size), or use fewer workers or workers=0"
        )


def _work(load, name, shape, connection):
    memory = shared_memory.SharedMemory(name)
    try:  # until the run closes the connection or, if it is killed, the system
        while True:
            step, place = connection.recv()
            labels, error = None, None
            try:
                _place(memory, place, shape)[...], labels = load(step)
            except Exception as raised:
                raised.add_note(f"in a worker process: {traceback.format_exc()}")
                error = raised
            connection.send((labels, error))
    except (EOFError, ConnectionError):
        memory.close()
