"""`model_axis`: a run whose prototypes are split over devices by class is the run of one device."""

import functools
import json

import chex
import jax
import numpy as np
import pytest

from hsproto import config_checks, head, prototypes, train
from hsproto.core import nearest
from hsproto.data import load as load_lib
from hsproto.data import loader
from hsproto.errors import UserError
from hsproto.evaluation import by_class
from hsproto.models import classifier as classifier_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import inspection, memory, objective
from hsproto.training import state as state_lib
from hsproto.training import step as step_lib
from hsproto.training.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")

CLASSES, DIMS, BATCH = 24, 16, 32


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, DIMS))
    labels = np.arange(320) % CLASSES
    features = (centers[labels] + 0.3 * rng.normal(size=(320, DIMS))).astype(np.float32)
    path = tmp_path_factory.mktemp("classes") / "features.npz"
    np.savez(path, features=features[:256], labels=labels[:256],
             test_features=features[256:], test_labels=labels[256:])  # fmt: skip
    return str(path)


def opened(file, **values):
    given = {"batch_size": BATCH, "eval_batch_size": BATCH, "epochs": 4, **values}
    config = head.make_config(file, {key: str(value) for key, value in given.items()})
    splits = load_lib.load_splits(config)
    config = load_lib.resolve(config, splits)
    config_checks.validate(config)
    return config, splits


def after_steps(file, devices, model_axis, **values):
    """(metrics of four steps, the state after them) on a mesh."""
    config, splits = opened(file, model_axis=model_axis, **values)
    mesh = mesh_lib.make_mesh(jax.devices()[:devices], config.model_axis)
    log_prior = objective.log_prior(np.arange(1, CLASSES + 1))
    step = step_lib.make_train_step(config, mesh, log_prior)
    state, found = state_lib.create(config, mesh), []
    for batch in loader.open_loader(splits.train, config, mesh).batches(0, 4):
        state, metrics = step(state, batch)
        found.append(metrics)
    return jax.device_get(found), state


CASES = [
    {"loss": "ntce"},
    {"loss": "nonl", "queue_size": 2 * BATCH, "class_block": 2},
    {"loss": "normface", "logit_adjustment": 1.0, "microbatches": 2},
    {"loss": "cross_entropy", "class_block": 4},
    {"loss": "decoupled_normface", "sampler": "classes", "images_per_class": 4},
]


@pytest.mark.parametrize("values", CASES, ids=lambda values: values["loss"])
def test_steps_are_those_of_one_device(file, values):
    right, right_state = after_steps(file, 1, 1, **values | {"class_block": 0})
    found, state = after_steps(file, 8, 4, **values)
    chex.assert_trees_all_close(found, right, rtol=1e-5, atol=1e-5)
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-5)
    close(jax.device_get(state.params), jax.device_get(right_state.params))
    close(jax.device_get(state.opt_state), jax.device_get(right_state.opt_state))
    split = [state.params["prototypes"], state.opt_state[1][0].trace["prototypes"]]
    for array in split:
        assert array.addressable_shards[0].data.shape[0] == CLASSES // 4


@pytest.mark.parametrize("devices, model_axis", [(1, 1), (8, 1), (8, 4), (8, 2)])
def test_accuracy_of_a_step_with_very_many_classes_is_that_of_some_rows(
    file, devices, model_axis, monkeypatch
):
    """The same ones on any devices; nothing else of the step changes."""
    whole, _ = after_steps(file, 1, 1, loss="nonl")
    monkeypatch.setattr(step_lib, "_MOST_SCORES", 1)
    monkeypatch.setattr(step_lib, "_LEAST_ROWS", 2)
    assert step_lib.measured_rows(BATCH, CLASSES) == slice(None, None, 16)
    found, _ = after_steps(file, devices, model_axis, loss="nonl")
    accuracies = [step.pop("accuracy") for step in found]
    assert set(np.multiply(accuracies, 2)) <= {0.0, 1.0, 2.0}
    if devices == 1:
        whole = [{k: v for k, v in step.items() if k != "accuracy"} for step in whole]
        chex.assert_trees_all_equal(found, whole)
    else:
        on_one, _ = after_steps(file, 1, 1, loss="nonl")
        np.testing.assert_array_equal(accuracies, [step["accuracy"] for step in on_one])


def test_a_batch_and_classes_of_the_recipes_are_measured_whole():
    for rows, classes in ((8192, 1000), (512, 100), (64, 10), (16384, 1000)):
        assert step_lib.measured_rows(rows, classes) == slice(None, None, 1)
    assert step_lib.measured_rows(8192, 1_000_000) == slice(None, None, 64)
    assert step_lib.measured_rows(2048, 100_000) == slice(None, None, 8)
    assert step_lib.measured_rows(127, 10_000_000) == slice(None, None, 1)


def test_a_checkpoint_is_restored_onto_other_meshes(file, tmp_path):
    config, _ = opened(file, model_axis=4)
    state = state_lib.create(config, mesh_lib.make_mesh(model_axis=4))
    with Checkpoints(tmp_path, keep=1, mark="checkpoints") as checkpoints:
        checkpoints.ensure(3, state, inspection.inspect(state).digest)
        for model_axis in (1, 2):
            mesh = mesh_lib.make_mesh(model_axis=model_axis)
            restored, step = checkpoints.restore(state_lib.abstract(config, mesh))
            assert step == 3
            chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state))
            shard = restored.params["prototypes"].addressable_shards[0].data
            assert shard.shape[0] == CLASSES // model_axis


def test_a_device_needs_memory_for_its_own_classes(file):
    config, _ = opened(file)
    config.num_classes = 2**20
    needed = {}
    for model_axis in (1, 8):
        mesh = mesh_lib.make_mesh(model_axis=model_axis)
        needed[model_axis] = memory.least(config, state_lib.abstract(config, mesh), mesh)
    assert needed[8] < needed[1] / 7


@pytest.mark.parametrize("model_axis", [1, 4])
def test_evaluation_in_blocks_predicts_and_averages_the_same(file, model_axis):
    config, _ = opened(file, model_axis=model_axis, class_block=4)
    mesh = mesh_lib.make_mesh(model_axis=model_axis)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(3 * BATCH, DIMS)).astype(np.float32)
    weights = rng.normal(size=(CLASSES, DIMS)).astype(np.float32)
    labels, where = np.arange(3 * BATCH) % (CLASSES - 1), np.arange(3 * BATCH) < 90
    features[5], weights[7] = np.nan, 0
    rows = jax.device_put(features, mesh_lib.over_batch(mesh))
    classes = jax.device_put(weights, mesh_lib.over_classes(mesh))
    found = by_class.predict(config, mesh, rows, classes, by_cosine=True)
    np.testing.assert_array_equal(found, prototypes.predict(features, weights))

    fitted = by_class.fit(mesh, rows, labels, CLASSES, where)
    assert fitted.addressable_shards[0].data.shape == (CLASSES // model_axis, DIMS)
    right = prototypes.fit(features, labels, num_classes=CLASSES, where=where)
    np.testing.assert_allclose(fitted, right, atol=1e-6)


def _largest(jaxpr):
    """Entries of the largest array that a program computes, its own loops included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [var.aval.size for var in equation.outvars if hasattr(var.aval, "size")]
        for inner in jax.core.jaxprs_in_params(equation.params):
            sizes.append(_largest(inner))
    return max(sizes)


@pytest.mark.parametrize("by_cosine", [True, False])
@pytest.mark.parametrize("loss", ["nonl", "cross_entropy"])
def test_no_array_grows_with_images_times_classes(file, loss, by_cosine):
    """50,000 images of 1,000,000 classes would have logits of 200 GB."""
    config, _ = opened(file, loss=loss)
    mesh, shape = mesh_lib.make_mesh(), functools.partial(jax.ShapeDtypeStruct, dtype=np.float32)
    images = 50_000 // BATCH * BATCH
    arrays = shape((images, DIMS)), shape((1_000_000, DIMS)), shape((1_000_000,))

    def predict(features, weights, bias):
        return by_class.predict(config, mesh, features, weights, bias, by_cosine=by_cosine)

    assert _largest(jax.make_jaxpr(predict)(*arrays).jaxpr) <= nearest.MOST_SCORES
    of_batch = functools.partial(classifier_lib.predict, config)
    assert _largest(jax.make_jaxpr(of_batch)(*arrays).jaxpr) <= nearest.MOST_SCORES


def test_geometry_of_very_many_classes_is_that_of_some():
    labels, chosen = by_class.compared(np.array([0, 3, 4, -1, 9]), 10, most=4)
    assert chosen.tolist() == [0, 3, 6, 9]
    assert labels.tolist() == [0, 1, -1, -1, 3]


@pytest.mark.slow
def test_a_whole_run_splits_its_classes(file, tmp_path):
    config, _ = opened(file, loss="ntce", model_axis=4, class_block=3)
    train.train(config, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.8
    assert np.isfinite(summary["train"]["nc1"])


def test_what_cannot_be_split_is_refused_in_one_line(file):
    with pytest.raises(UserError, match="model_axis=5 must divide num_classes=24"):
        opened(file, model_axis=5)
    with pytest.raises(UserError, match="model_axis=3 must divide the number of devices, 8"):
        mesh_lib.make_mesh(model_axis=3)
    with pytest.raises(UserError, match="model_axis=2 splits the prototypes of .* loss='scl'"):
        opened(file, model_axis=2, loss="scl")
    others = {"label_smoothing": 0.1, "mixup": 0.2, "loss_groups": 2, "freeze_epochs": 1}
    for key, value in others.items():
        with pytest.raises(UserError, match=f"model_axis=2 needs {key}=[01]; got {key}={value}"):
            opened(file, model_axis=2, **{key: value})
    with pytest.raises(UserError, match="class_block=4 goes with"):
        opened(file, class_block=4, loss="scl")
