"""All tests run on eight simulated CPU devices; child processes on one."""

import os

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's CPU pool has as many threads as there are devices: what waits in it on all eight at once for
# another task of the pool, as a batched decomposition does, would never end.
os.environ["NPROC"] = "32"
# Compiling takes most of the time here. This leaves out LLVM's optimisation, none of XLA's.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
).strip()

import subprocess
import sys

import pytest
from small_runs import ROOT


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """Environment of child processes: one CPU device, compiled code shared between them."""
    cache = tmp_path_factory.getbasetemp().parent / "compilation_cache"
    return os.environ | {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def command(compilation_cache):
    """Runs `python -m hsproto.MODULE ARGS...` to its end."""

    def run(module, *args):
        return subprocess.run(
            [sys.executable, "-m", f"hsproto.{module}", *map(str, args)],
            cwd=ROOT,
            env=compilation_cache,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
