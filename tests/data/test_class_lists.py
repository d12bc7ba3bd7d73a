"""ImageNet-100: its two lists, both cut out of a folder of more classes; classes by their names."""

import re

import numpy as np
import pytest
from PIL import Image

from hsproto import config as config_lib
from hsproto.data import class_lists
from hsproto.data import load as load_lib
from hsproto.data.folder import FolderSource
from hsproto.errors import UserError
from hsproto.evaluation import transfer


@pytest.mark.parametrize("name", class_lists.IMAGENET100_LISTS)
def test_a_list_is_a_hundred_sorted_ids_of_its_hash(name):
    wnids = class_lists.wnids(name)
    assert len(set(wnids)) == 100 and list(wnids) == sorted(wnids)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    assert class_lists.digest(wnids) == class_lists.SHA256[name]


def test_the_two_lists_are_those_of_that_name():
    cmc, kaggle = map(class_lists.wnids, ("imagenet100_cmc", "imagenet100_kaggle"))
    assert "n02869837" in cmc and "n02090622" in cmc
    assert (kaggle[0], kaggle[-1]) == ("n01440764", "n02077923")
    assert len(set(cmc) & set(kaggle)) == 8


def folder(root, wnids):
    """Two training images and a test image of each class, grey at the class's place in `wnids`."""
    for place, wnid in enumerate(wnids):
        for split, names in (("train", "ab"), ("val", "c")):
            (root / split / wnid).mkdir(parents=True)
            for name in names:
                Image.new("RGB", (4, 4), (place,) * 3).save(root / split / wnid / f"{name}.png")


def config_of(root, argument=""):
    argument = f"source=folder,image_size=4,data_dir={root},{argument}"
    return config_lib.with_argument(config_lib.default(), argument)


def test_the_classes_of_a_list_stay_relabelled_in_their_order(tmp_path):
    every = sorted(set().union(*map(class_lists.wnids, class_lists.IMAGENET100_LISTS)))
    folder(tmp_path, every)
    for name in class_lists.IMAGENET100_LISTS:
        wnids = class_lists.wnids(name)
        train, test = load_lib.load_splits(
            config_of(tmp_path, f"class_list={name},num_classes=100")
        )
        assert train.class_names == test.class_names == wnids
        assert (len(train), len(test)) == (200, 100)
        for i in (0, 57, 99):
            image, label = test[i]
            assert label == test.labels[i] == i and image[0, 0, 0] == every.index(wnids[i])
            picture, label = train.picture(2 * i)
            assert label == i and picture.getpixel((0, 0))[0] == every.index(wnids[i])
    rare = load_lib.load_splits(
        config_of(tmp_path, "class_list=imagenet100_cmc,imbalance_factor=0.5")
    ).train
    assert np.bincount(rare.labels).tolist() == [2] + [1] * 99


def test_a_folder_of_just_the_list_is_taken_as_it_is_and_another_refused(tmp_path):
    folder(tmp_path, class_lists.wnids("imagenet100_cmc"))
    assert isinstance(
        load_lib.load_splits(config_of(tmp_path, "class_list=imagenet100_cmc")).train, FolderSource
    )
    with pytest.raises(UserError, match="lack 92 of its 100 classes") as caught:
        load_lib.load_splits(config_of(tmp_path, "class_list=imagenet100_kaggle"))
    assert "\n" not in str(caught.value)


def test_other_data_sets_are_not_cut_by_the_list_of_the_run():
    config = config_of("", "class_list=imagenet100_cmc,channels=1")
    parts = transfer.open_set(config, "digits", "digits", "", "top1")
    assert len(parts["train"].class_names) == 10


DIGITS = "dataset=digits,source=digits,channels=1,image_size=8,flip=false,data_dir="


def test_classes_chosen_by_name_are_labelled_in_the_order_of_their_names():
    whole, some = (
        load_lib.load_splits(config_lib.with_argument(config_lib.default(), f"{DIGITS},{more}"))
        for more in ("num_classes=10", "class_list=7/0/3,num_classes=3")
    )
    for before, after in zip(whole, some, strict=True):
        assert after.class_names == ("7", "0", "3")
        rows = np.flatnonzero(np.isin(before.labels, (0, 3, 7)))
        assert len(after) == len(rows)
        np.testing.assert_array_equal(after.images, before.images[rows])
        numbers = [int(after.class_names[label]) for label in after.labels]
        np.testing.assert_array_equal(numbers, before.labels[rows])


def test_a_class_that_the_data_do_not_have_is_refused_with_theirs():
    config = config_lib.with_argument(config_lib.default(), f"{DIGITS},class_list=0/ten")
    with pytest.raises(UserError, match="class_list='0/ten'.*'ten'; theirs are: 0, 1,.*9$"):
        load_lib.load_splits(config)
