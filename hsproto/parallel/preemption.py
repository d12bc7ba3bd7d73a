"""When a run is told to stop: by SIGTERM or SIGINT, in one process or in several."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from hsproto.parallel import signals

# How long the main thread may take to stop by itself where nothing would be lost without it.
GRACE_SECONDS = 10


class Stopped(Exception):
    """The run was told to stop, within what can be repeated: an evaluation."""


class Preemption:
    """Whether a run must save and exit: after SIGTERM or SIGINT.

    A second SIGINT kills. With several processes only SIGTERM counts: the process that gets it
    notifies the others, and all stop at the same point (JAX's preemption service, which handles the
    signal).

    At first there is nothing to lose, and the process ends within GRACE_SECONDS even if its main
    thread does not look: it may be compiling. That is over with the first finished step (`begin`),
    and returns where the state is saved (`nothing_to_lose`).
    """

    def __enter__(self):
        self._requested = self._reached = False
        self._points = 0
        self._finish: Callable[[], None] | None = lambda: None
        self._many = jax.process_count() > 1
        numbers = () if self._many else (signal.SIGTERM, signal.SIGINT)
        self._context = signals.noticed(numbers, self._request)
        self._context.__enter__()
        return self

    def __exit__(self, *exception):
        self._finish = None
        self._context.__exit__(*exception)

    def reached(self) -> bool:
        """Return whether to save and end at this point.

        Of several processes, all must pass the same points: each step, each batch of an evaluation.
        """
        if not self._many:
            return self._requested
        self._points += 1
        # True at one point only.
        if multihost_utils.reached_preemption_sync_point(self._points):
            self._reached = True
        return self._reached

    def check(self) -> None:
        """Raise Stopped at a point where the run is to stop."""
        if self.reached():
            raise Stopped

    def begin(self) -> None:
        """From here on there is something to lose: the run stops by itself alone."""
        self._finish = None

    @contextlib.contextmanager
    def nothing_to_lose(self, finish: Callable[[], None]) -> Iterator[None]:
        """Within the context the process may end once `finish()`, called in a thread, returns."""
        self._finish = finish
        try:
            yield
        finally:
            self._finish = None

    def _request(self, number):
        if number == signal.SIGINT and self._requested:
            os.write(2, b"killed\n")
            os._exit(128 + signal.SIGINT)
        if not self._requested:
            os.write(2, b"stopping after this step\n")
            threading.Thread(target=self._leave, daemon=True).start()
        self._requested = True

    def _leave(self):
        """End the process if for a while its main thread does not, and nothing is lost."""
        since = None
        while True:
            finish = self._finish
            if finish is None:
                since = None
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since >= GRACE_SECONDS:
                finish()
                signals.leave("stopped; the same command resumes")
            time.sleep(0.1)
