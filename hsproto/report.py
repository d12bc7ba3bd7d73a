"""Tables and pictures of runs, with the paper's figures beside where the data are the same.

hsproto report runs/digits runs/scl_digits --out=report

DIR is the workdir of a run or a folder that holds some at any depth. Runs that differ in nothing
but their seeds are averaged; those that are not finished stand in rows of their own; those that
are damaged or of a newer version are left out, with the reason. OUT/report.md has all tables;
OUT/tables each of them, as Markdown and as CSV with a line for each value. OUT/index.html shows the
same and training itself in a browser (`hsproto.reporting.page.page`).

hsproto report docs/results/heads.json --out=report

FILE.json holds the condensed runs of a study (`hsproto.reporting.claims.records`): OUT/report.md
has verdicts on the paper's claims and all tables, OUT/tables each of them.
"""

import sys

from hsproto import cli

if __name__ == "__main__":  # before what follows is imported: an extra may be missing
    cli.main(["report", *sys.argv[1:]])

import os

from hsproto.errors import UserError
from hsproto.metrics import LONG_TAIL, METRICS, format_number
from hsproto.reporting import grouping
from hsproto.reporting import left_out as left_out_lib
from hsproto.reporting import table as table_lib
from hsproto.reporting.claims import records as records_lib
from hsproto.reporting.claims import tables as claims_tables
from hsproto.reporting.figures import collapse as collapse_figure
from hsproto.reporting.figures import runs as run_figures
from hsproto.reporting.figures import style
from hsproto.reporting.page import page
from hsproto.reporting.tables import training as training_tables
from hsproto.runs import run as run_lib
from hsproto.runs.files import write_text
from hsproto.runs.summary import format_table

# Of more runs than these a report has no table and no pictures of each by itself.
MOST_SHOWN_ALONE = 4


def finished_runs(summaries: dict) -> table_lib.Table:
    """Return the table of single runs' main figures, a row each, from {name: summary}."""
    tested = {name for summary in summaries.values() for name in summary["test"]}
    in_tail = [name for name in LONG_TAIL if name in tested and name not in METRICS]
    columns = ("accuracy", *in_tail, "nc1", "erank_inter", "erank_weights", "weight_alignment")
    columns += ("cosine_prototypes_mean", "mir_gap")
    rows = []
    for name, summary in summaries.items():
        splits = ["test" if column.startswith("accuracy") else "train" for column in columns]
        values = [summary[split].get(column) for split, column in zip(splits, columns, strict=True)]
        rows.append(((name, summary["config"]["loss"]), tuple(map(format_number, values))))
    note = "Accuracy is on the test set, the geometry on the training set."
    return table_lib.Table("runs", "Finished runs", note, ("run", "loss"), columns, rows)


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto report")
    parser.add_argument(
        "workdirs",
        type=cli.local_path,
        nargs="+",
        metavar="DIR",
        help="a workdir, or a folder of some; or a study's file",
    )
    parser.add_argument(
        "--out", type=cli.local_path, required=True, help="folder for the page, tables and pictures"
    )
    args = parser.parse_args(argv)
    if any(path.endswith(".json") for path in args.workdirs):
        return _study(args)
    for path in args.workdirs:
        if not os.path.isdir(path):
            raise UserError(f"{path}: no such folder, so there is no run in it")
    runs, left_out = run_lib.read(args.workdirs)
    left_out_lib.check_some(runs, left_out)
    cli.make_output_folder(args.out, "tables")

    distinct, duplicates = grouping.drop_duplicates(runs)
    tables = training_tables.build(distinct)
    _write_tables(tables + ([left_out_lib.table(left_out)] if left_out else []), args.out)
    finished = [run for run in runs if run.summary]
    figures = run_figures.write_all(distinct, os.path.join(args.out, "figures"))
    alone = finished if len(runs) <= MOST_SHOWN_ALONE else []
    for number, run in enumerate(alone):
        figures += _show_alone(run, number, args.out)
    unread = left_out_lib.remarks(left_out)
    remarks = unread + _remarks(runs, duplicates)
    sections = [table_lib.to_markdown(table) for table in tables]
    for text in [*([] if alone else sections), *remarks]:
        print(text)
    if finished:
        main_figures = finished_runs({run.name: run.summary for run in finished})
        sections.append(table_lib.to_markdown(main_figures))
    links = [os.path.relpath(path, args.out) for path in figures if path.endswith(".png")]
    sections += [f"![{table_lib.escape(link)}](<{link}>)\n" for link in links]
    path = os.path.join(args.out, "report.md")
    head = f"# {len(runs)} run{'s' if len(runs) > 1 else ''}\n"
    write_text(path, "\n".join([head, *(f"{table_lib.escape(r)}\n" for r in remarks), *sections]))
    written = page.write(distinct, args.out, LONG_TAIL | METRICS, unread + _remarks([], duplicates))
    print(path, written[0], sep="\n")
    return 0


def _write_tables(tables, out):
    for table in tables:
        path = os.path.join(out, "tables", table.name)
        write_text(f"{path}.md", table_lib.to_markdown(table))
        write_text(f"{path}.csv", table_lib.to_csv(table))


def _study(args):
    """Write the tables of a study's condensed runs."""
    if len(args.workdirs) > 1:
        raise UserError(f"{args.workdirs[1]}: a study's file is reported alone")
    records = records_lib.read(args.workdirs[0])
    tables = claims_tables.build(records)
    cli.make_output_folder(args.out, "tables")
    _write_tables(tables, args.out)
    made_with = ", ".join(f"{name} {version}" for name, version in records.made_with.items())
    head = f"# {len(records.trials)} trials, {len(records.runs)} runs: {records.regime}\n"
    sections = [table_lib.to_markdown(table) for table in tables]
    if figure := collapse_figure.figure(records):
        os.makedirs(os.path.join(args.out, "figures"), exist_ok=True)
        style.save(figure, [os.path.join(args.out, "figures/collapse.png")])
        sections.append("![Collapse and what it brings](figures/collapse.png)\n")
    path = os.path.join(args.out, "report.md")
    write_text(path, "\n".join([head, f"{table_lib.escape(made_with)}\n", *sections]))
    print(sections[0], path, sep="\n")
    return 0


def _show_alone(run, number, out):
    """Print a run's table and draw its figures into a folder of its own; return their paths."""
    folder = os.path.join(out, f"{number:02d}_{os.path.basename(run.name)}")
    os.makedirs(folder, exist_ok=True)
    figures = run_figures.write_figures(run.workdir, folder, svg=True)
    print(format_table(run.summary), *figures, sep="\n", end="\n\n")
    return figures


def _remarks(runs, duplicates):
    """Return a line each on runs that are unfinished, that count once, and on broken lines."""
    lines = []
    unfinished = [f"{run.name} ({_reached(run)})" for run in runs if run.summary is None]
    if unfinished:
        lines.append(f"Not finished: {', '.join(unfinished)}.")
    if duplicates:
        names = ", ".join(run.name for run in duplicates)
        lines.append(f"Left out of the tables, as settings and seed are another run's: {names}.")
    broken = [f"{run.name} ({run.broken_lines})" for run in runs if run.broken_lines]
    if broken:
        lines.append(f"Lines of metrics.jsonl that cannot be read: {', '.join(broken)}.")
    return lines


def _reached(run):
    step = run_lib.last_step(run)
    return "no step yet" if step is None else f"step {step}"
