"""What Orbax and TensorStore print when a write fails: a traceback for each of their threads.

A warning of the run says it in a line (`hsproto.training.checkpoint`).
"""

import logging
import os
import sys


def silence() -> None:
    """Drop it, from now on: some of it appears only when the process ends."""
    logging.getLogger("absl").addFilter(_is_not_orbax)
    logging.getLogger("asyncio").addFilter(_is_not_orbax)
    if sys.unraisablehook is not _without_late_writes:
        _without_late_writes.otherwise = sys.unraisablehook
        sys.unraisablehook = _without_late_writes


def _is_not_orbax(record):
    """Whether a record of the log is neither by Orbax nor of an asyncio task of Orbax's."""
    folder = f"{os.sep}orbax{os.sep}"
    return folder not in record.pathname and folder not in str(record.msg)


def _without_late_writes(unraisable):
    """A hook that drops what is raised by writes that end after another has failed.

    They find the event loop closed that waited for them.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        _without_late_writes.otherwise(unraisable)
