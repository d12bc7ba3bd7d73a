"""Snapshots of training: the features of a few fixed test images, at each evaluation.

WORKDIR/snapshots/points.npz describes the P images:

    rows int32 [P]              their indices in the run's test set
    labels int32 [P]
    images uint8 [P, H, W, C]   at most 64 pixels per side, shrunk if larger
    class_names [K]

WORKDIR/snapshots/<step, 8 digits>.npz holds the result of an evaluation:

    features [P, D]             not normalized; the projection head's output if there is one
    predicted int32 [P]         by the run's classifier
    classes int32 [C]           the classes of the P images, to which the rows below belong
    prototypes float32 [C, D]   of the classifier, not normalized
    means float32 [C, D]        directions of the training set's class means
    bias float32 [C]            if the classifier has one

Files are written whole or not at all. The features are those of the evaluation itself: no image
passes the network twice.

A file takes about 4 D (P + 2 C) bytes, with features of half the size beyond 64 dimensions: 43 KB
for the digits (P = 300, C = 10, D = 32), 0.4 MB at D = 512. Writing it takes 2 ms for the digits,
0.2 % of the run's time in all. The config's `snapshot_points` is the largest P; 0 writes nothing.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from hsproto.errors import one_line
from hsproto.runs import reading
from hsproto.runs.files import write_npz
from hsproto.runs.storage import Complaints, persist

MAX_CLASSES = 30  # more could be distinguished neither by color nor in a figure
MAX_SIDE = 64  # pixels

# Features of more dimensions are stored in half precision, if none is larger than this.
_HALF_DIMS, _HALF_LARGEST = 64, 2.0**15

POINTS = ("rows", "labels", "images", "class_names")
_STEP_ARRAYS = ("features", "predicted", "classes", "prototypes", "means")
_STEP_FILE = re.compile(r"(\d{8,})\.npz")


class Snapshot(NamedTuple):
    """The result of an evaluation on the chosen images: host arrays, as in the module docstring."""

    rows: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    predicted: np.ndarray
    classes: np.ndarray
    prototypes: np.ndarray
    means: np.ndarray
    bias: np.ndarray | None = None


def choose(labels: ArrayLike, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the images of a test set whose features are stored.

    Of more than MAX_CLASSES classes that many are chosen, evenly spaced from the first to the last:
    so ImageNet, which is ordered by its tree, is not represented by fish and birds alone, and a
    long tail by its head and its tail. All chosen classes have the same number of images, or all
    of theirs if they have fewer, evenly spaced.

    Args:
        labels: int [N]; negative ones are never chosen.
        count: The largest number of images.

    Returns:
        Rows int32 [P], ordered by class, and classes int32 [C]. Equal labels give equal rows.
    """
    labels = np.asarray(labels)
    known = np.unique(labels[labels >= 0])
    classes = known[_spread(len(known), min(len(known), MAX_CLASSES, count))]
    members = [np.flatnonzero(labels == label) for label in classes]
    # In each round every class gives an image, as long as it has any left.
    rounds = np.concatenate([np.arange(len(rows)) for rows in members])
    owners = np.repeat(np.arange(len(classes)), [len(rows) for rows in members])
    chosen_owners = owners[np.argsort(rounds, kind="stable")[:count]]
    sizes = np.bincount(chosen_owners, minlength=len(classes))
    pairs = zip(members, sizes, strict=True)
    chosen = np.concatenate([rows[_spread(len(rows), size)] for rows, size in pairs])
    return chosen.astype(np.int32), classes.astype(np.int32)


def _spread(length, count):
    """`count` evenly spaced indices in 0..length-1, including the first and the last."""
    return np.arange(count) * (length - 1) // max(count - 1, 1)


class SnapshotWriter:
    """Writes the snapshots of a run whose test set is `source`.

    Removes those after `step`, of a killed run, and all if other images are chosen from now on.
    Those that the storage does not take are kept in memory and written when it does. Only one
    process of a run is `active`; the others write nothing.
    """

    def __init__(self, workdir: str, step: int, source: Any, active: bool = True):
        self._workdir, self._source, self._active = workdir, source, active
        self._complaints = Complaints()
        self._unwritten: list[tuple[int, Snapshot]] = []
        if active:
            for other, path in step_files(workdir):
                if other > step:
                    os.remove(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, step: int, snapshot: Snapshot | None) -> None:
        """Write a snapshot, if there is one. Warn and keep it if that fails, as on a full disk."""
        if not self._active or snapshot is None:
            return
        self._unwritten.append((step, snapshot))
        try:
            self._write_all()
        except OSError as error:
            self._complaints.warn(
                f"the snapshot of step {self._unwritten[0][0]} could not be written: "
                f"{one_line(error, 200)}; the run goes on and keeps it in memory"
            )

    def close(self) -> None:
        """Write what is left; warn if that fails: a run is finished without its snapshots too."""
        if error := persist(self._write_all):
            self._complaints.say(
                f"{len(self._unwritten)} snapshots could not be written: {one_line(error, 200)}"
            )

    def _write_all(self):
        while self._unwritten:
            self._write(*self._unwritten[0])
            del self._unwritten[0]

    def _write(self, step, snapshot):
        # Not with its parents: a workdir that was removed stays away.
        pathlib.Path(folder(self._workdir)).mkdir(exist_ok=True)
        self._write_points(snapshot)
        arrays = {name: getattr(snapshot, name) for name in _STEP_ARRAYS}
        arrays["features"] = _compact(snapshot.features)
        if snapshot.bias is not None:
            arrays["bias"] = snapshot.bias
        write_npz(os.path.join(folder(self._workdir), f"{step:08d}.npz"), arrays)

    def _write_points(self, snapshot):
        path = os.path.join(folder(self._workdir), "points.npz")
        earlier = load(path, ("rows", "labels"))
        points = {"rows": snapshot.rows, "labels": snapshot.labels}
        if earlier and all(np.array_equal(earlier[name], points[name]) for name in points):
            return
        for _, other in step_files(self._workdir):
            os.remove(other)
        points["images"] = np.stack([shrink(self._source[int(row)][0]) for row in snapshot.rows])
        points["class_names"] = np.array(self._source.class_names, str)
        write_npz(path, points, compressed=True)


def folder(workdir: str) -> str:
    return os.path.join(workdir, "snapshots")


def step_files(workdir: str) -> list[tuple[int, str]]:
    """Return the step and path of each snapshot in a workdir, by ascending step."""
    place = folder(workdir)
    names = os.listdir(place) if os.path.isdir(place) else ()
    matches = filter(None, map(_STEP_FILE.fullmatch, names))
    return sorted((int(match[1]), os.path.join(place, match[0])) for match in matches)


def read_points(workdir: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of points.npz, or None if it is missing or damaged."""
    points = load(os.path.join(folder(workdir), "points.npz"), POINTS)
    return points if points is not None and _are_points(points) else None


def _are_points(points):
    rows, labels, images, names = (points[name] for name in POINTS)
    return (
        names.ndim == 1
        and names.dtype.kind == "U"
        and rows.shape == labels.shape == images.shape[:1]
        and rows.dtype.kind == "i"
        and _are_classes(labels, len(names))
        and images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[3] in (1, 3)
        and images.size > 0
    )


def _are_classes(labels, count):
    whole = labels.ndim == 1 and labels.dtype.kind == "i"
    return whole and bool(np.all((labels >= 0) & (labels < count)))


def load(
    path: str, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray] | None:
    """Return arrays of an npz file, or None if it is missing, damaged or lacks one of `names`.

    Arrays of `optional` are included if the file has them.
    """
    try:
        return reading.read_npz(path, names, optional)
    except reading.Unreadable:
        return None


def shrink(image: np.ndarray) -> np.ndarray:
    """Return an image uint8 [H, W, C] with at most MAX_SIDE pixels per side.

    Features, which are no picture, have a gray pixel.
    """
    if image.dtype != np.uint8:
        return np.full((1, 1, 1), 128, np.uint8)
    height, width, channels = image.shape
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize(size, Image.Resampling.BOX)).reshape(*size[::-1], channels)


def _compact(features):
    half = features.shape[1] > _HALF_DIMS and np.all(np.abs(features) < _HALF_LARGEST)
    return features.astype(np.float16 if half else np.float32)


class SnapshotSeries(NamedTuple):
    """The snapshots of a run.

    Attributes:
        points: The arrays of points.npz; None if it is missing or damaged.
        steps: Per snapshot a dict of its "step" and the arrays of its file, by ascending step.
        unreadable: The number of files that were skipped.
    """

    points: dict[str, np.ndarray] | None
    steps: list[dict[str, Any]]
    unreadable: int


def read_series(workdir: str) -> SnapshotSeries:
    """Return the snapshots in a run's workdir.

    Skips and counts files that are damaged, that do not match points.npz, that contain numbers that
    are not finite, or whose dimensions or classes differ from the last file's.
    """
    points = read_points(workdir)
    files = step_files(workdir)
    if points is None:
        return SnapshotSeries(None, [], len(files))
    steps = []
    for step, path in files:
        arrays = load(path, _STEP_ARRAYS, optional=("bias",))
        if arrays is not None and _is_whole(arrays, points):
            steps.append({"step": step, **arrays})
    steps = [arrays for arrays in steps if _is_alike(arrays, steps[-1])]
    return SnapshotSeries(points, steps, len(files) - len(steps))


def _is_whole(arrays, points):
    features, classes, count = arrays["features"], arrays["classes"], len(points["class_names"])
    class_rows = arrays["prototypes"], arrays["means"]
    return (
        features.ndim == 2
        and features.shape[0] == len(points["rows"])
        and arrays["predicted"].shape == features.shape[:1]
        and _are_classes(arrays["predicted"], count)
        and _are_classes(classes, count)
        and classes.size > 0
        and all(array.shape == (classes.size, features.shape[1]) for array in class_rows)
        and all(array.dtype.kind == "f" for array in (features, *class_rows))
        and all(np.all(np.isfinite(array)) for array in (features, *class_rows))
    )


def _is_alike(arrays, other):
    return np.array_equal(arrays["classes"], other["classes"]) and (
        arrays["features"].shape == other["features"].shape
    )
