"""predictions.npz: what a finished run takes each test image for, written and read here.

labels int32 [N]     of the test set, in its order
predicted int32 [N]  by the run's classifier; -1 where no class is nearest, as for a feature that is
                     not finite: it counts as wrong
step int             of the state
"""

import os
from typing import NamedTuple

import numpy as np

from hsproto.runs import reading
from hsproto.runs.files import write_npz

NAME = "predictions.npz"
NO_CLASS = "(none)"  # what stands for the name of a predicted class of -1


class Predicted(NamedTuple):
    """What the test images are taken for, in the order of the test set.

    Attributes:
        labels: int [N], the classes that they are of.
        predicted: int [N], those predicted; -1 where there is none.
        margins: float [N], the cosine to the predicted class's prototype less that to the own one,
            in 0..2, 0 where right, NaN where no class is predicted. Not in the file: None where
            nobody looks at the images one by one.
    """

    labels: np.ndarray
    predicted: np.ndarray
    margins: np.ndarray | None = None

    def right(self) -> np.ndarray:
        """Return whether each image is classified correctly, bool [N]."""
        return self.labels == self.predicted

    def confusion(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (own class, predicted class, images) of the pairs that occur, in order."""
        pairs = np.stack([self.labels, self.predicted])
        (own, predicted), counts = np.unique(pairs, axis=1, return_counts=True)
        return own, predicted, counts

    def mistaken(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return those pairs of `confusion` that are mistakes, the most frequent ones first."""
        own, predicted, counts = self.confusion()
        off = np.flatnonzero(own != predicted)
        off = off[np.argsort(-counts[off], kind="stable")]
        return own[off], predicted[off], counts[off]

    def matrix(self, num_classes: int) -> np.ndarray:
        """Return the confusion matrix int [K, K], rows are the own classes.

        Where there are images for which no class is predicted, a last column is theirs: [K, K+1].
        """
        own, predicted, counts = self.confusion()
        matrix = np.zeros((num_classes, num_classes + 1), np.int64)
        matrix[own, predicted] = counts  # -1: the last column
        return matrix if np.any(predicted < 0) else matrix[:, :-1]


def write(workdir: str, step: int, found: Predicted) -> None:
    arrays = {name: np.asarray(getattr(found, name), np.int32) for name in ("labels", "predicted")}
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
    for name, values, least in (("labels", labels, 0), ("predicted", predicted, -1)):
        if values.ndim != 1 or values.dtype.kind != "i" or not len(values):
            raise reading.damaged(path, f"{name!r} is not a list of whole numbers")
        if values.min() < least or values.max() >= num_classes:
            raise reading.damaged(path, f"{name!r} has classes outside {least}..{num_classes - 1}")
    if labels.shape != predicted.shape:
        raise reading.damaged(path, f"{len(labels)} 'labels' and {len(predicted)} 'predicted'")
    return Predicted(labels, predicted) if of_step == step else None
