"""A call in a process of its own gives its value, and tells how the process ended."""

import errno
import os
import signal

import pytest

from hsproto.errors import UserError
from hsproto.hardware import apart


def end_with_overflow(log, *arguments):
    log("compiling ...")
    os.write(2, b"*** SIGSEGV STACK OVERFLOW (see go/cppstackoverflow) received by PID 1 ***\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def add(log, left, right):
    os.write(2, b"native noise\n")
    log("adding")
    return left + right


def refuse(log):
    raise UserError("no room")


def fill_the_disk(log):
    raise OSError(errno.ENOSPC, "No space left on device", "step")


def fail(log):
    raise KeyError("a fault of ours")


def end(log, how):
    if how == "abort":
        os.write(2, b"F0101 00:00:00.1 7 program.cc:12] Check failed: a == b\n*** trace ***\n")
        os.abort()
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


def test_it_gives_the_value_and_what_was_logged(capfd):
    lines = []
    assert apart.call(add, lines.append, [1], [2]) == [1, 2]
    assert lines == ["adding"]
    assert capfd.readouterr().err == ""


def test_what_the_user_can_mend_stays_such_an_error():
    with pytest.raises(UserError, match="^no room$"):
        apart.call(refuse, print)
    with pytest.raises(OSError) as error:
        apart.call(fill_the_disk, print)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "step")


def test_a_fault_of_ours_keeps_its_trace():
    with pytest.raises(RuntimeError, match="in fail\n.*\n.*a fault of ours"):
        apart.call(fail, print)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("abort", "ended with SIGABRT: check failed: a == b"),
        ("exit", "exited with 3"),
        ("kill", "was killed, as the system does where memory runs out"),
    ],
)
def test_a_process_that_ends_without_a_result_says_how(how, told):
    with pytest.raises(apart.Died) as error:
        apart.call(end, print, how)
    assert str(error.value) == told
