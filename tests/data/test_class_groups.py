"""Groups of classes: CIFAR-100's superclasses, any source by them, and what a run on them keeps."""

import json

import numpy as np
import pytest
from PIL import Image
from small_runs import ROOT, merged, tiny_config

from hsproto import config as config_lib
from hsproto import config_checks, train
from hsproto.cli import load_config
from hsproto.data import class_lists
from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.evaluation import retrieval, transfer

CIFAR100 = ROOT.parent / "shared" / "data" / "cifar100_test.npz"
NAME = "cifar100_coarse"
MEMBERS = class_lists.group_members(NAME)
FINE = tuple(sorted(name for classes in MEMBERS.values() for name in classes))
# The group of each class, in the order of the labels, as the set's own files have it.
OFFICIAL = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5
5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13
15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""
GROUP_OF = np.array(OFFICIAL.split(), int)


def arrays(root, names=FINE, images_per_class=2, side=8):
    """An npz of some images of each class, as noisy as to be told apart; the folder it lies in."""
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 200, (len(names), side, side, 1))
    stored = {"class_names": np.array(names)}
    for split in ("train", "test"):
        labels = np.tile(np.arange(len(names)), images_per_class)
        noise = rng.integers(0, 50, (len(labels), side, side, 1))
        stored[f"{split}_images"] = (looks[labels] + noise).astype(np.uint8)
        stored[f"{split}_labels"] = labels
    np.savez(root / "cifar100.npz", **stored)
    return root


def config_of(root, argument=f"class_groups={NAME}"):
    data = f"source=arrays,dataset=cifar100,image_size=8,channels=1,data_dir={root}"
    return config_lib.with_argument(config_lib.default(), merged(data, argument))


def test_twenty_groups_of_five_hold_a_hundred_classes():
    assert list(MEMBERS) == sorted(MEMBERS) and len(MEMBERS) == 20
    assert all(len(classes) == 5 for classes in MEMBERS.values())
    assert len(set(FINE)) == 100


def test_the_groups_are_those_of_the_sets_own_files():
    groups = list(MEMBERS)
    for fine, group in zip(FINE, GROUP_OF, strict=True):
        assert fine in MEMBERS[groups[group]], fine


def test_the_names_are_those_of_the_data_set():
    if not CIFAR100.exists():
        pytest.skip(f"{CIFAR100} is not there")
    with np.load(CIFAR100) as file:
        assert tuple(file["class_names"].tolist()) == FINE


def test_labels_and_names_become_those_of_the_groups(tmp_path):
    whole = load_lib.load_splits(config_of(arrays(tmp_path), ""))
    splits = load_lib.load_splits(config_of(tmp_path, f"class_groups={NAME},num_classes=20"))
    for split, fine in zip(splits, whole, strict=True):
        assert split.class_names == tuple(MEMBERS) and len(split) == 200
        np.testing.assert_array_equal(split.labels, GROUP_OF[fine.labels])
        np.testing.assert_array_equal(split.images, fine.images)
        image, label = split[104]
        assert label == GROUP_OF[4] and type(label) is int
        np.testing.assert_array_equal(image, fine.images[104])


def test_classes_are_known_by_name_in_whatever_order_they_come(tmp_path):
    backwards = FINE[::-1]
    test = load_lib.load_splits(config_of(arrays(tmp_path, backwards))).test
    np.testing.assert_array_equal(test.labels, np.tile(GROUP_OF[::-1], 2))


def test_a_folder_is_grouped_too_and_its_pictures_stay_whole(tmp_path):
    for place, name in enumerate(FINE):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (9, 8), place).save(tmp_path / split / name / "a.png")
    config = config_of(tmp_path, f"source=folder,class_groups={NAME}")
    train_source, test = load_lib.load_splits(config)
    train_source.check()
    np.testing.assert_array_equal(test.labels, GROUP_OF)
    picture, label = train_source.picture(57)
    assert picture.size == (9, 8) and picture.getpixel((0, 0)) == 57 and label == GROUP_OF[57]
    image, label = test[31]
    assert image.shape == (8, 8, 1) and image[0, 0, 0] == 31 and label == GROUP_OF[31]


def test_a_long_tail_is_that_of_the_groups(tmp_path):
    config = config_of(arrays(tmp_path), f"class_groups={NAME},imbalance_factor=0.2")
    counts = np.bincount(load_lib.load_splits(config).train.labels)
    assert counts[0] == 10 and counts[-1] == 2 and len(counts) == 20


def test_a_prepared_tfds_set_is_grouped_by_its_labels(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core import registered

    tfds.disable_progress_bar()
    with registered.skip_registration():

        class Cifar100(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.2")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(8, 8, 3)),
                    "label": tfds.features.ClassLabel(names=FINE),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(), "test": self._generate_examples()}

            def _generate_examples(self):
                for i in range(100):
                    yield i, {"image": Image.new("RGB", (8, 8), (i, i, i)), "label": i}

    Cifar100(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    config = config_of(tmp_path, f"source=tfds,channels=3,class_groups={NAME}")
    train_source, test = load_lib.load_splits(config)
    assert train_source.class_names == tuple(MEMBERS)
    for i in (0, 42, 99):  # records are shuffled when they are written
        image, label = test[i]
        assert label == test.labels[i] == GROUP_OF[image[0, 0, 0]]
        assert train_source.picture(i)[1] == train_source.labels[i]


def test_other_names_and_other_data_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="class_groups='fine' must be one of: nothing, cifar100_co"):
        config_checks.validate(config_of("", "class_groups=fine"))
    for names, told in (
        (FINE[1:], "lack 'apple':"),
        ((*FINE, "zebra"), "have 'zebra':"),
        (("Apple", *FINE[1:]), "lack 'apple' and have 'Apple':"),
        ((*FINE, "apple"), "name one twice:"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            load_lib.load_splits(config_of(arrays(tmp_path, names, images_per_class=1)))
        text = str(caught.value)
        assert f"config key class_groups={NAME!r}" in text and "leave class_groups empty" in text
        assert "\n" not in text


def test_runs_older_than_the_key_have_no_groups_and_those_with_them_differ():
    config = config_of("")
    assert config_lib.from_json(config_lib.to_json(config)).class_groups == NAME
    older = json.loads(config_lib.to_json(config))
    del older["class_groups"]
    older = config_lib.from_json(json.dumps(older))
    assert older.class_groups == ""
    assert config_lib.differences(config, older) == ["class_groups"]


def coarse_config(root, groups=NAME):
    argument = f"source=arrays,dataset=cifar100,data_dir={root},class_groups={groups}"
    return tiny_config(argument=f"{argument},epochs=2,eval_batch_size=200")


@pytest.fixture(scope="module")
def coarse_run(tmp_path_factory):
    """(folder of the data, workdir) of a short run on the twenty groups."""
    root = arrays(tmp_path_factory.mktemp("data"))
    workdir = tmp_path_factory.mktemp("coarse")
    train.train(coarse_config(root), workdir)
    return root, workdir


@pytest.mark.slow
def test_a_run_on_groups_names_them_and_is_another_run_than_one_without(coarse_run):
    root, workdir = coarse_run
    assert json.loads((workdir / "config.json").read_text())["num_classes"] == 20
    with np.load(workdir / "prototypes.npz") as file:
        assert tuple(file["class_names"].tolist()) == tuple(MEMBERS)
        assert len(file["prototypes"]) == 20
    with pytest.raises(UserError, match="another config .class_groups='cifar100_coarse' there, ''"):
        train.train(coarse_config(root, groups=""), workdir)


def test_transfer_to_its_own_set_asks_for_the_hundred_classes(coarse_run):
    root, workdir = coarse_run
    place = ["--source=arrays", f"--data_dir={root}", "--datasets=cifar100", "--penalties=2"]
    assert transfer.main([f"--workdir={workdir}", *place]) == 0
    found = json.loads((workdir / "transfer.json").read_text())["datasets"]["cifar100"]
    assert found["classes"] == 100 and found["accuracy"] > 0.05


def test_retrieval_asks_for_the_groups_or_for_the_hundred_classes(coarse_run):
    _, workdir = coarse_run
    found = {}
    for labels in ("own", "original"):
        assert retrieval.main([f"--workdir={workdir}", f"--labels={labels}"]) == 0
        found[labels] = json.loads((workdir / "retrieval.json").read_text())
        assert (found[labels]["labels"], found[labels]["queries"]) == (labels, 200)
    # What is of the same class is of the same group. There is one other image of a class, so that
    # MAP@R asks whether it is the nearest.
    assert found["original"]["recall@1"] == pytest.approx(found["original"]["map@r"])
    for k in retrieval.KS:
        assert found["own"][f"recall@{k}"] >= found["original"][f"recall@{k}"]
    assert found["own"]["recall@8"] > found["original"]["recall@8"] > 0


def test_original_labels_do_not_need_a_training_set_cut_by_classes(tmp_path):
    # One image of each class cannot be cut by a class's share; five of a group can.
    config = config_of(
        arrays(tmp_path, images_per_class=1), f"class_groups={NAME},imbalance_factor=0.3"
    )
    config.num_classes = 20
    assert len(load_lib.load_splits(config).train) < 100
    test = retrieval.with_original_labels(config)
    np.testing.assert_array_equal(test.labels, np.arange(100))
    assert config.class_groups == NAME


def test_the_recipes_take_the_key():
    config = load_config(f"{ROOT}/configs/cifar.py:dataset=cifar100,class_groups={NAME}")
    assert config.class_groups == NAME
