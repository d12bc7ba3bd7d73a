"""A run in Python: embeds, predicts, gains and loses classes, and is saved."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import tiny_config

import hsproto
from hsproto import inference, train
from hsproto.core import numerics
from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.runs import predictor_file
from hsproto.runs import run as run_lib


@pytest.fixture(scope="module")
def digits():
    """(pixels uint8 [360, 8, 8, 1], labels) of the test set."""
    source = load_lib.load_splits(tiny_config()).test
    pixels, labels = zip(*(source[i] for i in range(len(source))), strict=True)
    return np.stack(pixels), np.array(labels)


@pytest.fixture(scope="module")
def run(digits_run):
    return hsproto.load(digits_run)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_gives_the_answers_that_the_run_was_measured_by(run, digits_run, digits):
    summary = json.loads((digits_run / "summary.json").read_text())
    labels, names, cosines, rejected = run.predict(digits[0])
    assert np.mean(labels == digits[1]) == pytest.approx(summary["test"]["accuracy"], abs=1e-6)
    assert names == [str(label) for label in labels] and not rejected.any()
    assert run.metrics["test"] == summary["test"] and run.step == summary["step"]
    embedded = run.embed(digits[0])
    assert embedded.dtype == cosines.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    unit = np.asarray(numerics.l2_normalize(run.prototypes))
    np.testing.assert_allclose(embedded @ unit.T, cosines, atol=1e-5)


def test_a_run_of_scl_answers_by_the_prototypes_of_its_training_set(scl_run, digits):
    run = hsproto.load(scl_run)
    accuracy = np.mean(run.predict(digits[0]).labels == digits[1])
    assert accuracy == pytest.approx(run.metrics["test"]["accuracy"], abs=1e-6)
    earlier = hsproto.load(scl_run, inference.trained.Checkpoints(str(scl_run)).steps()[0])
    assert earlier.step < run.step and earlier.prototypes.shape == run.prototypes.shape
    assert not np.allclose(earlier.prototypes, run.prototypes)


def test_images_come_in_any_form(run, digits, tmp_path):
    pixels = digits[0][:5]
    for i, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    expected = run.embed(pixels)
    pictures = [Image.fromarray(image[..., 0]) for image in pixels]
    mixed = [tmp_path / "0.png", str(tmp_path / "1.png"), pictures[2], pixels[3], pixels[4, ..., 0]]
    colors = np.repeat(pixels, 3, axis=3)
    for images in (tmp_path, [str(tmp_path)], pictures, mixed, pixels[..., 0], colors):
        np.testing.assert_allclose(run.embed(images), expected, atol=1e-6)
    np.testing.assert_allclose(run.embed(str(tmp_path / "1.png")), expected[1:2], atol=1e-6)
    turned = pictures[0].transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_allclose(run.embed(image), expected[:1], atol=1e-6)


def test_one_program_embeds_any_number_of_images(digits_run, digits):
    run = hsproto.load(digits_run)
    for count in (2, 64, 65, 200):
        assert run.embed(digits[0][:count]).shape == (count, run.prototypes.shape[1])
    assert run._programs.project._cache_size() == 1


def test_what_is_no_image_is_told(run, digits, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    wrong = {
        "no images": [[], tmp_path.parent / tmp_path.name / "empty", digits[0][:0]],
        "uint8, 0 to 255": [digits[0] / 255, [np.zeros((8, 8))]],
        r"0 to 255 \(of 0 to 255: images.astype": [digits[0].astype(int)],
        r"looks like one color image": [np.zeros((8, 8, 3), np.uint8)],
        "of shape": [np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 5), np.uint8)],
        "of type": [7, [7]],
        "unreadable image .*text.png": [tmp_path / "text.png"],
        "no such file": ["missing.png"],
        "mode F": [Image.new("F", (8, 8))],
    }
    (tmp_path / "empty").mkdir()
    for message, cases in wrong.items():
        for images in cases:
            with pytest.raises(UserError, match=message):
                run.embed(images)
    for reject in (1.5, float("nan")):
        with pytest.raises(UserError, match="is no cosine"):
            run.predict(digits[0][:2], reject=reject)


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    """A short run on the digits 0 to 8."""
    workdir = tmp_path_factory.mktemp("nine")
    argument = "class_list=0/1/2/3/4/5/6/7/8,epochs=6,eval_every_epochs=6"
    train.train(tiny_config(argument=argument), workdir)
    return workdir


def test_a_class_never_seen_is_added_with_twenty_images(nine, digits, tmp_path):
    source = load_lib.load_splits(tiny_config()).train
    nines = np.stack([source[i][0] for i in np.flatnonzero(source.labels == 9)[:20]])
    before = hsproto.load(nine)
    after = before.with_class("nine", nines)
    pixels, labels = digits
    old = labels < 9
    assert len(before.class_names) == 9 and after.class_names[9] == "nine"
    found = after.predict(pixels).labels == labels
    kept = np.mean(before.predict(pixels[old]).labels == labels[old])
    assert found[~old].mean() > 0.6 and found[old].mean() > kept - 0.1
    after.save(tmp_path / "ten")
    assert same(hsproto.load(tmp_path / "ten").predict(pixels)[2:], after.predict(pixels)[2:])
    removed = after.without_class("nine")
    assert same(removed.predict(pixels)[2:], before.predict(pixels)[2:])


def test_without_a_class_the_others_move_up(run, digits):
    fewer = run.without_class("3")
    kept = digits[1] != 3
    labels = digits[1][kept] - (digits[1][kept] > 3)
    assert np.mean(fewer.predict(digits[0][kept]).labels == labels) > 0.8
    assert fewer.class_names == ("0", "1", "2", "4", "5", "6", "7", "8", "9")
    assert len(run.class_names) == 10
    with pytest.raises(UserError, match="no class '3'"):
        fewer.without_class("3")
    with pytest.raises(UserError, match="has a class '4' already"):
        fewer.with_class("4", digits[0])
    with pytest.raises(UserError, match="only class"):
        one = fewer
        for name in fewer.class_names:
            one = one.without_class(name)


def test_a_run_of_cross_entropy_answers_by_its_own_logits(digits, tmp_path):
    argument = "loss=cross_entropy,epochs=2,eval_every_epochs=2"
    train.train(tiny_config(argument=argument), tmp_path / "run")
    run = hsproto.load(tmp_path / "run")
    accuracy = np.mean(run.predict(digits[0]).labels == digits[1])
    assert accuracy == pytest.approx(run.metrics["test"]["accuracy"], abs=1e-6)
    np.testing.assert_array_equal(run.rank(digits[0])[0][:, 0], run.predict(digits[0]).labels)
    fewer = run.without_class("9")
    fewer.save(tmp_path / "saved")
    loaded = hsproto.load(tmp_path / "saved").predict(digits[0]).labels
    order = run.rank(digits[0], top=2)[0]
    assert order.shape == (len(digits[0]), 2)
    second = np.where(order[:, 0] == 9, order[:, 1], order[:, 0])
    np.testing.assert_array_equal(loaded, second)
    with pytest.raises(UserError, match="no class can be added without training"):
        run.with_class("ten", digits[0][:5])


def test_a_threshold_lets_the_share_pass_that_was_asked_for(run, digits):
    pixels, labels = digits
    fewer = run.without_class("9")
    strangers = np.where(labels == 9, -1, labels)
    threshold = fewer.threshold(pixels, strangers, far=0.1)
    rejected = fewer.predict(pixels, reject=threshold).rejected
    assert np.mean(rejected[labels == 9]) == pytest.approx(0.9, abs=0.03)
    assert -1 <= run.threshold(pixels, labels) <= 1
    for wrong in (labels[:5], labels + 1, labels.astype(float), labels[:, None]):
        with pytest.raises(UserError, match="labels"):
            run.threshold(pixels, wrong)
    with pytest.raises(UserError, match="far=5"):
        run.threshold(pixels, labels, far=5)


def test_a_saved_classifier_is_no_run(run, digits_run, digits, tmp_path):
    run.save(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == [predictor_file.NAME]
    again = hsproto.load(tmp_path / "saved")
    assert again.metrics == run.metrics and dict(again.config) == dict(run.config)
    assert same(again.predict(digits[0])[2:], run.predict(digits[0])[2:])
    again.with_class("another", digits[0][:3]).save(tmp_path / "saved")
    assert len(hsproto.load(tmp_path / "saved").class_names) == 11
    with pytest.raises(UserError, match="no run there"):
        run_lib.read([str(tmp_path / "saved")])
    with pytest.raises(UserError, match="no checkpoints"):
        hsproto.load(tmp_path / "saved", 3)
    workdir = shutil.copytree(digits_run, tmp_path / "run")
    with pytest.raises(UserError, match="holds a run"):
        run.save(workdir)
    shutil.copy(tmp_path / "saved" / predictor_file.NAME, workdir)
    with pytest.raises(UserError, match="holds both"):
        hsproto.load(workdir)


def test_a_damaged_classifier_ends_in_one_line(run, tmp_path):
    run.save(tmp_path)
    path = tmp_path / predictor_file.NAME
    whole = path.read_bytes()
    with np.load(path) as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays["about"]))
    cases = [whole[:-100], b"", b"no npz"]
    changes = [
        {"prototypes": np.eye(10, dtype=np.float32)},
        {"class_names": np.arange(10)},
        {"about": np.array("{")},
        {"about": np.array(json.dumps(about | {"format": 2}))},
        {"about": np.array(json.dumps(about | {"config": about["config"] | {"width": 13}}))},
        {next(name for name in arrays if "kernel" in name): np.zeros(3, np.float32)},
    ]
    for change in changes:
        np.savez(path, **arrays | change)
        cases.append(path.read_bytes())
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            hsproto.load(tmp_path)
        assert "\n" not in str(caught.value) and predictor_file.NAME in str(caught.value)


def test_a_running_run_can_be_loaded(digits_run, digits, tmp_path):
    workdir = shutil.copytree(digits_run, tmp_path / "run")
    for name in ("summary.json", "prototypes.npz"):
        (workdir / name).unlink()
    run = hsproto.load(workdir)
    assert run.class_names == tuple(map(str, range(10)))
    accuracy = np.mean(run.predict(digits[0]).labels == digits[1])
    assert accuracy == pytest.approx(run.metrics["test"]["accuracy"], abs=1e-6)


def test_the_top_level_is_lazy():
    assert hsproto.load is inference.load and "load" in dir(hsproto)
    assert hsproto.__version__
    assert not hasattr(hsproto, "lod")
