"""How tables are put together from single measurements of runs."""

from typing import Any, NamedTuple

from hsproto.reporting import paper_protocol
from hsproto.reporting.naming import in_paper_order, row_names
from hsproto.reporting.table import Table, Value, defined, file_name, mean_over_seeds
from hsproto.runs.run import data_set, final_step


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
    sentences = [note, names.note, paper_protocol.differences(found) if with_paper else ""]
    pairs = [(texts, tuple(row)) for (texts, _), row in zip(order, cells, strict=True)]
    return Table(
        file_name(name), title, " ".join(filter(None, sentences)), tuple(labels), columns, pairs
    )


def _mean(entries):
    first = entries[0]
    return mean_over_seeds([e.value for e in entries], paper=first.paper, digits=first.digits)


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


def percent(value):
    """A share in per cent; what is undefined stays so."""
    return 100 * value if defined(value) else None


def drop_empty(*tables):
    """The tables that are there and have a number."""
    return [
        table
        for table in tables
        if table and any(cell is not None for _, cells in table.rows for cell in cells)
    ]
