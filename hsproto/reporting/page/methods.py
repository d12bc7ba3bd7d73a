"""The table of methods on the page: how far each got, against the optimum and cross entropy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hsproto.errors import UserError
from hsproto.metrics import METRICS, PAGE_COLUMNS, defined, format_number
from hsproto.reporting import grouping, naming, noise
from hsproto.reporting.table import Value, mean_over_seeds
from hsproto.runs import data_file
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.predictions_file import Predicted
from hsproto.runs.run import Run

BAR_DECADES = 3  # a full bar is so many powers of ten nearer to the optimum than an empty one


@dataclass(frozen=True)
class Cell:
    """A value in the table of methods.

    Attributes:
        text: Mean ± standard deviation.
        value: What sorts it; None if undefined.
        bar: How near the optimum is, 0 to 1 (`_bar`), or None.
        target: The optimum as text.
        mark: "better" or "worse" than cross entropy on the same data, or "".
        best: Whether it is nearer to the optimum than any other method on the data.

    Marks are of differences beyond chance alone, see `noise`.
    """

    text: str = "–"
    value: float | None = None
    bar: float | None = None
    target: str = ""
    mark: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seeds alone, with one cell per metric of `PAGE_COLUMNS`."""

    data: str
    name: str
    loss: str
    seeds: int
    note: str
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True)
class _Group:
    runs: list[Run]
    name: str
    place: tuple
    note: str
    values: dict[str, Value]
    predicted: Predicted | None

    @property
    def data(self):
        return grouping.data_key(self.runs[0])

    @property
    def loss(self):
        return self.runs[0].config["loss"]


def methods(runs: Sequence[Run], predicted: Mapping[str, Predicted | None] = {}) -> list[Row]:
    """Return the table of methods; `predicted` {workdir: predictions} helps to tell chance.

    States before the end of a run stand in rows of their own and take no part in what is best.
    """
    names, groups = naming.row_names(runs), []
    for seeds in grouping.by_settings(runs):
        states = {}
        for run in seeds:
            states.setdefault(None if run.summary else run_lib.last_step(run), []).append(run)
        groups += [_group(members, names, predicted) for members in states.values()]
    order = naming.in_paper_order({_data_name(group) for group in groups})
    groups.sort(key=lambda group: (order.index(_data_name(group)), group.place))
    return [_row(group, groups) for group in groups]


def _group(runs, names, predicted):
    first, note = runs[0], ""
    if first.summary is None:
        last = run_lib.last_step(first)
        note = "not finished, " + ("no step yet" if last is None else f"step {last}")
    values = {}
    for key, split in PAGE_COLUMNS.items():
        scale = 100 if key.startswith("accuracy") else 1
        numbers = [run_lib.final_metrics(run, split)[1].get(key) for run in runs]
        values[key] = mean_over_seeds([scale * v if defined(v) else None for v in numbers])
    name, place = names.name[first.workdir], names.place[first.workdir]
    of_one = predicted.get(first.workdir) if len(runs) == 1 else None
    return _Group(runs=runs, name=name, place=place, note=note, values=values, predicted=of_one)


def _data_name(group):
    name, factor = group.data
    return f"{name}, LT {factor:g}" if factor < 1 else name


def _row(group, groups):
    peers = [other for other in groups if other.data == group.data and not other.note]
    baseline, optimum = _baseline(group, peers), summary_lib.optimum(group.runs[0])
    return Row(
        data=_data_name(group),
        name=group.name,
        loss=group.loss,
        seeds=len(group.runs),
        note=group.note,
        cells=[_cell(group, key, peers, baseline, optimum.get(key)) for key in PAGE_COLUMNS],
    )


def _baseline(group, peers):
    """The group of cross entropy on the same data with the nearest settings, or None."""
    if group.loss == "cross_entropy" or group.note:
        return None
    ours = run_lib.settings(group.runs[0])

    def distance(other):
        theirs = run_lib.settings(other.runs[0])
        return sum(ours.get(key) != value for key, value in theirs.items())

    return min((p for p in peers if p.loss == "cross_entropy"), key=distance, default=None)


def _cell(group, key, peers, baseline, target):
    accuracy = key.startswith("accuracy")
    digits = 2 if accuracy else None
    target = 100.0 if accuracy else target
    value = group.values[key]
    if value.mean is None:
        return Cell()
    text = format_number(value.mean, digits)
    if value.std is not None:
        text += f" ± {format_number(value.std, digits)}"
    if value.undefined:
        text += f" ({value.undefined} undefined)"
    if target is None:
        return Cell(text, value.mean)

    def distance(other):
        mean = other.values[key].mean
        # As printed: what reads the same is neither better nor worse.
        return math.inf if mean is None else abs(float(format_number(mean, digits)) - target)

    mark, ours = "", distance(group)
    if baseline and ours != distance(baseline) and _differ(group, baseline, key):
        mark = "better" if ours < distance(baseline) else "worse"
    others = [peer for peer in peers if peer is not group and math.isfinite(distance(peer))]
    best = not group.note and bool(others)
    best = best and all(ours < distance(o) and _differ(group, o, key) for o in others)
    target_text = "100" if accuracy else f"{target:.4g}"
    return Cell(text, value.mean, _bar(value.mean, key, target), target_text, mark, best)


def _differ(group, other, key):
    """Whether two groups differ in a metric by more than chance, as far as that is known."""
    values = group.values[key], other.values[key]
    if any(value.mean is None for value in values):
        return False
    found = noise.differ_by_seeds(*values)
    if found is not None or not key.startswith("accuracy"):
        return bool(found)
    if key == "accuracy":
        found = noise.differ_paired(group.predicted, other.predicted)
    if found is None:
        images = [_test_images(each) for each in (group, other)]
        found = noise.differ_by_images([value.mean / 100 for value in values], images)
    return bool(found)


def _test_images(group):
    """The number of test images of a group's data; None if it is not known."""
    if group.predicted is not None:
        return len(group.predicted.labels)
    try:
        data = data_file.read(group.runs[0].workdir)
    except UserError:
        return None
    return data["test"]["images"] if data else None


def _bar(value, key, target):
    """Powers of ten by which a value is nearer to the optimum, over BAR_DECADES; 0 to 1.

    Collapse goes through powers of ten, which a linear bar would not resolve. For an accuracy it is
    the accuracy.
    """
    if key.startswith("accuracy"):
        return round(value / target, 3)
    far = METRICS[key].uncollapsed or abs(target)
    off = abs(value - target) / far if far else 0.0
    return round(min(max(-math.log10(max(off, 1e-30)) / BAR_DECADES, 0.0), 1.0), 3)
