"""Storage that fails while a run goes on: how often that is said, and how often it is tried."""

import time
import warnings
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_COMPLAINTS = 60
# Pauses before further attempts to write what a run ends with.
PAUSES = (1, 2, 4)


class Complaints:
    """Warns at once and then at most once a minute.

    Attributes:
        last: The text of the last complaint, said or not.
    """

    def __init__(self) -> None:
        self.last = ""
        self._said: float | None = None

    def warn(self, text: str) -> None:
        """Warn of what may be repeated soon."""
        self.last = text
        now = time.monotonic()
        if self._said is None or now - self._said >= SECONDS_BETWEEN_COMPLAINTS:
            self._said = now
            self.say(text)

    def say(self, text: str) -> None:
        """Warn now."""
        self.last = text
        warnings.warn(text, stacklevel=3)


def attempts() -> Iterator[None]:
    """Yield once, and again after each of PAUSES, for a loop that ends when it succeeds."""
    yield
    for pause in PAUSES:
        time.sleep(pause)
        yield


def persist(write: Callable[[], object]) -> OSError | None:
    """Call `write()` until the storage takes it; return the last error if it never does.

    Raises:
        FileNotFoundError: At once, if its folder was removed.
    """
    error = None
    for _ in attempts():
        try:
            write()
            return None
        except FileNotFoundError:
            raise
        except OSError as raised:
            error = raised
    return error
