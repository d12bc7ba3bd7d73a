"""The table of methods on the page: how far each got, against the optimum and cross entropy."""

import math
from typing import NamedTuple

from hsproto.metrics import METRICS, PAGE_COLUMNS
from hsproto.reporting import grouping, naming
from hsproto.reporting.table import defined, mean_over_seeds, number
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.run import data_set, imbalance_factor

BAR_DECADES = 3  # a full bar is so many powers of ten nearer to the optimum than an empty one


class Cell(NamedTuple):
    """A value in the table of methods.

    text: mean ± std. value: what sorts it, None of what is undefined. bar: how near the optimum is,
    0 to 1 (`_bar`), or None. target: the optimum as text. mark: "better" or "worse" than cross
    entropy on the same data, or "". best: whether no other method on the data is nearer.
    """

    text: str
    value: float | None
    bar: float | None
    target: str
    mark: str
    best: bool


def methods(found):
    """The table of methods, a row for runs that differ in their seeds alone.

    A row is a dict: data, name, seeds, note, and cells, a `Cell` for each of COLUMNS. States before
    a run's end stand in rows of their own and take no part in what is best.
    """
    names, made = naming.row_names(found), []
    for group in grouping.by_settings(found):
        states = {}
        for run in group:
            states.setdefault(None if run.summary else run_lib.last_step(run), []).append(run)
        for members in states.values():
            made.append(_method(members, names))
    for row in made:
        peers = [other for other in made if other["of"] == row["of"] and not other["note"]]
        row["cells"] = [
            _cell(row, key, peers, _baseline(row, peers), summary_lib.optimum(row["runs"][0]))
            for key in PAGE_COLUMNS
        ]
    order = naming.in_paper_order({row["data"] for row in made})
    return sorted(made, key=lambda row: (order.index(row["data"]), row["place"]))


def _method(members, names):
    first = members[0]
    note = ""
    if first.summary is None:
        reached = run_lib.last_step(first)
        note = "not finished, " + ("no step yet" if reached is None else f"step {reached}")
    values = {}
    for key, split in PAGE_COLUMNS.items():
        scale = 100 if key.startswith("accuracy") else 1
        found = [run_lib.final_metrics(run, split)[1].get(key) for run in members]
        values[key] = mean_over_seeds([scale * v if defined(v) else None for v in found])
    return {
        "of": (data_set(first), imbalance_factor(first)),
        "data": data_set(first)
        + (f", LT {imbalance_factor(first):g}" if imbalance_factor(first) < 1 else ""),
        "name": names.name[first.workdir],
        "place": names.place[first.workdir],
        "loss": first.config["loss"],
        "seeds": len(members),
        "note": note,
        "runs": members,
        "values": values,
    }


def _baseline(row, peers):
    """The row of cross entropy on the same data whose settings are the nearest, or None."""
    if row["loss"] == "cross_entropy" or row["note"]:
        return None
    ours = run_lib.settings(row["runs"][0])

    def distance(other):
        theirs = run_lib.settings(other["runs"][0])
        return sum(ours.get(key) != value for key, value in theirs.items())

    return min((p for p in peers if p["loss"] == "cross_entropy"), key=distance, default=None)


def _cell(row, key, peers, baseline, best):
    accuracy = key.startswith("accuracy")
    digits = 2 if accuracy else None
    target = best.get(key)
    target = 100.0 if accuracy else target
    value = row["values"][key]
    if value.mean is None:
        return Cell("–", None, None, "", "", False)
    text = number(value.mean, digits)
    if value.std is not None:
        text += f" ± {number(value.std, digits)}"
    if value.undefined:
        text += f" ({value.undefined} undefined)"
    if target is None:
        return Cell(text, value.mean, None, "", "", False)

    def off(other):
        mean = other["values"][key].mean
        # As printed: what reads the same is neither better nor worse.
        return math.inf if mean is None else abs(float(number(mean, digits)) - target)

    mark, ours = "", off(row)
    if baseline and baseline["values"][key].mean is not None and ours != off(baseline):
        mark = "better" if ours < off(baseline) else "worse"
    foremost = not row["note"] and len(peers) > 1 and ours == min(map(off, peers))
    foremost = foremost and any(off(peer) > ours for peer in peers)
    told = "100" if accuracy else f"{target:.4g}"
    return Cell(text, value.mean, _bar(value.mean, key, target), told, mark, foremost)


def _bar(value, key, target):
    """Powers of ten by which a value is nearer to the optimum, over BAR_DECADES; of 0 to 1.

    Collapse goes through powers of ten, which a bar of plain shares would not tell apart. Of an
    accuracy it is the accuracy.
    """
    if key.startswith("accuracy"):
        return round(value / target, 3)
    far = METRICS[key].uncollapsed or abs(target)
    off = abs(value - target) / far if far else 0.0
    return round(min(max(-math.log10(max(off, 1e-30)) / BAR_DECADES, 0.0), 1.0), 3)
