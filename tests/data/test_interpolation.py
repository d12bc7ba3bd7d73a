"""Pictures are resized as the weights were trained, wherever they are read."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import ROOT

from hsproto import config as config_lib
from hsproto import train
from hsproto.data import crops, intake, load
from hsproto.data.folder import read_image
from hsproto.data.source import data_spec
from hsproto.models.weights_files import Preprocessing

SIDE = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two classes, 30 x 30 px: a square, from which nothing is cut."""
    root = tmp_path_factory.mktemp("pictures")
    for split in ("train", "test"):
        for i, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            pixels = np.random.RandomState(i).randint(0, 256, (30, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / name / "0.png")
    return root


def config_of(folder, interpolation):
    config = config_lib.default()
    values = dict(source="folder", dataset="", data_dir=str(folder), image_size=SIDE, batch_size=2)
    config.update(values | {"interpolation": interpolation})
    return config


def resized(path, method):
    return np.asarray(Image.open(path).resize((SIDE, SIDE), Image.Resampling[method]))


@pytest.mark.parametrize("interpolation", ["", "bilinear", "bicubic"])
def test_every_reader_resizes_as_the_config_says(folder, interpolation, tmp_path):
    config = config_of(folder, interpolation)
    spec, path = data_spec(config), folder / "train" / "ant" / "0.png"
    expected = resized(path, (interpolation or "bilinear").upper())
    source = load.load_splits(config).train
    found = [source[0][0], read_image(path, spec), intake.read(Image.open(path), spec)]
    found.append(_exported_reader(spec, tmp_path)(path))
    for pixels in found:
        np.testing.assert_array_equal(pixels, expected)


def _exported_reader(spec, place):
    """`read` of the script that an export brings."""
    shutil.copy(ROOT / "hsproto/templates/predict.py", place)
    about = {"side": SIDE, "channels": 3, "interpolation": spec.interpolation or "bilinear"}
    (place / "predictor.json").write_text(json.dumps({"preprocessing": about}))
    module = importlib.util.spec_from_file_location("exported_predict", place / "predict.py")
    loaded = importlib.util.module_from_spec(module)
    module.loader.exec_module(loaded)
    return loaded.read


def test_random_crops_are_resized_in_the_same_way(folder):
    source = load.load_splits(config_of(folder, "")).train
    images = {}
    for interpolation in ("bilinear", "bicubic"):
        config = config_of(folder, interpolation)
        config.crop_scale = (0.5, 0.5)
        images[interpolation] = crops.RandomCrops(source, config).read(0, 0, 0)[0]
    assert (images["bilinear"] != images["bicubic"]).any()


@pytest.mark.parametrize(
    "given, of_weights, taken, told",
    [
        ("", "bicubic", "bicubic", False),
        ("bilinear", "bicubic", "bilinear", False),
        ("", "", "bilinear", False),
        ("", "lanczos", "bilinear", True),
    ],
)
def test_it_is_taken_with_the_weights(folder, given, of_weights, taken, told, monkeypatch, capsys):
    prepared = Preprocessing((0.5,) * 3, (0.25,) * 3, SIDE, of_weights)
    monkeypatch.setattr(train.pretrained, "preprocessing", lambda weights: prepared)
    config = config_of(folder, given)
    config.init_from = "w.pth"
    config = train._with_preprocessing(config, None, "weights")
    resolved = load.resolve(config, load.load_splits(config))
    assert (resolved.interpolation, resolved.std) == (taken, (0.25,) * 3)
    assert ("lanczos" in capsys.readouterr().out) == told


def test_a_run_that_is_older_than_the_key_keeps_bilinear(folder):
    earlier = config_lib.from_json("{}")
    assert earlier.interpolation == "bilinear"
    config = config_of(folder, "")
    config.init_from = "a_file_that_is_gone.pth"
    earlier.update(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert train._with_preprocessing(config, earlier, None).interpolation == "bilinear"
