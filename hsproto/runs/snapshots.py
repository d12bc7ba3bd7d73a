"""Snapshots of a run in training: the features of a fixed few test images, at each evaluation.

WORKDIR/snapshots/points.npz says of P images which they are:

    rows int32 [P]       their places in the test set, as the run sees it
    labels int32 [P]
    images uint8 [P, H, W, C]   at most 64 pixels a side, shrunk where they are larger
    class_names [K]

WORKDIR/snapshots/<step, 8 digits>.npz holds what an evaluation found:

    features [P, D]      of the length that they have; of SCL what its head gives
    predicted int32 [P]  by the run's classifier
    classes int32 [C]    the classes that are shown; the rows below are theirs
    prototypes float32 [C, D]   those that predict, of the length that they have
    means float32 [C, D]        directions of the training set's class means
    bias float32 [C]     of classifiers that have one

Files are whole or not there. The features are those of the evaluation
itself: nothing passes the network twice.

A file takes about 4 D (P + 2 C) bytes, beyond 64 dimensions half of that for the features: 43 KB of
the digits (P = 300, C = 10, D = 32), 0.4 MB at D = 512. That of the digits takes 2 ms, all of a
run's 0.2 % of its time. The config's `snapshot_points` is the largest P; 0 writes nothing.
"""

import io
import os
import re
import warnings
import zipfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from hsproto.errors import one_line

# More are not told apart by their colours, nor read in a picture.
MAX_CLASSES = 30
MAX_SIDE = 64  # pixels

# Half precision is for files of a size that counts, and for what lies well within its range.
_HALF_DIMS, _HALF_LARGEST = 64, 2.0**15

POINTS = ("rows", "labels", "images", "class_names")

_STEP_FILE = re.compile(r"(\d{8,})\.npz")


class Snapshot(NamedTuple):
    """What an evaluation found of the images that are watched; arrays on the host, as above.

    `bias` is None of classifiers without.
    """

    rows: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    predicted: np.ndarray
    classes: np.ndarray
    prototypes: np.ndarray
    means: np.ndarray
    bias: np.ndarray | None = None


def choose(labels, count):
    """(rows int32 [P], classes int32 [C]): which images of a test set are watched.

    labels: int [N], negative ones never chosen. Of more than MAX_CLASSES classes that many are
    shown, spread over the classes' numbers from the first to the last: of ImageNet, whose order is
    that of its tree, not only fish and birds; of a long tail, head and tail. Each gives the same
    number of images, or all where it has fewer, spread over its rows; together at most `count`.
    Rows are in the order of their classes. The same labels give the same rows.
    """
    labels = np.asarray(labels)
    present = np.unique(labels[labels >= 0])
    classes = present[_spread(len(present), min(len(present), MAX_CLASSES, count))]
    members = [np.flatnonzero(labels == label) for label in classes]
    # Round after round each class gives an image, as long as it has one.
    rounds = np.concatenate([np.arange(len(rows)) for rows in members])
    owners = np.repeat(np.arange(len(classes)), [len(rows) for rows in members])
    given = owners[np.argsort(rounds, kind="stable")[:count]]
    numbers = np.bincount(given, minlength=len(classes))
    pairs = zip(members, numbers, strict=True)
    chosen = np.concatenate([rows[_spread(len(rows), number)] for rows, number in pairs])
    return chosen.astype(np.int32), classes.astype(np.int32)


def _spread(length, count):
    """`count` of the places 0..length-1, the first and the last among them."""
    return np.arange(count) * (length - 1) // max(count - 1, 1)


class SnapshotWriter:
    """Writes the snapshots of a run whose test images are `source`.

    Those beyond `step`, of a killed run, are dropped, and all of them where other images are
    watched from now on. Of several processes one is `active`; the others write nothing.
    """

    def __init__(self, workdir, step, source, active=True):
        self._folder, self._source, self._active = folder(workdir), source, active
        if active:
            for found, path in step_files(workdir):
                if found > step:
                    os.remove(path)

    def write(self, step, snapshot):
        """Writes a `Snapshot`, or nothing for None.

        What cannot be written, as to a full disk, is told in a warning and left out.
        """
        if not self._active or snapshot is None:
            return
        try:
            os.makedirs(self._folder, exist_ok=True)
            self._write_points(snapshot)
            arrays = snapshot._asdict() | {"features": _compact(snapshot.features)}
            kept = {
                name: array
                for name, array in arrays.items()
                if name not in ("rows", "labels") and array is not None
            }
            _write(os.path.join(self._folder, f"{step:08d}.npz"), np.savez, kept)
        except OSError as error:
            reason = one_line(error, 200)
            warnings.warn(
                f"the snapshot of step {step} could not be written: {reason}; the run goes on",
                stacklevel=2,
            )

    def _write_points(self, snapshot):
        path = os.path.join(self._folder, "points.npz")
        known = load(path, ("rows", "labels"))
        watched = {"rows": snapshot.rows, "labels": snapshot.labels}
        if known and all(np.array_equal(known[name], watched[name]) for name in watched):
            return
        for _, other in step_files(os.path.dirname(self._folder)):
            os.remove(other)
        images = np.stack([shrunk(self._source[int(row)][0]) for row in snapshot.rows])
        names = np.array(self._source.class_names, str)
        points = {**watched, "images": images, "class_names": names}
        _write(path, np.savez_compressed, points)


def folder(workdir):
    return os.path.join(workdir, "snapshots")


def step_files(workdir):
    """(step, path) of the snapshots in a workdir, ascending; none where there are none."""
    place = folder(workdir)
    names = os.listdir(place) if os.path.isdir(place) else ()
    matches = [found for found in map(_STEP_FILE.fullmatch, names) if found]
    return sorted((int(found[1]), os.path.join(place, found[0])) for found in matches)


def read_points(workdir):
    """The arrays of points.npz, or None where it is missing or damaged."""
    return load(os.path.join(folder(workdir), "points.npz"), POINTS)


def load(path, names, optional=()):
    """{name: array} of an npz file, or None where it is missing, damaged or lacks one of `names`.

    Those of `optional` are there where the file has them.
    """
    try:
        with np.load(path) as stored:
            there = [name for name in optional if name in stored]
            return {name: stored[name] for name in (*names, *there)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def shrunk(image):
    """An image uint8 [H, W, C] of at most MAX_SIDE pixels a side."""
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


def _write(path, save, arrays):
    content = io.BytesIO()
    save(content, **arrays)
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        file.write(content.getbuffer())
    os.replace(temporary, path)


_NAMES = ("features", "predicted", "classes", "prototypes", "means")


class SnapshotSeries(NamedTuple):
    """The snapshots of a run.

    `points` is a dict of the arrays of points.npz, None where there is none or it is damaged.
    `steps` is a list of dicts, ascending by "step", with the arrays of a step's file ("bias" only
    where it is there). `unreadable` counts the files that were passed over.
    """

    points: dict | None
    steps: list
    unreadable: int


def read_series(workdir):
    """The snapshots in a run's workdir, as `Read`.

    Passed over and counted are files that are damaged, that do not fit points.npz or hold numbers
    that are not finite, and those whose dimensions or classes are not the last one's.
    """
    points = read_points(workdir)
    files = step_files(workdir)
    if points is None:
        return SnapshotSeries(None, [], len(files))
    steps = []
    for step, path in files:
        found = load(path, _NAMES, optional=("bias",))
        if found is not None and _is_whole(found, len(points["rows"])):
            steps.append({"step": step, **found})
    steps = [found for found in steps if _is_alike(found, steps[-1])]
    return SnapshotSeries(points, steps, len(files) - len(steps))


def _is_whole(found, count):
    shown, shape = found["classes"].shape, found["features"].shape
    rows = found["prototypes"], found["means"]
    return (
        len(shape) == 2
        and found["predicted"].shape == shape[:1] == (count,)
        and all(array.shape == (*shown, shape[1]) for array in rows)
        and all(np.all(np.isfinite(array)) for array in (found["features"], *rows))
    )


def _is_alike(found, other):
    return np.array_equal(found["classes"], other["classes"]) and (
        found["features"].shape == other["features"].shape
    )
