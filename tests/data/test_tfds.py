"""CIFAR-100 prepared as TFDS prepares it, from real pixels, is what the CIFAR recipe trains on."""

import shutil

import numpy as np
import pytest
import real_images
import tfds_sets
from small_runs import outcome, recipe

from hsproto import train
from hsproto.data import load as load_lib
from hsproto.data.fingerprint import fingerprint


@pytest.fixture(scope="module")
def arrays():
    return real_images.arrays("cifar100", train=4, test=1)


@pytest.fixture(scope="module")
def prepared(arrays, tmp_path_factory):
    return tfds_sets.prepare_cifar(tmp_path_factory.mktemp("tfds"), "cifar100", arrays)


def cifar100(data_dir, more=""):
    return recipe("cifar:dataset=cifar100", f"data_dir={data_dir},{more}")


def test_the_set_is_tfdss_own(prepared):
    tfds = pytest.importorskip("tensorflow_datasets")
    info, official = (
        tfds.builder("cifar100", data_dir=place).info for place in (prepared, prepared / "none")
    )
    assert info.full_name == official.full_name and info.description == official.description
    assert set(info.features) == set(official.features) == {"id", "image", "label", "coarse_label"}
    assert info.features.np_dtype == official.features.np_dtype
    assert info.splits["train"].num_examples == 400 and info.splits["test"].num_examples == 100


def test_its_pixels_labels_and_class_names_are_those_of_the_images(prepared, arrays):
    splits = load_lib.load_splits(cifar100(prepared))
    assert splits.train.class_names == tuple(arrays["class_names"])
    assert splits.train.class_names[:3] == ("apple", "aquarium_fish", "baby")
    for split, source in splits._asdict().items():
        found = [source[i] for i in range(len(source))]
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert all(image.dtype == np.uint8 and image.shape == (32, 32, 3) for image, _ in found)
        # TFDS shuffles what it prepares.
        pairs = sorted((image.tobytes(), label) for image, label in found)
        stored = zip(images, labels.tolist(), strict=True)
        assert pairs == sorted((image.tobytes(), label) for image, label in stored)
        np.testing.assert_array_equal(source.labels, [label for _, label in found])


def test_its_fingerprint_is_that_of_any_copy(prepared, tmp_path):
    first = fingerprint(load_lib.load_splits(cifar100(prepared)))
    assert first["train"]["images"] == 400 and first["train"]["per_class"] is None
    copied = shutil.copytree(prepared, tmp_path / "copied")
    assert fingerprint(load_lib.load_splits(cifar100(copied))) == first


def test_the_recipe_trains_on_it(prepared, arrays, tmp_path):
    config = cifar100(prepared, "width=8,batch_size=8,eval_batch_size=40,epochs=0.04,log_every=1")
    assert config.source == "tfds"
    summary = train.train(config, tmp_path)
    records, _ = outcome(tmp_path)
    losses = [record["loss"] for record in records if "loss" in record]
    assert summary["step"] == len(losses) == 2 and np.all(np.isfinite(losses))
    assert summary["config"]["num_classes"] == 100 and summary["config"]["num_examples"] == 400
    assert 0 <= summary["test"]["accuracy"] <= 1
    with np.load(tmp_path / "prototypes.npz") as stored:
        assert stored["prototypes"].shape == (100, 64)
        assert list(stored["class_names"]) == arrays["class_names"].tolist()
