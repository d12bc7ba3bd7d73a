"""Parts of the page: verdicts, the simplex circle, confusion, thumbnails, and what is chance."""

import base64
import io

import made_pages
import made_runs
import numpy as np
import pytest
from PIL import Image

from hsproto import geometry, verdict
from hsproto.reporting import directions, noise
from hsproto.reporting.figures import runs as figures
from hsproto.reporting.page import flat, page, thumbnails
from hsproto.reporting.page import methods as page_methods
from hsproto.reporting.page import sphere as page_sphere
from hsproto.reporting.page.confusion import confusion_view
from hsproto.reporting.page.verdicts import verdict_of
from hsproto.reporting.table import mean_over_seeds
from hsproto.runs import predictions_file
from hsproto.runs import summary as summary_lib
from hsproto.runs.predictions_file import Predicted
from hsproto.runs.reading import Unreadable

K = 10
LABELS = np.repeat(np.arange(4), 25)


def simplex(count):
    rows = np.eye(count) - 1 / count
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def with_mistakes(count, first=0):
    predicted = LABELS.copy()
    predicted[first : first + count] = (predicted[first : first + count] + 1) % 4
    return Predicted(LABELS, predicted)


def test_the_spread_of_directions_follows_from_other_measures():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(K), 400)
    rows = simplex(K)[labels] + 0.05 * random.normal(size=(len(labels), K))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(K)])
    within = np.mean(np.sum((rows - means[labels]) ** 2, axis=1))
    between = np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))
    measures = geometry.neural_collapse(rows, labels, num_classes=K)
    found = verdict.spread_of_directions({k: float(v) for k, v in measures.items()}, K)
    assert found == pytest.approx(np.sqrt(within / between), rel=0.01)


def test_a_run_begins_with_a_verdict(tmp_path):
    workdir = made_pages.run(tmp_path, "run", predictions=with_mistakes(2))
    (run,) = made_runs.read(tmp_path)
    predicted = predictions_file.read(str(workdir), 100, 4)
    assert verdict_of(run, predicted)[0] == "How collapsed it is was not measured."
    measures = {"erank_inter": 2.9, "instance_alignment": 0.002, "cosine_means_mean": -1 / 3}
    run.summary["train"] |= measures
    assert verdict_of(run, predicted) == [
        "The features are collapsed: class means have 97 % of a simplex's rank; spread within "
        "classes 0.032 times that between.",
        "Test accuracy 0.900 (98 of 100 images right).",
    ]


def test_collapsed_features_lie_on_their_corners_and_uninformative_ones_in_the_center():
    corners, prototypes = flat.corners(K), simplex(K)
    np.testing.assert_allclose(flat.on_circle(3 * prototypes, prototypes, K), corners, atol=1e-12)
    alike = np.eye(K + 1)[K:]  # orthogonal to all prototypes
    places = flat.on_circle(alike, np.pad(prototypes, ((0, 0), (0, 1))), K)
    np.testing.assert_allclose(places, 0, atol=1e-12)
    orthogonal = flat.on_circle(np.eye(100), np.eye(100), 100)
    np.testing.assert_allclose(orthogonal, flat.corners(100), atol=0.02)
    any_rows = np.random.default_rng(0).normal(size=(500, K))
    assert np.linalg.norm(flat.on_circle(any_rows, prototypes, K), axis=1).max() <= 1
    between = flat.on_circle(prototypes[:1] + prototypes[1:2], prototypes, K)
    np.testing.assert_allclose(between[0], corners[:2].mean(axis=0), atol=0.1)


def test_confusion_is_of_the_whole_test_set():
    found = confusion_view(with_mistakes(3), list("abcd"))
    assert (found["right"], found["images"]) == (97, 100)
    assert found["pairs"] == [("a", "b", 3, 25)]
    assert found["matrix"][0] == [
        ("22", 88, "right"), ("3", 35, "wrong"), ("", 0, "wrong"), ("", 0, "wrong"),
    ]  # fmt: skip
    many = np.arange(300)
    picture = confusion_view(Predicted(many, many[::-1]), [str(c) for c in many])["picture"]
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert image.size == (200, 200)


def test_images_without_a_predicted_class_are_wrong_and_of_none(tmp_path):
    """As where the network's output for them is not finite."""
    predicted = with_mistakes(3).predicted.copy()
    predicted[2:5] = -1
    workdir = made_pages.run(tmp_path, "run", predictions=Predicted(LABELS, predicted))
    read = predictions_file.read(str(workdir), 100, 4)
    found = confusion_view(read, list("abcd"))
    assert (found["right"], found["images"]) == (95, 100)
    assert found["pairs"] == [("a", "(none)", 3, 25), ("a", "b", 2, 25)]
    assert found["columns"] == ["a", "b", "c", "d", "(none)"]
    assert [cell[0] for cell in found["matrix"][0]] == ["20", "2", "", "", "3"]
    many = np.arange(30)
    assert confusion_view(Predicted(many, np.full(30, -1)), [str(c) for c in many])["picture"]
    data = page.collect(made_runs.read(tmp_path), {})
    assert data.runs[0].by_class["classes"][0]["accuracy"] == 0.8
    assert "class 0 | (none),3" in page.values_csv(data)
    assert "(none)</span></th>" in page.render(data)


def test_the_page_has_the_accuracy_of_each_class(tmp_path):
    made_pages.run(tmp_path, "run", predictions=with_mistakes(3))
    made_pages.run(tmp_path, "old", seed=1)
    data = page.collect(made_runs.read(tmp_path), {})
    old, new = sorted(data.runs, key=lambda run: run.confusion is not None)
    assert new.by_class["classes"][0]["accuracy"] == 0.88
    assert new.by_class["classes"][0]["tested"] == 25 and new.by_class["missing"] == []
    assert "`hsproto evaluate` adds" in old.by_class["missing"][0]
    assert "test images of the last snapshot" in old.by_class["missing"][1]
    assert "a | " not in page.values_csv(data) and "class 0 | class 1,3" in page.values_csv(data)


def test_of_very_many_classes_some_are_compared_and_all_are_counted(tmp_path, monkeypatch):
    """Cosines of all with all would grow with the square of their number."""
    monkeypatch.setattr(directions, "MOST_COMPARED", 3)
    workdir = made_pages.run(tmp_path, "run", predictions=with_mistakes(3))
    data = page.collect(made_runs.read(tmp_path), {})
    by_class = data.runs[0].by_class
    assert by_class["names"] == ["class 0", "class 1", "class 3"]
    assert np.shape(by_class["cosines"]) == (3, 3)
    assert by_class["from"] == "the run's end, of 3 of 4 classes"
    assert by_class["target"] == pytest.approx(-1 / 3)
    assert len(data.runs[0].confusion["matrix"]) == 4
    assert "class 0 | class 1,3" in page.values_csv(data)
    drawn = figures.cosine_figure(summary_lib.read_prototypes(str(workdir)))
    assert drawn.axes[0].images[0].get_array().shape == (3, 3)
    assert "of 3 of 4 classes" in drawn.axes[0].get_title()


@pytest.mark.parametrize(
    "arrays, reason",
    [
        ({"labels": [0, 4]}, "outside 0..3"),
        ({"labels": [0, -1]}, "outside 0..3"),
        ({"predicted": [0, -2]}, "outside -1..3"),
        ({"predicted": [0]}, "2 'labels' and 1 'predicted'"),
        ({"labels": [0.5, 1.0]}, "not a list of whole numbers"),
        ({"step": [1, 2]}, "'step' is not a whole number"),
    ],
)
def test_damaged_predictions_are_told(tmp_path, arrays, reason):
    whole = {"labels": [0, 1], "predicted": [1, 1], "step": 100}
    np.savez(tmp_path / "predictions.npz", **{**whole, **arrays})
    with pytest.raises(Unreadable, match=reason):
        predictions_file.read(str(tmp_path), 100, 4)


def test_predictions_of_another_step_are_none_of_the_runs(tmp_path):
    predictions_file.write(str(tmp_path), 50, Predicted(LABELS, LABELS))
    assert predictions_file.read(str(tmp_path), 100, 4) is None
    assert predictions_file.read(str(tmp_path), 50, 4).right().all()


def test_seeds_tell_what_is_chance():
    far, near = mean_over_seeds([1.0, 1.1, 0.9]), mean_over_seeds([1.1, 1.2, 1.0])
    other = mean_over_seeds([3.0, 3.1, 2.9])
    one, another = mean_over_seeds([3.0]), mean_over_seeds([1.2])
    assert noise.differ_by_seeds(far, other) and noise.differ_by_seeds(far, one)
    assert not noise.differ_by_seeds(far, near) and not noise.differ_by_seeds(far, another)
    assert noise.differ_by_seeds(one, another) is None


def test_test_images_tell_what_is_chance():
    assert noise.differ_by_images([0.9, 0.95], [100, 100]) is False
    assert noise.differ_by_images([0.9, 0.95], [10_000, 10_000]) is True
    assert noise.differ_by_images([0.9, 0.95], [100, None]) is None
    # The same accuracies, and it is by images that only one of them gets right.
    assert noise.differ_paired(with_mistakes(0), with_mistakes(5)) is True
    assert noise.differ_paired(with_mistakes(5, first=50), with_mistakes(8)) is False
    assert noise.differ_paired(with_mistakes(0), None) is None


@pytest.mark.parametrize("mistakes, mark", [(60, "worse"), (41, "")])
def test_marks_are_beyond_chance(tmp_path, mistakes, mark):
    for name, count, loss in (("ce", 40, "cross_entropy"), ("nonl", mistakes, "nonl")):
        made_pages.run(tmp_path, name, loss=loss, predictions=with_mistakes(count))
    runs = made_runs.read(tmp_path)
    predicted = {run.workdir: predictions_file.read(run.workdir, 100, 4) for run in runs}
    for run in runs:
        run.summary["test"]["accuracy"] = float(predicted[run.workdir].right().mean())
    rows = {row.loss: row.cells for row in page_methods.methods(runs, predicted)}
    assert rows["nonl"][0].mark == mark and rows["cross_entropy"][0].best == bool(mark)
    assert not any(cell.mark for cell in rows["nonl"][1:]), "one seed: its noise is not known"


def test_thumbnails_stand_once_for_runs_on_the_same_images(tmp_path):
    for name in ("one", "two"):
        made_pages.run(tmp_path, name, loss={"one": "nonl", "two": "ntce"}[name], side=64)
    series = [page_sphere.frames(run.workdir, 3) for run in made_runs.read(tmp_path)]
    assert [*thumbnails.sprites(series)] == [thumbnails.sprite_id(series[0])]
    points = series[0].points | {"images": series[0].points["images"][:, :1, :1]}
    features = series[0]._replace(points=points)
    assert thumbnails.sprite_id(features) is None and thumbnails.sprites([features]) == {}


def test_runs_on_features_say_that_they_have_no_pictures(tmp_path):
    made_pages.run(tmp_path, "run", side=1)
    data = page.collect(made_runs.read(tmp_path), {})
    assert data.sprites == {} and data.runs[0].sphere["sprite"] is None
    assert "of which there are no pictures" in page.render(data)


def test_thumbnails_are_bounded():
    images = np.zeros((1200, 40, 20, 3), np.uint8)
    sprite = thumbnails._sprite(images, thumbnails.LARGEST_SIDE)
    tiles = np.array(sprite["tiles"])
    assert sprite["side"] == 32 and sorted(tiles[tiles >= 0]) == list(range(500))
    sheet = Image.open(io.BytesIO(base64.b64decode(sprite["picture"].partition(",")[2])))
    assert sheet.size == (32 * sprite["columns"], 32 * sprite["rows"])
