"""predictions.npz: what a finished run takes each test image for, written and read here.

labels int32 [N]     of the test set, in its order
predicted int32 [N]  by the run's classifier
step int             of the state
"""

import os
from typing import NamedTuple

import numpy as np

from hsproto.runs import reading
from hsproto.runs.files import write_npz

NAME = "predictions.npz"


class Predicted(NamedTuple):
    """Labels of the test images, in the order of the test set, and the classes predicted, [N]."""

    labels: np.ndarray
    predicted: np.ndarray

    def right(self) -> np.ndarray:
        """Return whether each image is classified correctly, bool [N]."""
        return self.labels == self.predicted

    def confusion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (own class, predicted class, images) of the pairs that occur, in order."""
        pairs = np.stack([self.labels, self.predicted])
        (own, predicted), counts = np.unique(pairs, axis=1, return_counts=True)
        return own, predicted, counts


def write(workdir: str, step: int, labels: np.ndarray, predicted: np.ndarray) -> None:
    arrays = {"labels": np.asarray(labels, np.int32), "predicted": np.asarray(predicted, np.int32)}
    write_npz(os.path.join(workdir, NAME), arrays | {"step": np.int64(step)}, compressed=True)


def read(workdir: str, step: int, num_classes: int) -> Predicted | None:
    """Return the predictions of a run's state at a step; None if it has none of that step.

    Raises:
        Unreadable: The file is damaged, or not of so many classes.
    """
    path = os.path.join(workdir, NAME)
    if not os.path.lexists(path):
        return None
    arrays = reading.read_npz(path, ("labels", "predicted", "step"))
    labels, predicted, of_step = (arrays[name] for name in ("labels", "predicted", "step"))
    if of_step.shape or of_step.dtype.kind != "i":
        raise reading.damaged(path, "'step' is not a whole number")
    for name, values in (("labels", labels), ("predicted", predicted)):
        if values.ndim != 1 or values.dtype.kind != "i" or not len(values):
            raise reading.damaged(path, f"{name!r} is not a list of whole numbers")
        if values.min() < 0 or values.max() >= num_classes:
            raise reading.damaged(path, f"{name!r} has classes outside 0..{num_classes - 1}")
    if labels.shape != predicted.shape:
        raise reading.damaged(path, f"{len(labels)} 'labels' and {len(predicted)} 'predicted'")
    return Predicted(labels, predicted) if of_step == step else None
