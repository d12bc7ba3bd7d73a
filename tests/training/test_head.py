"""A classifier on features of another network, whose workdir is that of a run like any other."""

import dataclasses
import importlib
import importlib.util
import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

import hsproto
from hsproto import head, train
from hsproto.cli import COMMANDS
from hsproto.data import intake
from hsproto.data import load as load_lib
from hsproto.data.features import load_rows, statistics
from hsproto.data.source import data_spec
from hsproto.errors import UserError
from hsproto.reporting import paper_protocol
from hsproto.runs import run as run_lib


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "cifar10.npz"
    digits = load_digits()
    np.savez(
        path,
        features=digits.data[:1200] * 100, labels=digits.target[:1200],
        test_features=digits.data[1200:] * 100, test_labels=digits.target[1200:],
    )  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def workdir(file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("head") / "run"
    assert head.main([file, f"--workdir={workdir}", "--hidden_layers=64", "--epochs=8"]) == 0
    return workdir


def command(name, *arguments):
    assert importlib.import_module(COMMANDS[name].module).main(list(map(str, arguments))) == 0


def test_it_learns(workdir):
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.9
    assert summary["config"]["dataset"] == "cifar10"


def test_it_is_never_compared_with_the_paper(workdir):
    (run,), _ = run_lib.read([str(workdir)])
    assert run.config["num_classes"] == 10
    assert paper_protocol.paper_set(run) is None


def test_the_same_command_resumes_it(file, workdir, capsys):
    head.main([file, f"--workdir={workdir}", "--hidden_layers=64", "--epochs=8"])
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a run of another config"):
        head.main([file, f"--workdir={workdir}", "--hidden_layers=32", "--epochs=8"])


def test_commands_work_on_it_as_on_any_run(workdir, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", features=np.random.default_rng(0).normal(size=(50, 64)))
    for name, *arguments in (
        ("calibration",), ("retrieval",), ("ood", "--other", tmp_path / "other.npz", "--k=5"),
        ("predict", tmp_path / "other.npz"),
    ):  # fmt: skip
        command(name, f"--workdir={workdir}", *arguments)
    assert "other.npz[49]: " in capsys.readouterr().out
    command("report", workdir, f"--out={tmp_path / 'report'}")


def test_what_to_type_next_is_of_features(workdir, file, tmp_path, capsys):
    head.main([file, f"--workdir={workdir}", "--hidden_layers=64", "--epochs=8"])
    assert f"predict --workdir={workdir} FILE.npz\n" in capsys.readouterr().out
    out = tmp_path / "exported"
    command("export", f"--workdir={workdir}", f"--out={out}")
    assert "a function of features, float32 [N, 1, 1, 64]\n" in capsys.readouterr().out
    spec = importlib.util.spec_from_file_location("exported_predict", out / "predict.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    features = np.load(file)["test_features"][:70]
    labels, _ = module.load()(features.astype(np.float32)[:, None, None, :])
    np.testing.assert_array_equal(labels, hsproto.load(workdir).predict(features).labels)


@pytest.mark.parametrize("name", ["transfer", "robustness"])
def test_commands_on_images_say_that_there_are_none(name, workdir, tmp_path):
    extra = [f"--corrupted={tmp_path}"] if name == "robustness" else []
    with pytest.raises(UserError, match="trained on features"):
        command(name, f"--workdir={workdir}", *extra)


def test_other_features_must_have_the_columns_of_the_runs(workdir, tmp_path):
    np.savez(tmp_path / "other.npz", features=np.ones((5, 63)))
    with pytest.raises(UserError, match="has 63 columns; the run's features 64"):
        command("predict", f"--workdir={workdir}", tmp_path / "other.npz")
    (tmp_path / "photo.png").write_bytes(b"no features")
    with pytest.raises(UserError, match="this run takes features, from npz or npy files"):
        command("predict", f"--workdir={workdir}", tmp_path / "photo.png")


def test_features_are_normalized_by_the_training_set(file):
    splits = load_lib.load_splits(head.make_config(file, {}))
    config = load_lib.resolve(head.make_config(file, {}), splits)
    rows = splits.train.images.reshape(1200, -1)
    np.testing.assert_allclose(config.mean, rows.mean(axis=0), rtol=1e-5)
    varied = rows.std(axis=0) > 0
    np.testing.assert_allclose(np.array(config.std)[varied], rows.std(axis=0)[varied], rtol=1e-4)
    assert (np.array(config.std)[~varied] == 1).all()


def test_statistics_of_large_equal_features_are_no_noise():
    assert statistics(np.full((300, 1, 1, 2), 1e8 / 3, np.float32))[1] == (1.0, 1.0)


def test_a_share_of_each_class_is_held_out_the_same_for_a_seed(tmp_path):
    labels = np.repeat([0, 1, 2], [60, 30, 1])
    rows = np.arange(len(labels) * 3, dtype=np.float32).reshape(-1, 3)
    np.savez(tmp_path / "x.npz", features=rows, labels=labels)
    config = head.make_config(str(tmp_path / "x.npz"), {"batch_size": "8"})
    first, second = load_lib.load_splits(config), load_lib.load_splits(config)
    assert np.bincount(first.test.labels, minlength=3).tolist() == [6, 3, 0]
    assert (first.test.images == second.test.images).all()
    both = np.concatenate([first.train.images, first.test.images]).reshape(-1, 3)
    assert sorted(both[:, 0]) == rows[:, 0].tolist()


def test_early_stop_ends_where_longer_training_is_no_better(file, tmp_path, monkeypatch, capsys):
    tried = []

    def trained(config, workdir):
        tried.append((config.epochs, config.validation_share))
        return {"test": {"accuracy": {5.0: 0.7, 10.0: 0.8, 20.0: 0.8}[config.epochs]}}

    monkeypatch.setattr(train, "train", trained)
    head.main([file, f"--workdir={tmp_path}", "--early_stop", "--epochs=100"])
    assert tried == [(5.0, 0.1), (10.0, 0.1), (20.0, 0.1), (10.0, 0.0)]
    assert "validation accuracy 0.8000 after 20 epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--loss=nope"], "loss='nope' must be one of"),
        (["--epochs=many"], "epochs='many' must be float"),
        (["--config.flip=true"], "is for images"),
        (["--config.backbone=resnet18"], "go together"),
        (["--hidden_layers=1.5"], "must be widths"),
        (["--nothing=1"], "unrecognized arguments: --nothing=1"),
        (["--config.channels=3"], "has 64 columns: set channels=0"),
    ],
)
def test_what_is_wrong_is_named(arguments, message, file, tmp_path):
    with pytest.raises(UserError, match=message):
        head.main([file, f"--workdir={tmp_path / 'run'}", *arguments])


def test_features_alone_need_a_test_set(file, tmp_path):
    with np.load(file) as whole:
        np.savez(tmp_path / "x.npz", features=whole["features"], labels=whole["labels"])
    config = head.make_config(str(tmp_path / "x.npz"), {})
    assert config.validation_share == 0.1
    config.validation_share = 0.0
    with pytest.raises(UserError, match="holds no test_features"):
        load_lib.load_splits(config)


def test_features_that_are_not_finite_are_counted(tmp_path):
    rows = np.ones((20, 3))
    rows[4] = np.inf
    np.savez(tmp_path / "x.npz", features=rows)
    with pytest.raises(UserError, match="1 of 20 rows hold values that are not finite.* row 4"):
        load_rows(str(tmp_path / "x.npz"), 3)


def test_of_two_sets_in_a_file_it_is_told_which_one_is_read(tmp_path):
    path, rows = str(tmp_path / "x.npz"), np.ones((20, 3), np.float32)
    np.savez(path, features=rows, test_features=rows[:7])
    with pytest.warns(UserWarning, match="the 20 rows of features are read"):
        assert len(load_rows(path, 3)) == 20


def test_where_labels_are_ignored_bad_ones_do_not_matter(tmp_path):
    rows = np.ones((20, 3), np.float32)
    np.savez(tmp_path / "x.npz", features=rows, labels=np.full(7, 10**9), class_names=["a"])
    assert load_rows(str(tmp_path / "x.npz"), 3).images.shape == (20, 1, 1, 3)


def test_rows_in_memory_that_are_not_finite_are_refused_too():
    spec = data_spec(head.recipes.features())
    rows = np.ones((4, 3))
    rows[2] = np.nan
    with pytest.raises(UserError, match="1 of 4 rows hold values that are not finite.* row 2"):
        intake.listed(rows, dataclasses.replace(spec, channels=3))
