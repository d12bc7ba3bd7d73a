"""Which test images a run takes for another class: the confusion matrix and the wrongest images."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hsproto.data.source import Source
from hsproto.errors import visible
from hsproto.runs.files import csv_text, write_text

CONFUSION, WRONG = "confusion.csv", "mistakes.csv"
_PAIRS, _IMAGES = 5, 10  # in the text
_CLASSES = 20  # up to which the text holds the whole matrix
_WIDTH = 12  # of a class name there


class Predictions(NamedTuple):
    """Labels of the test images in the order of their source, and the classes predicted.

    `margins`: cosine to the predicted class's prototype less that to the own one, in 0..2; 0 where
    right. None where nobody looks at the images one by one.
    """

    labels: np.ndarray
    predicted: np.ndarray
    margins: np.ndarray | None = None


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Return the confusion matrix int [K, K]: rows are the own classes, columns those predicted."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (predictions.labels, predictions.predicted), 1)
    return matrix


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Return (own class, predicted class, images) of the pairs taken for each other most often."""
    off = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, off.shape), strict=True)
    return [(int(i), int(j), int(off[i, j])) for i, j in pairs if off[i, j]]


def write(workdir: str, predictions: Predictions, source: Source) -> str:
    """Write confusion.csv and mistakes.csv, and return what they say as text.

    mistakes.csv lists every test image that is taken for another class, the wrongest first.
    """
    names = source.class_names
    matrix = confusion(predictions, len(names))
    wrong = np.flatnonzero(predictions.labels != predictions.predicted)
    wrong = wrong[np.argsort(-predictions.margins[wrong], kind="stable")]
    paths = getattr(source, "paths", None)
    rows = [
        (
            paths[row] if paths else f"test image {row}",
            names[predictions.labels[row]],
            names[predictions.predicted[row]],
            f"{predictions.margins[row]:.4f}",
        )
        for row in wrong
    ]
    lines = ((name, *line) for name, line in zip(names, matrix, strict=True))
    write_text(os.path.join(workdir, CONFUSION), csv_text(("class", *names), lines))
    columns = ("image", "class", "predicted", "margin")
    write_text(os.path.join(workdir, WRONG), csv_text(columns, rows))
    return _text(matrix, names, rows)


def _text(matrix, names: Sequence[str], rows) -> str:
    total = int(matrix.sum())
    lines = [f"{total - len(rows)} of {total} test images right; all mistakes: {WRONG}"]
    if len(names) <= _CLASSES:
        lines += ["", "own class (row) and predicted class (column):", *_grid(matrix, names)]
    if pairs := most_confused(matrix, _PAIRS):
        lines += ["", "most confused:"]
        lines += [
            f"  {count} of {matrix[own].sum()} {names[own]} taken for {names[other]}"
            for own, other, count in pairs
        ]
        lines += ["", "wrongest images, with the cosine by which the other class is nearer:"]
        lines += [f"  {path}: {other}, +{margin}" for path, _, other, margin in rows[:_IMAGES]]
    return "\n".join(visible(line) for line in lines)


def _grid(matrix, names):
    short = [name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1]}…" for name in names]
    width = max(len(str(matrix.max())), len(str(len(names))))
    yield f"  {'':<{_WIDTH + 4}}{' '.join(f'{i:>{width}}' for i in range(1, len(names) + 1))}"
    for i, (name, line) in enumerate(zip(short, matrix, strict=True), start=1):
        cells = " ".join(f"{count or '.':>{width}}" for count in line)
        yield f"  {i:>2}  {name:<{_WIDTH}}{cells}"
