"""Progress lines with the time left."""

import time


class Progress:
    """A line now and then: step, loss, images/s and the time left, without compilation."""

    def __init__(self, total_steps, batch_size, say=print, seconds_between=5.0):
        self._say, self._total, self._batch, self._between = (
            say,
            total_steps,
            batch_size,
            seconds_between,
        )
        self._printed = self._steps = self._seconds = 0.0
        self._since = None

    def start(self):
        """The clock runs from here: called when a first step, and so its compilation, is done."""
        self._since = time.perf_counter()

    def pause(self):
        """The clock stands still, for an evaluation or a save."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    @property
    def images_per_second(self):
        """Images a second while the clock ran, or None before a step was timed."""
        seconds = self._seconds
        if self._since is not None:
            seconds += time.perf_counter() - self._since
        return self._steps * self._batch / seconds if self._steps and seconds else None

    def step(self, step, loss):
        """Counts a finished step (1-based) and prints when it is time."""
        if self._since is None:
            self.start()
        else:
            self._steps += 1
        now, speed = time.perf_counter(), self.images_per_second
        if speed and (now - self._printed >= self._between or step == self._total):
            self._printed = now
            left = (self._total - step) * self._batch / speed
            self._say(
                f"step {step}/{self._total}  loss {loss:.4f}  {speed:,.0f} images/s  "
                f"ETA {duration(left)}"
            )


def duration(seconds):
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class ItemProgress:
    """A line every five seconds: how much is done, and the time left at the pace so far."""

    def __init__(self, total, what, say):
        self._total, self._what, self._say = total, what, say
        self._start = self._told = time.perf_counter()

    def at(self, done):
        now = time.perf_counter()
        if now - self._told >= 5:
            self._told = now
            left = (now - self._start) / done * (self._total - done)
            self._say(f"{done}/{self._total} {self._what}  ETA {duration(left)}")
