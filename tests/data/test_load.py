"""Sources yield the images and labels that are stored, or say in one line why they cannot."""

import io
import json
import sys
import time

import numpy as np
import pytest
import tfds_sets
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from small_runs import ROOT

from hsproto import config as config_lib
from hsproto.data import folder
from hsproto.data import load as load_lib
from hsproto.data import source as source_lib
from hsproto.data.folder import read_image
from hsproto.data.source import DataSpec, data_spec
from hsproto.errors import UserError

SHARED = ROOT.parent / "shared" / "data"
CLASSES = ("ant", "bee", "cat")


def make_config(source, data_dir="", **changes):
    config = config_lib.default()
    config.update(
        {"source": source, "dataset": "tiny", "data_dir": str(data_dir), "image_size": 8, **changes}
    )
    return config


def make_arrays(num_train=9, num_test=6, size=8, channels=3):
    rng = np.random.default_rng(0)
    shape = (size, size, channels) if channels > 1 else (size, size)
    arrays = {"class_names": np.array(CLASSES)}
    for split, count in (("train", num_train), ("test", num_test)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % len(CLASSES)
    return arrays


def write_npz(folder, **arrays):
    np.savez(folder / "tiny.npz", **arrays)
    return folder


def write_folder(root, arrays, test="test", suffix=".png"):
    for split, name in (("train", "train"), ("test", test)):
        pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        for i, (image, label) in enumerate(pairs):
            path = root / name / CLASSES[label]
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path / f"{i:03d}{suffix}")
    return root


def assert_holds(source, images, labels):
    assert len(source) == len(images)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        found, found_label = source[i]
        assert found.dtype == np.uint8 and isinstance(found_label, int)
        np.testing.assert_array_equal(found, image.reshape(found.shape))
        assert found_label == label


def assert_refused(config, *words):
    with pytest.raises(UserError) as caught:
        load_lib.load_splits(config)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_class_names_that_are_not_unique_are_refused(tmp_path):
    arrays = make_arrays()
    arrays["class_names"] = np.array([CLASSES[0], *CLASSES[:-1]])
    write_npz(tmp_path, **arrays)
    assert_refused(make_config("arrays", tmp_path), "several classes", CLASSES[0])


def test_reading_takes_no_time_that_grows_with_the_square_of_the_classes(tmp_path):
    """Names that are compared with all others took minutes for 50,000 classes."""
    labels = np.repeat(np.arange(50_000), 3)
    features = np.ones((len(labels), 2), np.float32)
    np.savez(tmp_path / "x.npz", features=features, labels=labels)
    spec = DataSpec(
        source="features", dataset="x", data_dir=str(tmp_path / "x.npz"), channels=2,
        image_size=1, validation_share=0.3,
    )  # fmt: skip
    start = time.process_time()
    train, test = load_lib.read_splits(spec)
    assert (len(train), len(test)) == (100_000, 50_000)
    np.testing.assert_array_equal(np.bincount(test.labels), np.ones(50_000))
    assert time.process_time() - start < 15


def test_a_spec_has_the_values_of_a_config_and_the_side_of_what_is_loaded():
    spec = data_spec(make_config("folder", "there", load_size=16))
    assert (spec.source, spec.dataset, spec.data_dir) == ("folder", "tiny", "there")
    assert (spec.image_size, spec.side) == (8, 16)
    assert data_spec(make_config("folder")).side == 8


def test_a_source_must_have_a_length_and_images():
    with pytest.raises(TypeError, match="abstract"):
        source_lib.Source()


def test_digits_are_split_once_into_1437_and_360_with_every_class_in_its_share():
    config = make_config("digits", dataset="digits", channels=1)
    train, test = load_lib.load_splits(config)
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == tuple("0123456789")
    assert train.images.shape == (1437, 8, 8, 1)
    assert train.images.min() == 0 and train.images.max() == 255
    share = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    np.testing.assert_allclose(share, 0.2, atol=0.01)

    both = np.concatenate([train.images, test.images]).reshape(-1, 64)
    original = np.round(load_digits().images.reshape(-1, 64) * 255 / 16)
    np.testing.assert_array_equal(both[np.lexsort(both.T)], original[np.lexsort(original.T)])

    labels = load_digits().target
    drawn = train_test_split(np.arange(1797), test_size=360, stratify=labels, random_state=0)
    for split, rows in zip((train, test), map(np.sort, drawn), strict=True):
        pixels = np.round(load_digits().images[rows] * (255 / 16)).astype(np.uint8)
        np.testing.assert_array_equal(split.images[..., 0], pixels)
        np.testing.assert_array_equal(split.labels, labels[rows])

    config.seed = 7
    np.testing.assert_array_equal(load_lib.load_splits(config).train.images, train.images)


def test_reading_the_digits_imports_no_sklearn(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    load_lib.load_splits(make_config("digits", dataset="digits", channels=1))
    assert "sklearn" not in sys.modules


def test_known_mean_and_std_of_digits_are_those_of_its_training_images():
    config = make_config("digits", dataset="digits", channels=1)
    pixels = load_lib.load_splits(config).train.images / 255
    mean, std = source_lib.normalization(config)
    np.testing.assert_allclose([mean[0], std[0]], [pixels.mean(), pixels.std()], atol=5e-5)


def test_fashion_mnist_is_read_from_its_own_arrays():
    if not (SHARED / "fashion_mnist.npz").exists():
        pytest.skip("the Fashion-MNIST arrays are not at ../shared/data")
    config = make_config("arrays", SHARED, dataset="fashion_mnist", channels=1, image_size=28)
    train, test = load_lib.load_splits(config)
    assert train.images.shape == (60000, 28, 28, 1) and len(test) == 10000
    assert len(train.class_names) == 10 and train.labels.dtype == np.int32
    pixels = train.images.astype(np.float32) / 255
    np.testing.assert_allclose(
        np.ravel(source_lib.normalization(config)), [pixels.mean(), pixels.std()], atol=1e-4
    )


def test_normalization_is_what_the_config_gives_or_what_is_known_of_the_set():
    config = make_config("arrays", dataset="cifar100")
    assert source_lib.normalization(config)[0] == (0.5071, 0.4867, 0.4408)
    config.dataset = "cifar10_corrupted/fog_1"
    assert source_lib.normalization(config)[1] == (0.2023, 0.1994, 0.2010)
    config.dataset = "unheard_of"
    assert source_lib.normalization(config)[0] == (0.485, 0.456, 0.406)
    config.channels = 1
    assert source_lib.normalization(config) == ((0.5,), (0.5,))
    config.mean = (0.1,)
    with pytest.raises(UserError, match="mean and std"):
        source_lib.normalization(config)
    config.std = (0.2,)
    assert source_lib.normalization(config) == ((0.1,), (0.2,))


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_given_as_stored_and_grey_ones_get_a_channel(tmp_path, channels):
    arrays = make_arrays(channels=channels)
    write_npz(tmp_path, **arrays)
    for place in (tmp_path, tmp_path / "tiny.npz"):
        splits = load_lib.load_splits(
            make_config("arrays", place, channels=channels, num_classes=3)
        )
        assert splits.train.class_names == CLASSES
        assert splits.train[0][0].shape == (8, 8, channels)
        for split in ("train", "test"):
            source = getattr(splits, split)
            assert_holds(source, arrays[f"{split}_images"], arrays[f"{split}_labels"])


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_of_png_files_gives_the_same_images_as_arrays(tmp_path, test):
    arrays = make_arrays()
    write_folder(tmp_path / "tiny", arrays, test=test)
    for place in (tmp_path, tmp_path / "tiny"):
        splits = load_lib.load_splits(make_config("folder", place))
        assert splits.test.class_names == CLASSES
        for split in ("train", "test"):
            order = np.argsort(arrays[f"{split}_labels"], kind="stable")
            assert_holds(
                getattr(splits, split),
                arrays[f"{split}_images"][order],
                arrays[f"{split}_labels"][order],
            )
        splits.train.check()


def test_hidden_files_and_files_that_are_no_images_do_not_count(tmp_path):
    write_folder(tmp_path, make_arrays())
    (tmp_path / "train" / ".cache").mkdir()
    for name in (".DS_Store", "._000.png", "notes.txt"):
        (tmp_path / "train" / "ant" / name).write_text("no image")
    splits = load_lib.load_splits(make_config("folder", tmp_path))
    assert len(splits.train) == 9 and splits.train.class_names == CLASSES


def test_images_below_a_class_folder_are_found_at_any_depth(tmp_path):
    write_folder(tmp_path, make_arrays())
    (tmp_path / "train" / "ant" / "images").mkdir()
    (tmp_path / "train" / "ant" / "000.png").rename(tmp_path / "train" / "ant" / "images" / "0.PNG")
    assert len(load_lib.load_splits(make_config("folder", tmp_path)).train) == 9


@pytest.mark.parametrize("shape", [(40, 24), (24, 41), (16, 16), (11, 7)])
def test_short_side_is_resized_and_the_centre_square_cut_out(tmp_path, shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png", data_spec(make_config("folder", load_size=16)))

    height, width = (int(16 * side / min(shape)) for side in shape)
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    top, left = round((height - 16) / 2), round((width - 16) / 2)
    np.testing.assert_array_equal(found, resized[top : top + 16, left : left + 16])


def test_encoded_sources_give_whole_pictures_too(tmp_path, tfds):
    arrays = make_arrays()
    arrays["train_images"] = [
        np.random.default_rng(i).integers(0, 256, (9 + i, 20, 3), dtype=np.uint8) for i in range(9)
    ]
    pairs = zip(arrays["train_images"], arrays["train_labels"], strict=True)
    stored = {image.tobytes(): int(label) for image, label in pairs}
    for config in (
        make_config("folder", write_folder(tmp_path, arrays)),
        make_config("tfds", tfds(arrays)),
    ):
        source = load_lib.load_splits(config).train
        pictures = [source.picture(i) for i in range(9)]
        assert {image.tobytes(): label for image, label in pictures} == stored
        assert {image.size for image, _ in pictures} == {(20, 9 + i) for i in range(9)}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_image_files_of_any_8_bit_mode_become_grey_or_rgb(tmp_path, mode):
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stored = Image.fromarray(pixels).convert(mode)
    stored.save(tmp_path / "image.tif")
    for channels, target in ((1, "L"), (3, "RGB")):
        config = make_config("folder", channels=channels)
        found = read_image(tmp_path / "image.tif", data_spec(config))
        assert found.shape == (8, 8, channels)
        np.testing.assert_array_equal(found.squeeze(), np.asarray(stored.convert(target)))


def test_unreadable_images_are_named(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(make_arrays(size=32)["train_images"][0]).save(whole, "JPEG")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "deep.tif")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    for name in ("deep.tif", "text.png", "empty.jpg", "cut.jpg"):
        with pytest.raises(UserError, match=f"unreadable image .*{name}"):
            read_image(tmp_path / name, data_spec(make_config("folder")))


@pytest.mark.parametrize("limit", [200_000, 2])
def test_check_finds_an_unreadable_file_before_any_is_decoded(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(folder, "MAX_CHECKED_FILES", limit)
    write_folder(tmp_path, make_arrays())
    broken = tmp_path / "train" / "bee" / "001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match=r"unreadable image .*bee/001\.png"):
        load_lib.load_splits(make_config("folder", tmp_path)).train.check()


@pytest.mark.parametrize("source", ["arrays", "folder", "tfds"])
def test_a_missing_data_dir_is_named(tmp_path, source):
    assert_refused(make_config(source, tmp_path / "nowhere"), "data_dir", "nowhere")
    if source != "tfds":  # TFDS has a default place
        assert_refused(make_config(source), "data_dir")


def test_an_unknown_source_is_refused_with_the_known_ones():
    assert_refused(make_config("zip"), "source='zip'", "digits", "folder")


def test_a_class_count_that_is_not_the_data_s_is_refused():
    config = make_config("digits", dataset="digits", channels=1, num_classes=12)
    assert_refused(config, "num_classes=12", "10 classes", "num_classes=10")


def test_digits_of_another_size_are_refused():
    assert_refused(
        make_config("digits", dataset="digits", channels=1, image_size=32), "image_size=32", "8x8"
    )


def test_arrays_without_a_file_or_key_are_refused(tmp_path):
    assert_refused(make_config("arrays", tmp_path), "data_dir", "tiny.npz")
    arrays = make_arrays()
    del arrays["test_labels"]
    write_npz(tmp_path, **arrays)
    assert_refused(make_config("arrays", tmp_path), "tiny.npz lacks test_labels")
    (tmp_path / "tiny.npz").write_bytes(b"PK\x03\x04 no archive")
    assert_refused(make_config("arrays", tmp_path), "tiny.npz", "cannot be read")
    np.save(tmp_path / "tiny.npy", np.zeros(3))
    assert_refused(make_config("arrays", tmp_path / "tiny.npy"), "tiny.npy", "cannot be read")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train_images": np.zeros((9, 8, 8, 3), np.float32)},
            ["train images", "uint8", "float32"],
        ),
        ({"train_images": np.zeros((9, 64), np.uint8)}, ["train images", "(9, 64)"]),
        ({"test_images": np.zeros((6, 8, 8), np.uint8)}, ["channels=3", "set channels=1"]),
        ({"train_images": np.zeros((9, 6, 6, 3), np.uint8)}, ["image_size=8", "6x6"]),
        ({"train_images": np.zeros((9, 8, 9, 3), np.uint8)}, ["8x9", "square"]),
        ({"train_labels": np.zeros(9)}, ["train labels", "float64"]),
        ({"train_labels": np.zeros(8, int)}, ["train labels", "(8,)"]),
        ({"test_labels": np.full(6, 3)}, ["test labels", "0..2", "got 3"]),
        ({"test_labels": np.full(6, -1)}, ["test labels", "0..2", "got -1"]),
        ({"class_names": np.arange(3)}, ["class_names", "strings"]),
        (
            {"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, int)},
            ["test split", "no image"],
        ),
    ],
)
def test_malformed_arrays_are_refused_with_what_is_wrong(tmp_path, changes, words):
    write_npz(tmp_path, **(make_arrays() | changes))
    assert_refused(make_config("arrays", tmp_path), *words)


def test_folders_without_images_or_classes_are_refused_with_their_path(tmp_path):
    config = make_config("folder", tmp_path)
    assert_refused(config, "data_dir", "train")
    (tmp_path / "train").mkdir()
    assert_refused(config, tmp_path / "train", "no class folder")
    (tmp_path / "train" / "ant").mkdir()
    assert_refused(config, tmp_path / "train", "test, val", "validation_share")
    write_folder(tmp_path, make_arrays())
    (tmp_path / "train" / "dog").mkdir()
    assert_refused(config, tmp_path / "train" / "dog", "no image")


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """A function that prepares arrays as a set of TFDS."""
    tfds = pytest.importorskip("tensorflow_datasets")

    def prepare(arrays, test="test", labels=CLASSES, **features):
        label = {"names": labels} if labels else {"num_classes": 3}
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(**label),
        } | features
        pictures = [key for key in features if key != "label"]

        def records(split):
            pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
            for image, label in pairs:
                yield {"label": int(label)} | dict.fromkeys(pictures, Image.fromarray(image))

        splits = {"train": records("train"), test: records("test")}
        return tfds_sets.prepare(tmp_path_factory.mktemp("tfds"), "tiny", splits, features)

    prepare.features = tfds.features
    return prepare


def test_a_prepared_tfds_set_gives_its_images_labels_and_class_names(tfds):
    arrays = make_arrays()
    mask = {"mask": tfds.features.Image(shape=(None, None, 3))}
    root = tfds(arrays, **mask)
    splits = load_lib.load_splits(make_config("tfds", root))
    assert splits.train.class_names == CLASSES
    for split in ("train", "test"):
        source = getattr(splits, split)
        assert len(source) == len(arrays[f"{split}_images"])
        found = {source[i][0].tobytes(): source[i][1] for i in range(len(source))}
        stored = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        assert found == {image.tobytes(): int(label) for image, label in stored}


def test_the_validation_split_of_a_tfds_set_serves_where_there_is_no_labelled_test(tfds):
    arrays = make_arrays()
    root = tfds(arrays, test="validation", labels=None)
    splits = load_lib.load_splits(make_config("tfds", root, load_size=16))
    assert len(splits.test) == 6 and splits.test.class_names == ("0", "1", "2")
    assert splits.test[0][0].shape == (16, 16, 3)

    hidden = tfds(arrays | {"test_labels": np.full(6, -1)})
    assert_refused(make_config("tfds", hidden), "tiny", "labels", "test")


def test_tfds_labels_outside_the_classes_are_refused_with_their_row(tfds):
    arrays = make_arrays()
    arrays["train_labels"][4] = -1
    source = load_lib.load_splits(make_config("tfds", tfds(arrays))).train
    with pytest.raises(UserError, match=r"tiny:train\[\d\] has label -1"):
        for i in range(len(source)):
            source[i]


def test_a_tfds_set_that_is_not_prepared_names_the_command_that_prepares_it(tfds, tmp_path):
    config = make_config("tfds", tmp_path, dataset="cifar100")
    assert_refused(
        config,
        "cifar100",
        "tfds build cifar100 --file_format=array_record",
        f"--data_dir={tmp_path}",
    )
    config.dataset = "no_such_set"
    assert_refused(config, "no_such_set", "known to TFDS")


def test_a_tfds_set_of_numbers_that_are_no_pixels_is_refused(tfds):
    root = tfds(make_arrays())
    path = root / "tiny" / "1.0.0" / "features.json"
    stored = json.loads(path.read_text())
    stored["featuresDict"]["features"]["image"]["image"] |= {
        "dtype": "float32",
        "shape": {"dimensions": ["-1", "-1", "1"]},
    }
    path.write_text(json.dumps(stored))
    assert_refused(make_config("tfds", root), "float32", "uint8")


def test_transparency_in_a_tfds_set_is_laid_over_white_too(tfds):
    arrays = make_arrays()
    images = tfds.features.Image(shape=(None, None, 4))
    arrays["train_images"] = np.zeros((9, 8, 8, 4), np.uint8)
    arrays["test_images"] = np.zeros((6, 8, 8, 4), np.uint8)
    source = load_lib.load_splits(make_config("tfds", tfds(arrays, image=images))).train
    assert (source[0][0] == 255).all()


def test_a_tfds_set_without_random_access_names_its_format(tfds):
    root = tfds(make_arrays())
    path = root / "tiny" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = "tfrecord"
    path.write_text(json.dumps(info))
    assert_refused(make_config("tfds", root), "tfrecord", "random access", "tfds build tiny")


def test_a_tfds_set_of_anything_but_labelled_images_is_refused(tfds):
    root = tfds(make_arrays())
    path = root / "tiny" / "1.0.0" / "features.json"
    stored = json.loads(path.read_text())
    features = stored["featuresDict"]["features"]
    features["picture"] = features.pop("image")
    path.write_text(json.dumps(stored))
    assert_refused(make_config("tfds", root), "features image and label", "picture")
