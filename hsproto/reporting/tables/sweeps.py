"""Tables of what a grid of runs varies: accuracy by the values of one setting, and the factorial.

As in `hsproto.reporting.tables.training`: from a list of `run.Run`. Finished runs alone.
"""

import math

from hsproto.reporting import grouping, naming, paper_protocol, paper_results
from hsproto.reporting import table as table_lib
from hsproto.reporting.grouping import finished_by_data
from hsproto.reporting.paper_protocol import paper_set
from hsproto.reporting.table import Table, file_name, mean_over_seeds
from hsproto.reporting.tables.assemble import Entry, assemble, drop_empty, percent
from hsproto.runs import run as run_lib
from hsproto.runs.run import final_metrics, imbalance_factor

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


def sweeps(found):
    """A table for each data set and setting that runs vary: test accuracy by its values.

    A row holds runs that are equal in all else but their seeds, and at least two values.
    """
    made = []
    for data, members in finished_by_data(found).items():
        for key in grouping.varying(members):
            if key in ("loss", *naming.OF_DATA_SET):
                continue
            families = grouping.families(members, key)
            swept = [run for family in families for run in family]
            entries = [_swept(run, key, swept) for run in swept]
            columns = sorted({entry.column for entry in entries}, key=table_lib.natural_key)
            made.append(
                assemble(
                    entries, f"sweep_{key}_{data}", f"Accuracy by {key}: {data}",
                    ("loss",), columns=columns, omit=(key,), in_full=True,
                    note="Test accuracy in per cent; all else in a row is equal.",
                )
            )  # fmt: skip
    return drop_empty(*made)


def factorial(found):
    """{K prototypes, M instances} x {coupled, decoupled}, with the effects of both choices.

    Where NormFace, decoupled NormFace, NTCE and NONL were run with equal settings and seeds: those
    seeds alone. Differences are taken within a seed, then averaged.
    """
    made = []
    for data, members in finished_by_data(found).items():
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
        names = naming.row_names(used, omit=("loss",)) if used else None
        lines = []
        for square in squares:
            name = names.name[square["nonl"][0].workdir].partition(", ")[2] or "-"
            lines += _square(square, name)
        if lines:
            note = (
                "Coupled: the anchor's own class is among the negatives. Differences are decoupled "
                "less coupled and instances less prototypes within a seed; the last is how much "
                "the two go together."
            )
            note = " ".join(filter(None, (note, names.note, paper_protocol.differences(used))))
            columns = ("coupled", "decoupled", "difference")
            title = f"Negatives and coupling: {data}"
            labels = ("settings", "measure", "negatives")
            made.append(Table(file_name(f"factorial_{data}"), title, note, labels, columns, lines))
    return made


def _swept(run, key, swept):
    step, values = final_metrics(run, "test")
    value = run_lib.settings(run)[key]
    accuracy = percent(values.get("accuracy"))
    return Entry(
        run, step, (), table_lib.format_value(value), accuracy, _paper(run, key, value, swept)
    )


def _paper(run, key, value, swept):
    if key not in paper_protocol.VARIED or imbalance_factor(run) < 1:
        return None
    # Of a grid of temperatures and batch sizes the paper's figures are those of one batch size.
    if key == "temperature" and "batch_size" in grouping.varying(swept):
        if run.config["batch_size"] != paper_results.TEMPERATURE_BATCH:
            return None
    return paper_protocol.VARIED[key].get(paper_set(run), {}).get(run.config["loss"], {}).get(value)


def _square(square, name):
    """Three rows for each measure: two kinds of negatives, and the difference between them."""
    lines = []
    for label, split, measure, scale, digits in _FACTORIAL_MEASURES:
        values = {
            loss: [_number(final_metrics(run, split)[1].get(measure), scale) for run in found]
            for loss, found in square.items()
        }
        if all(math.isnan(v) for of_loss in values.values() for v in of_loss):
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
            lines.append(((name, label, negatives), _line(*sides[-1], digits, papers)))
        effects = [_less(b, a) for a, b in zip(*sides, strict=True)]
        lines.append(((name, label, "difference"), _line(*effects, digits)))
    return lines


def _line(coupled, decoupled, digits, papers=(None, None)):
    first, second = (
        mean_over_seeds(values, paper=paper, digits=digits)
        for values, paper in zip((coupled, decoupled), papers, strict=True)
    )
    return first, second, mean_over_seeds(_less(decoupled, coupled), digits=digits)


def _less(values, others):
    return [value - other for value, other in zip(values, others, strict=True)]


def _number(value, scale):
    return math.nan if value is None else scale * value
