"""SIGTERM and SIGINT, noticed at once even while the main thread compiles for minutes.

Python runs signal handlers between two instructions of the main thread, so a handler would wait for
XLA. Its wake-up file is written when the signal arrives, and a thread reads it.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def noticed(numbers: Sequence[int], notice: Callable[[int], Any]) -> Iterator[None]:
    """Call `notice(number)` in a thread when one of the signals arrives, within the context.

    They do nothing else meanwhile. Outside the main thread, where Python allows no handlers, and
    without signals, the context does nothing.
    """
    if threading.current_thread() is not threading.main_thread() or not numbers:
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    previous_file = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _nothing) for number in numbers}
    thread = threading.Thread(target=_read, args=(reading, notice), daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_file)
        writing.close()
        if threading.current_thread() is not thread:
            thread.join(timeout=1)


def exit_if_terminated() -> contextlib.AbstractContextManager[None]:
    """Return a context in which SIGTERM ends the process at once, with a line and status 0.

    For a command that can be repeated, while it has nothing to save.
    """
    return noticed([signal.SIGTERM], lambda _: leave("stopped; the same command starts or resumes"))


def leave(line: str) -> None:
    """End the process with a line and status 0, whatever its main thread does."""
    os.write(2, f"{line}\n".encode())
    os._exit(0)


def _nothing(*_):
    """A handler: the thread that reads the wake-up file does the work."""


def _read(reading, notice):
    with reading:
        while received := reading.recv(1):
            notice(received[0])
