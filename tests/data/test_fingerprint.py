"""A fingerprint changes with what a run trains on, and with nothing else."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from hsproto.data import file_identity, subsets
from hsproto.data.arrays import ArraySource
from hsproto.data.fingerprint import differences, fingerprint
from hsproto.data.load import read_splits
from hsproto.data.source import DataSpec, Splits
from hsproto.data.tfds import TfdsSource

NAMES = ("ant", "bee", "cat")


def arrays(count=12, names=NAMES):
    images = np.arange(count * 4 * 4, dtype=np.uint8).reshape(count, 4, 4, 1)
    return ArraySource(images, np.arange(count) % len(names), names)


def of_arrays(source):
    names = source.class_names
    return fingerprint(Splits(source, arrays(2 * len(names), names)))


def write_folder(root):
    """Uncompressed images, whose files are of one size; an image of each class lies deeper."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in NAMES:
            (root / split / name / "more").mkdir(parents=True)
            for i in range(count):
                path = root / split / name / ("more" if i == 1 else "") / f"{i}.bmp"
                pixels = rng.integers(256, size=(4, 4), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def of_folder(root, **options):
    spec = DataSpec(
        source="folder", dataset="x", data_dir=str(root), image_size=4, channels=1, **options
    )
    return fingerprint(read_splits(spec))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data")


def test_it_is_the_same_on_every_machine_and_survives_json():
    found = of_arrays(arrays())
    assert found["class_names"] == list(NAMES)
    assert found["train"] == {
        "images": 12,
        "per_class": [4, 4, 4],
        "digest": "b562921998a92f879a928577d932a630",
    }
    assert json.loads(json.dumps(found)) == found


def test_that_of_a_folder_is_the_same_on_every_machine(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(f"{split} {name}".encode())
    assert of_folder(tmp_path)["train"]["digest"] == "2c9486b70793eacbd2eec1146cdb83b5"


def test_pixels_labels_and_order_count_in_memory():
    source = arrays()
    first = of_arrays(source)
    changed = source.images.copy()
    changed[3, 0, 0] += 1
    swapped = np.array([1, 0, *range(2, 12)])
    others = [
        ArraySource(changed, source.labels, NAMES),
        ArraySource(source.images, source.labels[swapped], NAMES),
        subsets.of_rows(source, swapped),
        ArraySource(source.images.reshape(12, 2, 8, 1), source.labels, NAMES),
    ]
    for other in others:
        assert list(differences(first, of_arrays(other))) == [
            "the training images are as many, but others"
        ]


def test_neither_place_nor_times_of_files_count(folder, tmp_path):
    first = of_folder(folder)
    moved = shutil.move(folder, tmp_path / "other" / "place" / "of images")
    for path in pathlib.Path(moved).rglob("*.bmp"):
        os.utime(path, (1, 1))
    assert of_folder(moved) == first
    (tmp_path / "link").symlink_to(moved)
    assert of_folder(tmp_path / "link") == first
    assert of_folder(os.path.relpath(moved)) == first


def swap(folder):
    one, two = folder / "train/ant/0.bmp", folder / "train/bee/0.bmp"
    contents = one.read_bytes(), two.read_bytes()
    assert len(contents[0]) == len(contents[1])
    one.write_bytes(contents[1]), two.write_bytes(contents[0])


def rename_file(folder):
    (folder / "train/ant/0.bmp").rename(folder / "train/ant/7.bmp")


def resize(folder):
    Image.new("L", (5, 5)).save(folder / "train/ant/0.bmp")


@pytest.mark.parametrize("change", [swap, rename_file, resize])
def test_names_and_content_count_in_folders(folder, change):
    first = of_folder(folder)
    change(folder)
    assert list(differences(first, of_folder(folder))) == [
        "the training images are as many, but others"
    ]


def test_of_many_bytes_only_names_and_sizes_count(folder, monkeypatch):
    monkeypatch.setattr(file_identity, "MAX_DIGESTED_BYTES", 100)
    monkeypatch.setattr(pathlib.Path, "read_bytes", None)
    first = of_folder(folder)
    assert of_folder(folder) == first
    resize(folder)
    resized = of_folder(folder)
    rename_file(folder)
    assert len({found["train"]["digest"] for found in (first, resized, of_folder(folder))}) == 3


def test_of_very_many_files_some_sizes_count(folder, monkeypatch):
    monkeypatch.setattr(file_identity, "MAX_SIZES", 5)
    found = []
    for name in ("0.bmp", "2.bmp"):  # of 12 files every third is asked
        found.append(of_folder(folder))
        (folder / "train/ant" / name).write_bytes(b"another size")
    found.append(of_folder(folder))
    assert found[0] != found[1] == found[2]


def test_a_file_that_cannot_be_read_and_a_pipe_end(folder):
    (folder / "train/ant/8.bmp").symlink_to("nowhere")
    os.mkfifo(folder / "train/ant/9.bmp")
    assert of_folder(folder) == of_folder(folder)


def test_of_a_part_of_the_data_only_the_part_counts(folder):
    options = {"class_list": "cat/ant"}
    first = of_folder(folder, **options)
    assert first["class_names"] == ["cat", "ant"] and first["train"]["per_class"] == [4, 4]
    (folder / "train/bee/0.bmp").unlink()
    assert of_folder(folder, **options) == first
    (folder / "train/cat/0.bmp").unlink()
    assert list(differences(first, of_folder(folder, **options))) == [
        "class 'cat' has 3 training images, had 4"
    ]


def test_which_images_of_a_long_tail_stay_counts(folder):
    tails = [of_folder(folder, imbalance_factor=0.5, subset_seed=seed) for seed in (0, 0, 1)]
    assert tails[0]["train"]["per_class"] == [4, 2, 2] and tails[0] == tails[1]
    assert tails[0]["train"]["digest"] != tails[2]["train"]["digest"]


class Unread:
    def __len__(self):
        return 7

    def __getitem__(self, i):
        raise AssertionError("an image was read")


def test_of_tfds_only_release_and_number_count_and_no_image_is_read():
    def source(release):
        return TfdsSource(Unread(), NAMES, None, "x:train", release)

    first = of_arrays(source("x/1.0.0:train"))
    assert first["train"]["images"] == 7 and first["train"]["per_class"] is None
    assert of_arrays(source("x/1.0.0:train")) == first
    assert of_arrays(source("x/1.0.1:train")) != first
    assert list(differences(first, of_arrays(arrays()))) == ["there are 12 training images, were 7"]


@pytest.mark.parametrize(
    "names, expected",
    [
        (("ant", "bee", "kitty"), ["class 'cat' (3rd) is now 'kitty'"]),
        (
            ("bee", "ant", "cat"),
            ["class 'ant' (1st) is now 'bee'", "class 'bee' (2nd) is now 'ant'"],
        ),
        (("ant", "bee", "cat", "dog"), ["class 'dog' is new"]),
        (("ant", "cat"), ["class 'bee' is gone"]),
        (("aardvark", "ant", "bee"), ["class 'cat' is gone", "class 'aardvark' is new"]),
    ],
)
def test_classes_that_differ_are_named(names, expected):
    found = list(differences(of_arrays(arrays()), of_arrays(arrays(4 * len(names), names))))
    assert found[: len(expected)] == expected
