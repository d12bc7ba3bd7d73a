"""A table of measured values, as Markdown and as CSV.

What is undefined or was not measured is a dash in Markdown and empty in CSV, never 0.
"""

import csv
import io
import math
import re
from typing import NamedTuple


class Value(NamedTuple):
    """What was measured, over `n` seeds, and what the paper has for it.

    std: sample standard deviation; None of one seed. undefined: how many further seeds have no
    value. digits: decimals in Markdown; None: four, or powers of ten where the value is small.
    best: bold in Markdown. sign: before the number, as "<".
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
    def difference(self):
        """Measured less the paper's, or None."""
        return self.mean - self.paper if defined(self.mean) and defined(self.paper) else None


class Table(NamedTuple):
    """`rows` are pairs (texts of the `labels`, a cell for each of the `columns`).

    A cell is a `Value`, text, or None where there is nothing. `name` is that of its files.
    """

    name: str
    title: str
    note: str
    labels: tuple
    columns: tuple
    rows: list


def defined(value):
    """Whether a value is a finite number."""
    return value is not None and math.isfinite(value)


def mean_over_seeds(values, **kwargs):
    """The `Value` of a list of numbers, one a seed; those that are undefined do not count."""
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


def number(value, digits=2):
    """A number as text with so many decimals, or a dash; digits None as in `Value`."""
    if not defined(value):
        return "-"
    if digits is not None:
        return f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.00
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def escape(text):
    """Text from outside, as a run's name, that Markdown shows as it is in a table's cell."""
    return re.sub(r"([\\`*|<\[\]$])", r"\\\1", " ".join(str(text).split()))


def file_name(text):
    """A table's name of the names of data sets, as its files have it."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", text).strip("_")


def to_markdown(table):
    """Title, note and rows: 73.38 ± 0.28 (n=5; paper 73.60, -0.22)."""
    lines = [f"## {escape(table.title)}", ""]
    lines += [escape(table.note), ""] if table.note else []
    head = [*map(escape, (*table.labels, *table.columns))]
    lines.append(f"| {' | '.join(head)} |")
    lines.append("|---" * len(table.labels) + "|---:" * len(table.columns) + "|")
    for labels, cells in table.rows:
        lines.append(f"| {' | '.join([*map(escape, labels), *map(_cell, cells)])} |")
    return "\n".join(lines) + "\n"


def to_csv(table):
    """A line for each cell that has something: the row's labels, the column, then what is known."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow((*table.labels, "column", "mean", "std", "n", "paper", "difference", "remark"))
    for labels, cells in table.rows:
        for column, cell in zip(table.columns, cells, strict=True):
            if isinstance(cell, Value):
                found = (cell.mean, cell.std, cell.n, cell.paper, cell.difference)
                shown = ["" if value is None else value for value in found]
                remark = f"{cell.undefined} undefined" if cell.undefined else cell.sign
                lines.writerow((*labels, column, *shown, remark))
            elif cell is not None:
                lines.writerow((*labels, column, *[""] * 5, cell))
    return text.getvalue()


def _cell(cell):
    if cell is None:
        return "-"
    if not isinstance(cell, Value):
        return escape(cell)
    text = number(cell.mean, cell.digits)
    if defined(cell.mean):
        text = escape(cell.sign) + text
    if cell.std is not None:
        text += f" ± {number(cell.std, cell.digits)}"
    text = f"**{text}**" if cell.best else text
    beside = [f"n={cell.n}"] if cell.n > 1 or (cell.n and cell.undefined) else []
    beside += [f"{cell.undefined} undefined"] if cell.n and cell.undefined else []
    if cell.paper is not None:
        paper = f"paper {cell.paper:g}"
        if cell.difference is not None:
            difference = number(cell.difference, cell.digits)
            paper += f", {difference if difference.startswith('-') else f'+{difference}'}"
        beside.append(paper)
    return f"{text} ({'; '.join(beside)})" if beside else text


def natural_key(text):
    """A key that sorts texts with numbers in them by these: resnet50 before resnet101."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(text))
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def format_value(value):
    """A config's value as the command line would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
