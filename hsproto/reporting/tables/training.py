"""Runs as tables in the layout of the paper's, with its numbers beside where the data are the same.

Each function takes a list of `run.Run` and returns tables, none if the runs hold nothing for them.
Accuracies, errors and shares are in per cent. States before the end of their run stand in rows of
their own.
"""

from collections.abc import Sequence
from functools import partial

from hsproto.methods import ENCODER_LOSSES
from hsproto.metrics import CONVERGENCE, METRICS, TABLE_COLUMNS
from hsproto.reporting import convergence as convergence_lib
from hsproto.reporting import grouping, naming, paper_protocol, paper_results
from hsproto.reporting import table as table_lib
from hsproto.reporting.grouping import on_whole_sets, settings_without_loss
from hsproto.reporting.paper_protocol import paper_set
from hsproto.reporting.table import Table, Value, mean_over_seeds
from hsproto.reporting.tables import evaluation as evaluation_tables
from hsproto.reporting.tables import sweeps
from hsproto.reporting.tables.assemble import (
    Entry,
    Layout,
    assemble,
    drop_empty,
    geometry_entries,
    percent,
)
from hsproto.reporting.tables.evaluation import PROBES, probes
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.run import Run, data_set, final_metrics, imbalance_factor

_GRID_NOTE = (
    "Of the grid of temperatures and batch sizes on {data} the point with the most runs stands "
    "here, {point}, the others in the tables by temperature and by batch size."
)
SHOTS = ("many", "medium", "few")
_GEOMETRY_NOTE = (
    'The row "at collapse" holds the values of a simplex of K class means and K prototypes, which '
    "needs K-1 dimensions; in fewer, values that follow from it are left out. intra, the effective "
    "rank within classes, has none."
)
_ALIGNMENT_NOTE = (
    " The paper's w-align stands beside ours of images and ours of class means (class-align): on "
    "CIFAR-100 it is below half its inst-align, which only the latter can be."
)


def build(runs: Sequence[Run]) -> list[Table]:
    """Return all tables of runs in the paper's order.

    No two runs have the same settings and seed (`grouping.drop_duplicates`).
    """
    points, standing = grouping.one_point_per_grid(runs)
    tables = []
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
        for data in standing:
            # The tables of the grid's data alone are those in which it stands.
            members = [run for run in points if grouping.data_key(run) == data]
            for table in make(members):
                notes.setdefault(table.name, []).append(_grid_note(data, standing[data]))
        tables += [
            table._replace(note=" ".join(filter(None, [table.note, *notes.get(table.name, ())])))
            for table in make(points)
        ]
    return tables + sweeps.sweeps(runs)


def _grid_note(data, points):
    name, tail = data
    name = f"{name} (imbalance_factor={tail:g})" if tail < 1 else name
    texts = [
        ", ".join(
            f"{k}={table_lib.format_value(v)}" for k, v in zip(grouping.GRID, point, strict=True)
        )
        for point in sorted(points)
    ]
    return _GRID_NOTE.format(data=name, point=" or ".join(texts))


def accuracy(runs: Sequence[Run]) -> list[Table]:
    """Table 1: test accuracy by loss and data set, of whole training sets."""
    entries = []
    for run in on_whole_sets(runs):
        step, values = final_metrics(run, "test")
        if step is not None:
            value, paper = percent(values.get("accuracy")), paper_protocol.paper_accuracy(run)
            entries.append(
                Entry(run=run, step=step, column=data_set(run), value=value, paper=paper)
            )
    note = "Test accuracy in per cent; mean and sample standard deviation over n seeds."
    if {e.run.config["loss"] for e in entries} & set(ENCODER_LOSSES):
        note += " SCL and prototype softmax are classified by fixed prototypes."
    if any(e.paper not in (None, _table_1(e.run)) for e in entries):
        note += (
            " Runs with another backbone, batch size or temperature than the paper's Table 1 have "
            "its figures for these beside them (Tables 9 to 12)."
        )
    sets = {paper_set(entry.run) for entry in entries}
    for name, figures in paper_results.ACCURACY_OF_SEEDS.items():
        if name in sets:
            texts = ", ".join(
                f"{naming.loss_name(loss)} {mean:.2f} ± {std:.2f}"
                for loss, (mean, std) in figures.items()
            )
            note += f" The paper's over five seeds on {name}: {texts}."
    layout = Layout(
        name="accuracy",
        title="Accuracy (Table 1)",
        labels=("loss",),
        note=note,
        columns=naming.in_paper_order({entry.column for entry in entries}),
        best=max,
    )
    return drop_empty([assemble(entries, layout)])


def _table_1(run):
    return paper_results.ACCURACY.get(run.config["loss"], {}).get(paper_set(run))


def geometry_tables(runs: Sequence[Run]) -> list[Table]:
    """Table 3, one per data set: geometry of whole training sets, the optimum in the first row."""
    by_data = {}
    for run in on_whole_sets(runs):
        entries = by_data.setdefault(data_set(run), [])
        step, values = final_metrics(run, "train")
        fixed = run.config["loss"] in ENCODER_LOSSES
        entries += _geometry(run, step, "fixed prototypes" if fixed else "own", "fp", values)
        if fixed and "probe" in run.measured:
            step, methods = run.measured["probe"].get("step"), probes(run)
            for method in ("lp", "nlp", "cached_lp"):
                values = methods.get(method, {}).get("train")
                entries += _geometry(run, step, PROBES[method], method, values)
    tables = []
    for name, entries in by_data.items():
        paper = any(entry.paper is not None for entry in entries)
        layout = Layout(
            name=f"geometry_{name}",
            title=f"Geometry of the training set: {name} (Table 3)",
            labels=("loss", "classifier"),
            note=_GEOMETRY_NOTE + (_ALIGNMENT_NOTE if paper else ""),
            columns=[METRICS[key].column for key in TABLE_COLUMNS],
        )
        if table := assemble(entries, layout):
            tables.append(table._replace(rows=[*_optima(entries), *table.rows]))
    return drop_empty(tables)


def long_tail(runs: Sequence[Run]) -> list[Table]:
    """Table 6, one per data set: test accuracy by imbalance factor; then by shots."""
    overall, by_shots = {}, {}
    for run in sorted(
        (run for run in runs if imbalance_factor(run) < 1), key=imbalance_factor, reverse=True
    ):
        step, values = final_metrics(run, "test")
        if step is None:
            continue
        column, name = table_lib.format_value(imbalance_factor(run)), data_set(run)
        paper = paper_results.LONG_TAIL.get(paper_set(run), {}).get(run.config["loss"], {})
        entry = partial(Entry, run=run, step=step)
        overall.setdefault(name, []).append(
            entry(
                column=column,
                value=percent(values.get("accuracy")),
                paper=paper.get(imbalance_factor(run)),
            )
        )
        shots = by_shots.setdefault(name, [])
        for kind, adjusted in (("accuracy", "no"), ("accuracy_adjusted", "yes")):
            if kind not in values:
                continue
            for key, part in ((kind, "all"), *((f"{kind}_{shot}", shot) for shot in SHOTS)):
                value = percent(values.get(key))
                shots.append(entry(extra=(adjusted,), column=f"{column} {part}", value=value))
    table_layout = partial(Layout, best=max, omit=("imbalance_factor",))
    tables = []
    for name, entries in overall.items():
        layout = table_layout(
            name=f"longtail_{name}",
            title=f"Long tails of {name} (Table 6)",
            labels=("loss",),
            note="Test accuracy in per cent by imbalance factor.",
        )
        of_shots = table_layout(
            name=f"longtail_shots_{name}",
            title=f"Long tails of {name} by shots",
            labels=("loss", "adjusted"),
            note="Test accuracy in per cent of all classes, and of those of over 100, 20 to 100 "
            "and under 20 training images. Adjusted: logits less the log of the classes' "
            "frequencies, after training.",
        )
        tables += [assemble(entries, layout), assemble(by_shots[name], of_shots)]
    return drop_empty(tables)


def convergence_tables(runs: Sequence[Run]) -> list[Table]:
    """Table 7, one per data set: share of training until the geometry converges.

    It converges to 95 % of collapse, or to the values of the baseline: the run of cross entropy of
    the same seed and settings, if there is one. Reads metrics.jsonl of the runs.
    """
    finished = [run for run in on_whole_sets(runs) if run.summary and _evaluated(run)]
    baselines = {
        settings_without_loss(run): run for run in finished if run.config["loss"] == "cross_entropy"
    }
    by_data = {}
    for run in finished:
        baseline = baselines.get(settings_without_loss(run))
        workdir = baseline.workdir if baseline and baseline is not run else None
        kinds = convergence_lib.analyze([run.workdir], workdir)[run.workdir]
        papers = paper_results.CONVERGENCE.get(paper_set(run), {})
        for kind, measures in kinds.items():
            paper = papers.get(kind, {}).get(run.config["loss"], {})
            by_data.setdefault(data_set(run), []).extend(
                Entry(
                    run=run,
                    step=run_lib.final_step(run),
                    extra=(kind,),
                    column=measure,
                    value=result,
                    paper=paper.get(measure),
                )
                for measure, result in measures.items()
            )
    return drop_empty(
        assemble(
            entries,
            Layout(
                name=f"convergence_{name}",
                title=f"Convergence on {name} (Table 7)",
                labels=("loss", "to"),
                note="Per cent of the training steps until the exponentially weighted mean of the "
                "measure converges; < where that of all seeds had by the first evaluation. The "
                "baseline is cross entropy of the same seed and settings.",
                columns=CONVERGENCE,
                combine=_share,
            ),
        )
        for name, entries in by_data.items()
    )


def _geometry(run, step, classifier, method, values):
    """Entries of a run's geometry; `method` is its classifier in `paper_results`, for SCL."""
    if not values:
        return []
    loss = run.config["loss"]
    row = f"{loss}+{method}" if loss in ENCODER_LOSSES else loss
    paper = paper_results.GEOMETRY.get(paper_set(run), {}).get(row, {})
    paper = paper | {"class_alignment": paper.get("weight_alignment")}
    return geometry_entries(run, step, (classifier,), values, paper)


def _optima(entries):
    """Rows of the optimum: of runs whose classes can form a simplex, and of those too narrow."""
    rows = {}
    for run in {entry.run.workdir: entry.run for entry in entries}.values():
        enough = summary_lib.has_simplex(run)
        name = "at collapse" if enough else f"at collapse, D < {run.config['num_classes'] - 1}"
        best = summary_lib.optimum(run)
        cells = tuple(_optimum(best.get(key), METRICS[key].digits) for key in TABLE_COLUMNS)
        rows.setdefault((not enough, name), ((name, "-"), cells))
    return [rows[key] for key in sorted(rows)]


def _optimum(value, digits):
    return None if value is None else Value(value, digits=digits)


def _evaluated(run):
    return any(len(convergence_lib.series(run.records, m)[0]) for m in CONVERGENCE)


class _Bound(Value):
    """A value only known to lie below its mean, so that its distance from the paper's is not."""

    difference = None


def _share(entries):
    """The mean share of several seeds, or how many converged if some never did."""
    results = [entry.value for entry in entries]
    shares = [result["share"] for result in results]
    count = sum(share is not None for share in shares)
    if 0 < count < len(shares):
        return f"in {count} of {len(shares)} seeds"
    # If only some seeds converged by the first evaluation, their mean bounds nothing.
    below = bool(count) and all(result["by_first"] for result in results)
    value = mean_over_seeds(shares, paper=entries[0].paper, digits=1, sign="<" if below else "")
    return _Bound(*value) if below else value
