"""SIGTERM, and a wall clock that jumps, at a file operation of a run.

Nothing may be silent (another result, with status 0), lost (a result that differs once repeated),
hung, or end in a traceback.
"""

import pytest
from disturbances import chosen, disturb

pytestmark = pytest.mark.slow


def test_told_to_stop(trials, undisturbed):
    operations = chosen(undisturbed[0], 3)
    assert disturb(trials, undisturbed, operations, ERRNO="TERM") == {"good": operations}


@pytest.mark.parametrize("seconds", [365 * 86400, -3600])
def test_the_wall_clock_jumps(seconds, trials, undisturbed):
    operations = chosen(undisturbed[0], 2)
    verdicts = disturb(trials, undisturbed, operations, ERRNO="CLOCK", SECONDS=seconds)
    assert verdicts == {"good": operations}
