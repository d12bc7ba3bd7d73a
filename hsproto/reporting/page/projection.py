"""Features, prototypes and class means of a run in three dimensions, step by step.

`coordinates` makes of what a run wrote in training (`hsproto.runs.snapshots`) what a picture of the
unit ball needs. In three dimensions a unit vector is its own place on the sphere. From more
of them ONE projection, that of the last step, serves all steps, so that what moves in the picture
has moved in truth; unit vectors land inside the ball, the deeper the more of them the projection
does not show, and stay there: put back onto the sphere they would claim angles that they do not
have.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hsproto.reporting.directions import lengths, unit

DIGITS = 4  # behind the point: a ball of 1,000 pixels needs three


def projection(means: np.ndarray) -> np.ndarray:
    """Return the axes that show class means best, float64 [D, 3], orthonormal columns.

    means [C, D], of any length, are taken as directions. Up to three dimensions the axes are those
    of the features. Of more they span the top three principal directions of the uncentered second
    moment Σ_c m_c m_cᵀ / C. Uncentered, because angles are about the origin and the ball's center
    has to be it: among all choices this one loses least of the directions' squared length, and
    keeps the matrix of their cosines best (Eckart and Young). Means that share a component, as
    those of non-negative features do, show it as an axis on which all lie to one side; centering
    would hide that. At a simplex about the origin both are the same.

    A simplex of up to four classes has rank three and is shown whole; of K classes K-1 directions
    are equally good, three of them are shown, and which is up to what is left of imperfection.

    Within what they span the axes are turned by the classes, so that runs of other seeds stand
    alike: the first class points to +z, the second to y = 0 and positive x, the third to positive
    y, and a class that adds no direction of its own is passed over for the next one.
    """
    directions = unit(_float64(means))
    dims = directions.shape[1]
    if dims <= 3:
        return np.eye(dims, 3)
    _, sizes, axes = np.linalg.svd(directions, full_matrices=False)
    # Fewer than three classes, or all in a plane: the axes that remain show nothing.
    axes = axes[:3][sizes[:3] > 1e-6 * sizes[0]]
    z, x, y = _turned(directions @ axes.T)
    return (np.stack([x, y, z]) @ axes).T


def _turned(places):
    """Orthonormal axes of the space in which rows [C, r] lie, in their order; [3, r], else zero."""
    count = places.shape[1]
    # Where the rows nearly lie in fewer dimensions their principal directions complete the axes;
    # an SVD leaves their signs open.
    largest = places[np.argmax(np.abs(places), axis=0), np.arange(count)]
    axes = np.zeros((3, count))
    number = 0
    for place in (*places, *np.diag(np.sign(largest))):
        rest = place - axes.T @ (axes @ place)
        # What the axes so far nearly hold would give the next one the direction of its noise.
        if number < count and np.linalg.norm(rest) > 0.05 * np.linalg.norm(place):
            axes[number] = rest / np.linalg.norm(rest)
            number += 1
    return axes


def coordinates(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a picture needs of `SnapshotSeries.steps`, as JSON has it; {} of no steps.

    {"dimensions": D, "exact": whether nothing is projected, "classes": [C],
     "share_means", "share_features": those of the last step,
     "steps": [{"step", "features": P of [x, y, z], "radii": [P], "predicted": [P],
                "prototypes": C of [x, y, z], "prototype_radii": [C], "means": C of [x, y, z],
                "share_means", "share_features"}]}

    Places are those of unit vectors: exact for D <= 3 (with zeros for what lacks of three), else
    `projection` of the last step's means, for all steps. `radii` and `prototype_radii` are the
    lengths that features and prototypes have, over the median of those of the last step: a place
    times its radius shows how a loss on the sphere ignores lengths and cross entropy spreads them.
    The shares are the mean squared length of the places, of 1: how much of the unit means and of
    the unit features the picture shows.
    """
    if not steps:
        return {}
    last = steps[-1]
    dims = last["features"].shape[1]
    axes = projection(last["means"])
    scales = {name: median_length(last[name]) for name in ("features", "prototypes")}
    placed = [_of_step(arrays, axes, scales) for arrays in steps]
    return {
        "dimensions": dims,
        "exact": dims <= 3,
        "classes": last["classes"].tolist(),
        "share_means": placed[-1]["share_means"],
        "share_features": placed[-1]["share_features"],
        "steps": placed,
    }


def _of_step(arrays, axes, scales):
    rows = {name: _float64(arrays[name]) for name in ("features", "prototypes", "means")}
    places = {name: unit(rows[name]) @ axes for name in rows}
    radii = {name: lengths(rows[name]) / scale for name, scale in scales.items()}
    return {
        "step": arrays["step"],
        "predicted": arrays["predicted"].tolist(),
        **{name: _rounded(place) for name, place in places.items()},
        "radii": _rounded(radii["features"]),
        "prototype_radii": _rounded(radii["prototypes"]),
        "share_means": _share(rows["means"], places["means"]),
        "share_features": _share(rows["features"], places["features"]),
    }


def _share(rows, places):
    counted = lengths(rows) > 0
    return _rounded(np.mean(np.sum(places[counted] ** 2, axis=1))) if counted.any() else 0.0


def median_length(rows: np.ndarray) -> float:
    """Return the median length of rows [N, D], 1 if it is zero."""
    return np.median(lengths(_float64(rows))) or 1.0


def _float64(rows):
    return np.asarray(rows, np.float64)


def _rounded(numbers):
    return (np.round(numbers, DIGITS) + 0.0).tolist()  # and no -0.0
