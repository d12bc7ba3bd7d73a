"""Scores, AUROC and FPR95 agree with hand-computed cases and scikit-learn."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from scipy.special import logsumexp
from sklearn.metrics import roc_curve
from sklearn.neighbors import NearestNeighbors

from hsproto.core import nearest
from hsproto.errors import UserError
from hsproto.evaluation import neighbors, ood, row_blocks, trained


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    # Of the six pairs four are in order, and one is a tie.
    assert ood.auroc(np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0])) == pytest.approx(4.5 / 6)
    assert ood.auroc(np.ones(3), np.zeros(4)) == 1
    assert ood.auroc(np.ones(3), np.ones(4)) == 0.5


def test_fpr95_of_a_case_by_hand():
    inside = np.arange(20.0)  # 19 of them, 95 %, are at or above 1
    assert ood.fpr95(inside, np.array([0.5, 1.0, 7.0, 30.0])) == 3 / 4


@pytest.mark.parametrize("count", [7, 19, 20, 21, 100, 333])
def test_fpr95_is_where_the_roc_curve_reaches_95_per_cent(count):
    rng = np.random.default_rng(count)
    # Rounded, so that there are ties.
    inside, outside = rng.normal(1, 1, count).round(1), rng.normal(0, 1, 200).round(1)
    truth = np.r_[np.ones(count), np.zeros(200)]
    fpr, tpr, _ = roc_curve(truth, np.r_[inside, outside], drop_intermediate=False)
    assert ood.fpr95(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95)])


def test_kth_cosine_is_that_of_scikit_learns_neighbors(monkeypatch):
    rng = np.random.default_rng(0)
    features, others = (rng.normal(size=(n, 6)).astype(np.float32) for n in (23, 50))
    where = rng.random(50) < 0.8
    monkeypatch.setattr(
        neighbors, "_BLOCK_ELEMENTS", 50 * 10
    )  # blocks of ten rows, the last padded
    found = neighbors.kth_cosine(features, others, 3, where=where)
    theirs = NearestNeighbors(n_neighbors=3, metric="cosine").fit(others[where])
    np.testing.assert_allclose(found, 1 - theirs.kneighbors(features)[0][:, 2], atol=1e-5)


@pytest.mark.parametrize("recipe", ["digits_run", "scl_run"])
def test_scores_of_a_run_are_those_by_hand(recipe, request):
    run = trained.TrainedRun(request.getfixturevalue(recipe))
    found = ood.scores(run, run.test, k=5)

    def directions(rows):
        rows = np.asarray(rows, np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    test, train = (directions(split.projections)[split.where] for split in (run.test, run.train))
    cosines = test @ directions(run.weights).T
    np.testing.assert_allclose(found["max_cosine"], cosines.max(axis=1), atol=1e-5)
    energy = logsumexp(cosines / run.config.temperature, axis=1)
    np.testing.assert_allclose(found["energy"], energy, atol=1e-4)
    np.testing.assert_allclose(found["knn"], np.sort(test @ train.T, axis=1)[:, -5], atol=1e-5)


@pytest.mark.parametrize("recipe", ["digits_run", "scl_run"])
def test_scores_of_all_images_and_classes_are_never_held_at_once(recipe, request, monkeypatch):
    """Of logits, cosines, predictions and calibration a block of images is, and they are equal."""
    run = trained.TrainedRun(request.getfixturevalue(recipe))

    def results():
        scores = ood.scores(run, run.test, k=5)
        right = run.logits(run.test).per_image(lambda logits, labels: logits.argmax(1) == labels)
        return *(scores[name] for name in ood.SCORES), right, run.error(run.test)

    expected, shapes = results(), []

    def function(logits, labels):
        shapes.append(logits.shape)
        return labels

    monkeypatch.setattr(nearest, "MOST_SCORES", 360 * 10 - 1)
    monkeypatch.setattr(row_blocks, "_MOST_SCORES", 10 * 70)
    for found, right in zip(results(), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-6)
    labels = run.cosines(run.test).per_image(function)
    assert set(shapes) == {(70, 10), (10, 10)} and len(labels) == 360


def test_the_command_tells_noise_from_digits(digits_run, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (50, 11, 13, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=noise)
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    for i in range(5):
        Image.fromarray(noise[i]).save(tmp_path / "pictures" / "deep" / f"{i}.png")
    others = [str(tmp_path / "noise.npz"), str(tmp_path / "pictures")]
    assert ood.main([f"--workdir={digits_run}", "--k=10", "--other", *others]) == 0
    found = json.loads((digits_run / "ood.json").read_text())
    assert found["k"] == 10 and list(found["others"]) == others
    for result in found["others"].values():
        assert list(result) == list(ood.SCORES)
        for score in ood.SCORES:
            assert result[score]["auroc"] > 0.6
            assert 0 <= result[score]["fpr95"] <= 1
    text = capsys.readouterr().out
    assert "noise.npz: 50 images" in text and "pictures: 5 images" in text
    assert f"{found['others'][others[0]]['knn']['auroc']:.4f}" in text


def test_other_images_become_of_the_runs_size_and_channels(digits_run, tmp_path):
    config = trained.TrainedRun(digits_run).config
    own = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", test_images=own)
    np.testing.assert_array_equal(
        ood.read_other(str(tmp_path / "own.npz"), config).images[..., 0], own
    )
    config.channels, config.image_size = 3, 4
    np.savez(tmp_path / "grey.npz", test_images=own[..., None])
    assert ood.read_other(str(tmp_path / "grey.npz"), config).images.shape == (3, 4, 4, 3)


@pytest.mark.slow
def test_bad_sets_are_refused_in_one_line(digits_run, tmp_path):
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 8, 8)))
    np.savez(tmp_path / "other.npz", pictures=np.zeros((2, 8, 8)))
    np.savez(tmp_path / "four.npz", images=np.zeros((2, 8, 8, 4), np.uint8))
    os.mkfifo(tmp_path / "pipe.npz")
    np.savez(tmp_path / "few.npz", images=np.zeros((2, 8, 8), np.uint8))
    for name, message in {
        "floats.npz": "must be uint8",
        "other.npz": "neither test_images nor images",
        "four.npz": "must be uint8",
        "pipe.npz": "neither a folder of images nor an npz file",
        "none.npz": "neither a folder of images nor an npz file",
        "": "holds no image",
    }.items():
        (tmp_path / "empty").mkdir(exist_ok=True)
        other = tmp_path / name if name else tmp_path / "empty"
        with pytest.raises(UserError, match=message):
            ood.main([f"--workdir={digits_run}", f"--other={other}"])
    with pytest.raises(UserError, match="--k=0 must be in 1..1437"):
        ood.main([f"--workdir={digits_run}", f"--other={tmp_path / 'few.npz'}", "--k=0"])
