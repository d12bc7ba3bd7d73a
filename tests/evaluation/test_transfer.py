"""Transfer: metrics by hand, the protocol of each kind of set, and the command."""

import json
import math

import numpy as np
import pytest
import tfds_sets
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import precision_recall_curve
from small_runs import tiny_config

from hsproto import config as config_lib
from hsproto import train
from hsproto.data import tfds as tfds_lib
from hsproto.data.source import data_spec
from hsproto.errors import UserError
from hsproto.evaluation import transfer


def test_the_penalties_are_45_from_a_hundred_thousand_to_a_millionth():
    assert (transfer.LARGEST, transfer.SMALLEST) == (1e5, 1e-6)
    assert list(transfer.DATASETS) == [
        "food101", "cifar10", "cifar100", "cars196", "dtd", "oxford_iiit_pet",
        "oxford_flowers102", "voc/2007",
    ]  # fmt: skip


def test_eleven_point_average_precision_of_a_case_by_hand():
    # From high to low: hit, miss, hit, miss, hit. Precision 1, 1/2, 2/3, 1/2, 3/5 at recall
    # 1/3, 1/3, 2/3, 2/3, 1. At recalls 0..0.3 the highest to come is 1, at 0.4..0.6 2/3, above 3/5.
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.3])
    targets = np.array([1, 1, 1, 0, 0])
    expected = (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11
    assert transfer.average_precision(scores, targets) == pytest.approx(expected)
    # An image that does not count might as well not be there, however high it scores.
    scores, targets = np.append(scores, 2.0), np.append(targets, -1)
    assert transfer.average_precision(scores, targets) == pytest.approx(expected)


def test_average_precision_at_its_ends():
    assert transfer.average_precision(np.arange(20.0), np.arange(20) >= 10) == 1
    # The only hit comes last of four: precision 1/4 at every recall.
    last = transfer.average_precision(np.arange(4.0), np.array([1, 0, 0, 0]))
    assert last == pytest.approx(0.25)
    # Three of ten at the top are a recall of exactly 0.3.
    targets = np.repeat([1, 0, 1], [3, 7, 7])
    found = transfer.average_precision(-np.arange(17.0), targets)
    assert found == pytest.approx((4 + 7 * 10 / 17) / 11)
    assert math.isnan(transfer.average_precision(np.arange(3.0), np.zeros(3)))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_takes_equal_scores_together_as_scikit_learn_does(seed):
    random = np.random.default_rng(seed)
    targets = (random.random(40) < 0.3).astype(int)
    targets[0] = 1
    scores = (targets + random.normal(size=40)).round()
    # Its last point, of no image, has a precision of 1 by definition.
    precision, recall = (each[:-1] for each in precision_recall_curve(targets, scores)[:2])
    right = np.mean([precision[recall >= r - 1e-9].max() for r in np.arange(11) / 10])
    for order in (np.arange(40), np.argsort(targets), np.argsort(-targets)):
        found = transfer.average_precision(scores[order], targets[order])
        assert found == pytest.approx(right)
    assert transfer.average_precision(np.zeros(4), np.array([1, 0, 0, 0])) == 0.25


def test_metrics_by_hand_and_those_that_do_not_go_with_a_set_are_undefined():
    scores = np.eye(3)[[0, 0, 0, 1, 0, 2]]
    found = transfer.measure(scores, np.array([0, 0, 0, 0, 1, 2]))
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["accuracy_per_class"] == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert math.isnan(found["average_precision"])
    several = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    found = transfer.measure(several.astype(float), several)
    assert found["average_precision"] == 1 and math.isnan(found["accuracy"])


def test_the_validation_part_is_the_set_s_own_or_a_fifth():
    parts = {"train": range(50), "test": range(9)}
    chosen = transfer.validation_rows(parts)
    assert chosen.sum() == 10 and len(chosen) == 50
    np.testing.assert_array_equal(chosen, transfer.validation_rows(parts))
    chosen = transfer.validation_rows(parts | {"validation": range(20)})
    np.testing.assert_array_equal(chosen, np.arange(70) >= 50)


@pytest.fixture(scope="module")
def run_of_digits(tmp_path_factory):
    """An encoder of some of the digits."""
    workdir = tmp_path_factory.mktemp("run")
    train.train(tiny_config(argument="epochs=2,imbalance_factor=0.5"), workdir)
    return workdir


def tree(root, splits, size=(11, 9), mode="RGB"):
    """A folder of the digits 0 to 2, in files of another size and mode than the run's."""
    digits = load_digits()
    rows = iter(np.flatnonzero(digits.target < 3))
    for split, count in splits.items():
        for i in range(count):
            row = next(rows)
            path = root / split / f"digit {digits.target[row]}"
            path.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((digits.images[row] * 15).astype(np.uint8))
            image.resize(size).convert(mode).save(path / f"{i:03d}.png")
    return root


@pytest.mark.slow
def test_any_folder_can_be_transferred_to_and_is_not_repeated(run_of_digits, tmp_path, capsys):
    root = tree(tmp_path, {"train": 90, "val": 30, "test": 60})
    command = [f"--workdir={run_of_digits}", "--source=folder", f"--data_dir={root}"]
    command += ["--datasets=three", "--penalties=5"]
    assert transfer.main(command) == 0
    first = capsys.readouterr().out
    assert "three (1/1)" in first and "top-1" in first
    path = run_of_digits / "transfer.json"
    found = json.loads(path.read_text())["datasets"]["three"]
    sizes = [found[f"{name}_images"] for name in ("train", "validation", "test")]
    assert sizes == [120, 30, 60] and found["classes"] == 3
    assert found["accuracy"] > 0.8 and found["average_precision"] is None
    assert len(found["validation"]) == 5 and found["chosen_by"] == "accuracy"
    assert found["penalty"] == found["penalties"][int(np.argmax(found["validation"]))]
    assert found["penalties"][0] == 1e5 and found["penalties"][-1] == pytest.approx(1e-6)

    before = path.read_bytes()
    assert transfer.main(command) == 0
    again = capsys.readouterr().out
    assert "three (1/1)" not in again and again.splitlines()[-1] == first.splitlines()[-1]
    assert path.read_bytes() == before
    damaged = ["{", '{"datasets": []}', '{"datasets": {"three": []}}', "[" * 100_000]
    for content in damaged:
        path.write_text(content)
        with pytest.raises(UserError, match="transfer.json is damaged.*remove it"):
            transfer.main(command)
    path.unlink()


def test_arrays_of_any_size_are_made_into_what_the_network_takes(run_of_digits, tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 12, 20, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    arrays = {"class_names": ["a", "b", "c"]}
    for split in ("train", "test"):
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(tmp_path / "wide.npz", **arrays)
    config = tiny_config()
    parts = transfer.open_set(config, "wide", "arrays", str(tmp_path), "accuracy")
    rows = transfer.ConcatSource([parts["train"], parts["test"]], config)
    assert len(rows) == 24 and rows.targets.tolist() == [*labels, *labels]
    grey = Image.fromarray(images[2]).convert("L").resize((13, 8), Image.Resampling.BICUBIC)
    left = round((13 - 8) / 2)
    for i in (2, 14):
        square, row = rows[i]
        assert row == i and square.shape == (8, 8, 1)
        np.testing.assert_array_equal(square[..., 0], np.asarray(grey)[:, left : left + 8])


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory):
    """A prepared TFDS set like Pascal VOC: digits side by side, none, one or two an image."""
    tfds = pytest.importorskip("tensorflow_datasets")
    digits = load_digits()
    images = (digits.images[digits.target < 3] * 15).astype(np.uint8)
    targets = digits.target[digits.target < 3]
    labels = tfds.features.Sequence(tfds.features.ClassLabel(names=["zero", "one", "two"]))
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "labels": labels,
        "labels_no_difficult": labels,
    }

    def records(start, stop):
        for i in range(start, stop):
            pair = [images[i], images[i // 2 + 1]]
            found = sorted({int(targets[i]), int(targets[i // 2 + 1])})
            picture = Image.fromarray(np.vstack(pair)).convert("RGB")
            plain = found[:1] if i % 10 == 0 else found
            yield {"image": picture, "labels": found, "labels_no_difficult": plain}

    splits = {
        "train": records(0, 200),
        "validation": records(200, 300),
        "test": records(300, 420),
    }
    return tfds_sets.prepare(tmp_path_factory.mktemp("tfds"), "pairs", splits, features)


@pytest.mark.slow
def test_sets_of_several_labels_are_one_against_the_rest(run_of_digits, several_labels, capsys):
    command = [f"--workdir={run_of_digits}", f"--data_dir={several_labels}", "--datasets=pairs"]
    assert transfer.main([*command, "--metric=average_precision", "--penalties=4"]) == 0
    found = json.loads((run_of_digits / "transfer.json").read_text())["datasets"]["pairs"]
    assert (found["train_images"], found["validation_images"], found["test_images"]) == (
        300, 100, 120,
    )  # fmt: skip
    assert found["accuracy"] is None and 0.4 < found["average_precision"] <= 1
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:4] == ["pairs", "-", "-", f"{100 * found['average_precision']:.2f}"]
    with pytest.raises(UserError, match="needs the features image and label"):
        transfer.main([*command, "--metric=accuracy"])


def test_labels_that_are_difficult_alone_do_not_count(several_labels):
    config = config_lib.default()
    config.update(source="tfds", dataset="pairs", data_dir=str(several_labels))
    source = tfds_lib.tfds_splits(data_spec(config), multilabel=True)["test"]
    labels = source.labels
    assert labels.shape == (120, 3) and set(np.unique(labels)) == {-1, 0, 1}
    assert (labels == 1).any(axis=1).all() and (labels == -1).sum() <= 12
    picture, row = source.picture(5)
    assert picture.size == (8, 16) and row.tolist() == labels[5].tolist()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--penalties=0"], "--penalties=0"),
        (["--datasets="], "names no set"),
        (["--source=folder", "--datasets=three"], "data_dir"),
        (["--source=digits", "--datasets=digits", "--metric=average_precision"], "several labels"),
        (["--metric=f1"], "invalid choice"),
        (["--data_dir=DIR", "--datasets=cifar10,dtd"], "tfds build cifar10 "),
    ],
)
def test_mistakes_are_one_line(run_of_digits, tmp_path, arguments, told):
    arguments = [argument.replace("DIR", str(tmp_path)) for argument in arguments]
    with pytest.raises(UserError, match=told) as caught:
        transfer.main([f"--workdir={run_of_digits}", *arguments])
    assert "\n" not in str(caught.value)
