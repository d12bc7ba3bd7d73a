"""Snapshots: which images are watched, what is written of them, and what a resumed run keeps."""

import os

import jax
import numpy as np
import pytest
from small_runs import outcome, tiny_config

from hsproto import config as config_lib
from hsproto import train
from hsproto.data import augment, loader
from hsproto.data import load as load_lib
from hsproto.evaluation import trained
from hsproto.evaluation.evaluator import Evaluator, Loaders
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import snapshots, storage
from hsproto.runs.snapshots import Snapshot, SnapshotWriter
from hsproto.training import state as state_lib


def choose(labels, count):
    rows, classes = snapshots.choose(labels, count)
    assert rows.dtype == classes.dtype == np.int32 and len(set(rows)) == len(rows)
    assert set(np.asarray(labels)[rows]) == set(classes) or len(rows) < len(classes)
    return rows, classes


def test_classes_give_equally_many_images_spread_over_their_rows():
    labels = np.repeat(np.arange(10), 100)
    rows, classes = choose(labels, 300)
    assert classes.tolist() == list(range(10)) and np.bincount(labels[rows]).tolist() == [30] * 10
    assert rows[0] == 0 and rows[29] == 99 and np.all(np.diff(labels[rows]) >= 0)
    np.testing.assert_array_equal(choose(labels, 300)[0], rows)
    assert np.bincount(labels[choose(labels, 25)[0]]).tolist() == [3] * 5 + [2] * 5


def test_small_classes_give_all_and_the_others_the_rest():
    labels = np.repeat(np.arange(3), [2, 50, 50])
    assert np.bincount(labels[choose(labels, 42)[0]]).tolist() == [2, 20, 20]
    assert len(choose(labels, 1000)[0]) == 102


def test_of_many_classes_thirty_are_shown_from_the_first_to_the_last():
    labels = np.arange(50_000) % 1000
    rows, classes = choose(labels, 300)
    assert len(classes) == 30 and len(rows) == 300
    assert (classes[0], classes[-1]) == (0, 999) and set(np.diff(classes)) <= {34, 35}
    assert len(choose(labels, 7)[1]) == 7, "no class without an image"


def test_padding_and_classes_without_images_are_never_chosen():
    rows, classes = choose(np.array([4, -1, 4, 2, -1]), 10)
    assert classes.tolist() == [2, 4] and rows.tolist() == [3, 0, 2]


@pytest.mark.parametrize("run", ["digits_run", "scl_run"])
def test_a_run_leaves_a_snapshot_of_each_evaluation(run, request):
    workdir = request.getfixturevalue(run)
    mesh = mesh_lib.make_mesh()
    config, state, step = trained.load_state(workdir, mesh)
    records, summary = outcome(workdir)
    found = snapshots.step_files(workdir)
    assert [n for n, _ in found] == [r["step"] for r in records if "test/accuracy" in r]
    assert found[-1][0] == step == summary["step"]
    assert os.path.basename(found[-1][1]) == f"{step:08d}.npz"

    points = snapshots.read_points(workdir)
    test_set = load_lib.load_splits(config).test
    assert points["images"].dtype == np.uint8 and points["images"].shape == (300, 8, 8, 1)
    assert list(points["class_names"]) == [str(i) for i in range(10)]
    for place, row in enumerate(points["rows"]):
        image, label = test_set[row]
        np.testing.assert_array_equal(points["images"][place], image)
        assert points["labels"][place] == label

    names = ("features", "predicted", "classes", "prototypes", "means")
    last = snapshots.load(found[-1][1], names, optional=("bias",))
    assert "bias" not in last and last["classes"].tolist() == list(range(10))
    images = augment.make_preprocess(config)(points["images"])
    variables = jax.device_get(state.variables)
    by_hand = model_lib.forward(model_lib.build(config, 10), variables, images, train=False)[0]
    # The lengths are those that features have; those of SCL are its head's.
    np.testing.assert_allclose(last["features"], by_hand.projections, rtol=1e-3, atol=1e-4)
    with np.load(workdir / "prototypes.npz") as stored:
        np.testing.assert_array_equal(last["prototypes"], stored["prototypes"])
        np.testing.assert_array_equal(last["means"], stored["class_means"])
    weights = last["prototypes"] / np.linalg.norm(last["prototypes"], axis=1, keepdims=True)
    np.testing.assert_array_equal(
        last["predicted"], np.argmax(last["features"] @ weights.T, axis=1)
    )


def test_the_bias_is_there_where_there_is_one():
    config = tiny_config(argument="loss=cross_entropy")
    splits = load_lib.load_splits(config)
    config = load_lib.resolve(config, splits)
    mesh = mesh_lib.make_mesh(jax.devices()[:1])
    feeds = Loaders(*(loader.open_loader(split, config, mesh) for split in splits))
    variables = state_lib.create(config, mesh).variables
    variables["params"] = dict(variables["params"], bias=jax.numpy.arange(10.0))
    evaluator = Evaluator(config, feeds, mesh)
    found = evaluator.evaluate(variables, snapshot_points=50).snapshot
    np.testing.assert_array_equal(found.bias, np.arange(10))
    logits = found.features @ found.prototypes.T + found.bias
    np.testing.assert_array_equal(found.predicted, np.argmax(logits, axis=1))


class Source:
    class_names = ("a", "b", "ç")

    def __init__(self, side=4, channels=1):
        self._shape = side, side, channels

    def __getitem__(self, i):
        return np.full(self._shape, i, np.uint8), 0


def snapshot(rows=(0, 1, 2), dims=4, features=None):
    rows = np.array(rows, np.int32)
    features = np.ones((len(rows), dims), np.float32) if features is None else features
    weights = np.ones((3, dims), np.float32)
    classes = np.arange(3, dtype=np.int32)
    return Snapshot(rows, rows % 3, features, rows % 3, classes, weights, weights)


def steps(workdir):
    return [step for step, _ in snapshots.step_files(workdir)]


def test_snapshots_beyond_the_restored_step_are_dropped(tmp_path):
    writer = SnapshotWriter(tmp_path, 0, Source())
    for step in (5, 10, 15, 123_456_789):
        writer.write(step, snapshot())
    SnapshotWriter(tmp_path, 10, Source(), active=False)
    assert steps(tmp_path) == [5, 10, 15, 123_456_789]
    SnapshotWriter(tmp_path, 10, Source())
    assert steps(tmp_path) == [5, 10]
    assert {p.name for p in (tmp_path / "snapshots").iterdir()} == {
        "points.npz", "00000005.npz", "00000010.npz",
    }  # fmt: skip


def test_where_other_images_are_watched_the_earlier_snapshots_go(tmp_path):
    SnapshotWriter(tmp_path, 0, Source()).write(5, snapshot())
    SnapshotWriter(tmp_path, 5, Source()).write(10, snapshot())
    assert steps(tmp_path) == [5, 10]
    SnapshotWriter(tmp_path, 10, Source()).write(15, snapshot(rows=(0, 2)))
    assert steps(tmp_path) == [15]
    points = snapshots.read_points(tmp_path)
    assert points["rows"].tolist() == [0, 2] and points["images"][:, 0, 0, 0].tolist() == [0, 2]
    assert points["class_names"].tolist() == ["a", "b", "ç"]


def test_one_process_writes_and_nothing_is_written_of_nothing(tmp_path):
    SnapshotWriter(tmp_path, 0, Source(), active=False).write(5, snapshot())
    SnapshotWriter(tmp_path, 0, Source()).write(5, None)
    assert not list(tmp_path.iterdir())


def test_a_snapshot_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "snapshots").write_text("in the way")
    with pytest.warns(UserWarning, match="snapshot of step 5 could not be written.*goes on"):
        SnapshotWriter(tmp_path, 0, Source()).write(5, snapshot())


def test_what_could_not_be_written_is_kept_until_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", (0, 0))
    in_the_way = tmp_path / "snapshots"
    in_the_way.write_text("")
    with pytest.warns(UserWarning, match="of step 5 .*keeps it in memory"):
        with SnapshotWriter(tmp_path, 0, Source()) as writer:
            for step in (5, 10):
                writer.write(step, snapshot())
            in_the_way.unlink()
    assert steps(tmp_path) == [5, 10]
    with pytest.warns(UserWarning, match="1 snapshots could not be written"):
        with SnapshotWriter(tmp_path, 10, Source()) as writer:
            in_the_way.rename(tmp_path / "elsewhere")
            in_the_way.write_text("")
            writer.write(15, snapshot())


@pytest.mark.parametrize(
    ("dims", "value", "kind"),
    [(3, 1.0, np.float32), (65, 1.0, np.float16), (65, 70_000.0, np.float32)],
)
def test_wide_features_take_half_the_space_if_they_fit(tmp_path, dims, value, kind):
    features = np.full((3, dims), value, np.float32)
    SnapshotWriter(tmp_path, 0, Source()).write(5, snapshot(dims=dims, features=features))
    with np.load(snapshots.step_files(tmp_path)[0][1]) as stored:
        assert stored["features"].dtype == kind and np.all(stored["features"] == value)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_shrunk(tmp_path, channels):
    SnapshotWriter(tmp_path, 0, Source(224, channels)).write(5, snapshot())
    images = snapshots.read_points(tmp_path)["images"]
    assert images.shape == (3, 64, 64, channels) and images[2, 0, 0, 0] == 2
    assert snapshots.shrink(np.zeros((128, 32, channels), np.uint8)).shape == (64, 16, channels)


@pytest.mark.slow
def test_no_points_no_snapshots_and_a_resumed_run_may_begin_with_them(tmp_path):
    config = tiny_config(argument="epochs=1.5,snapshot_points=0")
    train.train(config, tmp_path)
    assert not (tmp_path / "snapshots").exists()
    # As if it had been killed before its summary: the last evaluation is made, and kept, again.
    (tmp_path / "summary.json").unlink()
    config.snapshot_points = 20
    assert train.train(config, tmp_path)["step"] == steps(tmp_path)[-1]
    assert not config_lib.differences(config, tiny_config(argument="epochs=1.5"))
