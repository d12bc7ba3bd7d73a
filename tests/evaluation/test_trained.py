"""A finished run gives the logits that its loss trained, of any images."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import outcome, tiny_config

from hsproto.errors import UserError
from hsproto.evaluation import trained
from hsproto.models import classifier as classifier_lib


@pytest.mark.parametrize("loss", ["cross_entropy", "normface", "nonl", "scl", "dot_regression"])
def test_logits_are_largest_at_the_predicted_class(loss):
    rng = np.random.default_rng(0)
    features, weights = (jnp.asarray(rng.normal(size=(n, 5)), jnp.float32) for n in (40, 6))
    bias = jnp.asarray(rng.normal(size=6), jnp.float32) if loss == "cross_entropy" else None
    config = tiny_config(argument=f"loss={loss}")
    found = classifier_lib.logits(config, features, weights, bias)
    np.testing.assert_array_equal(
        found.argmax(axis=1), classifier_lib.predict(config, features, weights, bias)
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "nonl"])
@pytest.mark.parametrize("block", [0, 2])
def test_a_feature_that_is_not_finite_is_of_no_class(loss, block):
    config = tiny_config(argument=f"loss={loss},class_block={block}")
    features = jnp.array([[1.0, 0.0], [jnp.nan, 0.0], [0.0, 1.0]])
    for bias in (None, jnp.zeros(3)):
        found = classifier_lib.predict(config, features, jnp.eye(3)[:, :2], bias)
        assert found.tolist() == [0, -1, 1]


def test_logits_are_cosines_over_temperature_but_for_cross_entropy():
    features, weights = jnp.array([[3.0, 4.0]]), jnp.array([[2.0, 0.0], [0.0, 0.5]])
    on_sphere = classifier_lib.logits(tiny_config(argument="temperature=0.2"), features, weights)
    np.testing.assert_allclose(on_sphere, [[0.6 / 0.2, 0.8 / 0.2]], rtol=1e-6)
    linear = tiny_config(argument="loss=cross_entropy,temperature=0.2")
    np.testing.assert_allclose(
        classifier_lib.logits(linear, features, weights, jnp.array([1.0, 0.0])), [[7.0, 2.0]]
    )


@pytest.mark.parametrize("recipe", ["digits_run", "scl_run"])
def test_a_runs_errors_are_those_of_its_summary(recipe, request):
    workdir = request.getfixturevalue(recipe)
    run, summary = trained.TrainedRun(workdir), outcome(workdir)[1]
    assert run.step == summary["step"]
    assert run.error(run.test) == pytest.approx(1 - summary["test"]["accuracy"])
    right = run.logits(run.test).per_image(lambda logits, labels: logits.argmax(axis=1) == labels)
    assert right.shape == (360,)
    assert np.mean(right) == pytest.approx(summary["test"]["accuracy"])
    # An encoder loss is classified by fixed prototypes, the others by their own.
    with np.load(workdir / "prototypes.npz") as stored:
        np.testing.assert_allclose(run.weights, stored["prototypes"], atol=1e-5)


def test_a_workdir_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run there"):
        trained.TrainedRun(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("loss", "ntce"), ("width", 24), ("mean", [0.5])])
def test_a_changed_config_is_not_evaluated(key, value, digits_run, tmp_path, capfd):
    """A config.json that is valid, but not what the checkpoint was trained with."""
    workdir = shutil.copytree(digits_run, tmp_path / "run")
    path = workdir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"is not that of the run's checkpoint \\({key}="):
        trained.TrainedRun(str(workdir))
    assert "Traceback" not in capfd.readouterr().err
