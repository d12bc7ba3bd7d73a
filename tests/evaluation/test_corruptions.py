"""Corrupted images are made the same each time, of any size, and read as a set of CIFAR-C's."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from small_runs import tiny

from hsproto.errors import UserError
from hsproto.evaluation import corruptions, robustness, trained

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("imagecorruptions") is None,
    reason="imagecorruptions-imaug is not installed (the extra hsproto[corruptions])",
)


def image(side, channels):
    ramp = np.linspace(40, 200, side)
    plane = np.add.outer(ramp, ramp) / 2
    return np.repeat(plane[..., None], channels, axis=2).astype(np.uint8)


@needs_package
@pytest.mark.parametrize("name", robustness.CORRUPTIONS)
def test_every_corruption_works_at_any_size_and_is_a_function_of_its_seed(name):
    for side, channels in ((8, 1), (28, 1), (31, 3), (32, 3), (40, 3)):
        for severity in (1, 5):
            clean = image(side, channels)
            found = corruptions.corrupt(clean, name, severity, seed=3)
            assert found.dtype == np.uint8 and found.shape == clean.shape
            np.random.random(7)  # others may draw from the global generator in between
            again = corruptions.corrupt(clean, name, severity, seed=3)
            np.testing.assert_array_equal(found, again)
            assert (found != clean).any()


@needs_package
def test_noise_and_contrast_are_those_of_imagenet_c():
    clean = np.full((64, 64, 3), 128, np.uint8)
    for severity, scale in enumerate((0.08, 0.12, 0.18), start=1):
        noise = corruptions.corrupt(clean, "gaussian_noise", severity).astype(float) - clean
        assert noise.std() / 255 == pytest.approx(scale, rel=0.05)
    ramp = image(64, 3)
    for severity, factor in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), start=1):
        flat = corruptions.corrupt(ramp, "contrast", severity)
        assert flat.std() / ramp.std() == pytest.approx(factor, abs=0.01)


@needs_package
def test_a_small_image_is_corrupted_as_it_would_be_inside_a_large_one():
    found = corruptions.corrupt(np.full((8, 8, 1), 128, np.uint8), "gaussian_noise", 3, seed=1)
    assert (found.astype(float) - 128).std() / 255 == pytest.approx(0.18, rel=0.3)


@needs_package
def test_a_generated_set_is_measured_as_a_published_one(digits_run, tmp_path, capsys):
    out, names = tmp_path / "digits-c", "gaussian_noise,contrast"
    arguments = [f"--config={tiny()}", f"--out={out}", "--images=60"]
    assert corruptions.main([*arguments, f"--corruptions={names}"]) == 0
    run = trained.TrainedRun(digits_run)
    test = run.splits.test
    rows = np.linspace(0, len(test) - 1, 60).round().astype(int)
    np.testing.assert_array_equal(np.load(out / "labels.npy"), np.tile(test.labels[rows], 5))
    contrast = np.load(out / "contrast.npy")
    assert contrast.shape == (300, 8, 8, 1)
    spread = contrast.reshape(5, -1).std(axis=1)
    assert (np.diff(spread) < 0).all()

    # In other processes, the same; and what is there is not made again.
    before = (out / "contrast.npy").stat().st_mtime_ns
    assert corruptions.main([*arguments, "--workers=1", "--corruptions=contrast"]) == 0
    assert (out / "contrast.npy").stat().st_mtime_ns == before
    (out / "contrast.npy").unlink()
    assert corruptions.main([*arguments, "--workers=1", "--corruptions=contrast"]) == 0
    np.testing.assert_array_equal(np.load(out / "contrast.npy"), contrast)
    with pytest.raises(UserError, match="were made with seed=0, now it is 1"):
        corruptions.main([*arguments, "--seed=1"])

    assert robustness.main([f"--workdir={digits_run}", f"--corrupted={out}"]) == 0
    found = json.loads((digits_run / "robustness.json").read_text())[str(out)]
    assert found["generated"] and list(found["errors"]) == ["gaussian_noise", "contrast"]
    assert found["mean_error"] > found["clean_error"]
    assert "not a published set" in capsys.readouterr().out


def test_without_the_package_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"pip install 'hsproto\[corruptions\]'"):
        corruptions.main([f"--config={tiny()}", f"--out={tmp_path}"])
    assert not list(tmp_path.iterdir())


def test_bad_options_are_refused_in_one_line(tmp_path):
    for wrong in ("--corruptions=rain", "--images=-1", "--workers=-1", "--seed=-1"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            corruptions.main([f"--config={tiny()}", f"--out={tmp_path}", wrong])
