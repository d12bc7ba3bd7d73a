"""The confusion matrix, the most confused pairs and the wrongest images."""

import csv
from types import SimpleNamespace

import numpy as np

from hsproto.evaluation import mistakes

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 1, 1, 1, 0, 2])
MARGINS = np.array([0, 0.1, 0.5, 0, 0.3, 0], np.float32)
PREDICTIONS = mistakes.Predictions(LABELS, PREDICTED, MARGINS)


def source(**more):
    return SimpleNamespace(class_names=("cat", "dog", "owl"), **more)


def test_the_matrix_counts_own_and_predicted_classes():
    matrix = mistakes.confusion(PREDICTIONS, 3)
    assert matrix.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert mistakes.most_confused(matrix, 5) == [(0, 1, 2), (1, 0, 1)]


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
    right = mistakes.Predictions(LABELS, LABELS, np.zeros(6))
    text = mistakes.write(str(tmp_path), right, source())
    assert text.startswith("6 of 6 test images right") and "confused" not in text
