"""Classes of a run as the page shows them: cosines of prototypes, neighbors, accuracy by class.

Cosines are not centered: a component that all prototypes share shows in them. A matrix shows how
far they are from the simplex's -1/(K-1), as at collapse all of them are the same number.
"""

from typing import Any

import numpy as np
from PIL import Image

from hsproto.errors import UserError
from hsproto.reporting import directions
from hsproto.reporting.page import shades
from hsproto.reporting.page import sphere as page_sphere
from hsproto.runs import summary as summary_lib
from hsproto.runs.predictions_file import Predicted
from hsproto.runs.run import Run
from hsproto.runs.snapshots import SnapshotSeries

MOST_CELLS = 20  # classes of a matrix in numbers; of more it is a picture
MOST_ROWS = 200  # classes in a table of classes, and pixels a side of a picture
PAIRS = 8  # nearest and furthest
REACHES = (0.01, 0.05, 0.2, 1.0, 2.0)  # of deviations; the scale is the smallest that holds all


def class_view(
    run: Run, frames: SnapshotSeries | None, predicted: Predicted | None = None
) -> dict[str, Any]:
    """Return what is known of the classes of a run at its end, or at its last snapshot.

    A dict: all_names (of the run's classes), names (of those shown, at most
    `directions.MOST_COMPARED`), target (the simplex's -1/(K-1), None of one class), cosines [K, K]
    with None where a prototype has no direction, or None of more than MOST_ROWS classes (they grow
    with K², and prototypes.npz has what gives them), from (what they are of), mean, std, least,
    most (between classes), nearest and furthest pairs, classes (dicts), matrix (rows of cells) or
    picture (a data URI) of deviations from target, reach (of their scale), missing (what is not
    there, as sentences). Accuracy by class is that of `predicted`, where that is known.
    """
    missing, prototypes = [], None
    try:
        arrays = summary_lib.read_prototypes(run.workdir)
        all_names = [str(name) for name in arrays["class_names"]]
        classes = directions.some_classes(len(all_names))
        prototypes = arrays["prototypes"][classes]
        source = f"the run's end{directions.of_some_classes(len(all_names))}"
    except UserError as error:
        if run.summary:
            missing.append(f"No prototypes: {error}.")
    if prototypes is None and frames:
        last, all_names = frames.steps[-1], list(map(str, frames.points["class_names"]))
        prototypes, classes = last["prototypes"], last["classes"]
        source = f"the snapshot of step {last['step']}"
    if prototypes is None:
        missing.append("No prototypes yet: the run is not finished and has no snapshots.")
        return {"missing": missing, "cosines": None, "classes": [], "names": [], "all_names": []}
    names = [all_names[c] for c in classes]

    # Of all classes of the run, whichever are shown here.
    count = run.config.get("num_classes") or len(names)
    target = -1 / (count - 1) if count > 1 else None
    cosines = directions.cosines(np.asarray(prototypes, np.float64), of_zero=np.nan)
    between = cosines[~np.eye(len(names), dtype=bool)]
    between = between[np.isfinite(between)]
    by_class, remarks = _by_class(run, frames, predicted, classes, names, cosines)
    view = {
        "missing": missing + remarks,
        "names": names,
        "all_names": all_names,
        "target": target,
        "reachable": summary_lib.has_simplex(run),
        "from": source,
        "cosines": None,
        "classes": by_class,
        # Which columns the table of classes has.
        "counted": any(each["images"] is not None for each in by_class),
        "measured": any(each["accuracy"] is not None for each in by_class),
        "watched": any(each["tested"] is not None for each in by_class),
        "left_out": max(0, len(names) - len(by_class)),
        "matrix": None,
        "picture": None,
        "reach": None,
    }
    if len(names) <= MOST_ROWS:
        view["cosines"] = [[page_sphere.rounded(value) for value in row] for row in cosines]
    if len(between):
        view |= {"mean": between.mean(), "std": between.std()}
        view |= {"least": between.min(), "most": between.max()}
    view |= _pairs(cosines, names)
    if target is None:
        return view
    deviations = np.where(np.eye(len(names), dtype=bool), np.nan, cosines - target)
    view["reach"] = reach = reach_of(deviations)
    if len(names) <= MOST_CELLS:
        view["matrix"] = _cells(deviations, reach)
    else:
        view["picture"] = page_sphere.data_uri(picture(deviations, reach))
    return view


def reach_of(deviations: np.ndarray) -> float:
    """Return the end of a scale that holds all deviations."""
    largest = np.nanmax(np.abs(deviations), initial=0.0)
    return next((reach for reach in REACHES if largest <= reach), REACHES[-1])


def picture(deviations: np.ndarray, reach: float) -> Image.Image:
    """Return deviations [K, K] as a picture: one color above 0, one below, clear at it.

    So is what is undefined. More than MOST_ROWS classes share pixels, which then show the mean.
    """
    known = np.isfinite(deviations)
    values = np.where(known, deviations, 0.0)
    if len(values) > MOST_ROWS:
        bounds = np.linspace(0, len(values), MOST_ROWS + 1).astype(int)[:-1]
        sums, counts = (
            np.add.reduceat(np.add.reduceat(each, bounds, 0), bounds, 1)
            for each in (values, known.astype(float))
        )
        values = sums / np.maximum(counts, 1)
    return shades.picture(values / reach)


def _cells(deviations, reach):
    """Rows of (text, share of the color in per cent, above or below the target, or own)."""
    digits = 3 if reach < 0.1 else 2

    def cell(row, column):
        value = deviations[row, column]
        if row == column or not np.isfinite(value):
            return "" if row == column else "–", 0, "own" if row == column else "above"
        text = f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0: no -0.00
        share = round(100 * min(abs(value) / reach, 1))
        return text, share, "above" if value > 0 else "below"

    count = range(len(deviations))
    return [[cell(row, column) for column in count] for row in count]


def _pairs(cosines, names):
    first, second = np.triu_indices(len(names), 1)
    values = cosines[first, second]
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]

    def named(places):
        return [(names[first[p]], names[second[p]], float(values[p])) for p in places]

    few = min(PAIRS, len(order) // 2 or len(order))
    return {"nearest": named(order[::-1][:few]), "furthest": named(order[:few])}


def _by_class(run, frames, predicted, classes, names, cosines):
    """(dicts, remarks): name, images (of training), accuracy, tested, nearest, furthest.

    accuracy is that of the whole test set, of `tested` images, where the run has kept that, else
    that of the `tested` images of the last snapshot.
    """
    per_class = (run.summary or {}).get("per_class") or {}
    images, whole, counts = per_class.get("train_images"), per_class.get("test_accuracy"), None
    remarks = []
    if predicted is not None:
        size = 1 + int(max(predicted.labels.max(), classes.max()))
        counts = np.bincount(predicted.labels, minlength=size)
        correct = np.bincount(predicted.labels[predicted.right()], minlength=size)
        whole = [float(c / n) if n else None for c, n in zip(correct, counts, strict=True)]
    elif not whole:
        known = "not known"
        if frames:
            count = len(frames.points["labels"])
            known = f"that of the {count} test images of the last snapshot"
        remarks.append(f"Accuracy by class is {known}.")
    others = np.where(np.eye(len(names), dtype=bool), np.nan, cosines)
    records = []
    for place, label in enumerate(classes):
        record = {"name": names[place], "images": None, "accuracy": None, "tested": None}
        if images and label < len(images):
            record["images"] = images[label]
        if whole and label < len(whole):
            record["accuracy"] = whole[label]
            if counts is not None:
                record["tested"] = int(counts[label])
        elif frames:
            mine = frames.points["labels"] == label
            record["tested"] = int(mine.sum())
            if mine.any():
                record["accuracy"] = float((frames.steps[-1]["predicted"][mine] == label).mean())
        for key, pick in (("nearest", np.nanargmax), ("furthest", np.nanargmin)):
            record[key] = None
            if np.isfinite(others[place]).any():
                other = int(pick(others[place]))
                record[key] = names[other], float(others[place][other])
        records.append(record)
    if len(records) > MOST_ROWS:
        # Those that a reader looks for first: what is learned worst, else what is nearest another.
        def rank(record):
            return (
                record["accuracy"] is None,
                record["accuracy"] or 0.0,
                -(record["nearest"] or ("", 0))[1],
            )

        records = sorted(records, key=rank)[:MOST_ROWS]
    return records, remarks
