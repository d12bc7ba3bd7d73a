"""Faults at the file operations of a short run, and what is left after its command is repeated.

Nothing may be silent (another result, with status 0), lost (a result that differs once repeated),
hung, or end in a traceback.
"""

import collections
import errno

import pytest
from conftest import chosen

pytestmark = pytest.mark.slow

FULL, BROKEN, FOR_GOOD = errno.ENOSPC, errno.EIO, 0


def disturb(trials, undisturbed, operations, **fault):
    """Try a fault at each operation; return {verdict: operations}."""
    verdicts = collections.defaultdict(list)
    _, wanted = undisturbed
    for at in operations:
        trial = next(trials)
        status = trial.train(AT=at, **fault)
        verdicts[_verdict(trial, status, wanted)].append(at)
    counts = {verdict.partition(":")[0]: len(tried) for verdict, tried in verdicts.items()}
    print(f"{fault}: {len(operations)} of {undisturbed[0]} operations: {counts}")
    return dict(verdicts)


def _verdict(trial, status, wanted):
    if status is None:
        return f"hung: {trial.text[-300:]}"
    if status not in (0, 1, 2, -9):
        return f"status {status}: {trial.text[-300:]}"
    if "Traceback" in trial.text:
        return f"traceback: {trial.text[-2000:]}"
    lines = [line for line in trial.text.splitlines() if line.startswith("hsproto: ")]
    if len(lines) != (status in (1, 2)):
        return f"status {status} with {lines}"
    # What is not there yet is told: the run was stopped, or its pictures are still to be drawn.
    told = "stopped" in trial.text or "the pictures could not be written" in trial.text
    if status == 0 and not told and not _same(trial, wanted):
        return f"silent: {trial.text[-300:]}"
    if trial.train() != 0 or not _same(trial, wanted):
        return f"lost: {trial.text[-2000:]}"
    return "good"


def _same(trial, wanted):
    try:
        return trial.result() == wanted
    except (OSError, ValueError):
        return False


def test_killed(trials, undisturbed):
    operations = chosen(undisturbed[0], 4)
    assert disturb(trials, undisturbed, operations, ERRNO="KILL") == {"good": operations}


def test_killed_again_in_the_resume(trials, undisturbed):
    count, wanted = undisturbed
    for at in chosen(count, 3)[1:-1]:
        for again in chosen(count // 2, 2):
            trial = next(trials)
            trial.train(AT=at, ERRNO="KILL")
            status = trial.train(AT=again, ERRNO="KILL")
            assert _verdict(trial, status, wanted) == "good", (at, again)


@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_refused_once(error, trials, undisturbed):
    operations = chosen(undisturbed[0], 3)
    assert disturb(trials, undisturbed, operations, ERRNO=error) == {"good": operations}


@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_refused_from_then_on(error, trials, undisturbed):
    operations = chosen(undisturbed[0], 2)
    verdicts = disturb(trials, undisturbed, operations, ERRNO=error, FOR=FOR_GOOD)
    assert verdicts == {"good": operations}


def test_told_to_stop(trials, undisturbed):
    operations = chosen(undisturbed[0], 3)
    assert disturb(trials, undisturbed, operations, ERRNO="TERM") == {"good": operations}


@pytest.mark.parametrize("seconds", [365 * 86400, -3600])
def test_the_wall_clock_jumps(seconds, trials, undisturbed):
    operations = chosen(undisturbed[0], 2)
    verdicts = disturb(trials, undisturbed, operations, ERRNO="CLOCK", SECONDS=seconds)
    assert verdicts == {"good": operations}
