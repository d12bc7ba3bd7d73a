"""The Python with which the launchers start runs."""

import os
import sys


def interpreter() -> str:
    """Return $PYTHON, else the active virtual environment's, else .venv's, else this script's."""
    active = sys.executable if sys.prefix != sys.base_prefix else None
    local = ".venv/bin/python" if os.path.exists(".venv/bin/python") else sys.executable
    return os.environ.get("PYTHON") or active or local
