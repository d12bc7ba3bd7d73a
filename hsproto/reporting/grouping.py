"""Which runs belong together: runs to compare, seeds to average, grids and sweeps.

A picture holds the runs on a data set that differ in loss and seed alone. Losses may differ in what
each of them always goes with, e.g. SCL in its head and augmentation: a key of the config separates
runs only if runs of the same loss differ in it, or if it describes the data.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hsproto.methods import METHODS, method_of
from hsproto.reporting import table as table_lib
from hsproto.runs import run as run_lib
from hsproto.runs.run import Run, data_set, imbalance_factor

# Keys that distinguish versions of a data set.
DATA = ("source", "num_classes", "num_examples", "subset_seed", "image_size", "channels")
# The axes of a phase diagram.
GRID = ("temperature", "batch_size")


class Comparison(NamedTuple):
    """Runs that are compared with each other.

    Attributes:
        data: The name of the data set.
        settings: {config key: value} that separates them from other runs on it.
        by_loss: {loss: runs}.
        also: Further config keys in which losses differ, sorted.
    """

    data: str
    settings: dict[str, Any]
    by_loss: dict[str, list[Run]]
    also: list[str]


def find(runs: Sequence[Run]) -> list[Comparison]:
    """Return the comparisons among runs, by data set.

    In a grid of temperatures and batch sizes every point would be one; only the point with the most
    runs is returned.
    """
    comparisons = []
    for data, group in _by_data(runs).items():
        keys = _separating(group)
        for _, part in _split(group, [key for key in keys if key not in GRID]):
            points = _split(part, [key for key in keys if key in GRID])
            if _in_grids(part):
                points = [max(points, key=lambda point: len(point[1]))]
            comparisons += [_comparison(data, members, keys) for _, members in points]
    return comparisons


def grids(runs: Sequence[Run]) -> list[Comparison]:
    """Return the grids of temperatures and batch sizes among finished runs."""
    comparisons = []
    for data, group in _by_data([run for run in runs if run.summary is not None]).items():
        keys = [key for key in _separating(group) if key not in GRID]
        for _, part in _split(group, keys):
            if members := _in_grids(part):
                comparisons.append(_comparison(data, members, keys, axes=GRID))
    return comparisons


def describe(comparison: Comparison, what: str) -> list[str]:
    """Return the lines that say what a picture shows, of which data and which settings."""
    values = comparison.settings.items()
    settings = ", ".join(f"{key}={table_lib.format_value(value)}" for key, value in values)
    also = f"losses also differ in {', '.join(comparison.also)}" if comparison.also else ""
    return [f"{comparison.data}: {what}", *filter(None, [settings, also])]


def _in_grids(runs):
    """The runs of losses whose temperature and batch size both vary."""
    return [run for group in _by_loss(runs).values() if _is_grid(group) for run in group]


def _is_grid(runs):
    points = [run_lib.settings(run) for run in runs if _has(run, "temperature")]
    return all(len({point[key] for point in points}) >= 2 for key in GRID)


def _by_data(runs):
    """{name: runs}, by data set in order of appearance."""
    groups = {}
    for run in runs:
        name, factor = data_key(run)
        groups.setdefault(f"{name} LT {factor:g}" if factor < 1 else name, []).append(run)
    return groups


def _by_loss(runs):
    """{loss: runs} in the order of `methods.METHODS`, unknown losses at the end."""
    groups = {loss: [] for loss in METHODS}
    for run in runs:
        groups.setdefault(run_lib.settings(run)["loss"], []).append(run)
    return {loss: group for loss, group in groups.items() if group}


def _separating(runs):
    """The config keys that separate runs on a data set, see the module."""
    of_losses = {key for group in _by_loss(runs).values() for key in _varying(group)}
    return [key for key in _varying(runs) if key in DATA or key in of_losses]


def _varying(runs):
    """Of `varying`, the keys that the losses use."""
    heated = [run for run in runs if _has(run, "temperature")]
    varies = "temperature" in varying(heated) if heated else False
    return [key for key in varying(runs) if key != "temperature" or varies]


def _has(run, key):
    return key != "temperature" or method_of(run_lib.settings(run)["loss"]).temperature


def _split(runs, keys):
    """[(values, runs)] by the values of `keys`; a loss without temperature is in all of them."""
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
        joining = [
            other_members
            for other, other_members in points
            if len(other) < len(point) and _agree(other, point)
        ]
        split.append((point, sum(joining, members)))
    return split


def _agree(part, whole):
    return all(whole[key] == value for key, value in part.items())


def _comparison(data, runs, keys, axes=()):
    one = next((run for run in runs if _has(run, "temperature")), runs[0])
    settings = {key: run_lib.settings(one)[key] for key in keys if _has(one, key)}
    also = [key for key in _varying(runs) if key not in {"loss", *axes, *keys}]
    return Comparison(data, settings, _by_loss(runs), also)


def data_key(run: Run) -> tuple[str, float]:
    """Return what a run was trained on: its data set and the imbalance factor of that."""
    return data_set(run), imbalance_factor(run)


def by_data_key(runs: Iterable[Run]) -> dict[tuple[str, float], list[Run]]:
    """Return {`data_key`: runs}, in the order of their first."""
    return _grouped(runs, data_key)


def _grouped(runs, key):
    groups = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def on_whole_sets(runs: Iterable[Run]) -> list[Run]:
    """Return the runs on training sets that are not a long tail."""
    return [run for run in runs if imbalance_factor(run) == 1]


def _settings_key(run, *without):
    """A run's settings but for the keys `without`, to compare and to group by."""
    settings = {k: v for k, v in run_lib.settings(run).items() if k not in without}
    return json.dumps(settings, sort_keys=True)


def settings_without_loss(run: Run) -> tuple[str, Any]:
    """Return what a run shares with its baseline: its settings but for the loss's own, its seed."""
    return _settings_key(run, "loss", "temperature", "head"), run.config.get("seed")


def by_settings(runs: Iterable[Run]) -> list[list[Run]]:
    """Return lists of the runs that differ in their seeds alone, in the order of their first."""
    return list(_grouped(runs, _settings_key).values())


def varying(runs: Iterable[Run]) -> list[str]:
    """Return the config keys in which runs differ, the seed aside, sorted."""
    settings = [run_lib.settings(run) for run in runs]
    keys = {key for each in settings for key in each}
    return sorted(key for key in keys if any(s.get(key) != settings[0].get(key) for s in settings))


def drop_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return (runs, duplicates): no two runs have the same settings and seed.

    Of duplicates a finished one stays.
    """
    first, duplicates = {}, []
    for run in sorted(runs, key=lambda run: run.summary is None):
        key = _settings_key(run), run.config.get("seed")
        if first.setdefault(key, run) is not run:
            duplicates.append(run)
    stay = {run.workdir for run in first.values()}
    return [run for run in runs if run.workdir in stay], duplicates


def one_point_per_grid(
    runs: Sequence[Run],
) -> tuple[list[Run], dict[tuple[str, float], set[tuple]]]:
    """Return runs with one point of each grid of temperatures and batch sizes.

    That is the point with the most runs on the data. Losses without a temperature go with the
    others.

    Returns:
        The runs, and {`data_key`: the points that stand for a grid, pairs as `GRID`}.
    """
    counts = {data: Counter(map(_point, members)) for data, members in by_data_key(runs).items()}
    families = [
        _grouped(members, _point)
        for members in _grouped(runs, lambda run: _settings_key(run, *GRID)).values()
    ]
    gridded = {
        data_key(run)
        for points in families
        if _varies_on_both_axes(points)
        for members in points.values()
        for run in members
    }
    stay, standing = set(), {}
    for points in families:
        run = next(iter(points.values()))[0]
        data, heated = data_key(run), method_of(run.config["loss"]).temperature
        if data in gridded and (_varies_on_both_axes(points) or not heated):
            usual = max(points, key=lambda point: (counts[data][point], len(points[point])))
            if heated:
                standing.setdefault(data, set()).add(usual)
            points = {usual: points[usual]}
        stay |= {run.workdir for members in points.values() for run in members}
    return [run for run in runs if run.workdir in stay], standing


def _point(run):
    return tuple(run_lib.settings(run)[key] for key in GRID)


def _varies_on_both_axes(points):
    return all(len(set(values)) > 1 for values in zip(*points, strict=True))


def finished_by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return {data set, with its imbalance factor below 1: finished runs}."""
    groups = by_data_key(run for run in runs if run.summary)
    return {
        f"{name}, imbalance_factor={factor:g}" if factor < 1 else name: members
        for (name, factor), members in groups.items()
    }


def families(runs: Iterable[Run], key: str) -> list[list[Run]]:
    """Return lists of runs that differ in seeds and `key` alone, with two of its values or more."""
    groups = []
    for members in _grouped(runs, lambda run: _settings_key(run, key)).values():
        by_value = _grouped(members, lambda run: json.dumps(run_lib.settings(run)[key]))
        if len(by_value) > 1:
            groups.append(sum(by_value.values(), []))
    return groups
