"""Tables of measured values, as Markdown and as CSV.

What is undefined or was not measured is a dash in Markdown and empty in CSV, never 0.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hsproto.metrics import defined, format_number
from hsproto.runs.files import csv_text

_WORDS = 40  # letters; longer cells are sentences


class Value(NamedTuple):
    """What was measured over seeds, and the paper's number for it.

    Attributes:
        mean: The mean; None if undefined.
        std: The sample standard deviation; None of one seed.
        n: The number of seeds with a value.
        undefined: The number of further seeds, which have none.
        paper: The paper's number.
        digits: Decimals in Markdown; None: four, or a power of ten for small values.
        best: Whether it is bold in Markdown.
        sign: Stands before the number, e.g. "<".
    """

    mean: float | None
    std: float | None = None
    n: int = 1
    undefined: int = 0
    paper: float | None = None
    digits: int | None = 2
    best: bool = False
    sign: str = ""

    @property
    def difference(self) -> float | None:
        """The mean less the paper's number."""
        return self.mean - self.paper if defined(self.mean) and defined(self.paper) else None


class Table(NamedTuple):
    """A table of results.

    Attributes:
        name: The name of its files.
        title: Its title.
        note: What it says below the title.
        labels: The names of the columns that name a row.
        columns: The names of the other columns.
        rows: Pairs (texts of the labels, one cell per column). A cell is a `Value`, text, or None.
    """

    name: str
    title: str
    note: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: list[tuple[tuple[str, ...], tuple[Value | str | None, ...]]]


def mean_over_seeds(values: Sequence[float | None], **kwargs: Any) -> Value:
    """Return the `Value` of one number per seed; those that are undefined do not count."""
    count = len(values)
    values = [float(value) for value in values if defined(value)]
    undefined = count - len(values)
    if not values:
        return Value(None, n=0, undefined=undefined, **kwargs)
    mean = math.fsum(values) / len(values)
    std = None
    if len(values) > 1:
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Value(mean, std, len(values), undefined, **kwargs)


def escape(text: object) -> str:
    """Return text, e.g. the name of a run, as Markdown shows it unchanged in a table's cell."""
    return re.sub(r"([\\`*|<\[\]$])", r"\\\1", " ".join(str(text).split()))


def file_name(text: str) -> str:
    """Return a table's name, with the names of data sets in it, as a file can have it."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", text).strip("_")


def to_markdown(table: Table) -> str:
    """Return title, note and rows: 73.38 ± 0.28 (n=5; paper 73.60, -0.22)."""
    lines = [f"## {escape(table.title)}", ""]
    lines += [escape(table.note), ""] if table.note else []
    head = [*map(escape, (*table.labels, *table.columns))]
    lines.append(f"| {' | '.join(head)} |")
    columns = [[cells[i] for _, cells in table.rows] for i in range(len(table.columns))]
    lines.append("|---" * len(table.labels) + "".join(map(_rule, columns)) + "|")
    for labels, cells in table.rows:
        lines.append(f"| {' | '.join([*map(escape, labels), *map(_cell, cells)])} |")
    return "\n".join(lines) + "\n"


def _rule(cells):
    """The rule below a column's title: sentences stand left, numbers and words right."""
    sentences = any(isinstance(cell, str) and len(cell) > _WORDS for cell in cells)
    return "|---" if sentences else "|---:"


def to_csv(table: Table) -> str:
    """Return one CSV line per cell that has something: labels and column, then what is known."""
    columns = (*table.labels, "column", "mean", "std", "n", "paper", "difference", "remark")
    return csv_text(columns, _csv_rows(table))


def _csv_rows(table):
    for labels, cells in table.rows:
        for column, cell in zip(table.columns, cells, strict=True):
            if isinstance(cell, Value):
                remark = f"{cell.undefined} undefined" if cell.undefined else cell.sign
                values = (cell.mean, cell.std, cell.n, cell.paper, cell.difference)
                yield (*labels, column, *values, remark)
            elif cell is not None:
                yield (*labels, column, *[None] * 5, cell)


def _cell(cell):
    if cell is None:
        return "-"
    if not isinstance(cell, Value):
        return escape(cell)
    text = format_number(cell.mean, cell.digits)
    if defined(cell.mean):
        text = escape(cell.sign) + text
    if cell.std is not None:
        text += f" ± {format_number(cell.std, cell.digits)}"
    text = f"**{text}**" if cell.best else text
    beside = [f"n={cell.n}"] if cell.n > 1 or (cell.n and cell.undefined) else []
    beside += [f"{cell.undefined} undefined"] if cell.n and cell.undefined else []
    if cell.paper is not None:
        paper = f"paper {cell.paper:g}"
        if cell.difference is not None:
            difference = format_number(cell.difference, cell.digits)
            paper += f", {difference if difference.startswith('-') else f'+{difference}'}"
        beside.append(paper)
    return f"{text} ({'; '.join(beside)})" if beside else text


def natural_key(text: object) -> list[tuple[float, str]]:
    """Return a key that sorts texts by the numbers in them: resnet50 before resnet101."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(text))
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def format_value(value: object) -> str:
    """Return a value of a config as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
