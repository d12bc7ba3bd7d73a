"""features.npz: the backbone's features of the training images, of a run that froze it at first.

Its form is that of features from anywhere: features [N, D], labels [N], class_names [K].
"""

import os
from collections.abc import Sequence

import numpy as np

from hsproto import npz
from hsproto.errors import UserError
from hsproto.runs.files import write_npz

NAME = "features.npz"


def write(
    workdir: str, features: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> None:
    """Write features float32 [N, D] and labels int32 [N]."""
    arrays = {"features": features, "labels": labels, "class_names": np.array(class_names)}
    write_npz(os.path.join(workdir, NAME), arrays)


def read(workdir: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (features, labels) of `shape` images and classes; None if they are not there.

    A file that is damaged or of other data counts as none: it can be made again.
    """
    path = os.path.join(workdir, NAME)
    if not os.path.isfile(path):
        return None
    try:
        stored = npz.read(path, ("features", "labels", "class_names"))
    except UserError:
        return None
    features, labels = stored["features"], stored["labels"]
    rows = (features.shape[:1], labels.shape, (len(stored["class_names"]),))
    fits = rows == ((shape[0],), (shape[0],), (shape[1],))
    fits = fits and features.ndim == 2 and features.dtype == np.float32
    return (features, labels) if fits and bool(np.isfinite(features).all()) else None
