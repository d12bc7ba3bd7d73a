"""Folders of images as people have them: which files count, and which layouts are a data set."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hsproto import config as config_lib
from hsproto import config_checks
from hsproto.data import folder, listing
from hsproto.data import load as load_lib
from hsproto.data.source import data_spec
from hsproto.errors import UserError


def config_of(root, **changes):
    config = config_lib.default()
    config.update(source="folder", dataset="mine", data_dir=str(root), image_size=8, **changes)
    return config


def write(root, *places, count=3):
    """Write `count` PNG files into each of the folders; return `root`."""
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(root / place / f"{i}.png")
    return root


def names_of(source, root):
    return [os.path.relpath(path, root) for path in source.paths]


def refusal(config):
    with pytest.raises(UserError) as caught:
        load_lib.load_splits(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TRAIN = ("train/ant", "train/bee")


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_the_folder_of_test_images_has_one_of_four_names(tmp_path, test):
    write(tmp_path, *TRAIN, f"{test}/ant", f"{test}/bee")
    splits = load_lib.load_splits(config_of(tmp_path))
    assert [len(split) for split in splits] == [6, 6]


@pytest.mark.parametrize("unlabeled", ["test", "test/images", "test/split1/images"])
def test_test_images_without_classes_are_left_alone(tmp_path, capsys, unlabeled):
    write(tmp_path, *TRAIN, "val/ant", "val/bee", unlabeled)
    splits = load_lib.load_splits(config_of(tmp_path))
    assert names_of(splits.test, tmp_path)[0] == "val/ant/0.png" and len(splits.test) == 6
    assert f"{tmp_path / 'test'} holds no folder of a class" in capsys.readouterr().out
    assert folder.load_validation(data_spec(config_of(tmp_path))) is None


def test_a_class_may_be_missing_in_the_test_set_which_is_said(tmp_path, capsys):
    write(tmp_path, *TRAIN, "train/cat", "val/ant", "val/cat")
    (tmp_path / "val" / "bee").mkdir()
    splits = load_lib.load_splits(config_of(tmp_path))
    assert splits.test.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(np.unique(splits.test.labels), [0, 2])
    assert "val has no image of 1 of 3 classes: bee" in capsys.readouterr().out


def test_a_class_of_the_test_set_that_is_not_trained_is_refused_by_name(tmp_path):
    write(tmp_path, *TRAIN, "val/ant", "val/wasp")
    assert "val holds classes that the training set lacks: wasp" in refusal(config_of(tmp_path))


@pytest.mark.parametrize("inside", ["", "train", "mine", "mine/train"])
def test_a_folder_without_a_split_is_split_by_class(tmp_path, inside):
    root = tmp_path / inside
    write(root, "ant", "bee", count=10)
    write(root, "cat", count=1)
    splits = load_lib.load_splits(config_of(tmp_path, validation_share=0.3))
    np.testing.assert_array_equal(np.bincount(splits.train.labels), [7, 7, 1])
    np.testing.assert_array_equal(np.bincount(splits.test.labels), [3, 3])
    assert not set(splits.train.paths) & set(splits.test.paths)


def test_the_split_is_that_of_the_names_and_the_seed_alone(tmp_path):
    def held_out(root, seed=0):
        config = config_of(root, validation_share=0.3, subset_seed=seed)
        return names_of(load_lib.load_splits(config).test, root)

    here = write(tmp_path / "here", "ant", "bee", count=10)
    there = shutil.copytree(here, tmp_path / "elsewhere" / "there")
    assert held_out(here) == held_out(here) == held_out(there) != held_out(here, seed=1)
    write(here, "bee", count=12)  # the same and two more
    found = held_out(here)
    assert [name for name in found if "ant" in name] == [n for n in held_out(there) if "ant" in n]


def test_a_folder_without_a_split_is_refused_with_the_key_that_splits_it(tmp_path):
    write(tmp_path, "ant", "bee")
    assert "validation_share=0.1" in refusal(config_of(tmp_path))
    write(tmp_path, "train/ant", "val/ant")
    assert "set validation_share=0" in refusal(config_of(tmp_path, validation_share=0.1))


def test_hidden_files_and_folders_never_count_at_any_depth(tmp_path):
    write(tmp_path, *TRAIN, "test/ant", "test/bee", "train/ant/deep/er", ".ipynb_checkpoints")
    for name in (".ipynb_checkpoints", ".@__thumb", "@eaDir", "__MACOSX", "deep/.hidden/inside"):
        write(tmp_path, f"train/ant/{name}", f"train/{name}")
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "deep/._x.jpg", "deep/desktop.ini"):
        (tmp_path / "train" / "ant" / name).write_bytes(b"no image")
    shutil.rmtree(tmp_path / "train" / "deep")
    splits = load_lib.load_splits(config_of(tmp_path))
    assert splits.train.class_names == ("ant", "bee") and len(splits.train) == 9
    splits.train.check()


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path, *TRAIN, "test/ant", "test/bee", "train/ant/deep", "elsewhere")
    train = tmp_path / "train"
    (train / "ant" / "deep" / "up").symlink_to(train / "ant")
    (train / "ant" / "deep" / "further_up").symlink_to(tmp_path)
    (train / "bee" / "itself").symlink_to(train / "bee")
    (train / "bee" / "others").symlink_to(tmp_path / "elsewhere")
    splits = load_lib.load_splits(config_of(tmp_path))
    np.testing.assert_array_equal(np.bincount(splits.train.labels), [6, 6])


def test_every_suffix_that_pillow_reads_counts_and_others_are_counted_in_one_line(tmp_path, capsys):
    write(tmp_path, *TRAIN, "test/ant", "test/bee")
    image = Image.new("RGB", (8, 8))
    for name in ("a.JFIF", "b.tga", "c.pcx", "d.jp2", "e.ico"):
        image.save(tmp_path / "train" / "ant" / name, "JPEG" if "JFIF" in name else None)
    for name in ("a.txt", "b.TXT", "c.mp4", "README"):
        (tmp_path / "train" / "bee" / name).write_text("no image")
    splits = load_lib.load_splits(config_of(tmp_path))
    assert len(splits.train) == 6 + 5 and splits.train[3][0].shape == (8, 8, 3)
    splits.train.check()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("were skipped: 2 .txt, 1 .mp4, 1 without suffix")


def test_pipes_do_not_count_and_links_to_nowhere_are_missing_images(tmp_path, capsys):
    write(tmp_path, *TRAIN, "test/ant", "test/bee")
    os.mkfifo(tmp_path / "train" / "ant" / "pipe.jpg")
    (tmp_path / "train" / "bee" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    splits = load_lib.load_splits(config_of(tmp_path))
    assert len(splits.train) == 7 and "1 .jpg that is no file" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no such file: .*gone\.jpg"):
        splits.train.check()


def test_a_folder_that_may_not_be_read_is_an_error_by_name(tmp_path, monkeypatch):
    write(tmp_path, *TRAIN, "test/ant", "test/bee", "train/bee/private")
    scandir = os.scandir

    def refused(path):  # as for anyone but root, for whom nothing is private
        if os.fspath(path).endswith("private"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refused)
    message = refusal(config_of(tmp_path))
    assert f"cannot read the folder {tmp_path}/train/bee/private: Permission denied" in message


@pytest.mark.parametrize("source", ["folder", "arrays", "tfds"])
def test_a_place_that_cannot_be_one_is_refused_in_a_line(tmp_path, source):
    for place, words in (("x" * 5000, "does not exist"), ("~nouser/x", "an unknown user")):
        config = config_of(place)
        config.source = source
        assert words in refusal(config)
    config = config_of(write(tmp_path, "ant"))
    config.update(source=source, dataset="x" * 5000)
    if source != "tfds":
        assert "File name too long" in refusal(config)


def test_a_share_that_is_none_or_of_another_source_is_refused():
    for changes in ({"validation_share": 1.0}, {"source": "arrays", "validation_share": 0.1}):
        config = config_of("there", **changes) if "source" not in changes else config_of("there")
        config.update(changes)
        with pytest.raises(UserError, match="validation_share"):
            config_checks.validate(config)
