"""Build tables from single measurements of runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hsproto.metrics import METRICS, TABLE_COLUMNS, defined
from hsproto.reporting import paper_protocol
from hsproto.reporting.naming import in_paper_order, row_names
from hsproto.reporting.table import Table, Value, file_name, mean_over_seeds
from hsproto.runs.run import Run, data_set, final_step


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of one run; a cell of a table is the mean of the entries of several seeds.

    Attributes:
        run: The run that was measured.
        step: The step of the state that was measured.
        column: The column it stands in.
        value: A number or None, or whatever the table's `combine` takes.
        extra: Texts that name the row beside the run.
        paper: The paper's number, if it has one.
        digits: Decimals; None as in `Value`.
    """

    run: Run
    step: int | None
    column: Any
    value: Any
    extra: tuple[str, ...] = ()
    paper: float | None = None
    digits: int | None = 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How entries become a table.

    Attributes:
        name: The name of the table's files, before `file_name`.
        title: Its title.
        labels: What the first label and those of the entries' `extra` are.
        note: What it says below the title, before what `row_names` and the protocol add.
        columns: Their order; None: that of the entries.
        best: max or min, to print the best of each column in bold. States before the end of a run
            take no part.
        omit: Settings that do not name rows, as in `row_names`.
        in_full: Whether rows are named by every setting that varies, as in `row_names`.
        combine: Makes a cell of the entries of several seeds; None: their `mean_over_seeds`.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    note: str = ""
    columns: Sequence[str] | None = None
    best: Callable | None = None
    omit: tuple[str, ...] = ()
    in_full: bool = False
    combine: Callable[[list[Entry]], Value | str] | None = None


def assemble(entries: Sequence[Entry], layout: Layout) -> Table | None:
    """Return the `Table` of entries, one row per runs that differ in seeds alone.

    None without entries.
    """
    if not entries:
        return None
    combine = layout.combine or _mean
    runs = list({entry.run.workdir: entry.run for entry in entries}.values())
    sets = in_paper_order({data_set(run) for run in runs})
    runs.sort(key=lambda run: sets.index(data_set(run)))  # the order in which the note names them
    names = row_names(runs, layout.omit, layout.in_full)
    rows, places = {}, {}
    extras = list(dict.fromkeys(entry.extra for entry in entries))
    for entry in entries:
        row, place = names.name[entry.run.workdir], names.place[entry.run.workdir]
        early = entry.step is not None and entry.step != final_step(entry.run)
        row = f"{row}, at step {entry.step}" if early else row
        key = (row, *entry.extra), early
        places[key] = (place, early and entry.step, extras.index(entry.extra))
        rows.setdefault(key, {}).setdefault(entry.column, []).append(entry)
    columns = tuple(layout.columns or dict.fromkeys(entry.column for entry in entries))
    order = sorted(rows, key=places.get)
    cells = [
        [combine(rows[key][column]) if column in rows[key] else None for column in columns]
        for key in order
    ]
    if layout.best:
        _mark_best(cells, [early for _, early in order], layout.best)
    with_paper = any(
        isinstance(cell, Value) and cell.paper is not None for row in cells for cell in row
    )
    sentences = [layout.note, names.note, paper_protocol.differences(runs) if with_paper else ""]
    return Table(
        name=file_name(layout.name),
        title=layout.title,
        note=" ".join(filter(None, sentences)),
        labels=layout.labels,
        columns=columns,
        rows=[(labels, tuple(row)) for (labels, _), row in zip(order, cells, strict=True)],
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


def geometry_entries(
    run: Run,
    step: int | None,
    extra: tuple[str, ...],
    values: Mapping[str, float],
    paper: Mapping[str, float] = {},
) -> list[Entry]:
    """Return one entry per metric of `TABLE_COLUMNS`."""
    return [
        Entry(
            run=run,
            step=step,
            extra=extra,
            column=METRICS[key].column,
            value=values.get(key),
            paper=paper.get(key),
            digits=METRICS[key].digits,
        )
        for key in TABLE_COLUMNS
    ]


def percent(value: float | None) -> float | None:
    """Return a share in per cent, or None if it is undefined."""
    return 100 * value if defined(value) else None


def drop_empty(tables: Iterable[Table | None]) -> list[Table]:
    """Return the tables that have a number."""
    return [
        table
        for table in tables
        if table and any(cell is not None for _, cells in table.rows for cell in cells)
    ]
