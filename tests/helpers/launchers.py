"""Launchers run with stand-ins for the commands that they call."""

import os
import subprocess

from small_runs import ROOT


def stand_in(tmp_path, name, body):
    """A command of that name, first in PATH, that notes its arguments and does what `body` says."""
    path, calls = tmp_path / name, tmp_path / "calls"
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{body}\n')
    path.chmod(0o755)
    return path


def launch(tmp_path, script, *flags, **environment):
    """(what the script printed, its status, lines that stand-ins noted)."""
    done = subprocess.run(
        [ROOT / "launch" / script, *flags],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    calls = tmp_path / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []
