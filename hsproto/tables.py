"""Runs as tables in the layout of the paper's, with its figures beside where the data are the same.

Each function takes a list of `runs.Run` and gives tables, none where the runs hold nothing for
them. Accuracies, errors and shares are in per cent. States before the end of their run stand in
rows of their own.
"""

import json

from hsproto import (
    convergence,
    measurements,
    page_data,
    peers,
    protocol,
    published,
    rows,
    runs,
    sweeps,
)
from hsproto.config import ENCODER_LOSSES
from hsproto.measurements import GEOMETRY, PROBES, probes
from hsproto.protocol import data_set, factor, paper_set
from hsproto.rows import Entry, assemble, measured, percent, present
from hsproto.tabular import Value, over_seeds

_GRID_NOTE = (
    "Of the grid of temperatures and batch sizes on {data} the point with the most runs stands "
    "here, {point}, the others in the tables by temperature and by batch size."
)
SHOTS = ("many", "medium", "few")
_GEOMETRY_NOTE = (
    "At collapse is what K prototypes and class means reach in K-1 dimensions or more; where D is "
    "less they form no simplex, and what follows from that has no value. None of intra tells it."
)
_ALIGNMENT_NOTE = (
    " The paper's w-align stands beside ours of images and ours of class means (class-align): on "
    "CIFAR-100 it is below half its inst-align, which only the latter can be."
)


def build(found):
    """All tables of runs, in the paper's order; no two of one seed (`rows.distinct`)."""
    points, standing = rows.without_grids(found)
    made = []
    for make in (
        accuracy,
        measurements.classifiers,
        geometry_tables,
        measurements.transfer,
        measurements.robustness,
        measurements.ood,
        measurements.calibration,
        measurements.retrieval,
        long_tail,
        convergence_tables,
        sweeps.factorial,
    ):
        notes = {}
        for on in standing:
            # The tables of the grid's data alone are those in which it stands.
            there = make([run for run in points if (data_set(run), factor(run)) == on])
            for table in there:
                notes.setdefault(table.name, []).append(_grid_note(on, standing[on]))
        made += [
            table._replace(note=" ".join(filter(None, [table.note, *notes.get(table.name, ())])))
            for table in make(points)
        ]
    return made + sweeps.sweeps(found)


def _grid_note(on, points):
    data, tail = on
    data = f"{data} (imbalance_factor={tail:g})" if tail < 1 else data
    told = [
        ", ".join(f"{k}={protocol.shown(v)}" for k, v in zip(peers.GRID, point, strict=True))
        for point in sorted(points)
    ]
    return _GRID_NOTE.format(data=data, point=" or ".join(told))


def accuracy(found):
    """Table 1: test accuracy by loss and data set, of whole training sets."""
    entries = []
    for run in _whole(found):
        step, values = measured(run, "test")
        paper = protocol.paper_accuracy(run)
        value = percent(values.get("accuracy"))
        entries.append(Entry(run, step, (), data_set(run), value, paper))
    entries = [entry for entry in entries if entry.step is not None]
    note = "Test accuracy in per cent; mean and sample standard deviation over n seeds."
    if {e.run.config["loss"] for e in entries} & set(ENCODER_LOSSES):
        note += " SCL and prototype softmax are classified by fixed prototypes."
    if any(e.paper not in (None, _table_1(e.run)) for e in entries):
        note += (
            " Runs with another backbone, batch size or temperature than the paper's Table 1 have "
            "its figures for these beside them (Tables 9 to 12)."
        )
    there = {paper_set(entry.run) for entry in entries}
    for name, figures in published.ACCURACY_OF_SEEDS.items():
        if name in there:
            told = ", ".join(
                f"{rows.loss_name(loss)} {mean:.2f} ± {std:.2f}"
                for loss, (mean, std) in figures.items()
            )
            note += f" The paper's over five seeds on {name}: {told}."
    return present(
        assemble(
            entries, "accuracy", "Accuracy (Table 1)", ("loss",), note=note, best=max,
            columns=rows.in_paper_order({e.column for e in entries}),
        )
    )  # fmt: skip


def _table_1(run):
    return published.ACCURACY.get(run.config["loss"], {}).get(paper_set(run))


def geometry_tables(found):
    """Table 3, one a data set: geometry of whole training sets, what is best in the first row."""
    by_data = {}
    for run in _whole(found):
        entries = by_data.setdefault(data_set(run), [])
        step, values = measured(run, "train")
        fixed = run.config["loss"] in ENCODER_LOSSES
        if values:
            entries += _geometry(run, step, "fixed prototypes" if fixed else "own", "fp", values)
        if fixed and "probe" in run.measured:
            step, methods = run.measured["probe"].get("step"), probes(run)
            for method in ("lp", "nlp", "cached_lp"):
                train = methods.get(method, {}).get("train")
                entries += _geometry(run, step, PROBES[method], method, train or {})
    made = []
    for name, entries in by_data.items():
        paper = any(entry.paper is not None for entry in entries)
        table = assemble(
            entries, f"geometry_{name}", f"Geometry of the training set: {name} (Table 3)",
            ("loss", "classifier"), columns=[column for column, _ in GEOMETRY.values()],
            note=_GEOMETRY_NOTE + (_ALIGNMENT_NOTE if paper else ""),
        )  # fmt: skip
        if table:
            table = table._replace(rows=[*_optima(entries), *table.rows])
        made.append(table)
    return present(*made)


def long_tail(found):
    """Table 6, one a data set: test accuracy by imbalance factor; then by shots."""
    overall, by_shots = {}, {}
    for run in sorted((run for run in found if factor(run) < 1), key=factor, reverse=True):
        step, values = measured(run, "test")
        if step is None:
            continue
        column, name = protocol.shown(factor(run)), data_set(run)
        paper = published.LONG_TAIL.get(paper_set(run), {}).get(run.config["loss"], {})
        value = percent(values.get("accuracy"))
        entry = Entry(run, step, (), column, value, paper.get(factor(run)))
        overall.setdefault(name, []).append(entry)
        here = by_shots.setdefault(name, [])
        for kind in ("accuracy", "accuracy_adjusted"):
            if kind not in values:
                continue
            after = "no" if kind == "accuracy" else "yes"
            here.append(Entry(run, step, (after,), f"{column} all", percent(values[kind])))
            for shot in SHOTS:
                value = percent(values.get(f"{kind}_{shot}"))
                here.append(Entry(run, step, (after,), f"{column} {shot}", value))
    made = []
    for name, entries in overall.items():
        made.append(
            assemble(
                entries, f"longtail_{name}", f"Long tails of {name} (Table 6)", ("loss",),
                note="Test accuracy in per cent by imbalance factor.", best=max,
                omit=("imbalance_factor",),
            )
        )  # fmt: skip
        made.append(
            assemble(
                by_shots[name], f"longtail_shots_{name}", f"Long tails of {name} by shots",
                ("loss", "adjusted"), best=max, omit=("imbalance_factor",),
                note="Test accuracy in per cent of all classes, and of those of over 100, 20 to "
                "100 and under 20 training images. Adjusted: logits less the log of the classes' "
                "frequencies, after training.",
            )
        )  # fmt: skip
    return present(*made)


def convergence_tables(found):
    """Table 7, one a data set: share of training to 95 % of collapse, and to the baseline's values.

    The baseline is the run of cross entropy of the same seed and settings, where there is one.
    Reads the runs' metrics.jsonl.
    """
    finished = [run for run in _whole(found) if run.summary and _evaluated(run)]
    baselines = {
        _but_for_loss(run): run for run in finished if run.config["loss"] == "cross_entropy"
    }
    by_data = {}
    for run in finished:
        baseline = baselines.get(_but_for_loss(run))
        workdir = baseline.workdir if baseline and baseline is not run else None
        kinds = convergence.analyse([run.workdir], workdir)[run.workdir]
        papers = published.CONVERGENCE.get(paper_set(run), {})
        for kind, measures in kinds.items():
            paper = papers.get(kind, {}).get(run.config["loss"], {})
            by_data.setdefault(data_set(run), []).extend(
                Entry(run, rows.final_step(run), (kind,), measure, result, paper.get(measure), 1)
                for measure, result in measures.items()
            )
    note = (
        "Per cent of the training steps until the measure converges; < where all seeds had by the "
        "first evaluation. The baseline is cross entropy of the same seed and settings."
    )
    return present(
        *(
            assemble(
                entries, f"convergence_{name}", f"Convergence on {name} (Table 7)", ("loss", "to"),
                note=note, columns=convergence.RISES, combine=_share,
            )
            for name, entries in by_data.items()
        )
    )  # fmt: skip


def _whole(found):
    return [run for run in found if factor(run) == 1]


def _geometry(run, step, classifier, method, values):
    """Entries of a run's measures of the training set; method: of `published`, for SCL."""
    loss = run.config["loss"]
    row = f"{loss}+{method}" if loss in ENCODER_LOSSES else loss
    paper = published.GEOMETRY.get(paper_set(run), {}).get(row, {})
    paper = paper | {"class_alignment": paper.get("weight_alignment")}
    return [
        Entry(run, step, (classifier,), name, values.get(measure), paper.get(measure), digits)
        for measure, (name, digits) in GEOMETRY.items()
        if values
    ]


def _optima(entries):
    """Rows of what is best: of runs whose classes can form a simplex, and of those too narrow."""
    made = {}
    for run in {entry.run.workdir: entry.run for entry in entries}.values():
        enough = page_data.has_simplex(run)
        name = "at collapse" if enough else f"at collapse, D < {run.config['num_classes'] - 1}"
        best = page_data.optimum(run)
        cells = tuple(_optimum(best.get(m), digits) for m, (_, digits) in GEOMETRY.items())
        made.setdefault((not enough, name), ((name, "-"), cells))
    return [made[key] for key in sorted(made)]


def _optimum(value, digits):
    return None if value is None else Value(value, digits=digits)


def _evaluated(run):
    return any(len(convergence.series(run.records, m)[0]) for m in convergence.RISES)


def _but_for_loss(run):
    """What a run shares with its baseline: its seed, and its settings but for the loss's own."""
    settings = runs.settings(run)
    for key in ("loss", "temperature", "head"):
        settings.pop(key)
    return json.dumps([settings, run.config.get("seed")], sort_keys=True)


class _Bound(Value):
    """What is only known to be below its mean, so that its distance from the paper's is not."""

    difference = None


def _share(entries):
    """Mean share of several seeds; a seed that never converges leaves none, but is told."""
    found = [entry.value for entry in entries]
    shares = [result["share"] for result in found]
    count = sum(share is not None for share in shares)
    if 0 < count < len(shares):
        return f"in {count} of {len(shares)} seeds"
    # A mean in which some seeds are measured is no bound that all of them stay below.
    below = bool(count) and all(result["by_first"] for result in found)
    value = over_seeds(shares, paper=entries[0].paper, digits=1, sign="<" if below else "")
    return _Bound(*value) if below else value
