"""The confusion matrix of a run on the whole test set, as the page shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hsproto.reporting.page import shades
from hsproto.reporting.page import sphere as page_sphere
from hsproto.reporting.page.classes import MOST_CELLS, MOST_ROWS
from hsproto.runs.predictions_file import NO_CLASS, Predicted

PAIRS = 8  # of classes that are taken for each other most often, on the page
MOST_PAIRS = 2000  # in the data beside


def confusion_view(predicted: Predicted, names: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a run's predictions on the whole test set.

    A dict: right and images (counts), pairs: (own class, predicted class, images, images of the
    own class) of mistakes, most often first, left_out: how many pairs there are beyond MOST_PAIRS,
    names: of the rows, columns: of the columns of matrix: rows of cells, or picture: a data URI.
    """
    mistaken = predicted.mistaken()
    totals = np.bincount(predicted.labels, minlength=len(names))
    columns = [*names, NO_CLASS]  # of which -1 is the last
    pairs = [
        (names[own], columns[taken], int(count), int(totals[own]))
        for own, taken, count in zip(*(each[:MOST_PAIRS] for each in mistaken), strict=True)
    ]
    view = {
        "right": int(predicted.right().sum()),
        "images": len(predicted.labels),
        "names": list(names),
        "columns": list(names),
        "pairs": pairs,
        "left_out": len(mistaken[0]) - len(pairs),
        "matrix": None,
        "picture": None,
    }
    if len(names) <= MOST_CELLS:
        matrix = predicted.matrix(len(names))
        view["columns"] = columns[: matrix.shape[1]]
        view["matrix"] = [_row(label, row) for label, row in enumerate(matrix)]
    else:
        view["picture"] = page_sphere.data_uri(picture(predicted, len(names)))
    return view


def _row(label, counts):
    """Cells (text, share of the color in per cent, right or wrong) of the images of a class."""
    shares = counts / max(counts.sum(), 1)
    lifted = np.where(np.arange(len(counts)) == label, shares, _lifted(shares))
    return [
        (str(count) if count else "", round(100 * shade), "right" if other == label else "wrong")
        for other, (count, shade) in enumerate(zip(counts, lifted.tolist(), strict=True))
    ]


def _lifted(shares):
    """Rare mistakes are what one looks for: a root makes them seen."""
    return np.sqrt(shares)


def picture(predicted: Predicted, num_classes: int) -> Image.Image:
    """Return the shares of each class's images as a picture, its own class blue, others orange.

    Mistakes have a color however few they are. More than MOST_ROWS classes share pixels. Images for
    which no class is predicted have no column; they count in their row's shares.
    """
    side = min(num_classes, MOST_ROWS)
    rows, columns = (
        labels.astype(np.int64) * side // num_classes
        for labels in (predicted.labels, predicted.predicted)
    )
    shares = {}
    right = predicted.right()
    for kind, some in (("right", right), ("wrong", ~right & (predicted.predicted >= 0))):
        counts = np.zeros((side, side))
        np.add.at(counts, (rows[some], columns[some]), 1)
        shares[kind] = counts / np.maximum(np.bincount(rows, minlength=side), 1)[:, None]
    wrong = shares["wrong"]
    return shades.picture(np.where(wrong > shares["right"], _lifted(wrong), -shares["right"]))
