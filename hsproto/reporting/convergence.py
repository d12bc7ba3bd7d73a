"""When a run's geometry converges: the share of training that its measures need.

  hsproto convergence RUN... [--baseline=CE_RUN] [--out=DIR]

Of the measures on the training set at each evaluation (`eval_every_epochs`, which is how finely a
share can be told) the exponentially weighted mean is taken. It converges at the first evaluation
from which on it stays beyond its threshold, or within `--tolerance` (relative) of it. Thresholds:

- 95 % of Neural Collapse. Of a rank whose optimum is K-1: 0.95 (K-1). Of a measure that falls to
  0: 5 % of what it is without any collapse, which is 2 for alignments (the squared distance of
  unrelated directions), and for erank_intra the most that a class's features can have, the smaller
  of their dimensions and its images less one. That optimum is the paper's; no rank is below 1, so
  with 20 dimensions or less erank_intra cannot get there.
- the converged value of the run `--baseline`: its last mean.

A table of shares in per cent, "-" where it never converges and "<" where it has by the first
evaluation; with --out in full in DIR/convergence.json and DIR/convergence.csv.
"""

import csv
import io
import math
import os
from types import SimpleNamespace

import numpy as np

from hsproto import cli
from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.metrics import CONVERGENCE, METRICS
from hsproto.models import architecture
from hsproto.runs import files
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import to_json, write_text
from hsproto.runs.metrics_log import read_metrics

DECAY, TOLERANCE = 0.5, 0.01
COLLAPSE, BASELINE = "95 % of collapse", "value of the baseline"


def weighted_mean(values, decay):
    """Exponentially weighted mean, [N]: m_0 = x_0, m_t = decay · m_(t-1) + (1 - decay) · x_t."""
    means = []
    for value in values:
        means.append(value if not means else decay * means[-1] + (1 - decay) * value)
    return np.array(means)


def stays_from(values, threshold, rises, tolerance=0.0):
    """Index of the first value [N] from which on none is off the threshold, or None.

    On means at least threshold·(1 - tolerance) where the measure `rises`, at most
    threshold·(1 + tolerance) where it falls. A value that is not finite is off.
    """
    values = np.asarray(values, float)
    if rises:
        on = values >= threshold * (1 - tolerance)
    else:
        on = values <= threshold * (1 + tolerance)
    off = np.flatnonzero(~(on & np.isfinite(values)))
    first = off[-1] + 1 if len(off) else 0
    return int(first) if first < len(values) else None


def sizes(config):
    """Classes, dimensions of what the geometry is of, and images a class of a run's config."""
    classes = config.num_classes
    return classes, architecture.output_dim(config), config.num_examples / max(classes, 1)


def collapse_thresholds(num_classes, dim, images_per_class, share=0.95):
    """{measure: threshold} of a share of Neural Collapse, as the module tells them."""
    rank = share * (num_classes - 1)
    apart = (1 - share) * 2
    return {
        "instance_alignment": apart,
        "weight_alignment": apart,
        "erank_weights": rank,
        "erank_intra": (1 - share) * min(dim, images_per_class - 1),
        "erank_inter": rank,
    }


def series(records, measure):
    """(steps [N], values [N]) of a measure on the training set, of a metrics.jsonl's records.

    Evaluations where it is undefined or no number are left out.
    """
    key = f"train/{measure}"
    points = {
        r["step"]: r[key]
        for r in records
        if files.is_number(r.get(key)) and math.isfinite(r[key]) and files.is_number(r["step"])
    }
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps], float)


def converged(records, total, thresholds, decay, tolerance):
    """{measure: {"threshold", "step", "share", "by_first"}} of a run's records.

    step: that of the evaluation where it converges, share: the same in per cent of `total` steps;
    None where it does not. by_first: whether that is the run's first evaluation, so that it may
    have been earlier.
    """
    found = {}
    for measure, threshold in thresholds.items():
        steps, values = series(records, measure)
        at = None
        if len(steps) and math.isfinite(threshold):
            at = stays_from(
                weighted_mean(values, decay), threshold, METRICS[measure].rises, tolerance
            )
        found[measure] = {
            "threshold": threshold,
            "step": None if at is None else int(steps[at]),
            "share": None if at is None else 100 * int(steps[at]) / total,
            "by_first": at == 0,
        }
    return found


def last_means(records, decay):
    """{measure: its last exponentially weighted mean}, NaN of one that was never defined."""
    values = {measure: series(records, measure)[1] for measure in CONVERGENCE}
    return {m: weighted_mean(v, decay)[-1] if len(v) else math.nan for m, v in values.items()}


def format_table(results):
    """Shares in per cent as text, a block of runs for each kind of threshold."""
    width = max(24, *(len(name) + 2 for name in results))
    rows = []
    for kind in (COLLAPSE, BASELINE):
        runs = {name: found[kind] for name, found in results.items() if kind in found}
        if runs:
            rows.append(f"{f'to {kind}':<{width}}" + "".join(f"{m:>20}" for m in CONVERGENCE))
        for name, found in runs.items():
            cells = "".join(f"{_cell(found[measure]):>20}" for measure in CONVERGENCE)
            rows.append(f"{name:<{width}}{cells}")
    rows.append("per cent of the training steps; -: never, <: by the first evaluation")
    return "\n".join(rows)


def _cell(found):
    if found["share"] is None:
        return "-"
    return f"{'<' if found['by_first'] else ''}{found['share']:.1f}"


def to_csv(results):
    """A line for each run, threshold and measure."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("run", "to", "measure", "threshold", "step", "share_percent", "by_first"))
    for name, kinds in results.items():
        for kind, measures in kinds.items():
            for measure, found in measures.items():
                cells = ["" if value is None else value for value in found.values()]
                lines.writerow((name, kind, measure, *cells))
    return text.getvalue()


def analyse(workdirs, baseline=None, decay=DECAY, tolerance=TOLERANCE):
    """{workdir: {kind of threshold: what `converged` gives}} of finished runs.

    Raises UserError where a run is not finished, was never evaluated, or the baseline is of other
    data or classes.
    """
    reference = baseline and _read(baseline)
    results = {}
    for workdir in workdirs:
        summary, records = _read(workdir)
        thresholds = {COLLAPSE: collapse_thresholds(*sizes(_config(summary)))}
        if reference:
            for key in ("dataset", "class_list", "num_classes", "num_examples"):
                theirs, ours = (s["config"].get(key, "") for s in (reference[0], summary))
                if theirs != ours:
                    raise UserError(
                        f"--baseline={baseline} has {key}={theirs!r}, {workdir} {ours!r}: it must "
                        "be a run on the same data"
                    )
            thresholds[BASELINE] = last_means(reference[1], decay)
        results[workdir] = {
            kind: converged(records, summary["step"], wanted, decay, tolerance)
            for kind, wanted in thresholds.items()
        }
    return results


def _read(workdir):
    summary = summary_lib.read_summary(workdir)
    records = read_metrics(os.path.join(workdir, "metrics.jsonl"))
    if not any(len(series(records, measure)[0]) for measure in CONVERGENCE):
        raise UserError(f"{workdir}: its metrics.jsonl holds no evaluation")
    return summary, records


def _config(summary):
    # Not config.from_json: a newer version's key does not hinder what is read here.
    return SimpleNamespace(**config_lib.with_defaults(summary["config"]))


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto convergence")
    parser.add_argument("workdirs", nargs="+", metavar="RUN", help="the workdir of a finished run")
    parser.add_argument("--baseline", metavar="RUN", help="a finished run, as of cross_entropy")
    parser.add_argument(
        "--decay", type=float, default=DECAY, help="weight of the mean so far; default: %(default)s"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="share of the threshold; default: %(default)s",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for convergence.json and .csv")
    args = parser.parse_args(argv)
    for key in ("decay", "tolerance"):
        if not 0 <= getattr(args, key) < 1:
            parser.error(f"--{key}={getattr(args, key)} must be at least 0 and below 1")
    results = analyse(args.workdirs, args.baseline, args.decay, args.tolerance)
    print(format_table(results))
    if args.out:
        try:
            os.makedirs(args.out, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--out={args.out} is no folder to write to: {error.strerror}"
            ) from None
        options = {k: getattr(args, k) for k in ("baseline", "decay", "tolerance")}
        found = to_json({"options": options, "runs": results}, indent=1)
        write_text(os.path.join(args.out, "convergence.json"), found)
        write_text(os.path.join(args.out, "convergence.csv"), to_csv(results))
    return 0
