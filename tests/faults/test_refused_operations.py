"""File operations of a run that the storage refuses, and the repetition of its command.

Nothing may be silent (another result, with status 0), lost (a result that differs once repeated),
hung, or end in a traceback.
"""

import errno

import pytest
from disturbances import chosen, disturb

pytestmark = pytest.mark.slow

FULL, BROKEN, FOR_GOOD = errno.ENOSPC, errno.EIO, 0


@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_refused_once(error, trials, undisturbed):
    operations = chosen(undisturbed[0], 3)
    assert disturb(trials, undisturbed, operations, ERRNO=error) == {"good": operations}


@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_refused_from_then_on(error, trials, undisturbed):
    operations = chosen(undisturbed[0], 2)
    verdicts = disturb(trials, undisturbed, operations, ERRNO=error, FOR=FOR_GOOD)
    assert verdicts == {"good": operations}
