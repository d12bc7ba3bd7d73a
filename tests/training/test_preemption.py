"""A run that is told to stop loses nothing and ends with status 0, wherever it is."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_runs import outcome, tiny_config

from hsproto import train
from hsproto.evaluation.evaluator import Evaluator
from hsproto.parallel import preemption as preemption_lib
from hsproto.parallel import signals
from hsproto.parallel.preemption import Preemption, Stopped
from hsproto.runs import summary as summary_lib


def run_script(script, child_environment):
    return subprocess.run(
        [sys.executable, "-c", script],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def wait_until(holds):
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_thread_notices_signals_and_the_handlers_of_before_return():
    before, noticed = signal.getsignal(signal.SIGTERM), []
    with signals.noticed([signal.SIGTERM], noticed.append):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: noticed == [signal.SIGTERM])
    assert signal.getsignal(signal.SIGTERM) is before


def test_polls_see_the_request(monkeypatch):
    monkeypatch.setattr(preemption_lib, "GRACE_SECONDS", 1000)
    with Preemption() as preemption:
        preemption.check()
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(preemption.reached)
        with pytest.raises(Stopped):
            preemption.check()


BLOCKED = """
import os, signal, threading, time
from hsproto.parallel import preemption as lib
lib.GRACE_SECONDS = 0.2
with lib.Preemption() as preemption:
    {before}
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    {blocked}
    print("went on")
"""


@pytest.mark.parametrize(
    ("before", "blocked", "goes_on"),
    [
        ("pass", "time.sleep(60)", False),
        ("preemption.begin()", "time.sleep(2)", True),
        (
            "preemption.begin(); context = preemption.nothing_to_lose(lambda: print('saved', "
            "flush=True)); context.__enter__()",
            "time.sleep(60)",
            False,
        ),
    ],
)
def test_it_ends_while_the_main_thread_is_busy_unless_something_is_lost(
    before, blocked, goes_on, child_environment
):
    ended = run_script(BLOCKED.format(before=before, blocked=blocked), child_environment)
    assert ended.returncode == 0, ended
    assert ("went on" in ended.stdout) == goes_on
    assert ("saved" in ended.stdout) == ("saved" in before)
    assert ("the same command resumes" in ended.stderr) != goes_on


def test_a_signal_while_the_command_loads_ends_it_with_status_0(child_environment):
    script = (
        "import os, time; from hsproto import cli\n"
        "cli._load = lambda name: os.kill(os.getpid(), 15) or time.sleep(60)\n"
        "cli.main(['train'])"
    )
    ended = run_script(script, child_environment)
    assert ended.returncode == 0 and ended.stderr.startswith("stopped; the same command"), ended


@pytest.mark.slow
def test_signals_in_an_evaluation_and_before_the_summary_lose_nothing(
    tmp_path, monkeypatch, capsys
):
    """The run is stopped in the second of three evaluations, in the last, and when it writes."""
    config = tiny_config()
    train.train(config, tmp_path / "whole")
    stops, embed_all = [3, 5], Evaluator.embed_all
    splits = []

    def stopping(self, variables, loader, after_batch):
        splits.append(loader)
        if stops and len(splits) == stops[0]:
            del stops[0]
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return embed_all(self, variables, loader, after_batch)

    write = summary_lib.write_results

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        write(*args)

    monkeypatch.setattr(Evaluator, "embed_all", stopping)
    monkeypatch.setattr(summary_lib, "write_results", stopped)
    assert threading.current_thread() is threading.main_thread()
    workdir = tmp_path / "stopped"
    ends = [train.train(config, workdir) for _ in range(3)]
    assert ends[:2] == [None, None] and ends[2] is not None and not stops
    assert capsys.readouterr().out.count("saved; the same command resumes") == 2
    assert outcome(workdir) == outcome(tmp_path / "whole")
