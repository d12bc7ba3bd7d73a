"""metrics.jsonl and TensorBoard events: written and read here."""

import importlib.util
import math
import os
from typing import Any

from hsproto.errors import UserError, one_line
from hsproto.runs import reading
from hsproto.runs.files import to_json, write_text
from hsproto.runs.storage import Complaints, persist


def parse_metrics(path: str | os.PathLike) -> tuple[list[dict], int]:
    """Return the objects of a metrics.jsonl, one per line, and the number of broken lines.

    A run that is killed as it writes leaves a broken line. A missing file has no lines. Values that
    are not numbers are None.

    Raises:
        Unreadable: The file cannot be opened.
    """
    if not os.path.lexists(path):
        return [], 0
    lines = reading.read_bytes(path).splitlines()
    records = [record for record in map(_parse_line, lines) if record is not None]
    return records, len(lines) - len(records)


def _parse_line(line):
    """The object in a line with its step, a whole number; None if the line is broken."""
    try:
        record = reading.parse_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not reading.COUNT.holds(record.get("step")):
        return None
    return {key: value if reading.is_number(value) else None for key, value in record.items()}


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Return the objects of a metrics.jsonl, ignoring broken lines."""
    return parse_metrics(path)[0]


class MetricsWriter:
    """Appends to `workdir`/metrics.jsonl, whose lines after `step`, of a killed run, it drops.

    Lines that the storage does not take are kept in memory and written when it does. Only one
    process of a run is `active`; the others write nothing.

    Attributes:
        failure: Once closed, why lines were lost; None if none were.
    """

    def __init__(
        self, workdir: str | os.PathLike, step: int = 0, tensorboard: bool = False, active=True
    ):
        self._file = self._events = self.failure = None
        self._evaluated = set()
        if not active:
            return
        self._path = path = os.path.join(workdir, "metrics.jsonl")
        earlier = [record for record in read_metrics(path) if record["step"] <= step]
        self._evaluated = {r["step"] for r in earlier if any("/" in name for name in r)}
        write_text(path, "".join(to_json(record) + "\n" for record in earlier))
        self._file = open(path, "r+b", buffering=0)
        self._length = self._file.seek(0, os.SEEK_END)
        self._unwritten = b""
        self._complaints = Complaints()
        self._events = _event_writer(workdir, step) if tensorboard else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def has_evaluation(self, step: int) -> bool:
        """Return whether the log held an evaluation of a step when it was opened."""
        return step in self._evaluated

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line. TensorBoard gets those metrics that are finite."""
        if not self._file:
            return
        self._unwritten += (to_json({"step": step, **metrics}) + "\n").encode()
        try:
            self._write()
        except OSError as error:
            self._complaints.warn(
                f"metrics.jsonl could not be written: {one_line(error, 200)}; the run goes on and "
                "keeps its lines in memory"
            )
        if self._events:
            for name, value in metrics.items():
                if value is not None and math.isfinite(value):
                    self._events.add_scalar(name, value, step)

    def _write(self):
        while self._unwritten:
            # A part of a line that an attempt has left is overwritten by the next.
            self._file.seek(self._length)
            written = self._file.write(self._unwritten)
            self._length += written
            self._unwritten = self._unwritten[written:]

    def close(self) -> None:
        """Write what is left, and close. If that fails, `failure` says what and why."""
        if self._events:
            self._events.close()
        if not self._file:
            return
        error = persist(self._write)
        self._file.close()
        self._file = None
        if error:
            self.failure = (
                f"{self._path}: its last lines could not be written: {one_line(error, 200)}"
            )
            self._complaints.say(self.failure)


def check_tensorboard() -> None:
    """Raise UserError if the optional package is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboard=true needs tensorboardX: pip install 'hsproto[tensorboard]'")


def _event_writer(workdir, step):
    from tensorboardX import SummaryWriter

    return SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=step + 1)
