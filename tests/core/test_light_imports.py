"""What other code imports is light: jax, numpy, scipy and hsproto's own core."""

import json
import os
import subprocess
import sys

import pytest
from small_runs import ROOT

LISTED = """
import importlib, json, sys
before = set(sys.modules)
importlib.import_module("jax"), importlib.import_module("numpy"), importlib.import_module("scipy")
import jax.numpy, jax.scipy.linalg
theirs = {name.partition(".")[0] for name in sys.modules}
importlib.import_module(sys.argv[1])
mine = sorted(set(sys.modules) - before)
ours = [name for name in mine if name.partition(".")[0] == "hsproto"]
others = {name.partition(".")[0] for name in mine} - theirs - set(sys.stdlib_module_names)
print(json.dumps([ours, sorted(others - {"hsproto"})]))
"""
PUBLIC = {"losses", "geometry", "prototypes"}


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_an_import_loads_nothing_beyond_jax_numpy_scipy_and_the_core(module):
    done = subprocess.run(
        [sys.executable, "-c", LISTED, f"hsproto.{module}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    ours, others = json.loads(done.stdout)
    assert not others
    wings = {name.split(".")[1] for name in ours if "." in name}
    assert wings <= PUBLIC | {"core"}
