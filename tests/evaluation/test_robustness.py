"""mCE is that of the benchmark, and a run's errors on corrupted images are those by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from hsproto.data import arrays, loader
from hsproto.errors import UserError
from hsproto.evaluation import robustness, trained
from hsproto.models import classifier as classifier_lib

# Accuracies of torchvision's ResNet-50 (v1) at severities 1..5 of ImageNet-C, on 5,000 images each:
# RobustBench, model_info/imagenet/corruptions/unaggregated_results_2d.csv, row Standard_R50.
RESNET50_ACCURACIES = {
    "gaussian_noise": (0.5978, 0.4686, 0.2748, 0.1128, 0.0218),
    "shot_noise": (0.5744, 0.4294, 0.2528, 0.0792, 0.029),
    "impulse_noise": (0.4844, 0.358, 0.2546, 0.083, 0.0182),
    "defocus_blur": (0.5956, 0.5152, 0.382, 0.2748, 0.183),
    "glass_blur": (0.54, 0.4012, 0.1688, 0.131, 0.1024),
    "motion_blur": (0.6382, 0.537, 0.3758, 0.2154, 0.1482),
    "zoom_blur": (0.529, 0.4324, 0.358, 0.2878, 0.2206),
    "snow": (0.5498, 0.3154, 0.3518, 0.2382, 0.1654),
    "frost": (0.615, 0.4346, 0.309, 0.2896, 0.2294),
    "fog": (0.6138, 0.5612, 0.4704, 0.4088, 0.241),
    "brightness": (0.7392, 0.7244, 0.6956, 0.6498, 0.5866),
    "contrast": (0.6494, 0.5852, 0.469, 0.2122, 0.0546),
    "elastic_transform": (0.6704, 0.4556, 0.5526, 0.4196, 0.1746),
    "pixelate": (0.6402, 0.6426, 0.4598, 0.2898, 0.2068),
    "jpeg_compression": (0.6664, 0.6244, 0.5982, 0.4728, 0.3144),
}

# AlexNet's own errors, as the authors gave them (github.com/hendrycks/robustness/issues/10).
ALEXNET = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
}


def test_mce_of_resnet50_is_the_published_one():
    errors = {name: 1 - np.array(a) for name, a in RESNET50_ACCURACIES.items()}
    # On all 50,000 images a corruption it is 76.7; RobustBench took 5,000.
    assert robustness.mce(errors) == pytest.approx(76.7, abs=0.1)
    assert robustness.mce(errors) == pytest.approx(76.63, abs=0.005)
    mean = robustness.summarize(errors, "npy")["mean_error"]
    assert mean == pytest.approx(1 - 0.392304, abs=1e-6)  # RobustBench's own average


def test_corruption_errors_are_of_the_mean_over_severities_in_per_cent_of_alexnets():
    for name, value in robustness.corruption_errors(ALEXNET).items():
        assert value == pytest.approx(100, abs=1e-3), name
    half = {name: 5 * [error / 2] for name, error in robustness.ALEXNET_ERRORS.items()}
    assert robustness.mce(half) == pytest.approx(50)


def test_mce_is_undefined_unless_all_fifteen_corruptions_are_there():
    assert np.isnan(robustness.mce({"fog": 5 * [0.5]}))
    alexnet = {name: 5 * [error] for name, error in robustness.ALEXNET_ERRORS.items()}
    assert robustness.mce(alexnet | {"spatter": 5 * [0.9]}) == pytest.approx(100)
    assert robustness.summarize({"fog": 5 * [0.5]}, "folder")["mean_error"] == 0.5
    # AlexNet's errors are those on ImageNet-C.
    assert robustness.summarize(dict.fromkeys(robustness.CORRUPTIONS, (0.5,)), "npy")["mce"] is None


@pytest.fixture(scope="module")
def run(digits_run):
    return trained.TrainedRun(digits_run)


def darkened(run, severity):
    """The test images, darker and darker, and their labels: a hand-made corruption."""
    images, labels = loader.read_all(run.splits.test)
    return (images * (1 - severity / 6)).astype(np.uint8), labels


@pytest.fixture(scope="module")
def npy_set(run, tmp_path_factory):
    """In CIFAR-C's layout."""
    path = tmp_path_factory.mktemp("digits-c")
    parts = [darkened(run, severity) for severity in (1, 2, 3, 4, 5)]
    np.save(path / "brightness.npy", np.concatenate([images for images, _ in parts]))
    np.save(path / "speckle_noise.npy", np.concatenate([images for images, _ in parts])[::-1])
    np.save(path / "labels.npy", np.concatenate([labels for _, labels in parts]).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def folder_set(run, tmp_path_factory):
    """In ImageNet-C's layout, with the folder of its archive above and a class more than the run.

    PNG, so that the pixels are those of the arrays.
    """
    path = tmp_path_factory.mktemp("digits-c-folder")
    for severity in (1, 2, 3, 4, 5):
        for i, (image, label) in enumerate(zip(*darkened(run, severity), strict=True)):
            place = path / "weather" / "brightness" / str(severity) / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(place / f"{i}.png")
        (path / "weather" / "brightness" / str(severity) / "zebra").mkdir()
    return path


def by_hand(run, severity):
    images, labels = darkened(run, severity)
    embedded = run.embed(arrays.ArraySource(images, labels, run.splits.test.class_names))
    predicted = classifier_lib.predict(run.config, embedded.projections, run.weights)
    return np.mean((np.asarray(predicted) != embedded.labels)[embedded.where])


def test_both_layouts_give_the_errors_by_hand(run, digits_run, npy_set, folder_set, capsys):
    assert robustness.main([f"--workdir={digits_run}", f"--corrupted={npy_set}"]) == 0
    assert robustness.main([f"--workdir={digits_run}", f"--corrupted={folder_set}"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((digits_run / "robustness.json").read_text())
    npy, folder = found[str(npy_set)], found[str(folder_set)]
    expected = [by_hand(run, severity) for severity in (1, 2, 3, 4, 5)]
    assert expected[0] < expected[-1]
    # The extra corruptions of CIFAR-C are measured when they are asked for.
    assert npy["errors"] == {"brightness": pytest.approx(expected)}
    assert folder["errors"] == {"brightness": pytest.approx(expected)}
    assert npy["mean_error"] == pytest.approx(np.mean(expected))
    assert npy["corruption_errors"] is None and not npy["generated"]
    assert folder["corruption_errors"] == {
        "brightness": pytest.approx(100 * np.mean(expected) / 0.564592)
    }
    assert folder["mce"] is None and "nan" not in printed
    summary = json.loads((digits_run / "summary.json").read_text())
    assert npy["clean_error"] == pytest.approx(1 - summary["test"]["accuracy"])


def test_what_was_measured_is_not_measured_again(digits_run, npy_set, monkeypatch):
    arguments = [f"--workdir={digits_run}", f"--corrupted={npy_set}"]
    assert robustness.main([*arguments, "--corruptions=brightness"]) == 0
    asked = []
    source = robustness.CorruptedSet.source
    monkeypatch.setattr(
        robustness.CorruptedSet, "source", lambda s, n, v: asked.append((n, v)) or source(s, n, v)
    )
    assert robustness.main([*arguments, "--corruptions=brightness,speckle_noise"]) == 0
    assert asked == [("speckle_noise", severity) for severity in (1, 2, 3, 4, 5)]
    found = json.loads((digits_run / "robustness.json").read_text())[str(npy_set)]
    assert list(found["errors"]) == ["brightness", "speckle_noise"]
    # An extra corruption is no part of the mean.
    assert found["mean_error"] == found["mean_errors"]["brightness"] and found["counted"] == 1
    assert robustness.main([*arguments, "--corruptions=brightness"]) == 0
    again = json.loads((digits_run / "robustness.json").read_text())[str(npy_set)]
    assert again == found and len(asked) == 5
    path = digits_run / "robustness.json"
    before = path.read_bytes()
    for damage in (b"{", b'{"x": []}', b"\xff" * 10):
        path.write_bytes(damage)
        with pytest.raises(UserError, match="robustness.json is damaged.*remove it"):
            robustness.main(arguments)
    path.write_bytes(before)


def test_corrupted_images_are_never_resized(run, digits_run, npy_set, tmp_path):
    classes = run.splits.test.class_names
    for name in classes:
        (tmp_path / "f" / "fog" / "1" / name).mkdir(parents=True)
        Image.new("L", (9, 9)).save(tmp_path / "f" / "fog" / "1" / name / "0.JPEG")
    with pytest.raises(UserError, match="is 9x9, but the run's image_size=8"):
        robustness.CorruptedSet(str(tmp_path / "f"), run.config, classes).source("fog", 1)
    np.save(tmp_path / "fog.npy", np.zeros((10, 9, 9, 1), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(10, int))
    with pytest.raises(UserError, match="image_size=8, but .*fog.npy images are 9x9"):
        robustness.CorruptedSet(str(tmp_path), run.config, classes).source("fog", 1)


@pytest.mark.slow
def test_bad_sets_are_refused_in_one_line(run, digits_run, npy_set, tmp_path):
    def command(*more, corrupted=npy_set):
        robustness.main([f"--workdir={digits_run}", f"--corrupted={corrupted}", *more])

    with pytest.raises(UserError, match="no such folder"):
        command(corrupted=tmp_path / "none")
    with pytest.raises(UserError, match="no corruption there in the layout 'folder'"):
        command("--layout=folder")
    with pytest.raises(UserError, match="'fog' is not there: brightness, speckle_noise"):
        command("--corruptions=fog")
    np.save(tmp_path / "labels.npy", np.zeros(10, int))
    np.save(tmp_path / "fog.npy", np.zeros((9, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="five severities"):
        command(corrupted=tmp_path)
    (tmp_path / "fog.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="cannot be read as an npy file"):
        command(corrupted=tmp_path)
    (tmp_path / "f" / "fog" / "1" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="lacks class folders of the run: 1, 2, 3 .* of 10"):
        command(corrupted=tmp_path / "f")
