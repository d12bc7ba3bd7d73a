"""Features and prototypes of a run in two dimensions: the simplex circle, and a map.

The circle shows what a projection of many classes cannot: whether features are where collapse puts
them. Its K corners stand evenly on a circle, in the order of the classes. A vector lies at the
sum of the corners c, each weighted by

    w_c = max(0, (cos_c - t) / (1 - t))²,    t = -1/(K-1),

of its cosines to the prototypes, and over their sum where that is above 1. Squares, as the small
weights of many other classes would add up to more than that of the own one. At collapse its cosines
are 1 to its own prototype and t to all others: it lies on its corner. With the same cosine to all
it lies in the center. Distances between corners mean nothing: neighbors on the circle are so by
their labels only.

The map is a projection on the two main axes of the last step's class means, as `hsproto measure`
draws it, the same at all steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hsproto.reporting.directions import cosines, unit


def corners(count: int) -> np.ndarray:
    """Return [count, 2], even on the unit circle, the first on top, then clockwise."""
    angles = 2 * np.pi * np.arange(count) / max(count, 1)
    return np.stack([np.sin(angles), np.cos(angles)], axis=1)


def on_circle(rows: np.ndarray, prototypes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the places [N, 2] of rows [N, D] between the corners of prototypes [C, D].

    Args:
        rows: Features, or prototypes themselves, of any length.
        prototypes: Of any length.
        num_classes: K of the run, of which the C classes may be some.
    """
    target = -1 / max(num_classes - 1, 1)
    weights = np.maximum(0, (cosines(rows, prototypes) - target) / (1 - target)) ** 2
    weights /= np.maximum(1, weights.sum(axis=1, keepdims=True))
    return weights @ corners(len(prototypes))


def main_axes(means: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (centre [D], axes [D, 2], share of the class means' variance that they show)."""
    directions = unit(np.asarray(means, np.float64))
    centre = directions.mean(axis=0)
    _, sizes, axes = np.linalg.svd(directions - centre, full_matrices=False)
    axes = np.pad(axes, ((0, 2), (0, 0)))[:2].T
    # An SVD leaves the signs open: the first class is to the right and above.
    axes = axes * np.where((directions[0] - centre) @ axes < 0, -1, 1)
    total = np.sum(sizes**2)
    return centre, axes, float(np.sum(sizes[:2] ** 2) / total) if total else 0.0


def places(steps: Sequence[Mapping[str, Any]], num_classes: int) -> dict[str, Any]:
    """Return the places of features and prototypes at each step of `SnapshotSeries.steps`.

    {"circle", "map": [S, P, 2], "circle_prototypes", "map_prototypes": [S, C, 2],
     "share_map": the share of the variance of class means that the map shows}
    """
    centre, axes, share = main_axes(steps[-1]["means"])
    found = {key: [] for key in ("circle", "circle_prototypes", "map", "map_prototypes")}
    for step in steps:
        prototypes = np.asarray(step["prototypes"], np.float64)
        for suffix, rows in (("", np.asarray(step["features"], np.float64)),
                             ("_prototypes", prototypes)):  # fmt: skip
            found[f"circle{suffix}"].append(on_circle(rows, prototypes, num_classes))
            found[f"map{suffix}"].append((unit(rows) - centre) @ axes)
    return {key: np.array(values) for key, values in found.items()} | {"share_map": share}
