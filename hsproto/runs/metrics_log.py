"""metrics.jsonl and TensorBoard events: written and read here."""

import importlib.util
import json
import math
import os

from hsproto.errors import UserError
from hsproto.runs.files import to_json, write_text


def parse_metrics(path):
    """(objects, number of broken lines) of a metrics.jsonl; a missing file has none of either.

    A run that is killed while it writes leaves a broken line.
    """
    records, broken = [], 0
    if os.path.exists(path):
        with open(path, errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if isinstance(record, dict) and "step" in record:
                    records.append(record)
                else:
                    broken += 1
    return records, broken


def read_metrics(path):
    """The objects of a metrics.jsonl, broken lines passed over."""
    return parse_metrics(path)[0]


class MetricsWriter:
    """Appends to `workdir`/metrics.jsonl; lines beyond `step`, of a killed run, are dropped.

    Of several processes one is `active`; the others write nothing.
    """

    def __init__(self, workdir, step=0, tensorboard=False, active=True):
        self._file = self._events = None
        if not active:
            return
        path = os.path.join(workdir, "metrics.jsonl")
        kept = [r for r in read_metrics(path) if r["step"] <= step]
        write_text(path, "".join(to_json(r) + "\n" for r in kept))
        self._file = open(path, "a")
        self._events = _event_writer(workdir, step) if tensorboard else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, step, metrics):
        if not self._file:
            return
        self._file.write(to_json({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in metrics.items():
                if value is not None and math.isfinite(value):
                    self._events.add_scalar(name, value, step)

    def close(self):
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()


def check_tensorboard():
    """Raises UserError where the optional package is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboard=true needs tensorboardX: pip install 'hsproto[tensorboard]'")


def _event_writer(workdir, step):
    from tensorboardX import SummaryWriter

    return SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=step + 1)
