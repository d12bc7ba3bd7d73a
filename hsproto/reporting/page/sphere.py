"""Snapshots of runs as the page shows them: points on the sphere over training, and their images.

Coordinates, lengths and cosines are small integers, which a page carries in a fifth of the text.
"""

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hsproto.reporting.directions import cosines
from hsproto.reporting.page import flat, projection
from hsproto.runs import snapshots

MOST_STEPS = 32  # of a run
ALL_STEPS = 320  # of all runs of a page together, but not fewer of one than
FEWEST_STEPS = 6
SHOWN_IMAGES = 8  # of the most wrong ones, and of those that are right
LARGEST_SIDE = 32  # pixels of an image on the page

_UNKNOWN = -128  # a cosine that is not defined, in hundredths


class Packed(NamedTuple):
    """Integers that stand for the numbers `array * scale`; those equal to `missing` for None."""

    array: np.ndarray
    scale: float = 1.0
    missing: int | None = None

    def for_page(self) -> dict[str, Any]:
        """Return what the page carries: little-endian bytes in base64, with what reads them."""
        kind = self.array.dtype.newbyteorder("<")
        content = base64.b64encode(self.array.astype(kind).tobytes()).decode()
        return {
            "b64": content,
            "scale": self.scale,
            "missing": self.missing,
            "type": self.array.dtype.name,
            "shape": list(self.array.shape),
        }

    def plain(self) -> list:
        """Return nested lists of numbers and None."""
        if self.scale == 1.0 and self.missing is None:
            return self.array.tolist()
        values = np.round(self.array * self.scale, 4).astype(object)
        if self.missing is not None:
            values[self.array == self.missing] = None
        return values.tolist()


def steps_of_each(count: int) -> int:
    """Return how many steps of each run a page shows of `count` runs with snapshots."""
    return max(FEWEST_STEPS, min(MOST_STEPS, ALL_STEPS // max(count, 1)))


def has_snapshots(workdir: str) -> bool:
    """Return whether a workdir has snapshots."""
    return bool(snapshots.step_files(workdir))


def frames(workdir: str, most: int) -> snapshots.SnapshotSeries | None:
    """Return the snapshots of a workdir, or None if none can be read.

    Of at most `most` of its steps, the first and the last among them.
    """
    series = snapshots.read_series(workdir)
    if not series.steps:
        return None
    places = np.linspace(0, len(series.steps) - 1, min(most, len(series.steps))).round().astype(int)
    return series._replace(steps=[series.steps[place] for place in np.unique(places)])


def columns(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the places of `labels` among `classes` [C], -1 of those that are not among them."""
    order = np.argsort(classes)
    places = np.searchsorted(classes, labels, sorter=order).clip(max=len(classes) - 1)
    places = order[places]
    return np.where(classes[places] == labels, places, -1)


def view(series: snapshots.SnapshotSeries, num_classes: int) -> dict[str, Any]:
    """Return what the sphere shows of snapshots, a dict whose arrays are `Packed`.

    points, prototypes: places of directions, [S, P, 3] and [S, C, 3]; lengths, prototype_lengths:
    [S, P] and [S, C] in units of length_unit and prototype_unit, medians of the last step;
    cosine_true, cosine_predicted [S, P]: with the prototype of an image's class and of the class it
    is taken for. exact, share_means, share_features: as in `projection.coordinates`. circle, map,
    their prototypes, share_map: as in `flat.places`. num_classes is the run's, of which snapshots
    may have some.
    """
    placed = projection.coordinates(series.steps)
    flat_places = flat.places(series.steps, num_classes)
    labels, names = series.points["labels"], [str(n) for n in series.points["class_names"]]
    true, taken = zip(*(_own_and_taken(series, step) for step in series.steps), strict=True)
    small = np.uint8 if len(names) <= 256 else np.uint16

    def stacked(name):
        return np.array([step[name] for step in placed["steps"]])

    return {
        "steps": [step["step"] for step in placed["steps"]],
        "unreadable": series.unreadable,
        "dimensions": placed["dimensions"],
        "exact": placed["exact"],
        "share_means": placed["share_means"],
        "share_features": placed["share_features"],
        "class_names": names,
        "classes": placed["classes"],
        "rows": series.points["rows"].tolist(),
        "labels": Packed(labels.astype(small)),
        "predicted": Packed(stacked("predicted").astype(small)),
        "points": _pack_unit(stacked("features")),
        "prototypes": _pack_unit(stacked("prototypes")),
        "lengths": _pack_lengths(stacked("radii")),
        "length_unit": _unit_of_length(series.steps[-1]["features"]),
        "prototype_lengths": _pack_lengths(stacked("prototype_radii")),
        "prototype_unit": _unit_of_length(series.steps[-1]["prototypes"]),
        "share_map": flat_places.pop("share_map"),
        **{key: _pack_flat(rows) for key, rows in flat_places.items()},
        "cosine_true": _pack_cosines(np.array(true)),
        "cosine_predicted": _pack_cosines(np.array(taken)),
    }


def _own_and_taken(series, step):
    """Cosines [P] with the prototype of an image's class, and of the class it is taken for."""
    between = cosines(step["features"], step["prototypes"], of_zero=np.nan)
    classes = series.points["labels"], step["predicted"]
    return tuple(_pick(between, columns(step["classes"], labels)) for labels in classes)


def _pick(between, places):
    taken = between[np.arange(len(between)), np.maximum(places, 0)]
    return np.where(places >= 0, taken, np.nan)


def _pack_unit(places):
    return Packed(np.round(places.clip(-1, 1) * 32767).astype(np.int16), 1 / 32767)


def _pack_flat(places):
    # A byte is a pixel or two of a chart.
    scale = float(f"{max(np.abs(places).max(), 1e-6) * 1.001 / 127:.4g}")
    return Packed(np.round(places / scale).clip(-127, 127).astype(np.int8), scale)


def _pack_lengths(radii):
    return Packed(np.round(radii * 1000).clip(0, 65535).astype(np.uint16), 1e-3)


def _unit_of_length(rows):
    return float(f"{projection.median_length(rows):.4g}")


def _pack_cosines(values):
    whole = np.round(np.nan_to_num(values) * 100).clip(-100, 100)
    return Packed(np.where(np.isfinite(values), whole, _UNKNOWN).astype(np.int8), 0.01, _UNKNOWN)


def images(series: snapshots.SnapshotSeries) -> tuple[list[dict], list[dict]]:
    """Return (wrong, right): the most wrong images of the last step, and some of the right ones.

    Dicts: row, png (a data URI), width, height, true and predicted (class names), cosine_true and
    cosine_predicted. An image is the more wrong the nearer the prototype it is taken for and the
    further its own. The right ones are of as many classes as possible.
    """
    last, points = series.steps[-1], series.points
    labels, predicted = points["labels"], last["predicted"]
    true, taken = _own_and_taken(series, last)
    wrong = np.flatnonzero(predicted != labels)
    margin = np.nan_to_num((taken - true)[wrong], nan=-np.inf)
    wrong = wrong[np.argsort(-margin, kind="stable")][:SHOWN_IMAGES]
    # Round after round an image of each class.
    right = np.flatnonzero(predicted == labels)
    rounds = np.array([np.sum(labels[right[:i]] == labels[j]) for i, j in enumerate(right)], int)
    chosen = np.sort(right[np.argsort(rounds, kind="stable")][:SHOWN_IMAGES])
    names = [str(name) for name in points["class_names"]]

    def record(place):
        picture = picture_of(points["images"][place])
        return {
            "row": int(points["rows"][place]),
            "png": data_uri(picture),
            "width": picture.width,
            "height": picture.height,
            "right": bool(predicted[place] == labels[place]),
            "true": _name(names, labels[place]),
            "predicted": _name(names, predicted[place]),
            "cosine_true": rounded(true[place]),
            "cosine_predicted": rounded(taken[place]),
        }

    return [record(place) for place in wrong], [record(place) for place in chosen]


def picture_of(pixels: np.ndarray, side: int = LARGEST_SIDE) -> Image.Image:
    """Return an image uint8 [H, W, C] as Pillow's, of at most `side` pixels."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((side, side))
    return picture


def data_uri(picture: Image.Image, kind: str = "PNG") -> str:
    """Return a Pillow image inside a data URI, as a file of a kind that Pillow knows."""
    content = io.BytesIO()
    picture.save(content, kind, optimize=True)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{encoded}"


def _name(names, label):
    return names[label] if 0 <= label < len(names) else str(label)


def rounded(value: float) -> float | None:
    """Return a number with three decimals, or None if it is not finite."""
    return round(float(value), 3) if np.isfinite(value) else None
