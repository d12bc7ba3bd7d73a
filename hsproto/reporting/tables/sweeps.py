"""Tables of what a grid of runs varies: accuracy by the values of one setting, and the factorial.

As in `hsproto.reporting.tables.training`: from a list of `run.Run`, of which only finished ones
count.
"""

import math
from collections.abc import Sequence

from hsproto.reporting import grouping, naming, paper_protocol, paper_results
from hsproto.reporting import table as table_lib
from hsproto.reporting.grouping import finished_by_data
from hsproto.reporting.paper_protocol import paper_set
from hsproto.reporting.table import Table, file_name, mean_over_seeds
from hsproto.reporting.tables.assemble import Entry, Layout, assemble, drop_empty, percent
from hsproto.runs import run as run_lib
from hsproto.runs.run import Run, final_metrics, imbalance_factor

# Negatives by whether the anchor's own class is among them.
FACTORIAL = {
    "K prototypes": ("normface", "decoupled_normface"),
    "M instances": ("ntce", "nonl"),
}
_FACTORIAL_MEASURES = (
    ("accuracy, test", "test", "accuracy", 100, 2),
    ("NC1, training set", "train", "nc1", 1, None),
    ("inst-align, training set", "train", "instance_alignment", 1, None),
    ("prototype cosine", "train", "cosine_prototypes_mean", 1, None),
)


def sweeps(runs: Sequence[Run]) -> list[Table]:
    """Return one table per data set and setting that runs vary: test accuracy by its values.

    A row holds runs that are equal in all else but their seeds, and at least two values.
    """
    tables = []
    for data, members in finished_by_data(runs).items():
        for key in grouping.varying(members):
            if key in ("loss", *naming.OF_DATA_SET):
                continue
            swept = sum(grouping.families(members, key), [])
            entries = [_swept(run, key, swept) for run in swept]
            layout = Layout(
                name=f"sweep_{key}_{data}",
                title=f"Accuracy by {key}: {data}",
                labels=("loss",),
                note="Test accuracy in per cent; all else in a row is equal.",
                columns=sorted({e.column for e in entries}, key=table_lib.natural_key),
                omit=(key,),
                in_full=True,
            )
            tables.append(assemble(entries, layout))
    return drop_empty(tables)


def factorial(runs: Sequence[Run]) -> list[Table]:
    """Return {K prototypes, M instances} x {coupled, decoupled}, with the effects of both choices.

    Only of seeds for which NormFace, decoupled NormFace, NTCE and NONL were run with equal
    settings. Differences are taken within a seed, then averaged.
    """
    tables = []
    for data, members in finished_by_data(runs).items():
        members = [run for run in members if run.config["loss"] in sum(FACTORIAL.values(), ())]
        squares, used = [], []
        for family in grouping.families(members, "loss"):
            cells = {}
            for run in family:
                cells.setdefault(run.config["loss"], {})[run.config.get("seed")] = run
            seeds = set.intersection(*map(set, cells.values())) if len(cells) == 4 else ()
            if seeds:
                square = {loss: [cells[loss][s] for s in sorted(seeds)] for loss in cells}
                used += sum(square.values(), [])
                squares.append(square)
        if not squares:
            continue
        names = naming.row_names(used, omit=("loss",))
        rows = []
        for square in squares:
            name = names.name[square["nonl"][0].workdir].partition(", ")[2] or "-"
            rows += _square(square, name)
        if rows:
            note = (
                "Coupled: the anchor's own class is among the negatives. Differences are decoupled "
                "less coupled and instances less prototypes within a seed; the last is how much "
                "the two go together."
            )
            note = " ".join(filter(None, (note, names.note, paper_protocol.differences(used))))
            table = Table(
                name=file_name(f"factorial_{data}"),
                title=f"Negatives and coupling: {data}",
                note=note,
                labels=("settings", "measure", "negatives"),
                columns=("coupled", "decoupled", "difference"),
                rows=rows,
            )
            tables.append(table)
    return tables


def _swept(run, key, swept):
    step, values = final_metrics(run, "test")
    value = run_lib.settings(run)[key]
    return Entry(
        run=run,
        step=step,
        column=table_lib.format_value(value),
        value=percent(values.get("accuracy")),
        paper=_paper(run, key, value, swept),
    )


def _paper(run, key, value, swept):
    if key not in paper_protocol.VARIED or imbalance_factor(run) < 1:
        return None
    # For grids of temperatures and batch sizes, the paper has numbers of one batch size only.
    if key == "temperature" and "batch_size" in grouping.varying(swept):
        if run.config["batch_size"] != paper_results.TEMPERATURE_BATCH:
            return None
    return paper_protocol.VARIED[key].get(paper_set(run), {}).get(run.config["loss"], {}).get(value)


def _square(square, name):
    """Three rows per metric: two kinds of negatives, and the difference between them."""
    rows = []
    for label, split, measure, scale, digits in _FACTORIAL_MEASURES:
        values = {
            loss: [_number(final_metrics(run, split)[1].get(measure), scale) for run in runs]
            for loss, runs in square.items()
        }
        if all(math.isnan(v) for each in values.values() for v in each):
            continue
        sides = []
        for negatives, (coupled, decoupled) in FACTORIAL.items():
            sides.append((values[coupled], values[decoupled]))
            papers = [
                paper_protocol.paper_accuracy(square[loss][0])
                if measure == "accuracy" and imbalance_factor(square[loss][0]) == 1
                else None
                for loss in (coupled, decoupled)
            ]
            rows.append(((name, label, negatives), _cells(*sides[-1], digits, papers)))
        effects = [_subtract(b, a) for a, b in zip(*sides, strict=True)]
        rows.append(((name, label, "difference"), _cells(*effects, digits)))
    return rows


def _cells(coupled, decoupled, digits, papers=(None, None)):
    first, second = (
        mean_over_seeds(values, paper=paper, digits=digits)
        for values, paper in zip((coupled, decoupled), papers, strict=True)
    )
    return first, second, mean_over_seeds(_subtract(decoupled, coupled), digits=digits)


def _subtract(values, others):
    return [value - other for value, other in zip(values, others, strict=True)]


def _number(value, scale):
    return math.nan if value is None else scale * value
