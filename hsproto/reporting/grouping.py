"""Which runs belong into one picture: those of a data set that differ in loss and seed alone.

Losses may differ in what each of them always goes with, as SCL in its head and augmentation: a key
of the config parts runs only where runs of the same loss differ in it, or where it is of the data.
"""

import json
from collections import Counter
from typing import NamedTuple

from hsproto.methods import METHODS, method_of
from hsproto.reporting import table as table_lib
from hsproto.runs import run as run_lib
from hsproto.runs.run import data_set, imbalance_factor

# Keys that tell the versions of a data set apart.
DATA = ("source", "num_classes", "num_examples", "subset_seed", "image_size", "channels")
# The axes of a phase diagram.
GRID = ("temperature", "batch_size")


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
    settings = ", ".join(f"{key}={table_lib.format_value(value)}" for key, value in values)
    also = f"losses also differ in {', '.join(comparison.also)}" if comparison.also else ""
    return [f"{comparison.data}: {what}", *filter(None, [settings, also])]


def _in_grids(runs):
    """Those of the losses that vary both their temperature and the batch size."""
    return [run for group in _by_loss(runs).values() if _is_grid(group) for run in group]


def _is_grid(runs):
    points = [run_lib.settings(run) for run in runs if _has(run, "temperature")]
    return all(len({point[key] for point in points}) >= 2 for key in GRID)


def _by_data(runs):
    """{name: runs}, by data set in order of appearance."""
    found = {}
    for run in runs:
        name, factor = run_lib.data_set(run), run_lib.imbalance_factor(run)
        name += f" LT {factor:g}" if factor < 1 else ""
        found.setdefault(name, []).append(run)
    return found


def _by_loss(runs):
    """{loss: runs} in the order of `methods.METHODS`, those it does not know at the end."""
    found = {loss: [] for loss in METHODS}
    for run in runs:
        found.setdefault(run_lib.settings(run)["loss"], []).append(run)
    return {loss: group for loss, group in found.items() if group}


def _parting(runs):
    """The config keys that part runs on a data set, see the module."""
    of_losses = {key for group in _by_loss(runs).values() for key in _varying(group)}
    return [key for key in _varying(runs) if key in DATA or key in of_losses]


def _varying(runs):
    """Of `varying`, the keys that their losses look at."""
    heated = [run for run in runs if _has(run, "temperature")]
    varies = "temperature" in varying(heated) if heated else False
    return [key for key in varying(runs) if key != "temperature" or varies]


def _has(run, key):
    return key != "temperature" or method_of(run_lib.settings(run)["loss"]).temperature


def _split(runs, keys):
    """[(values, runs)] by the values of `keys`; a loss without temperature is at all of them."""
    points = {}
    for run in runs:
        point = {key: run_lib.settings(run)[key] for key in keys if _has(run, key)}
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
    settings = {key: run_lib.settings(one)[key] for key in keys if _has(one, key)}
    also = [key for key in _varying(runs) if key not in {"loss", *axes, *keys}]
    return Comparison(data, settings, _by_loss(runs), also)


def on_whole_sets(found):
    return [run for run in found if imbalance_factor(run) == 1]


def settings_without_loss(run):
    """What a run shares with its baseline: its seed, and its settings but for the loss's own."""
    settings = run_lib.settings(run)
    for key in ("loss", "temperature", "head"):
        settings.pop(key)
    return json.dumps([settings, run.config.get("seed")], sort_keys=True)


def by_settings(runs):
    """Lists of the runs that differ in nothing but their seeds, in the order of their first."""
    groups = {}
    for run in runs:
        groups.setdefault(json.dumps(run_lib.settings(run), sort_keys=True), []).append(run)
    return list(groups.values())


def varying(runs):
    """The config keys in whose values runs differ, the seed aside, sorted."""
    found = [run_lib.settings(run) for run in runs]
    keys = {key for one in found for key in one}
    return sorted(key for key in keys if any(s.get(key) != found[0].get(key) for s in found))


def drop_duplicates(found):
    """(runs, duplicates) of which no two have the same settings and seed; finished ones stay."""
    kept, duplicates = {}, []
    for run in sorted(found, key=lambda run: run.summary is None):
        key = json.dumps([run_lib.settings(run), run.config.get("seed")], sort_keys=True)
        if kept.setdefault(key, run) is not run:
            duplicates.append(run)
    stay = {run.workdir for run in kept.values()}
    return [run for run in found if run.workdir in stay], duplicates


def one_point_per_grid(found):
    """(runs, {(data set, imbalance factor): points}), of grids of temperatures and batch sizes one.

    That is the one with the most runs on the data. Losses without a temperature go with the others.
    points: those that stand for a grid, pairs as `GRID`.
    """
    parts, points, gridded = {}, {}, set()
    for run in found:
        settings = run_lib.settings(run)
        point = tuple(settings.pop(key) for key in GRID)
        part = parts.setdefault(json.dumps(settings, sort_keys=True), {})
        part.setdefault(point, []).append(run)
        points.setdefault((data_set(run), imbalance_factor(run)), Counter())[point] += 1
    for part in parts.values():
        if all(len(set(values)) > 1 for values in zip(*part, strict=True)):
            gridded |= {
                (data_set(run), imbalance_factor(run))
                for members in part.values()
                for run in members
            }
    kept, standing = set(), {}
    for part in parts.values():
        run = next(iter(part.values()))[0]
        on = data_set(run), imbalance_factor(run)
        heated = method_of(run.config["loss"]).temperature
        grid = all(len(set(values)) > 1 for values in zip(*part, strict=True)) or not heated
        if on in gridded and grid:
            usual = max(part, key=lambda point: (points[on][point], len(part[point])))
            if heated:
                standing.setdefault(on, set()).add(usual)
            part = {usual: part[usual]}
        kept |= {run.workdir for members in part.values() for run in members}
    return [run for run in found if run.workdir in kept], standing


def finished_by_data(found):
    """{data set, with its imbalance factor below 1: finished runs}."""
    groups = {}
    for run in found:
        if run.summary:
            tail = (
                f", imbalance_factor={imbalance_factor(run):g}" if imbalance_factor(run) < 1 else ""
            )
            groups.setdefault(data_set(run) + tail, []).append(run)
    return groups


def families(members, key):
    """Lists of runs that differ in nothing but seeds and `key`, with two of its values or more."""
    families = {}
    for run in members:
        settings = run_lib.settings(run)
        value = json.dumps(settings.pop(key))
        families.setdefault(json.dumps(settings, sort_keys=True), {}).setdefault(value, [])
        families[json.dumps(settings, sort_keys=True)][value].append(run)
    return [sum(values.values(), []) for values in families.values() if len(values) > 1]
