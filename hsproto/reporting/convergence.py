"""When the geometry of a run converges: the share of training that its metrics need.

  hsproto convergence RUN... [--baseline=CE_RUN] [--out=DIR]

Takes the exponentially weighted mean of the metrics on the training set over the evaluations; how
often these are (`eval_every_epochs`) is the resolution of a share. A metric converges at the first
evaluation from which on its mean stays beyond its threshold, or within `--tolerance` (relative) of
it. Thresholds:

- 95 % of Neural Collapse. For a rank with the optimum K-1: 0.95 (K-1). For a metric that falls to
  0: 5 % of its value without any collapse, which is 2 for alignments (the squared distance of
  unrelated directions), and for erank_intra the largest rank that the features of a class can have,
  the smaller of their dimensions and its images less one. That optimum is the paper's; no rank is
  below 1, so in 20 dimensions or less erank_intra cannot get there.
- the converged value of the run `--baseline`: its last mean.

Prints a table of shares in per cent, "-" if a metric never converges and "<" if it has converged by
the first evaluation; with --out all results go to DIR/convergence.json and DIR/convergence.csv.
Runs that are damaged or of a newer version are left out, with the reason.
"""

import math
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hsproto import cli
from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.metrics import CONVERGENCE, METRICS
from hsproto.models import architecture
from hsproto.reporting import left_out as left_out_lib
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import csv_text, to_json, write_text
from hsproto.runs.metrics_log import read_metrics
from hsproto.runs.reading import Unreadable, is_number
from hsproto.runs.run import Run

DECAY, TOLERANCE = 0.5, 0.01
COLLAPSE, BASELINE = "95 % of collapse", "value of the baseline"


def weighted_mean(values: ArrayLike, decay: float) -> np.ndarray:
    """Return the exponentially weighted mean [N].

    m_0 = x_0, m_t = decay · m_(t-1) + (1 - decay) · x_t.
    """
    means = []
    for value in np.asarray(values):
        means.append(value if not means else decay * means[-1] + (1 - decay) * value)
    return np.array(means)


def stays_from(
    values: ArrayLike, threshold: float, rises: bool, tolerance: float = 0.0
) -> int | None:
    """Return the index of the first value [N] from which on all meet the threshold, or None.

    A value meets it if it is at least threshold·(1 - tolerance), for a metric that `rises`, or at
    most threshold·(1 + tolerance), for one that falls. A value that is not finite does not.
    """
    values = np.asarray(values, float)
    if rises:
        met = values >= threshold * (1 - tolerance)
    else:
        met = values <= threshold * (1 + tolerance)
    missed = np.flatnonzero(~(met & np.isfinite(values)))
    first = missed[-1] + 1 if len(missed) else 0
    return int(first) if first < len(values) else None


def sizes(config: Mapping[str, Any]) -> tuple[int, int, float]:
    """Return the number of classes, the dimensions and the images per class of a run's config."""
    settings = SimpleNamespace(**config_lib.with_defaults(config))
    classes = settings.num_classes
    return classes, architecture.output_dim(settings), settings.num_examples / max(classes, 1)


def collapse_thresholds(
    num_classes: int, dim: int, images_per_class: float, share: float = 0.95
) -> dict[str, float]:
    """Return {metric: threshold} of a share of Neural Collapse, see the module."""
    rank = share * (num_classes - 1)
    distance = (1 - share) * 2
    return {
        "instance_alignment": distance,
        "weight_alignment": distance,
        "erank_weights": rank,
        "erank_intra": (1 - share) * min(dim, images_per_class - 1),
        "erank_inter": rank,
    }


def series(records: Sequence[Mapping[str, Any]], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps [N], values [N]) of a metric on the training set.

    Args:
        records: The objects of a metrics.jsonl; those where the metric is undefined are left out.
        measure: The metric's name.
    """
    key = f"train/{measure}"
    points = {r["step"]: r[key] for r in records if is_number(r.get(key)) and is_number(r["step"])}
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps], float)


def converged(
    records: Sequence[Mapping[str, Any]],
    total: int,
    thresholds: Mapping[str, float],
    decay: float = DECAY,
    tolerance: float = TOLERANCE,
) -> dict[str, dict[str, Any]]:
    """Return when the metrics of a run converge.

    Args:
        records: The objects of its metrics.jsonl.
        total: Its training steps.
        thresholds: {metric: threshold}.
        decay: The weight of the mean so far.
        tolerance: The share of the threshold by which a metric may miss it.

    Returns:
        {metric: {"threshold", "step", "share", "by_first"}}. The step is that of the evaluation
        where it converges, the share the same in per cent of `total`; None where it does not.
        by_first: whether that is the first evaluation, so that it may have converged earlier.
    """
    results = {}
    for measure, threshold in thresholds.items():
        steps, values = series(records, measure)
        at = None
        if len(steps) and math.isfinite(threshold):
            at = stays_from(
                weighted_mean(values, decay), threshold, METRICS[measure].rises, tolerance
            )
        results[measure] = {
            "threshold": threshold,
            "step": None if at is None else int(steps[at]),
            "share": None if at is None else 100 * int(steps[at]) / total,
            "by_first": at == 0,
        }
    return results


def to_collapse(run: Run) -> dict[str, dict[str, Any]]:
    """Return what `converged` gives of a finished run at 95 % of collapse.

    {} of a run that is not finished, or whose classes are not known.
    """
    classes, dim, images = sizes(run.config)
    if run.summary is None or classes < 1:
        return {}
    return converged(run.records, run.summary["step"], collapse_thresholds(classes, dim, images))


def last_means(records: Sequence[Mapping[str, Any]], decay: float) -> dict[str, float]:
    """Return {metric: its last exponentially weighted mean}, NaN if it was never defined."""
    values = {measure: series(records, measure)[1] for measure in CONVERGENCE}
    return {m: weighted_mean(v, decay)[-1] if len(v) else math.nan for m, v in values.items()}


def format_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the shares in per cent as text, one block of runs per kind of threshold."""
    width = max(24, *(len(name) + 2 for name in results))
    rows = []
    for kind in (COLLAPSE, BASELINE):
        runs = {name: kinds[kind] for name, kinds in results.items() if kind in kinds}
        if runs:
            rows.append(f"{f'to {kind}':<{width}}" + "".join(f"{m:>20}" for m in CONVERGENCE))
        for name, measures in runs.items():
            cells = "".join(f"{_cell(measures[measure]):>20}" for measure in CONVERGENCE)
            rows.append(f"{name:<{width}}{cells}")
    rows.append("per cent of the training steps; -: never, <: by the first evaluation")
    return "\n".join(rows)


def _cell(result):
    if result["share"] is None:
        return "-"
    return f"{'<' if result['by_first'] else ''}{result['share']:.1f}"


def to_csv(
    results: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, str] | None = None
) -> str:
    """Return one line per run, threshold and measure, and one per run of {left out: reason}."""
    columns = ("run", "to", "measure", "threshold", "step", "share_percent", "by_first")
    rows = [
        (name, kind, measure, *result.values())
        for name, kinds in results.items()
        for kind, measures in kinds.items()
        for measure, result in measures.items()
    ]
    unread = [(name, f"left out: {why}", *[None] * 5) for name, why in (left_out or {}).items()]
    return csv_text(columns, rows + unread)


def analyze(
    workdirs: Sequence[str],
    baseline: str | None = None,
    decay: float = DECAY,
    tolerance: float = TOLERANCE,
) -> dict[str, dict[str, Any]]:
    """Return {workdir: {kind of threshold: what `converged` gives}} of finished runs.

    Raises:
        Unreadable: A run is damaged or of a newer version.
        UserError: A run is not finished or was never evaluated, or the baseline was trained on
            other data or classes.
    """
    reference = baseline and _read(baseline)
    results = {}
    for workdir in workdirs:
        summary, records = _read(workdir)
        thresholds = {COLLAPSE: collapse_thresholds(*sizes(summary["config"]))}
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


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto convergence")
    parser.add_argument(
        "workdirs",
        type=cli.local_path,
        nargs="+",
        metavar="RUN",
        help="the workdir of a finished run",
    )
    parser.add_argument(
        "--baseline",
        type=cli.local_path,
        metavar="RUN",
        help="a finished run, e.g. of cross_entropy",
    )
    parser.add_argument(
        "--decay", type=float, default=DECAY, help="weight of the mean so far; default: %(default)s"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="share of the threshold; default: %(default)s",
    )
    parser.add_argument(
        "--out", type=cli.local_path, metavar="DIR", help="folder for convergence.json and .csv"
    )
    args = parser.parse_args(argv)
    for key in ("decay", "tolerance"):
        if not 0 <= getattr(args, key) < 1:
            parser.error(f"--{key}={getattr(args, key)} must be at least 0 and below 1")
    results, left_out = {}, {}
    for workdir in args.workdirs:
        try:
            results |= analyze([workdir], args.baseline, args.decay, args.tolerance)
        except Unreadable as error:
            left_out[workdir] = str(error)
    left_out_lib.check_some(results, left_out)
    print(format_table(results), *left_out_lib.remarks(left_out), sep="\n")
    if args.out:
        cli.make_output_folder(args.out)
        options = {k: getattr(args, k) for k in ("baseline", "decay", "tolerance")}
        content = to_json({"options": options, "runs": results, "left_out": left_out}, indent=1)
        write_text(os.path.join(args.out, "convergence.json"), content)
        write_text(os.path.join(args.out, "convergence.csv"), to_csv(results, left_out))
    return 0
