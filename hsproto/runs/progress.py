"""Progress lines with the time left."""

import time
from collections.abc import Callable


class Progress:
    """Now and then a line with step, loss, images/s and the time left, compilation excluded."""

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        log: Callable[[str], None] = print,
        seconds_between: float = 5.0,
    ):
        self._log, self._total, self._batch = log, total_steps, batch_size
        self._between = seconds_between
        self._printed = self._steps = self._seconds = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Start the clock: after a first step, and so its compilation, or after a pause."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock, for an evaluation or a save."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    @property
    def images_per_second(self) -> float | None:
        """Images per second while the clock ran, or None before a step was timed."""
        seconds = self._seconds
        if self._since is not None:
            seconds += time.perf_counter() - self._since
        return self._steps * self._batch / seconds if self._steps and seconds else None

    def step(self, step: int, loss: float) -> None:
        """Count a finished step (1-based), and print a line when it is time."""
        if self._since is None:
            self.start()
        else:
            self._steps += 1
        now, speed = time.perf_counter(), self.images_per_second
        if speed and (now - self._printed >= self._between or step == self._total):
            self._printed = now
            left = (self._total - step) * self._batch / speed
            self._log(
                f"step {step}/{self._total}  loss {loss:.4f}  {speed:,.0f} images/s  "
                f"ETA {duration(left)}"
            )


class ItemProgress:
    """Now and then a line with how many items are done, and the time left at the pace so far.

    With `seconds_between` 0 there is a line for every item. `start` items were done before.
    """

    def __init__(
        self,
        total: int,
        log: Callable[[str], None],
        items: str = "",
        seconds_between: float = 5.0,
        start: int = 0,
    ):
        self._total, self._log, self._between = total, log, seconds_between
        self._before = start
        self._items = f" {items}" if items else ""
        self._start = self._printed = time.perf_counter()

    def update(self, done: int, text: str = "") -> None:
        """Print, when it is time, a line that begins with `text`."""
        now = time.perf_counter()
        if now - self._printed >= self._between:
            self._printed = now
            left = (now - self._start) / (done - self._before) * (self._total - done)
            prefix = f"{text}  " if text else ""
            self._log(f"{prefix}{done}/{self._total}{self._items}  ETA {duration(left)}")


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
