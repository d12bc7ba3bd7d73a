"""A step that was compiled ahead trains as the one that a run compiles, or is refused with why."""

import json
import pickle

import jax
import numpy as np
import pytest
from small_runs import outcome, tiny_config

from hsproto import train
from hsproto.errors import UserError
from hsproto.hardware import saved, sizing, topologies
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import state as state_lib
from hsproto.training.step import make_train_step

CONFIG = "epochs=6,eval_every_epochs=2,checkpoint_every_epochs=2"  # that of `digits_run`


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """A file with the step of a tiny run for the eight devices of the tests."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        config, here = tiny_config("digits", CONFIG), topologies.parse("cpux8")
        sizing.size(config, here, lambda line: None, save=str(folder / "step"))
    return folder / "step"


def resolved(step, argument=""):
    """The config of a run, with what its data decide."""
    config = tiny_config("digits", f"{CONFIG},{argument}")
    kept = pickle.loads(step.read_bytes())["config"]
    for key in ("num_classes", "num_examples", "mean", "std", "crop_on", "interpolation"):
        config[key] = kept[key]
    return config


def test_it_is_the_step_that_a_run_would_compile(step):
    config, mesh = resolved(step), mesh_lib.make_mesh()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (config.batch_size, 8, 8, 1), np.uint8)
    labels = rng.integers(0, 10, config.batch_size, np.int32)
    batch = jax.device_put({"image": images, "label": labels}, mesh_lib.over_batch(mesh))
    ahead, here = (
        jax.device_get(make(state_lib.create(config, mesh), batch))
        for make in (saved.load(str(step), config, mesh), make_train_step(config, mesh))
    )
    jax.tree.map(np.testing.assert_array_equal, ahead, here)


@pytest.mark.slow
def test_a_run_with_it_is_the_same_run(step, digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr("hsproto.training.loop.make_train_step", None)  # would fail
    train.train(tiny_config("digits", CONFIG), str(tmp_path), compiled_step=str(step))
    assert written(tmp_path) == written(digits_run)


def written(workdir):
    """What does not depend on time: the metrics in order, and the summary."""
    lines, summary = outcome(workdir)
    return [{k: v for k, v in line.items() if "per_second" not in k} for line in lines], summary


def refused(path, argument=""):
    with pytest.raises(UserError) as error:
        saved.load(str(path), resolved(path, argument), mesh_lib.make_mesh())
    return str(error.value)


def changed(step, folder, **values):
    path = folder / "changed"
    path.write_bytes(pickle.dumps(pickle.loads(step.read_bytes()) | values))
    return path


def test_a_step_for_something_else_is_refused_with_what_differs(step, tmp_path):
    told = refused(step, "temperature=0.3,base_lr=0.1")
    assert "other config keys: base_lr (0.2, here 0.1), temperature (0.1, here 0.3); make" in told
    assert "logit_adjustment=1 puts" in refused(step, "logit_adjustment=1,loss=normface")
    versions = topologies.compiler_versions(topologies.parse("cpux8"))
    told = refused(changed(step, tmp_path, versions=versions | {"jax": "0.1"}))
    assert f"other versions: jax (0.1, here {versions['jax']})" in told
    assert "other code of hsproto: new.py (1, here none)" in refused(
        changed(step, tmp_path, code=saved.deciding_code() | {"new.py": "1"})
    )
    assert "made for v5e-8; here are 8 x cpu" in refused(changed(step, tmp_path, topology="v5e-8"))
    assert "cannot be loaded on this hardware" in refused(
        changed(step, tmp_path, executable=(b"", None, None))
    )


def test_what_is_no_step_is_refused(tmp_path):
    path = tmp_path / "step"
    assert refused_file(path) == f"--compiled_step={path}: No such file or directory"
    for content in (b"no pickle", pickle.dumps([1]), json.dumps({}).encode()):
        path.write_bytes(content)
        assert "is no step that this `hsproto compile --save` wrote" in refused_file(path)


def refused_file(path):
    with pytest.raises(UserError) as error:
        saved.load(str(path), tiny_config("digits"), mesh_lib.make_mesh())
    return str(error.value)
