"""Which test images a run takes for another class: the confusion matrix and the wrongest images."""

import os
from collections.abc import Sequence

import numpy as np

from hsproto.data.source import Source
from hsproto.errors import visible
from hsproto.runs.files import csv_text, write_text
from hsproto.runs.predictions_file import NO_CLASS, Predicted

CONFUSION, WRONG = "confusion.csv", "mistakes.csv"
MATRIX_CLASSES = 1000  # up to which confusion.csv is a matrix
_PAIRS, _IMAGES = 5, 10  # in the text
_CLASSES = 20  # up to which the text holds the whole matrix
_WIDTH = 12  # of a class name there


def write(workdir: str, predictions: Predicted, source: Source) -> str:
    """Write confusion.csv and mistakes.csv, and return what they say as text.

    confusion.csv holds the confusion matrix; of more than MATRIX_CLASSES classes, with which that
    grows by its square, a line for each pair of own and predicted class that occurs. mistakes.csv
    lists every test image that is taken for another class, the wrongest first, and last those for
    which no class is predicted, without a margin.
    """
    names, columns = source.class_names, [*source.class_names, NO_CLASS]  # -1: the last
    wrong = np.flatnonzero(~predictions.right())
    wrong = wrong[np.argsort(-predictions.margins[wrong], kind="stable")]  # NaN comes last
    paths = getattr(source, "paths", None)
    rows = [
        (
            paths[row] if paths else f"test image {row}",
            names[predictions.labels[row]],
            columns[predictions.predicted[row]],
            "" if predictions.predicted[row] < 0 else f"{predictions.margins[row]:.4f}",
        )
        for row in wrong
    ]
    write_text(os.path.join(workdir, CONFUSION), _confusion(predictions, names, columns))
    titles = ("image", "class", "predicted", "margin")
    write_text(os.path.join(workdir, WRONG), csv_text(titles, rows))
    return _text(predictions, names, columns, rows)


def _confusion(predictions, names, columns):
    if len(names) > MATRIX_CLASSES:
        pairs = zip(*predictions.confusion(), strict=True)
        lines = [(names[own], columns[taken], count) for own, taken, count in pairs]
        return csv_text(("class", "predicted", "images"), lines)
    matrix = predictions.matrix(len(names))
    lines = ((name, *line) for name, line in zip(names, matrix, strict=True))
    return csv_text(("class", *columns[: matrix.shape[1]]), lines)


def _text(predictions, names: Sequence[str], columns: Sequence[str], rows) -> str:
    total = len(predictions.labels)
    lines = [f"{total - len(rows)} of {total} test images right; all mistakes: {WRONG}"]
    if len(names) <= _CLASSES:
        matrix = predictions.matrix(len(names))
        grid = _grid(matrix, columns[: matrix.shape[1]])
        lines += ["", "own class (row) and predicted class (column):", *grid]
    if rows:
        images = np.bincount(predictions.labels, minlength=len(names))
        mistaken = zip(*(each[:_PAIRS] for each in predictions.mistaken()), strict=True)
        lines += ["", "most confused:"]
        lines += [
            f"  {count} of {images[own]} {names[own]} taken for {columns[taken]}"
            for own, taken, count in mistaken
        ]
        lines += ["", "wrongest images, with the cosine by which the other class is nearer:"]
        lines += [
            f"  {path}: {taken}{margin and f', +{margin}'}"
            for path, _, taken, margin in rows[:_IMAGES]
        ]
    return "\n".join(visible(line) for line in lines)


def _grid(matrix, names):
    short = [name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1]}…" for name in names]
    width = max(len(str(matrix.max())), len(str(len(names))))
    yield f"  {'':<{_WIDTH + 4}}{' '.join(f'{i:>{width}}' for i in range(1, len(names) + 1))}"
    for i, (name, line) in enumerate(zip(short, matrix, strict=False), start=1):
        cells = " ".join(f"{count or '.':>{width}}" for count in line)
        yield f"  {i:>2}  {name:<{_WIDTH}}{cells}"
    if len(names) > len(matrix):
        yield f"  {len(names):>2}  {short[-1]}"
