"""Real processes end together: each with one line that says why, and with the same status.

All of these take place at once: they wait for each other more than they compute.
"""

import contextlib
import os
import signal
import socket
import time

import forks
import pytest

READY = "ready\n"


def start(tmp_path, environment, name, *flags):
    """Two processes with these flags of their own, and what they print into."""
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        port = sock.getsockname()[1]
    pair = []
    for i, own in enumerate(flags):
        log = tmp_path / f"{name}.{i}"
        log.touch()
        joined = [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={i}"]
        mine = [*joined, "--startup_timeout=60", *own]
        pair.append((forks.start(mine, environment, log, "waiting_process"), log))
    return pair


def end(pair, seconds=60):
    until = time.monotonic() + seconds
    for process, _ in pair:
        process.join(max(0, until - time.monotonic()))
    return [process.exitcode for process, _ in pair], [log.read_text() for _, log in pair]


def lines(told):
    return [[line for line in text.splitlines() if line.startswith("hsproto: ")] for text in told]


SIGNALS = {
    "killed": (1, signal.SIGKILL),
    "stopped": (1, signal.SIGSTOP),
    "first": (0, signal.SIGSTOP),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory, child_environment):
    """(statuses, texts) of each pair."""
    tmp_path = tmp_path_factory.mktemp("together")
    flags = {
        "well": (["--rounds=3"], ["--rounds=3"]),
        "other": (["--rounds=3"], ["--rounds=4"]),
        "user": ([], ["--error=user"]),
        "user in process 0": (["--error=user"], []),
        "failure": ([], ["--error=failure"]),
        "fault": ([], ["--error=fault"]),
        **dict.fromkeys(SIGNALS, ([], [])),
    }
    pairs = {name: start(tmp_path, child_environment, name, *own) for name, own in flags.items()}
    for name, (index, number) in SIGNALS.items():
        for process, log in pairs[name]:
            forks.wait_for(process, lambda log=log: READY in log.read_text())
        os.kill(pairs[name][index][0].pid, number)
    # A stopped process ends when it is told to go on, by the hand of JAX: the others are gone.
    result = {}
    for name, pair in pairs.items():
        if name in SIGNALS:
            index, number = SIGNALS[name]
            statuses, told = end([pair[1 - index]])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pair[index][0].pid, signal.SIGKILL)
            result[name] = statuses, told
        else:
            result[name] = end(pair)
    return result


@pytest.mark.slow
def test_processes_that_are_done_end_with_status_0(ended):
    statuses, told = ended["well"]
    assert statuses == [0, 0] and all("done" in text for text in told), told


@pytest.mark.slow
def test_processes_that_differ_end_before_they_start(ended):
    statuses, told = ended["other"]
    assert statuses == [2, 2] and READY not in "".join(told), told
    ((first,), (second,)) = lines(told)
    assert first == second and "rounds is 3 in process 0, 4 in process 1" in first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "index", "status", "text"),
    [
        ("user", 1, 2, "its data is missing"),
        ("user in process 0", 0, 2, "its data is missing"),
        ("failure", 1, 1, "its storage is full"),
        ("fault", 1, 1, "KeyError: 'fault'"),
    ],
)
def test_an_error_in_one_is_the_end_of_both_within_a_minute(ended, name, index, status, text):
    statuses, told = ended[name]
    assert statuses == [status, status], told
    said = lines(told)
    assert said[index] == [f"hsproto: {text}"]
    assert said[1 - index] == [f"hsproto: process {index} of 2: {text}"]
    assert ("Traceback" in told[index]) == (name == "fault")
    assert "Traceback" not in told[1 - index]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_of_one_that_is_lost_the_other_says_so_without_a_stack(ended, name):
    (status,), (text,) = ended[name]
    ((line,),) = lines([text])
    assert status == 1 and "Traceback" not in text and "stack trace" not in text, text
    assert line.startswith(f"hsproto: process {SIGNALS[name][0]} of 2 is lost (")
    assert line.endswith("; the same command resumes")
