"""What a run writes while it goes: metrics.jsonl, TensorBoard events, progress lines."""

import importlib.util
import json
import math
import os
import time

from hsproto.errors import UserError


def write_text(path, text):
    """Writes a file whole or not at all."""
    temporary = f"{path}.tmp"
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def to_json(value, **kwargs):
    """JSON in which what is not a finite number is null, as strict readers ask for."""
    return json.dumps(_finite(value), allow_nan=False, **kwargs)


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


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def check_tensorboard():
    """Raises UserError where the optional package is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError("tensorboard=true needs tensorboardX: pip install 'hsproto[tensorboard]'")


def _event_writer(workdir, step):
    from tensorboardX import SummaryWriter

    return SummaryWriter(os.path.join(workdir, "tensorboard"), purge_step=step + 1)
