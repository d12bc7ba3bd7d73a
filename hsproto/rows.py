"""Which runs stand in a row of a table, and what the row is called.

Only seeds are averaged. A row is named by its loss and by the settings in which runs on the same
data differ, a value that most of them have left out and told in the table's note.
"""

import json
from collections import Counter
from typing import Any, NamedTuple

from hsproto import drawing, peers, protocol, published, runs
from hsproto.protocol import data_set, factor, natural, shown
from hsproto.tabular import Table, Value, defined, file_name, over_seeds

# What goes with the data, of which a row is not named unless runs on the same data differ in it.
OF_DATA_SET = ("dataset", "source", "class_list", "class_groups", "num_classes", "num_examples")
OF_DATA_SET += ("image_size", "load_size", "channels", "mean", "std", "imbalance_factor")
OF_DATA_SET += ("subset_seed",)
# What goes with the loss: named where runs of the same loss differ in it.
_OF_LOSS = ("projection", "projection_dim", "head")


class Entry(NamedTuple):
    """One number of one run: what a table's cell is made of, with those of other seeds.

    step: of the state that was measured. extra: texts that name the row beside the run. value: a
    number or None, or whatever the table's `combine` takes.
    """

    run: Any
    step: int | None
    extra: tuple
    column: str
    value: Any
    paper: float | None = None
    digits: int | None = 2


class Names(NamedTuple):
    """Of each run, by workdir, the name of its row and its place; and what the names leave out."""

    name: dict
    place: dict
    note: str


def distinct(found):
    """(runs, duplicates) of which no two have the same settings and seed; finished ones stay."""
    kept, duplicates = {}, []
    for run in sorted(found, key=lambda run: run.summary is None):
        key = json.dumps([runs.settings(run), run.config.get("seed")], sort_keys=True)
        if kept.setdefault(key, run) is not run:
            duplicates.append(run)
    stay = {run.workdir for run in kept.values()}
    return [run for run in found if run.workdir in stay], duplicates


def without_grids(found):
    """(runs, {(data set, imbalance factor): points}), of grids of temperatures and batch sizes one.

    That is the one with the most runs on the data. Losses without a temperature go with the others.
    points: those that stand for a grid, pairs as `peers.GRID`.
    """
    parts, points, gridded = {}, {}, set()
    for run in found:
        settings = runs.settings(run)
        point = tuple(settings.pop(key) for key in peers.GRID)
        part = parts.setdefault(json.dumps(settings, sort_keys=True), {})
        part.setdefault(point, []).append(run)
        points.setdefault((data_set(run), factor(run)), Counter())[point] += 1
    for part in parts.values():
        if all(len(set(values)) > 1 for values in zip(*part, strict=True)):
            gridded |= {
                (data_set(run), factor(run)) for members in part.values() for run in members
            }
    kept, standing = set(), {}
    for part in parts.values():
        run = next(iter(part.values()))[0]
        on = data_set(run), factor(run)
        heated = run.config["loss"] not in peers.WITHOUT_TEMPERATURE
        grid = all(len(set(values)) > 1 for values in zip(*part, strict=True)) or not heated
        if on in gridded and grid:
            usual = max(part, key=lambda point: (points[on][point], len(part[point])))
            if heated:
                standing.setdefault(on, set()).add(usual)
            part = {usual: part[usual]}
        kept |= {run.workdir for members in part.values() for run in members}
    return [run for run in found if run.workdir in kept], standing


def loss_name(loss):
    """A loss in the paper's words."""
    return drawing.LOSSES[loss].name if loss in drawing.LOSSES else loss


def final_step(run):
    """The last step of a finished run; None of one that is not."""
    return run.summary["step"] if run.summary else None


def reached(run):
    """The last step that metrics.jsonl or the summary of a run tells of, or None."""
    return final_step(run) or max((record["step"] for record in run.records), default=None)


def in_paper_order(names, order=tuple(published.CLASSES)):
    """Names of data sets, the paper's first."""
    return sorted(names, key=lambda n: (order.index(n) if n in order else len(order), natural(n)))


def row_names(found, omit=(), in_full=False):
    """`Names` of runs; on the same data no two have one but by their seeds and keys of `omit`.

    in_full: no value is left out for being the commonest.
    """
    settings = {run.workdir: runs.settings(run) for run in found}
    groups, own = {}, {}
    for run in found:
        groups.setdefault((data_set(run), factor(run)), []).append(run)
    for members in groups.values():
        for loss in {run.config["loss"] for run in members}:
            same = [run for run in members if run.config["loss"] == loss]
            own.setdefault(loss, set()).update(set(runs.varying(same)) - set(omit))
    varying = [key for key in runs.varying(found) if key not in (*omit, "loss")]
    named = set().union(*own.values()) | ({"embedding"} & set(varying))
    usual = {
        group: {} if in_full else {k: _commonest(settings, m, k) for k in named - {"embedding"}}
        for group, m in groups.items()
    }

    name, place, order = {}, {}, list(drawing.LOSSES)
    for run in found:
        loss, values = run.config["loss"], settings[run.workdir]
        base = usual[data_set(run), factor(run)]
        keys = [k for k in sorted(named) if _tells(k, loss) or k in own[loss]]
        keys = [k for k in keys if base.get(k, _NONE) != values[k]]
        if factor(run) < 1 and "imbalance_factor" not in omit:
            keys.append("imbalance_factor")
        name[run.workdir] = ", ".join(
            [loss_name(loss), *(f"{key}={shown(values[key])}" for key in keys)]
        )
        rank = order.index(loss) if loss in order else len(order)
        place[run.workdir] = (rank, loss, [(key, natural(shown(values[key]))) for key in keys])
    return Names(name, place, _left_out(settings, groups, usual, varying, named))


_NONE = object()  # no config has it, as it may have None


def _tells(key, loss):
    """Whether another loss's varying key says something of runs of this one."""
    return key not in _OF_LOSS and not (key == "temperature" and loss in peers.WITHOUT_TEMPERATURE)


def _commonest(settings, members, key):
    """The value of a key that more of the members have than any other one, or _NONE."""
    values = [settings[run.workdir][key] for run in members]
    counts = Counter(map(json.dumps, values)).most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        return _NONE
    return next(value for value in values if json.dumps(value) == counts[0][0])


def _left_out(settings, groups, usual, varying, named):
    """The sentences that say which values rows leave out."""
    usually, by_loss = [], []
    for key in varying:
        if key in OF_DATA_SET and key not in named:
            continue
        values = {}
        for (data, _), members in groups.items():
            there = {shown(settings[run.workdir][key]) for run in members}
            if key not in named and len(there) > 1:
                by_loss.append(key)
            elif key not in named or usual[data, _].get(key, _NONE) is not _NONE:
                value = there.pop() if key not in named else shown(usual[data, _][key])
                values.setdefault(value, []).append(data)
        if key in by_loss or not values:
            continue
        several = len(values) > 1
        told = [f"{v} ({', '.join(dict.fromkeys(d))})" if several else v for v, d in values.items()]
        usually.append(f"{key}={' or '.join(told)}")
    sentences = [f"Where a row does not say otherwise: {'; '.join(usually)}."] if usually else []
    if by_loss:
        sentences.append(f"Losses differ in {', '.join(dict.fromkeys(by_loss))} too.")
    return " ".join(sentences)


def assemble(
    entries, name, title, labels, *, note="", columns=None, best=None, omit=(), in_full=False,
    combine=None,
):  # fmt: skip
    """A `Table` of entries, a row for runs that differ in seeds alone, or None without entries.

    labels: what the first label and those of the entries' `extra` are. columns: their order;
    default: as they come. best: max or min, to have the best of each column bold; states before a
    run's end take no part. combine: makes a cell of the entries of several seeds; default: their
    `over_seeds`. omit, in_full: as in `row_names`.
    """
    if not entries:
        return None
    combine = combine or _mean
    found = list({entry.run.workdir: entry.run for entry in entries}.values())
    sets = in_paper_order({data_set(run) for run in found})
    found.sort(key=lambda run: sets.index(data_set(run)))  # as the note tells of them
    names = row_names(found, omit, in_full)
    rows, places = {}, {}
    extras = list(dict.fromkeys(entry.extra for entry in entries))
    for entry in entries:
        row, place = names.name[entry.run.workdir], names.place[entry.run.workdir]
        early = entry.step is not None and entry.step != final_step(entry.run)
        row = f"{row}, at step {entry.step}" if early else row
        key = (row, *entry.extra), early
        places[key] = (place, early and entry.step, extras.index(entry.extra))
        rows.setdefault(key, {}).setdefault(entry.column, []).append(entry)
    columns = tuple(columns or dict.fromkeys(entry.column for entry in entries))
    order = sorted(rows, key=places.get)
    cells = [
        [combine(rows[key][column]) if column in rows[key] else None for column in columns]
        for key in order
    ]
    if best:
        _mark_best(cells, [early for _, early in order], best)
    with_paper = any(
        isinstance(cell, Value) and cell.paper is not None for row in cells for cell in row
    )
    sentences = [note, names.note, protocol.differences(found) if with_paper else ""]
    pairs = [(texts, tuple(row)) for (texts, _), row in zip(order, cells, strict=True)]
    return Table(
        file_name(name), title, " ".join(filter(None, sentences)), tuple(labels), columns, pairs
    )


def _mean(entries):
    first = entries[0]
    return over_seeds([e.value for e in entries], paper=first.paper, digits=first.digits)


def _mark_best(cells, early, best):
    for column in range(len(cells[0])):
        values = {
            row: round(cells[row][column].mean, cells[row][column].digits)
            for row in range(len(cells))
            if not early[row]
            and isinstance(cells[row][column], Value)
            and defined(cells[row][column].mean)
        }
        for row, value in values.items():
            if len(values) > 1 and value == best(values.values()):
                cells[row][column] = cells[row][column]._replace(best=True)


def measured(run, split):
    """(step, measures) of a split: of a finished run its summary's, else of the last evaluation.

    (None, {}) where there is none.
    """
    if run.summary:
        return run.summary["step"], run.summary.get(split, {})
    start = f"{split}/"
    for record in reversed(run.records):
        found = {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}
        if found:
            return record["step"], found
    return None, {}


def percent(value):
    """A share in per cent; what is undefined stays so."""
    return 100 * value if defined(value) else None


def present(*tables):
    """The tables that are there and have a number."""
    return [
        table
        for table in tables
        if table and any(cell is not None for _, cells in table.rows for cell in cells)
    ]
