"""The frozen phase: features are made once, the head learns on them, the backbone stays."""

import functools
import json

import jax
import numpy as np
import pytest
from small_runs import tiny_config

from hsproto import config as config_lib
from hsproto import train
from hsproto.core.labels import soft_labels
from hsproto.data import load as load_lib
from hsproto.data import loader as loader_lib
from hsproto.errors import UserError
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import features_file
from hsproto.training import best as best_lib
from hsproto.training import frozen, objective
from hsproto.training import state as state_lib

FROZEN = "freeze_epochs=3,embedding_dim=16,snapshot_points=0"


def made(argument=""):
    """(config, mesh, loader, initial state) of a tiny run on the digits."""
    config = tiny_config("digits", f"{FROZEN},{argument}")
    splits = load_lib.load_splits(config)
    config = load_lib.resolve(config, splits)
    mesh = mesh_lib.make_mesh()
    loader = loader_lib.open_loader(splits.train, config, mesh)
    return config, mesh, loader, state_lib.create(config, mesh)


@functools.cache
def trained(workdir, argument=""):
    config, mesh, loader, state = made(argument)
    return config, state, frozen.train_head(config, state, loader, mesh, workdir)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("frozen"))


def test_only_the_head_has_learned(workdir):
    config, before, after = trained(workdir)
    assert int(after.step) == frozen.steps(config) == config_lib.total_steps(config)
    for name in before.params:
        same = jax.tree.map(np.array_equal, before.params[name], after.params[name])
        assert all(jax.tree.leaves(same)) == (name == "backbone"), name
    same = jax.tree.map(np.array_equal, before.batch_stats, after.batch_stats)
    assert all(jax.tree.leaves(same))


def test_features_are_kept_and_taken_from_the_workdir(workdir, monkeypatch):
    config, _, after = trained(workdir)
    features, labels = features_file.read(workdir, (config.num_examples, 10))
    assert features.shape == (config.num_examples, config.width)
    assert np.bincount(labels).sum() == config.num_examples
    monkeypatch.setattr(frozen, "compute_features", None)
    again = frozen.train_head(*_again(workdir))
    same = jax.tree.map(np.array_equal, after.params, again.params)
    assert all(jax.tree.leaves(same))


def _again(workdir):
    config, mesh, loader, state = made()
    return config, state, loader, mesh, workdir


def test_features_of_other_data_or_damaged_are_made_again(workdir, tmp_path):
    trained(workdir)
    assert features_file.read(workdir, (17, 10)) is None
    assert features_file.read(workdir, (17, 3)) is None
    (tmp_path / features_file.NAME).write_bytes(b"no npz")
    assert features_file.read(str(tmp_path), (17, 10)) is None


def test_a_run_that_is_frozen_to_its_end_is_a_run(tmp_path, capsys):
    config = tiny_config("digits", FROZEN)
    summary = train.train(config, str(tmp_path))
    assert summary["step"] == config_lib.total_steps(made()[0])
    assert summary["test"]["accuracy"] > 0.2  # on random features of twelve channels
    assert "held-out images" in capsys.readouterr().out
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("test/accuracy" in line for line in logged)
    assert (tmp_path / "checkpoints").is_dir()
    assert train.train(config, str(tmp_path))["test"] == summary["test"]  # finished already


@pytest.mark.slow
def test_the_whole_network_learns_afterwards(tmp_path, monkeypatch, capsys):
    argument = "freeze_epochs=2,eval_every_epochs=3,keep_best=true,keep_checkpoints=1"
    see = best_lib.Best.see
    monkeypatch.setattr(
        best_lib.Best,
        "see",
        lambda best, step, metrics: see(best, step, {best_lib.MEASURE: 1 / step}),
    )
    config = tiny_config("digits", f"{FROZEN},{argument}")
    summary = train.train(config, str(tmp_path))
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [round(2 * 1437 / 64), summary["step"]]
    assert f"--checkpoint={kept[0]}" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    first = round(2 * 1437 / 64)
    assert min(steps) == first and max(steps) == summary["step"]


@pytest.mark.parametrize("backend, epochs", [("cpu", 40), ("gpu", 20), ("tpu", 20)])
def test_how_long_the_backbone_is_frozen_follows_from_the_hardware(backend, epochs, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = config_lib.default()
    config.update(epochs=40.0, freeze_epochs=-1.0)
    assert train._with_freezing(config, None).freeze_epochs == epochs
    earlier = config.copy_and_resolve_references()
    earlier.freeze_epochs = 7.0
    assert train._with_freezing(config, earlier).freeze_epochs == 7
    config.freeze_epochs = 3.0
    assert train._with_freezing(config, earlier).freeze_epochs == 3


def test_the_best_state_is_found_again_when_a_run_goes_on(tmp_path):
    lines = [(1, 0.5), (2, 0.9), (3, 0.8), (4, 0.8), (5, 1.0)]
    text = "".join(json.dumps({"step": s, "test/accuracy": a}) + "\n" for s, a in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    best = best_lib.Best()
    best.resume(str(tmp_path), 4, [1, 3, 4, 5])
    assert (best.step, best.accuracy) == (4, 0.8)
    best.see(6, {"loss": 1.0})
    best.see(7, {"test/accuracy": None})
    assert best.step == 4


def test_one_in_five_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [5, 10, 29])
    chosen = frozen._held_out(labels, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [1, 2, 5]
    assert not frozen._held_out(np.repeat([0, 1], [4, 100]), seed=1).any()


# Soft labels


def test_smoothed_labels_sum_to_one_and_masked_rows_to_nothing():
    soft = np.asarray(objective.smooth(np.array([1, -1]), 4, 0.2))
    np.testing.assert_allclose(soft, [[0.05, 0.85, 0.05, 0.05], [0, 0, 0, 0]], atol=1e-7)
    assert soft_labels(soft, None, np.float32)[1].tolist() == [True, False]


def test_mixed_rows_and_labels_share_their_weights():
    config = config_lib.default()
    config.update(mixup=0.5, num_classes=3)
    key = jax.random.key(3)
    labels = np.array([0, 1, 2])
    rows = np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(
        objective.mix(config, key, rows), objective.mix(config, key, labels), rtol=1e-6
    )
    config.mixup = 0.0
    assert objective.mix(config, key, labels) is labels


@pytest.mark.slow
def test_a_network_learns_from_soft_labels(tmp_path):
    argument = "loss=normface,label_smoothing=0.1,mixup=0.2,eval_every_epochs=3"
    assert train.train(tiny_config("digits", argument), str(tmp_path))["test"]["accuracy"] > 0.5


def test_the_longest_training_that_is_as_good_as_the_best_is_taken():
    assert frozen._longest([0.5, 0.9, 0.9, 0.88, 0.7], 100) == 4
    assert frozen._longest([1.0, 1.0, 0.99], 100) == 2


@pytest.mark.parametrize(
    "argument, told",
    [
        ("loss=dot_regression,head=etf,label_smoothing=0.1", "label_smoothing=0.1 goes with"),
        ("loss=scl,mixup=0.1", "mixup=0.1 goes with"),
        ("mixup=0.1,loss_groups=2", "use loss_groups=1"),
        ("freeze_epochs=1,queue_size=64", "goes without a queue"),
        ("label_smoothing=1", "at least 0 and below 1"),
    ],
)
def test_what_does_not_go_together_is_refused(argument, told):
    with pytest.raises(UserError, match=told):
        tiny_config("digits", argument)
