"""All tests run on eight simulated CPU devices; child processes on one."""

import atexit
import collections
import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's CPU pool has as many threads as there are devices: what waits in it on all eight at once for
# another task of the pool, as a batched decomposition does, would never end.
os.environ["NPROC"] = "32"
# Test processes share the cores: threads of BLAS would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling takes most of the time here. What one test process compiled serves the others, and a
# cache of this run alone cannot be stale.
if "HSPROTO_TESTS_CACHE" not in os.environ:
    os.environ["HSPROTO_TESTS_CACHE"] = tempfile.mkdtemp(prefix="hsproto_tests_")
    atexit.register(shutil.rmtree, os.environ["HSPROTO_TESTS_CACHE"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["HSPROTO_TESTS_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Where in the code each operation was written is for error messages and takes time to note.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# These leave out LLVM's optimization, none of XLA's, and its threads, which small programs pay for.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_parallel_codegen_split_count=1"
).strip()
# Fusions written by way of MLIR take a third of the time to compile. Later versions know no other
# way, and an unknown flag is fatal.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import fcntl
import gc
import subprocess
import sys

import pytest
from small_runs import ROOT, tiny_config

# Tracing makes objects by the million, few of them in cycles: looking for those every 700 objects
# takes a tenth of the time of a test.
gc.set_threshold(50_000, 20, 20)


def pytest_configure(config):
    # By default pytest-xdist begins with the files of many tests and ends with those of a few long
    # ones, for which the other test processes then wait.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files with the largest share of slow tests come first."""
    slow = collections.defaultdict(list)
    for item in items:
        slow[item.path].append(item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -sum(slow[item.path]) / len(slow[item.path]))


@pytest.fixture(scope="session")
def child_environment():
    """Environment of child processes: one CPU device."""
    return os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def command(child_environment):
    """Runs `hsproto MODULE ARGS...` to its end."""

    def run(module, *args):
        return subprocess.run(
            [sys.executable, "-m", "hsproto", module, *map(str, args)],
            cwd=ROOT,
            env=child_environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The workdir of a short run on digits. Tests may add files to it."""
    return _trained(tmp_path_factory, "digits")


@pytest.fixture(scope="session")
def scl_run(tmp_path_factory):
    """The workdir of a short run of SCL on digits. Tests may add files to it."""
    return _trained(tmp_path_factory, "scl_digits")


def _trained(tmp_path_factory, recipe):
    """Trained by the first test process that asks; each has a copy of its own."""
    from hsproto import train

    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each process a folder in that of the whole test run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    trained = shared / f"trained_{recipe}"
    with open(shared / f"{recipe}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seldom = "eval_every_epochs=2,checkpoint_every_epochs=2"
        train.train(tiny_config(recipe, argument=f"epochs=6,{seldom}"), trained)
    return shutil.copytree(trained, base / recipe)
