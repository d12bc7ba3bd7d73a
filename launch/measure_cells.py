"""What `protocol.py` asks of a trained head beside accuracy and geometry."""

import json
import pathlib
from typing import Any

import numpy as np
from protocol import BY_IMAGE, CLASSES, NEW_CLASSES, SHOTS, Cell
from sklearn.linear_model import LogisticRegression
from small_data import first_of_each

from hsproto import inference
from hsproto.evaluation import calibration, ood, retrieval
from hsproto.evaluation.neighbors import kth_cosine
from hsproto.evaluation.robustness import CORRUPTIONS

TRANSFER_ROWS = 5000  # of each other set, the first of each class
NEIGHBORS = 10_000  # training rows, as many of each class, among which the K-th neighbor is
K = 50
STRENGTHS = (1.0, 10.0, 100.0)  # 1/λ of logistic regression on embeddings of unit length
_PART = 10_000


class Set:
    """The features of a set and their embeddings by a run."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def array(self, name: str) -> np.ndarray:
        return np.load(self._folder / f"{name}.npy", mmap_mode="r")

    def embedded(
        self, run: inference.Run, prefix: str, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the embeddings float32 [N, D], of unit length, of some rows or of all."""
        features = self.array(f"{prefix}features")
        rows = np.arange(len(features)) if rows is None else rows
        parts = [features[rows[i : i + _PART]] for i in range(0, len(rows), _PART)]
        return np.concatenate([run.embed(np.asarray(part)) for part in parts])


def measure(cell: Cell, features: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
    """Return {metric: value} of what the cell asks for, of its trained run; see BY_IMAGE, too."""
    found = {}
    for name in cell.measure:
        found |= _MEASURES[name](cell, features, workdir)
    return found


def _stored(workdir, name):
    return json.loads((workdir / f"{name}.json").read_text())


def _calibration(cell, features, workdir):
    calibration.main([f"--workdir={workdir}"])
    found = _stored(workdir, "calibration")
    return {"ece": found["before"]["ece"], "ece_fitted": found["after"]["ece"]}


def _retrieval(cell, features, workdir):
    retrieval.main([f"--workdir={workdir}"])
    found = _stored(workdir, "retrieval")
    return {"recall@1": found["recall@1"], "map@r": found["map@r"]}


def _others(cell):
    return [name for name in CLASSES if name != cell.set]


def _ood(cell, features, workdir):
    """Against the test sets of the others; CIFAR-10 and 100 share no class, but scenes."""
    run, data = inference.load(str(workdir)), Set(features / cell.set)
    prototypes = _unit(run.prototypes)
    rows = first_of_each(np.asarray(data.array("labels")), NEIGHBORS // CLASSES[cell.set])
    train = data.embedded(run, "", rows)

    def scores(name):
        other = Set(features / name)
        found = other.embedded(run, "test_")
        neighbor = kth_cosine(found, train, min(K, len(train)))
        return {"max_cosine": (found @ prototypes.T).max(axis=1), "knn": neighbor}

    own = scores(cell.set)
    return {
        f"ood_{score}_{name}": ood.auroc(own[score], values)
        for name in _others(cell)
        for score, values in scores(name).items()
    }


def _transfer(cell, features, workdir):
    """Logistic regression on the frozen embedding of the other sets."""
    run = inference.load(str(workdir))
    return {f"transfer_{name}": _transferred(run, Set(features / name)) for name in _others(cell)}


def _transferred(run, data):
    labels = np.asarray(data.array("labels"))
    rows = first_of_each(labels, TRANSFER_ROWS // len(np.unique(labels)))
    train = data.embedded(run, "", rows)
    test_labels = np.asarray(data.array("test_labels"))
    test = data.embedded(run, "test_")
    held_out = np.arange(len(rows)) % 5 == 0

    def fitted(strength, where):
        model = LogisticRegression(C=strength, max_iter=200)
        return model.fit(train[where], labels[rows][where])

    def on_held_out(strength):
        return fitted(strength, ~held_out).score(train[held_out], labels[rows][held_out])

    best = max(STRENGTHS, key=on_held_out)
    return float(fitted(best, np.ones(len(rows), bool)).score(test, test_labels))


def _embedded_whole(cell, features, workdir):
    """(embeddings, labels) of the whole training set and of the test set."""
    run, data = inference.load(str(workdir)), Set(features / cell.set)
    return [(data.embedded(run, p), np.asarray(data.array(f"{p}labels"))) for p in ("", "test_")]


def _new_classes(cell, features, workdir):
    """All classes by class means; those of the classes not trained on from a few shots.

    The few rows are drawn by the seed. Class means classify for every loss, so that they compare.
    """
    (train, labels), (test, test_labels) = _embedded_whole(cell, features, workdir)
    known = CLASSES[cell.set] - NEW_CLASSES
    random, found = np.random.default_rng(cell.number), {}
    orders = {c: random.permutation(np.flatnonzero(labels == c)) for c in range(known, known + 10)}
    for shots in (*SHOTS, 0):  # 0: all rows
        rows = [
            np.flatnonzero(labels == c) if c < known else orders[c][: shots or None]
            for c in range(known + NEW_CLASSES)
        ]
        means = _unit(np.stack([train[own].mean(axis=0) for own in rows]))
        right = (test @ means.T).argmax(axis=1) == test_labels
        name = f"{shots}_shot" if shots else "all_shots"
        new = test_labels >= known
        found |= {f"new_{name}": right[new].mean(), f"old_{name}": right[~new].mean()}
    return {name: float(value) for name, value in found.items()}


def _fine_classes(cell, features, workdir):
    """The 100 classes by class means in an embedding that was trained on their 20 groups."""
    (train, labels), (test, test_labels) = _embedded_whole(cell, features, workdir)
    means = np.stack([train[labels == c].mean(axis=0) for c in range(CLASSES[cell.set])])
    right = (test @ _unit(means).T).argmax(axis=1) == test_labels
    return {"fine_class_means": float(right.mean())}


def _corruptions(cell, features, workdir):
    """Accuracy on corrupted test images, means over five strengths, and on the same as they are."""
    run, folder = inference.load(str(workdir)), features / "corrupted" / cell.set
    labels = np.load(folder / "labels.npy")

    def right(name):
        stored = np.load(folder / f"{name}.npy")
        return np.stack([run.predict(rows).labels == labels for rows in stored])

    found = {name: right(name) for name in ("none", *CORRUPTIONS)}
    corrupted = np.concatenate([found[name] for name in CORRUPTIONS])
    return {
        "corrupted": float(corrupted.mean()),
        BY_IMAGE: {"corrupted": [len(corrupted), corrupted.sum(axis=0).tolist()]},
    } | {f"on_{name}": float(rows.mean()) for name, rows in found.items()}


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


_MEASURES = {
    "calibration": _calibration,
    "retrieval": _retrieval,
    "ood": _ood,
    "transfer": _transfer,
    "new_classes": _new_classes,
    "fine_classes": _fine_classes,
    "corruptions": _corruptions,
}
