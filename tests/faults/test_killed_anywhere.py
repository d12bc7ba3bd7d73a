"""A run that is killed at a file operation, and its repetition.

Nothing may be silent (another result, with status 0), lost (a result that differs once repeated),
hung, or end in a traceback.
"""

import pytest
from disturbances import chosen, disturb, verdict_of

pytestmark = pytest.mark.slow


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
            assert verdict_of(trial, status, wanted) == "good", (at, again)
