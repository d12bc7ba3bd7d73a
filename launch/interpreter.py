"""Which Python the launchers start a run with."""

import os
import sys


def interpreter():
    """$PYTHON, the virtual environment that this runs in, .venv's, or the one that runs this."""
    own = sys.executable if sys.prefix != sys.base_prefix else None
    there = ".venv/bin/python" if os.path.exists(".venv/bin/python") else sys.executable
    return os.environ.get("PYTHON") or own or there
