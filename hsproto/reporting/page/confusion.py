"""The confusion matrix of a run on the whole test set, as the page shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hsproto.reporting.page import shades
from hsproto.reporting.page import sphere as page_sphere
from hsproto.reporting.page.classes import MOST_CELLS, MOST_ROWS
from hsproto.runs.predictions_file import Predicted

PAIRS = 8  # of classes that are taken for each other most often, on the page
MOST_PAIRS = 2000  # in the data beside


def confusion_view(predicted: Predicted, names: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a run's predictions on the whole test set.

    A dict: right and images (counts), pairs: (own class, predicted class, images, images of the
    own class) of mistakes, most often first, left_out: how many pairs there are beyond MOST_PAIRS,
    matrix: rows of cells, or picture: a data URI.
    """
    own, taken, counts = predicted.confusion()
    totals = np.bincount(predicted.labels, minlength=len(names))
    off = np.flatnonzero(own != taken)
    off = off[np.argsort(-counts[off], kind="stable")]
    pairs = [
        (names[own[i]], names[taken[i]], int(counts[i]), int(totals[own[i]]))
        for i in off[:MOST_PAIRS]
    ]
    view = {
        "right": int(predicted.right().sum()),
        "images": len(predicted.labels),
        "names": list(names),
        "pairs": pairs,
        "left_out": len(off) - len(pairs),
        "matrix": None,
        "picture": None,
    }
    if len(names) <= MOST_CELLS:
        matrix = np.zeros((len(names),) * 2, int)
        matrix[own, taken] = counts
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

    Mistakes have a color however few they are. More than MOST_ROWS classes share pixels.
    """
    side = min(num_classes, MOST_ROWS)
    rows, columns = (
        labels.astype(np.int64) * side // num_classes
        for labels in (predicted.labels, predicted.predicted)
    )
    shares = {}
    for kind, some in (("right", predicted.right()), ("wrong", ~predicted.right())):
        counts = np.zeros((side, side))
        np.add.at(counts, (rows[some], columns[some]), 1)
        shares[kind] = counts / np.maximum(np.bincount(rows, minlength=side), 1)[:, None]
    wrong, right = shares["wrong"], shares["right"]
    return shades.picture(np.where(wrong > right, _lifted(wrong), -right))
