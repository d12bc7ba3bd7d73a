"""Worker processes give every batch in order, and end with the run whenever it ends."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hsproto.data import workers
from hsproto.errors import UserError

SHAPE = (2, 4, 4, 3)


def load(step):
    if step == 99:
        raise UserError("step 99 is bad")
    if step == 98:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full(SHAPE, step, np.uint8), np.array([step, -step])


def stream(steps, count=2, shape=SHAPE):
    return workers.WorkerStream(load, steps, count, shape)


def test_batches_come_in_the_order_of_their_steps():
    running = stream(range(3, 12))
    found = [(images, labels) for images, labels in running]
    assert [int(images.max()) for images, _ in found] == list(range(3, 12))
    for step, (images, labels) in enumerate(found, start=3):
        np.testing.assert_array_equal(images, load(step)[0])  # kept, though its place was reused
        np.testing.assert_array_equal(labels, [step, -step])
    running.close()
    running.close()
    assert not multiprocessing.active_children()


def test_an_error_is_raised_when_its_batch_is_asked_for():
    running = stream([1, 99, 2])
    assert int(next(running)[1][0]) == 1
    with pytest.raises(UserError, match="step 99 is bad"):
        next(running)
    running.close()


def test_a_worker_that_was_killed_is_one_line():
    running = stream([98, 1], count=1)
    with pytest.raises(UserError, match="worker process that loads images died .status -9"):
        next(running)
    running.close()


def test_shared_memory_that_is_too_small_is_refused_before_any_process_starts():
    with pytest.raises(UserError, match="workers=2 needs .* of shared memory"):
        stream(range(9), shape=(2**20, 2**20, 2**20))
    assert not multiprocessing.active_children()


ENDS = """
import sys, time
from test_workers import stream

if __name__ == "__main__":
    for used, wait in ((0, 0), (0, 0.2), (1, 0), (3, 0)):
        running = stream(range(20))
        for _ in range(used):
            next(running)
        time.sleep(wait)
        running.close()
    running = stream(range(20))
    next(running)
    if sys.argv[1] == "raise":
        raise SystemExit(2)
    sys.exit(3)
"""


def unused(names):
    """The segments of shared memory that no living process has mapped, nor removes shortly."""
    for _ in range(50):
        mapped = ""
        for maps in pathlib.Path("/proc").glob("[0-9]*/maps"):
            with contextlib.suppress(OSError):  # it has ended
                mapped += maps.read_text()
        names = {name for name in names & segments() if f"/dev/shm/{name}" not in mapped}
        if not names:
            break
        time.sleep(0.1)
    return names


def segments():
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


@pytest.mark.parametrize(("how", "status"), [("raise", 2), ("forget", 3)])
def test_an_early_end_at_any_moment_leaves_nothing_behind_and_warns_of_nothing(
    tmp_path, how, status
):
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    before = segments()
    run = subprocess.run(
        [sys.executable, script, how],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert run.returncode == status and run.stderr == ""
    assert not unused(segments() - before)  # other tests have segments of their own
