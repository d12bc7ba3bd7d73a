"""Tables and pictures of runs, with the paper's figures beside where the data are the same.

python -m hsproto.report runs/digits runs/scl_digits --out=report

DIR is the workdir of a run or a folder that holds some at any depth. Runs that differ in nothing
but their seeds are averaged; those that are not finished stand in rows of their own. OUT/report.md
has all tables; OUT/tables each of them, as Markdown and as CSV with a line for each value.
OUT/index.html shows the same and training itself in a browser (`hsproto.page`).
"""

import math
import os
from types import SimpleNamespace

from hsproto import cli, figures, page, page_data, rows, runs, tables, tabular
from hsproto.errors import UserError
from hsproto.writer import write_text

# Of more runs than these a report has no table and no pictures of each by itself.
MOST_SHOWN_ALONE = 4

# In the order in which a reader asks: is it right, is it collapsed, do prototypes and means agree,
# do they form a simplex. With what each metric tells, as the table prints it.
METRICS = {
    "accuracy": "share of images classified rightly",
    "accuracy_class_means": "the same by the nearest training class mean",
    "instance_alignment": "mean squared distance within a class",
    "weight_alignment": "mean squared distance image to prototype",
    "class_alignment": "squared distance prototype to class mean",
    "nc1": "within- over between-class scatter",
    "nc2_equinorm": "spread of the class means' lengths",
    "nc2_equiangular": "deviation of their angles from a simplex",
    "nc3": "distance of prototypes from class means",
    "nc4": "disagreement with the nearest class mean",
    "cdnv": "class-distance normalised variance",
    "erank_intra": "effective rank within classes",
    "erank_inter": "effective rank of the class means",
    "erank_weights": "effective rank of the prototypes",
    "cosine_means_mean": "cosine between class means, mean",
    "cosine_means_std": "cosine between class means, spread",
    "cosine_prototypes_mean": "cosine between prototypes, mean",
    "cosine_prototypes_std": "cosine between prototypes, spread",
    "mir": "mutual information ratio",
    "mir_gap": "the same, less its value at collapse",
    "mir_centered": "the same of centred prototypes",
    "hdr": "entropy difference ratio",
    "hdr_centered": "the same of centred prototypes",
}

# On imbalanced training sets, before the others: by the number of a class's training images, and
# with logits adjusted after training.
LONG_TAIL = {}
for _key in ("accuracy", "accuracy_class_means", "accuracy_adjusted"):
    LONG_TAIL |= {
        _key: METRICS.get(_key, "by logits adjusted after training"),
        f"{_key}_many": "the same, classes of over 100 images",
        f"{_key}_medium": "the same, classes of 20 to 100 images",
        f"{_key}_few": "the same, classes of under 20 images",
    }


def table(summary):
    """Accuracy and geometry of a summary.json's content beside the optimum, as text."""
    config = summary["config"]
    optimum = page_data.optimum(SimpleNamespace(config=config))
    name = f"{config['dataset']}, {config['loss']}, {config['embedding']}, step {summary['step']}"
    lines = [f"{name:<66}{'test':>9}{'train':>9}{'optimum':>9}"]
    for key, meaning in (LONG_TAIL | METRICS).items():
        values = [summary[split].get(key) for split in ("test", "train")]
        undefined = not any(value is not None and math.isfinite(value) for value in values)
        if undefined and not (key in LONG_TAIL and key in summary["test"]):
            continue
        cells = "".join(cell(v) for v in (*values, optimum.get(key)))
        lines.append(f"{f'{key:<23} {meaning}':<66}{cells}")
    return "\n".join(lines)


def markdown(summaries):
    """A table of several runs' main figures, a row each: {name: summary}."""
    tested = {c for summary in summaries.values() for c in summary["test"]}
    in_tail = [c for c in LONG_TAIL if c in tested and c not in METRICS]
    columns = ("accuracy", *in_tail, "nc1", "erank_inter", "erank_weights", "weight_alignment")
    columns += ("cosine_prototypes_mean", "mir_gap")
    lines = [
        "| run | loss | " + " | ".join(f"{c}" for c in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, summary in summaries.items():
        values = [summary["test" if c.startswith("accuracy") else "train"].get(c) for c in columns]
        cells = " | ".join(cell(v).strip() for v in values)
        lines.append(f"| {tabular.escape(name)} | {summary['config']['loss']} | {cells} |")
    lines.append("")
    lines.append("Accuracy is on the test set, the geometry on the training set.")
    return "\n".join(lines) + "\n"


def cell(value):
    """A metric's value as text nine wide; what is undefined or has no optimum is a dash."""
    if value is None or not math.isfinite(value):
        return f"{'-':>9}"
    text = f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
    return f"{text:>9}"


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.report")
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="a workdir, or a folder of some")
    parser.add_argument("--out", required=True, help="folder for the page, tables and pictures")
    args = parser.parse_args(argv)
    for path in args.workdirs:
        if not os.path.isdir(path):
            raise UserError(f"{path}: no such folder, so no finished run there")
    found = runs.read(args.workdirs)
    try:
        os.makedirs(os.path.join(args.out, "tables"), exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={args.out} is no folder to write to: {error.strerror}") from None

    kept, duplicates = rows.distinct(found)
    made = tables.build(kept)
    for each in made:
        path = os.path.join(args.out, "tables", each.name)
        write_text(f"{path}.md", tabular.to_markdown(each))
        write_text(f"{path}.csv", tabular.to_csv(each))
    finished = [run for run in found if run.summary]
    pictures = figures.write_all(kept, os.path.join(args.out, "figures"))
    alone = finished if len(found) <= MOST_SHOWN_ALONE else []
    for number, run in enumerate(alone):
        out = os.path.join(args.out, f"{number:02d}_{os.path.basename(run.name)}")
        os.makedirs(out, exist_ok=True)
        drawn = figures.write_figures(run.workdir, out, svg=True)
        print(table(run.summary), *drawn, sep="\n", end="\n\n")
        pictures += drawn
    remarks = _remarks(found, duplicates)
    sections = [tabular.to_markdown(each) for each in made]
    for text in [*([] if alone else sections), *remarks]:
        print(text)
    if finished:
        each = markdown({run.name: run.summary for run in finished})
        sections.append(f"## Finished runs\n\n{each}")
    links = [os.path.relpath(path, args.out) for path in pictures if path.endswith(".png")]
    sections += [f"![{tabular.escape(link)}](<{link}>)\n" for link in links]
    path = os.path.join(args.out, "report.md")
    head = f"# {len(found)} run{'s' if len(found) > 1 else ''}\n"
    write_text(path, "\n".join([head, *(f"{tabular.escape(r)}\n" for r in remarks), *sections]))
    written = page.write(kept, args.out, LONG_TAIL | METRICS, _remarks([], duplicates))
    print(path, written[0], sep="\n")
    return 0


def _remarks(found, duplicates):
    """A line each on runs that are not finished, that count once, and lines that are broken."""
    lines = []
    unfinished = [f"{run.name} ({_reached(run)})" for run in found if run.summary is None]
    if unfinished:
        lines.append(f"Not finished: {', '.join(unfinished)}.")
    if duplicates:
        names = ", ".join(run.name for run in duplicates)
        lines.append(f"Left out of the tables, as settings and seed are another run's: {names}.")
    broken = [f"{run.name} ({run.broken_lines})" for run in found if run.broken_lines]
    if broken:
        lines.append(f"Lines of metrics.jsonl that cannot be read: {', '.join(broken)}.")
    return lines


def _reached(run):
    step = rows.reached(run)
    return "no step yet" if step is None else f"step {step}"


if __name__ == "__main__":
    cli.run(main)
