"""Runs as tables in the layout of the paper's, with its figures beside where the data are the same.

Each function takes a list of `run.Run` and gives tables, none where the runs hold nothing for
them. Accuracies, errors and shares are in per cent. States before the end of their run stand in
rows of their own.
"""

from hsproto.methods import ENCODER_LOSSES
from hsproto.metrics import CONVERGENCE, METRICS, TABLE_COLUMNS
from hsproto.reporting import convergence as convergence_lib
from hsproto.reporting import grouping, naming, paper_protocol, paper_results
from hsproto.reporting import table as table_lib
from hsproto.reporting.grouping import on_whole_sets, settings_without_loss
from hsproto.reporting.paper_protocol import paper_set
from hsproto.reporting.table import Value, mean_over_seeds
from hsproto.reporting.tables import evaluation as evaluation_tables
from hsproto.reporting.tables import sweeps
from hsproto.reporting.tables.assemble import Entry, assemble, drop_empty, percent
from hsproto.reporting.tables.evaluation import PROBES, probes
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.run import data_set, final_metrics, imbalance_factor

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
    """All tables of runs, in the paper's order; no two of one seed (`grouping.drop_duplicates`)."""
    points, standing = grouping.one_point_per_grid(found)
    made = []
    for make in (
        accuracy,
        evaluation_tables.classifiers,
        geometry_tables,
        evaluation_tables.transfer,
        evaluation_tables.robustness,
        evaluation_tables.ood,
        evaluation_tables.calibration,
        evaluation_tables.retrieval,
        long_tail,
        convergence_tables,
        sweeps.factorial,
    ):
        notes = {}
        for on in standing:
            # The tables of the grid's data alone are those in which it stands.
            there = make([run for run in points if (data_set(run), imbalance_factor(run)) == on])
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
        ", ".join(
            f"{k}={table_lib.format_value(v)}" for k, v in zip(grouping.GRID, point, strict=True)
        )
        for point in sorted(points)
    ]
    return _GRID_NOTE.format(data=data, point=" or ".join(told))


def accuracy(found):
    """Table 1: test accuracy by loss and data set, of whole training sets."""
    entries = []
    for run in on_whole_sets(found):
        step, values = final_metrics(run, "test")
        paper = paper_protocol.paper_accuracy(run)
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
    for name, figures in paper_results.ACCURACY_OF_SEEDS.items():
        if name in there:
            told = ", ".join(
                f"{naming.loss_name(loss)} {mean:.2f} ± {std:.2f}"
                for loss, (mean, std) in figures.items()
            )
            note += f" The paper's over five seeds on {name}: {told}."
    return drop_empty(
        assemble(
            entries, "accuracy", "Accuracy (Table 1)", ("loss",), note=note, best=max,
            columns=naming.in_paper_order({e.column for e in entries}),
        )
    )  # fmt: skip


def _table_1(run):
    return paper_results.ACCURACY.get(run.config["loss"], {}).get(paper_set(run))


def geometry_tables(found):
    """Table 3, one a data set: geometry of whole training sets, what is best in the first row."""
    by_data = {}
    for run in on_whole_sets(found):
        entries = by_data.setdefault(data_set(run), [])
        step, values = final_metrics(run, "train")
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
            ("loss", "classifier"), columns=[METRICS[key].column for key in TABLE_COLUMNS],
            note=_GEOMETRY_NOTE + (_ALIGNMENT_NOTE if paper else ""),
        )  # fmt: skip
        if table:
            table = table._replace(rows=[*_optima(entries), *table.rows])
        made.append(table)
    return drop_empty(*made)


def long_tail(found):
    """Table 6, one a data set: test accuracy by imbalance factor; then by shots."""
    overall, by_shots = {}, {}
    for run in sorted(
        (run for run in found if imbalance_factor(run) < 1), key=imbalance_factor, reverse=True
    ):
        step, values = final_metrics(run, "test")
        if step is None:
            continue
        column, name = table_lib.format_value(imbalance_factor(run)), data_set(run)
        paper = paper_results.LONG_TAIL.get(paper_set(run), {}).get(run.config["loss"], {})
        value = percent(values.get("accuracy"))
        entry = Entry(run, step, (), column, value, paper.get(imbalance_factor(run)))
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
    return drop_empty(*made)


def convergence_tables(found):
    """Table 7, one a data set: share of training to 95 % of collapse, and to the baseline's values.

    The baseline is the run of cross entropy of the same seed and settings, where there is one.
    Reads the runs' metrics.jsonl.
    """
    finished = [run for run in on_whole_sets(found) if run.summary and _evaluated(run)]
    baselines = {
        settings_without_loss(run): run for run in finished if run.config["loss"] == "cross_entropy"
    }
    by_data = {}
    for run in finished:
        baseline = baselines.get(settings_without_loss(run))
        workdir = baseline.workdir if baseline and baseline is not run else None
        kinds = convergence_lib.analyse([run.workdir], workdir)[run.workdir]
        papers = paper_results.CONVERGENCE.get(paper_set(run), {})
        for kind, measures in kinds.items():
            paper = papers.get(kind, {}).get(run.config["loss"], {})
            by_data.setdefault(data_set(run), []).extend(
                Entry(run, run_lib.final_step(run), (kind,), measure, result, paper.get(measure), 1)
                for measure, result in measures.items()
            )
    note = (
        "Per cent of the training steps until the measure converges; < where all seeds had by the "
        "first evaluation. The baseline is cross entropy of the same seed and settings."
    )
    return drop_empty(
        *(
            assemble(
                entries, f"convergence_{name}", f"Convergence on {name} (Table 7)", ("loss", "to"),
                note=note, columns=CONVERGENCE, combine=_share,
            )
            for name, entries in by_data.items()
        )
    )  # fmt: skip


def _geometry(run, step, classifier, method, values):
    """Entries of a run's measures of the training set; method: of `published`, for SCL."""
    loss = run.config["loss"]
    row = f"{loss}+{method}" if loss in ENCODER_LOSSES else loss
    paper = paper_results.GEOMETRY.get(paper_set(run), {}).get(row, {})
    paper = paper | {"class_alignment": paper.get("weight_alignment")}
    return [
        Entry(
            run,
            step,
            (classifier,),
            METRICS[key].column,
            values.get(key),
            paper.get(key),
            METRICS[key].digits,
        )
        for key in TABLE_COLUMNS
        if values
    ]


def _optima(entries):
    """Rows of what is best: of runs whose classes can form a simplex, and of those too narrow."""
    made = {}
    for run in {entry.run.workdir: entry.run for entry in entries}.values():
        enough = summary_lib.has_simplex(run)
        name = "at collapse" if enough else f"at collapse, D < {run.config['num_classes'] - 1}"
        best = summary_lib.optimum(run)
        cells = tuple(_optimum(best.get(key), METRICS[key].digits) for key in TABLE_COLUMNS)
        made.setdefault((not enough, name), ((name, "-"), cells))
    return [made[key] for key in sorted(made)]


def _optimum(value, digits):
    return None if value is None else Value(value, digits=digits)


def _evaluated(run):
    return any(len(convergence_lib.series(run.records, m)[0]) for m in CONVERGENCE)


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
    value = mean_over_seeds(shares, paper=entries[0].paper, digits=1, sign="<" if below else "")
    return _Bound(*value) if below else value
