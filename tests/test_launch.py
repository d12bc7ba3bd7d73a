"""Launchers say what they would do, and start again only what can succeed."""

import os
import subprocess

from runs import ROOT


def launch(tmp_path, *flags, status=0):
    """Runs gpu.sh with an interpreter that notes its arguments and ends with `status`."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit {status}\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "launch/gpu.sh", *flags],
        env=os.environ | {"PYTHON": str(python), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_a_dry_run_prints_the_command_and_starts_nothing(tmp_path):
    done, calls = launch(tmp_path, "--dry-run", "--config=a.py:b=c", "--workdir=d e")
    assert done.returncode == 0 and not calls
    assert r"-m hsproto.train --config=a.py:b=c --workdir=d\ e" in done.stdout


def test_a_finished_run_and_a_users_mistake_are_not_repeated(tmp_path):
    for status in (0, 2):
        done, calls = launch(tmp_path, "--workdir=x", status=status)
        assert done.returncode == status
        assert calls[-1] == "-m hsproto.train --workdir=x"
    assert len(calls) == 2


def test_a_run_that_died_is_started_again(tmp_path):
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    done, calls = launch(tmp_path, "--tries=3", "--workdir=x", status=1)
    assert done.returncode == 1 and len(calls) == 3
