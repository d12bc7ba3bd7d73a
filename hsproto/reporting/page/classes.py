"""Classes of a run as the page shows them: cosines of prototypes, neighbors, accuracy by class.

Cosines are not centered: a component that all prototypes share shows in them.
"""

from typing import Any

import numpy as np
from PIL import Image

from hsproto.errors import UserError
from hsproto.metrics import format_number
from hsproto.reporting import directions
from hsproto.reporting.page import sphere as page_sphere
from hsproto.runs import summary as summary_lib
from hsproto.runs.run import Run
from hsproto.runs.snapshots import SnapshotSeries

MOST_CELLS = 20  # classes of a matrix in numbers; of more it is a picture
MOST_ROWS = 200  # classes in a table of classes, and pixels a side of a picture
PAIRS = 8  # nearest and furthest
# Colors of a picture above and below the simplex's cosine; at it the page shows through.
_ABOVE, _BELOW = (214, 85, 52), (52, 116, 214)
_SHADES = 24


def class_view(run: Run, frames: SnapshotSeries | None) -> dict[str, Any]:
    """Return what is known of the classes of a run at its end, or at its last snapshot.

    A dict: names, target (the simplex's -1/(K-1), None of one class), cosines [K, K] with None
    where a prototype has no direction, or None of more than MOST_ROWS classes (they grow with K²,
    and prototypes.npz has what gives them), from (what they are of), mean, std, least, most
    (between classes), nearest and furthest pairs, classes (dicts), matrix (rows of cells) or
    picture (a data URI), missing (what is not there, as sentences).
    """
    missing, prototypes = [], None
    try:
        arrays = summary_lib.read_prototypes(run.workdir)
        prototypes, names = arrays["prototypes"], [str(name) for name in arrays["class_names"]]
        source, classes = "the run's end", np.arange(len(prototypes))
    except UserError as error:
        if run.summary:
            missing.append(f"No prototypes: {error}.")
    if prototypes is None and frames:
        last, all_names = frames.steps[-1], frames.points["class_names"]
        prototypes, classes = last["prototypes"], last["classes"]
        names = [str(all_names[c]) for c in classes]
        source = f"the snapshot of step {last['step']}"
    if prototypes is None:
        missing.append("No prototypes yet: the run is not finished and has no snapshots.")
        return {"missing": missing, "cosines": None, "classes": [], "names": []}

    # Of all classes of the run, whichever are shown here.
    count = run.config.get("num_classes") or len(names)
    target = -1 / (count - 1) if count > 1 else None
    cosines = directions.cosines(np.asarray(prototypes, np.float64), of_zero=np.nan)
    between = cosines[~np.eye(len(names), dtype=bool)]
    between = between[np.isfinite(between)]
    by_class, remarks = _by_class(run, frames, classes, names, cosines)
    view = {
        "missing": missing + remarks,
        "names": names,
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
    }
    if len(names) <= MOST_ROWS:
        view["cosines"] = [[page_sphere.rounded(value) for value in row] for row in cosines]
    if len(between):
        view |= {"mean": between.mean(), "std": between.std()}
        view |= {"least": between.min(), "most": between.max()}
    view |= _pairs(cosines, names)
    if len(names) <= MOST_CELLS:
        view["matrix"] = _cells(cosines, target)
    else:
        view["picture"] = page_sphere.data_uri(picture(cosines, target))
    return view


def strength(cosine: np.ndarray, target: float) -> np.ndarray:
    """Return how far a cosine is from the simplex's: -1 (opposite) to 1 (the same), 0 at it."""
    room = np.where(cosine >= target, 1 - target, 1 + target)
    return np.where(room > 0, (cosine - target) / np.maximum(room, 1e-9), 0.0).clip(-1, 1)


def picture(cosines: np.ndarray, target: float) -> Image.Image:
    """Return cosines [K, K] as a picture: one color above the target, one below, clear at it.

    More than MOST_ROWS classes share pixels, which then show the mean.
    """
    if len(cosines) > MOST_ROWS:
        bounds = np.linspace(0, len(cosines), MOST_ROWS + 1).astype(int)[:-1]
        sizes = np.diff([*bounds, len(cosines)])
        sums = np.add.reduceat(np.add.reduceat(cosines, bounds, 0), bounds, 1)
        cosines = sums / np.outer(sizes, sizes)
    shade = np.round(strength(np.nan_to_num(cosines, nan=target), target) * _SHADES).astype(int)
    image = Image.fromarray((shade + _SHADES).astype(np.uint8)).convert("P")
    sides = [_BELOW] * _SHADES + [_ABOVE] * (_SHADES + 1)
    image.putpalette([value for color in sides for value in color])
    alphas = [round(255 * abs(s) / _SHADES) for s in range(-_SHADES, _SHADES + 1)]
    image.info["transparency"] = bytes(alphas)
    return image


def _cells(cosines, target):
    """Rows of (text, share of the color in per cent, above or below the target)."""
    shares = strength(cosines, -1.0 if target is None else target)
    return [
        [
            (format_number(value, 2), round(100 * abs(share)), "above" if share > 0 else "below")
            if np.isfinite(value)
            else ("–", 0, "above")
            for value, share in zip(*pair, strict=True)
        ]
        for pair in zip(cosines, shares, strict=True)
    ]


def _pairs(cosines, names):
    first, second = np.triu_indices(len(names), 1)
    values = cosines[first, second]
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]

    def named(places):
        return [(names[first[p]], names[second[p]], float(values[p])) for p in places]

    few = min(PAIRS, len(order) // 2 or len(order))
    return {"nearest": named(order[::-1][:few]), "furthest": named(order[:few])}


def _by_class(run, frames, classes, names, cosines):
    """(dicts, remarks): name, images (of training), accuracy, tested, nearest, furthest.

    accuracy is that of the whole test set where the run's summary has it, else that of the `tested`
    images of the last snapshot.
    """
    per_class = (run.summary or {}).get("per_class") or {}
    images, whole = per_class.get("train_images"), per_class.get("test_accuracy")
    remarks = []
    if not whole:
        count = len(frames.points["labels"]) if frames else 0
        known = f"is that of the {count} test images of the last snapshot"
        unknown = "is not known: imbalanced training sets have it, and runs with snapshots"
        remarks.append(f"Accuracy by class {known if frames else unknown}.")
    others = np.where(np.eye(len(names), dtype=bool), np.nan, cosines)
    records = []
    for place, label in enumerate(classes):
        record = {"name": names[place], "images": None, "accuracy": None, "tested": None}
        if images and label < len(images):
            record["images"] = images[label]
        if whole and label < len(whole):
            record["accuracy"] = whole[label]
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
