"""An exported run gives the run's own answers, in a process that knows no hsproto."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image
from safetensors import safe_open

import hsproto
from hsproto import export
from hsproto.errors import UserError


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def exported(digits_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert export.main([f"--workdir={digits_run}", f"--out={out}"]) == 0
    return out


SCRIPT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import predict
import numpy as np
assert "hsproto" not in sys.modules and "flax" not in sys.modules
labels, cosines = predict.load()(np.load(sys.argv[2]))
one = predict.load()(np.load(sys.argv[2])[:1])[1]
np.savez(sys.argv[3], labels=labels, cosines=cosines, one=one)
"""


def test_a_fresh_process_gives_the_answers_of_the_run(exported, digits_run, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    Image.fromarray(pixels[0, ..., 0]).resize((30, 21)).save(tmp_path / "photo.png")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = [sys.executable, "-I"]

    def done(*arguments):
        found = subprocess.run(
            [*python, *map(str, arguments)], env=environment, cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout

    done("-c", SCRIPT, exported, tmp_path / "pixels.npy", tmp_path / "found.npz")
    found, run = np.load(tmp_path / "found.npz"), hsproto.load(digits_run)
    own = run.predict(pixels)
    np.testing.assert_array_equal(found["labels"], own.labels)
    np.testing.assert_allclose(found["cosines"], own.cosines, atol=1e-5)
    np.testing.assert_allclose(found["one"], own.cosines[:1], atol=1e-5)
    photo = tmp_path / "photo.png"
    of_photo = run.predict(photo)
    line = f"{photo}: {of_photo.names[0]} {of_photo.cosines.max():+.3f}"
    assert done(exported / "predict.py", photo).splitlines() == [line]


def test_what_is_written(exported, digits_run):
    names = {"weights.safetensors", "predictor.stablehlo", "predictor.json", "predict.py", "lib"}
    assert {path.name for path in exported.iterdir()} - {"__pycache__"} == names
    about, run = json.loads((exported / "predictor.json").read_text()), hsproto.load(digits_run)
    assert about["class_names"] == list(run.class_names)
    np.testing.assert_allclose(about["prototypes"], run.prototypes)
    with safe_open(exported / "weights.safetensors", "numpy") as weights:
        np.testing.assert_array_equal(weights.get_tensor("prototypes"), run.prototypes)
    program = jax_export.deserialize(bytearray((exported / "predictor.stablehlo").read_bytes()))
    assert program.platforms == export.PLATFORMS and str(program.in_avals[-1].shape[0]) == "n"


def test_only_an_export_is_replaced(exported, digits_run, tmp_path):
    before = (exported / "predictor.json").read_text()
    fewer = hsproto.load(digits_run).without_class("3")
    export.export(fewer, str(exported))
    assert len(json.loads((exported / "predictor.json").read_text())["class_names"]) == 9
    export.export(hsproto.load(digits_run), str(exported))
    assert (exported / "predictor.json").read_text() == before
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--out="):
            export.main([f"--workdir={digits_run}", f"--out={out}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis.txt"]


def test_an_export_that_fails_leaves_nothing(digits_run, tmp_path, monkeypatch):
    run = hsproto.load(digits_run)
    export.export(run, str(tmp_path / "out"))
    whole = (tmp_path / "out" / "weights.safetensors").read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_about", fails)
    with pytest.raises(UserError, match="No space left"):
        export.export(run.without_class("0"), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "weights.safetensors").read_bytes() == whole
