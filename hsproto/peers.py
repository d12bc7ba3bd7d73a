"""Which runs belong into one picture: those of a data set that differ in loss and seed alone.

Losses may differ in what each of them always goes with, as SCL in its head and augmentation: a key
of the config parts runs only where runs of the same loss differ in it, or where it is of the data.
"""

import json
from typing import NamedTuple

from hsproto import drawing, protocol
from hsproto import runs as runs_lib

# Keys that tell the versions of a data set apart.
DATA = ("source", "num_classes", "num_examples", "subset_seed", "image_size", "channels")
# The axes of a phase diagram.
GRID = ("temperature", "batch_size")
WITHOUT_TEMPERATURE = ("cross_entropy", "dot_regression")


class Comparison(NamedTuple):
    """Runs that are held against each other.

    data: the data set's name. settings: {config key: value} of what tells them from other runs on
    it. by_loss: {loss: [Run]}. also: config keys in which losses differ besides, sorted.
    """

    data: str
    settings: dict
    by_loss: dict
    also: list


def find(runs):
    """The comparisons among `runs`, by data set, as a list of `Comparison`.

    Of a grid of temperatures and batch sizes, whose every point would be one, the point with the
    most runs alone.
    """
    found = []
    for data, group in _by_data(runs).items():
        keys = _parting(group)
        for _, part in _split(group, [key for key in keys if key not in GRID]):
            points = _split(part, [key for key in keys if key in GRID])
            if _in_grids(part):
                points = [max(points, key=lambda point: len(point[1]))]
            for _, runs_there in points:
                found.append(_comparison(data, runs_there, keys))
    return found


def grids(runs):
    """The grids of temperatures and batch sizes among finished `runs`, as `find` gives them."""
    found = []
    for data, group in _by_data([run for run in runs if run.summary is not None]).items():
        keys = [key for key in _parting(group) if key not in GRID]
        for _, part in _split(group, keys):
            if whole := _in_grids(part):
                found.append(_comparison(data, whole, keys, axes=GRID))
    return found


def describe(comparison, what):
    """The lines that say what a picture shows, of which data, and of runs of which settings."""
    values = comparison.settings.items()
    settings = ", ".join(f"{key}={protocol.shown(value)}" for key, value in values)
    also = f"losses also differ in {', '.join(comparison.also)}" if comparison.also else ""
    return [f"{comparison.data}: {what}", *filter(None, [settings, also])]


def _in_grids(runs):
    """Those of the losses that vary both their temperature and the batch size."""
    return [run for group in _by_loss(runs).values() if _is_grid(group) for run in group]


def _is_grid(runs):
    points = [runs_lib.settings(run) for run in runs if _has(run, "temperature")]
    return all(len({point[key] for point in points}) >= 2 for key in GRID)


def _by_data(runs):
    """{name: runs}, by data set in order of appearance."""
    found = {}
    for run in runs:
        name, factor = protocol.data_set(run), protocol.factor(run)
        name += f" LT {factor:g}" if factor < 1 else ""
        found.setdefault(name, []).append(run)
    return found


def _by_loss(runs):
    """{loss: runs} in the order of `drawing.LOSSES`, those it does not know at the end."""
    found = {loss: [] for loss in drawing.LOSSES}
    for run in runs:
        found.setdefault(runs_lib.settings(run)["loss"], []).append(run)
    return {loss: group for loss, group in found.items() if group}


def _parting(runs):
    """The config keys that part runs on a data set, see the module."""
    of_losses = {key for group in _by_loss(runs).values() for key in _varying(group)}
    return [key for key in _varying(runs) if key in DATA or key in of_losses]


def _varying(runs):
    """Of `runs.varying`, the keys that their losses look at."""
    heated = [run for run in runs if _has(run, "temperature")]
    varies = "temperature" in runs_lib.varying(heated) if heated else False
    return [key for key in runs_lib.varying(runs) if key != "temperature" or varies]


def _has(run, key):
    return key != "temperature" or runs_lib.settings(run)["loss"] not in WITHOUT_TEMPERATURE


def _split(runs, keys):
    """[(values, runs)] by the values of `keys`; a loss without temperature is at all of them."""
    points = {}
    for run in runs:
        point = {key: runs_lib.settings(run)[key] for key in keys if _has(run, key)}
        points.setdefault(json.dumps(point, sort_keys=True), (point, []))[1].append(run)
    points = list(points.values())
    split = []
    for point, members in points:
        others = [other for other, _ in points if len(other) > len(point)]
        if any(_agree(point, other) for other in others):
            continue
        joining = [m for other, ms in points if len(other) < len(point) for m in ms
                   if _agree(other, point)]  # fmt: skip
        split.append((point, members + joining))
    return split


def _agree(part, whole):
    return all(whole[key] == value for key, value in part.items())


def _comparison(data, runs, keys, axes=()):
    one = next((run for run in runs if _has(run, "temperature")), runs[0])
    settings = {key: runs_lib.settings(one)[key] for key in keys if _has(one, key)}
    also = [key for key in _varying(runs) if key not in {"loss", *axes, *keys}]
    return Comparison(data, settings, _by_loss(runs), also)
