"""The protocol is the same for all methods and reads no test set for choosing; its runs work."""

import sys
import types

import numpy as np
import pytest
from small_runs import ROOT

sys.path.insert(0, str(ROOT / "launch"))
import collect_cells
import corrupted_features
import image_features
import jobs
import measure_cells
import protocol
import recorded
import small_data
import train_cells
import verify

from hsproto.data import sampler
from hsproto.models import architecture
from hsproto.reporting.claims import records

RESULTS = ROOT / "docs/results"
GROUPS = list(protocol.groups(tuple(protocol.STUDIES)))
CLASSES = {"cifar100": 6, "cifar10": 4, "fashion_mnist": 4}


def first_runs(study, dataset, method):
    """The runs that count if the first trial is chosen."""
    head = protocol.STUDIES[study].head
    return protocol.runs(study, dataset, method, protocol.drawn(head, method, 0))


@pytest.mark.parametrize("method", protocol.METHODS)
def test_every_method_has_as_many_trials_within_its_ranges(method):
    for dataset in protocol.SETS:
        found = protocol.trials("linear", dataset, method)
        assert len({cell.name for cell in found}) == protocol.HEADS["linear"].trials
        assert len({tuple(cell.values.items()) for cell in found}) == len(found)
        for cell in found:
            assert cell.values["validation_share"] == str(protocol.HELD_OUT)
            for key, within in protocol.METHODS[method].search.items():
                assert within.low <= float(cell.values[key]) <= within.high


def test_methods_on_the_sphere_share_their_trials():
    sphere = [m for m, method in protocol.METHODS.items() if "temperature" in method.search]
    assert len(sphere) == 5
    for trial in range(protocol.HEADS["linear"].trials):
        drawn = {tuple(protocol.drawn("linear", method, trial).items()) for method in sphere}
        assert len(drawn) == 1


def test_images_are_taken_by_class_and_have_three_channels():
    labels = np.array([1, 0, 1, 0, 0, 1])
    assert small_data.first_of_each(labels, 2).tolist() == [0, 1, 2, 3]
    assert small_data.first_of_each(labels, 0).tolist() == list(range(6))
    grey = np.full((4, 4, 1), 7, np.uint8)
    assert (image_features.resized(grey, 8) == 7).all()
    assert image_features.resized(grey, 8).shape == (8, 8, 3)


def test_runs_differ_from_each_other_in_method_seed_and_variant_alone():
    for study, dataset, method in GROUPS:
        cells = first_runs(study, dataset, method)
        assert len({cell.name for cell in cells}) == len(cells)
        of = protocol.STUDIES[study]
        assert {cell.number for cell in cells} == set(of.seeds or protocol.HEADS[of.head].seeds)
        assert all("validation_share" not in cell.values for cell in cells)


def test_the_best_trial_is_the_first_of_equal_ones_and_never_one_that_diverged():
    assert protocol.best([0.1, None, 0.3, 0.3]) == 2
    with pytest.raises(ValueError, match="every trial diverged"):
        protocol.best([None, None])


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Small sets in the place of the real ones."""
    root, random = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for name, classes in CLASSES.items():
        folder = root / name
        folder.mkdir()
        means = random.normal(size=(classes, 8))
        for prefix, each in (("", 30), ("test_", 15)):
            labels = np.repeat(np.arange(classes), each)
            rows = means[labels] + random.normal(size=(len(labels), 8))
            np.save(folder / f"{prefix}features.npy", rows.astype(np.float32))
            np.save(folder / f"{prefix}labels.npy", labels)
        np.save(folder / "class_names.npy", np.array([f"class{c}" for c in range(classes)]))
    return root


@pytest.mark.parametrize("method", protocol.METHODS)
def test_every_cell_is_a_config_that_can_run(features, method):
    for study, dataset, other in GROUPS:
        if other == method:
            for cell in first_runs(study, dataset, method)[::5]:
                values = {k: v for k, v in cell.values.items() if k != "class_list"}
                data = train_cells.Data(features, features)
                config = train_cells.make_config(cell._replace(values=values), data)
                architecture.validate(config, CLASSES[dataset])


def test_batches_of_some_classes_are_those_that_the_sampler_makes():
    for study, dataset, method in GROUPS:
        for cell in first_runs(study, dataset, method):
            if images := int(cell.values.get("images_per_class", 0)):
                sampler.GroupSampler(
                    np.arange(protocol.CLASSES[dataset]).repeat(2),
                    int(cell.values["batch_size"]), images, seed=0,
                )  # fmt: skip


def test_a_study_goes_from_trials_to_verdicts(features, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_cells, "CLASSES", CLASSES)
    small = {"batch_size": "32", "epochs": "2", "embedding_dim": "8"}
    of = protocol.HEADS["linear"]._replace(values=small, trials=1, seeds=range(1))
    monkeypatch.setitem(protocol.HEADS, "linear", of)
    out = tmp_path / "out"
    cells = protocol.trials("linear", "cifar10", "nonl")
    cells += first_runs("accuracy", "cifar10", "nonl")
    for cell in cells:
        assert train_cells.run(cell, train_cells.Data(features), out / cell.name)
        assert protocol.is_finished(cell, out)
    collect_cells.collect(out, tmp_path)
    assert [path.name for path in tmp_path.glob("*.json")] == ["heads.json"]
    found = records.read(tmp_path / "heads.json")
    assert len(found.trials) == 1 and len(found.runs) == 1
    wanted = {"map@r", "ece", "ood_knn_cifar100", "transfer_fashion_mnist", "nc1", "accuracy"}
    for run in found.runs:
        assert wanted <= set(run.metrics) and len(run.right) == 60
        assert run.right.mean() == pytest.approx(run.metrics["accuracy"], abs=1e-5)

    (tmp_path / "README.md").write_text("nothing yet")
    assert verify.verify(tmp_path) == 1


def test_what_is_recorded_is_not_run_again_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(protocol.HEADS, "linear", protocol.HEADS["linear"]._replace(trials=2))
    place = "linear", "cifar10", "nonl"
    trials = [
        records.Trial(*place, i, protocol.drawn("linear", "nonl", i), 0.5, {}) for i in range(2)
    ]
    cell = protocol.runs("accuracy", "cifar10", "nonl", trials[0].values)[3]
    values = {k: v for k, v in cell.values.items() if k not in ("seed", "snapshot_points")}
    run = records.Run("accuracy", *place, "", 3, values, {"accuracy": 0.5}, np.array([True, False]))
    methods = {"nonl": records.Method("NONL", "nonl")}
    stored = records.Records("heads", "ce", methods, trials, [run], {"jax": "0", "python": "3.11"})
    records.write(str(tmp_path / "heads.json"), stored)
    known = recorded.Recorded(tmp_path)
    assert len(known) == 3 and cell in known
    assert cell._replace(number=4) not in known
    assert known.held_out(protocol.trials("linear", "cifar10", "nonl")[1]) == 0.5

    collect_cells.collect(tmp_path / "nothing", tmp_path)
    kept = records.read(tmp_path / "heads.json")
    assert kept.trials == stored.trials
    assert [r._replace(right=0) for r in kept.runs] == [run._replace(right=0)]
    assert kept.made_with["jax"] == "0" and "CPU" in kept.made_with["machine"]
    assert collect_cells._merged({"jax": "0"}, {"jax": "1"}) == {"jax": "0 and 1"}

    other = cell._replace(values=cell.values | {"temperature": "7"})
    with pytest.raises(SystemExit):
        other in known  # noqa: B015


@pytest.mark.skipif(not list(RESULTS.glob("*.json")), reason="no records of a study")
def test_no_figure_of_the_test_set_chose_the_values_of_the_committed_runs():
    for path in RESULTS.glob("*.json"):
        found = records.read(path)
        for run in found.runs:
            made = [t for t in found.trials if t[:3] == (run.head, run.set, run.method)]
            assert len(made) == protocol.HEADS[run.head].trials
            best = records.chosen(found, run.head, run.set, run.method)
            # But for what a study of causes puts in the place of a chosen value.
            chosen = best.values | protocol.STUDIES[run.study].variants[run.variant]
            assert all(run.values[key] == chosen[key] for key in best.values)
        places = {(trial.head, trial.set, trial.method) for trial in found.trials}
        for place in places:
            drawn = [t for t in found.trials if (t.head, t.set, t.method) == place]
            assert len({t.trial for t in drawn}) == len(drawn)
            for trial in drawn:
                assert trial.values == protocol.drawn(trial.head, trial.method, trial.trial)


@pytest.mark.skipif(not list(RESULTS.glob("*.json")), reason="no records of a study")
def test_the_committed_tables_are_those_of_the_records():
    assert verify.verify(RESULTS) == 0


def test_corrupted_images_are_measured_by_kind_and_strength(tmp_path, monkeypatch):
    class Network:
        side = 8

        def features(self, images):
            return images.reshape(len(images), -1)[:, :4].astype(np.float32)

    def corrupt(image, name, strength, seed):
        return np.full_like(image, strength if name == "fog" else seed)

    monkeypatch.setattr(corrupted_features.corruptions, "corrupt", corrupt)
    labels = np.arange(12) % 3
    images = np.repeat(np.arange(12, dtype=np.uint8), 64).reshape(12, 8, 8)
    np.savez(tmp_path / "cifar100.npz", test_images=images, test_labels=labels)
    folder = tmp_path / "corrupted/cifar100"
    corrupted_features.make(Network(), tmp_path / "cifar100.npz", folder, 6)
    assert np.load(folder / "labels.npy").tolist() == [0, 1, 2, 0, 1, 2]
    assert np.load(folder / "none.npy").shape == (1, 6, 4)
    assert np.load(folder / "fog.npy")[:, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert np.load(folder / "snow.npy")[0, :, 0].tolist() == list(range(6))

    class Run:
        def predict(self, rows):  # right wherever fog is not stronger than 2
            right = np.arange(len(rows)) % 3
            wrong = rows[:, 0].min() == rows[:, 0].max() > 2
            return types.SimpleNamespace(labels=right + wrong)

    monkeypatch.setattr(measure_cells.inference, "load", lambda workdir: Run())
    cell = protocol.Cell("", "cifar100", "linear", "nonl", "robustness", "", 0, {}, ())
    found = measure_cells._corruptions(cell, tmp_path, tmp_path)
    assert found["on_none"] == found["on_snow"] == 1 and found["on_fog"] == pytest.approx(0.4)
    assert found["corrupted"] == pytest.approx(1 - 0.6 / 15)
    assert found[protocol.BY_IMAGE] == {"corrupted": [75, [72] * 6]}


def test_trials_from_scratch_are_measured_on_training_images_alone():
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    arrays = {"train_images": images, "train_labels": np.arange(40) % 2, "class_names": ["a", "b"]}
    found = small_data.hold_out(arrays | {"test_images": images[:0], "test_labels": images[:0]})
    assert found["test_images"].ravel().tolist() == [18, 19, 38, 39]
    assert len(found["train_images"]) == len(found["train_labels"]) == 36
    assert not set(found["train_images"].ravel()) & set(found["test_images"].ravel())
    for cell in protocol.trials("scratch", "cifar10", "nonl"):
        config = train_cells.make_config(cell, train_cells.Data(None, ROOT))
        assert config.data_dir == str(ROOT / "held_out") and config.epochs == 5


def test_no_job_is_started_after_the_minutes_that_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    started = []
    job = jobs.Job(["true"], tmp_path / "a", lambda: None, lambda: started.append(1))
    args = types.SimpleNamespace(gpus=None, jobs=1)
    for minutes, times in ((0, 0), (None, 1)):
        pool = jobs.make_pool(args, minutes)
        assert pool.run({"a": job}) == dict.fromkeys(["a"][:times], 0)
        assert len(started) == times and pool.ended() is (minutes == 0)
