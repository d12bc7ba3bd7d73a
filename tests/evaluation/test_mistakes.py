"""The confusion matrix, the most confused pairs and the wrongest images."""

import csv
from types import SimpleNamespace

import numpy as np

from hsproto.evaluation import mistakes
from hsproto.runs.predictions_file import Predicted

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 1, 1, 1, 0, 2])
MARGINS = np.array([0, 0.1, 0.5, 0, 0.3, 0], np.float32)
PREDICTIONS = Predicted(LABELS, PREDICTED, MARGINS)


def source(**more):
    return SimpleNamespace(class_names=("cat", "dog", "owl"), **more)


def test_the_matrix_counts_own_and_predicted_classes():
    assert PREDICTIONS.matrix(3).tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    found = [each.tolist() for each in PREDICTIONS.mistaken()]
    assert found == [[0, 1], [1, 0], [2, 1]]


def test_files_and_text_say_the_same(tmp_path):
    paths = [f"photos/{i}.jpg" for i in range(6)]
    text = mistakes.write(str(tmp_path), PREDICTIONS, source(paths=paths))
    with open(tmp_path / mistakes.CONFUSION) as file:
        assert list(csv.reader(file))[1] == ["cat", "1", "2", "0"]
    with open(tmp_path / mistakes.WRONG) as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [paths[2], paths[4], paths[1]]
    assert rows[0] == {"image": paths[2], "class": "cat", "predicted": "dog", "margin": "0.5000"}
    assert "3 of 6 test images right" in text
    assert "2 of 3 cat taken for dog" in text
    assert f"{paths[2]}: dog, +0.5000" in text


def test_names_that_break_lines_do_not(tmp_path):
    odd = SimpleNamespace(class_names=("c\n1", "d", "e"), paths=["a\nb.jpg"] * 6)
    text = mistakes.write(str(tmp_path), PREDICTIONS, odd)
    assert "a\\nb.jpg" in text and "c\\n1" in text


def test_a_run_without_mistakes_says_so(tmp_path):
    right = Predicted(LABELS, LABELS, np.zeros(6))
    text = mistakes.write(str(tmp_path), right, source())
    assert text.startswith("6 of 6 test images right") and "confused" not in text


def test_an_image_without_a_predicted_class_is_a_mistake_of_none(tmp_path):
    """As where the network's output for it is not finite."""
    predicted = np.array([0, 1, -1, 1, 0, 2])
    found = Predicted(LABELS, predicted, np.where(predicted < 0, np.nan, MARGINS))
    text = mistakes.write(str(tmp_path), found, source())
    with open(tmp_path / mistakes.CONFUSION) as file:
        assert list(csv.reader(file))[:2] == [
            ["class", "cat", "dog", "owl", "(none)"], ["cat", "1", "1", "0", "1"],
        ]  # fmt: skip
    with open(tmp_path / mistakes.WRONG) as file:
        last = list(csv.DictReader(file))[-1]
    assert last == {"image": "test image 2", "class": "cat", "predicted": "(none)", "margin": ""}
    assert "3 of 6 test images right" in text and "1 of 3 cat taken for (none)" in text
    assert "test image 2: (none)\n" in f"{text}\n" and "   4  (none)\n" in text


def test_the_confusion_of_very_many_classes_is_a_list_of_pairs(tmp_path):
    """A matrix would grow with their square."""
    names = tuple(f"id {c}" for c in range(20_000))
    labels = np.arange(0, 20_000, 10)
    predicted = labels.copy()
    predicted[[3, 5]] = 7, -1
    found = Predicted(labels, predicted, np.zeros(len(labels)))
    text = mistakes.write(str(tmp_path), found, SimpleNamespace(class_names=names))
    with open(tmp_path / mistakes.CONFUSION) as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", "predicted", "images"] and len(rows) == 1 + len(labels)
    assert ["id 30", "id 7", "1"] in rows and ["id 50", "(none)", "1"] in rows
    assert "1 of 1 id 30 taken for id 7" in text
