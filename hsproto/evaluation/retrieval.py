"""Image retrieval: are the test images nearest to a test image of its class?

  hsproto retrieval --workdir=runs/NAME [--checkpoint=STEP] [--features=encoder]
  hsproto retrieval --workdir=runs/coarse --labels=original

Every test image queries all others, by cosine of the features that the classifier sees, of SCL its
head's; --features=encoder takes what the encoder gives. --labels=original: of a run on groups of
classes (`hsproto.data.class_lists`), whether the nearest are of the same class within its group.

recall@k  share of the queries that have an image of their class among their k nearest
map@r     of a query with R other images of its class the mean over i = 1..R of P(i)·rel(i), rel(i)
          being 1 if the i-th nearest is of its class, else 0, and P(i) the share of such among the
          first i; the mean over queries. Musgrave et al. 2020, "A Metric Learning Reality Check"

Both are of the queries with R > 0: the others have nothing to find. Of equal cosines, of which a
collapsed run has many, the one first in a random order is the nearer; the order is drawn by a fixed
seed and does not know the labels.

A table; in WORKDIR/retrieval.json that of the last call.
"""

import dataclasses
import os

import jax
import numpy as np

from hsproto import cli
from hsproto.core import numerics
from hsproto.data import load as load_lib
from hsproto.data.source import data_spec
from hsproto.errors import UserError
from hsproto.evaluation import trained
from hsproto.evaluation.neighbors import nearest
from hsproto.parallel import processes
from hsproto.runs import summary as summary_lib
from hsproto.runs.files import to_json, write_text

KS = (1, 2, 4, 8)
METRICS = (*(f"recall@{k}" for k in KS), "map@r")

# Cosines of a block of queries with all images: 64 MB of float32, and the work on them some times
# that.
_BLOCK_ELEMENTS = 2**24

_cosines = jax.jit(numerics.cosines)


def recall_at_k(right, k):
    """Whether each query has an image of its class among its k nearest: bool [Q].

    right: bool [Q, M], whether the i-th nearest image is of the query's class, itself left out.
    Where there are fewer than k others, all of them are looked at.
    """
    return right[:, :k].any(axis=1)


def map_at_r(right, others):
    """1/R Σ_{i=1..R} P(i)·rel(i) of each query, whose mean is MAP@R: float64 [Q], NaN where R = 0.

    right: bool [Q, M] as in `recall_at_k`, M at least the largest R. others: int [Q], the R of each
    query: how many other images are of its class.
    """
    place = np.arange(1, right.shape[1] + 1)
    counted = right & (place <= others[:, None])
    total = (np.cumsum(right, axis=1) / place).sum(axis=1, where=counted)
    return np.divide(total, others, out=np.full(len(right), np.nan), where=others > 0)


def measure(features, labels, where=None, on_host=np.asarray):
    """{"images", "queries" and the METRICS}, shares in 0..1, NaN where no query has R > 0.

    features: [N, D], which may be split over devices, and `on_host` brings what is computed of them
    back. labels: int [N]. where: bool [N], the rows that count. Memory grows with N, not with N².
    """
    rows = np.arange(len(labels)) if where is None else np.flatnonzero(where)
    # Rows are often in the order of the classes: without this, classes would win and lose their
    # ties by their place in it.
    rows = np.random.Generator(np.random.PCG64(0)).permutation(rows)
    queries, labels = on_host(features)[rows], labels[rows]
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    others = counts[classes] - 1
    depth = min(len(rows) - 1, max(*KS, others.max()))

    size = max(1, min(1024, _BLOCK_ELEMENTS // len(features), len(queries)))
    found = {name: [] for name in METRICS}
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        # All blocks of one shape, so that one program serves them.
        padded = np.pad(block, ((0, size - len(block)), (0, 0)))
        cosines = on_host(_cosines(padded, features))[: len(block), rows]
        own = start + np.arange(len(block))
        cosines[np.arange(len(block)), own] = -np.inf  # not among the nearest N - 1
        right = labels[nearest(cosines, depth)] == labels[own, None]
        for k in KS:
            found[f"recall@{k}"].append(recall_at_k(right, k))
        found["map@r"].append(map_at_r(right, others[own]))
    counted = others > 0
    values = {name: np.concatenate(each)[counted] for name, each in found.items()}
    means = {name: float(each.mean()) if len(each) else np.nan for name, each in values.items()}
    return {"images": len(rows), "queries": int(counted.sum()), **means}


def with_original_labels(config):
    """The test set of a run on groups of classes, labelled by the classes themselves."""
    # The training set, which is read too, is left whole: a small one may lack entire classes.
    spec = dataclasses.replace(
        data_spec(config), class_groups="", num_classes=0, imbalance_factor=1.0
    )
    return load_lib.read_splits(spec).test


def format_table(found, name):
    """What retrieval.json holds as text; `name` is that of the run."""
    title = f"{name}, step {found['step']}, {found['queries']} queries, {found['labels']} labels"
    head = "".join(f"{metric:>9}" for metric in METRICS)
    return "\n".join(
        [title, head, "".join(summary_lib.format_cell(found[metric]) for metric in METRICS)]
    )


def main(argv):
    parser = cli.Parser(__doc__, prog="hsproto retrieval")
    cli.add_run_flags(parser)
    parser.add_argument(
        "--labels", default="own", choices=("own", "original"),
        help="original: of the classes, of a run on groups of them; default: own",
    )  # fmt: skip
    parser.add_argument(
        "--features", default="classifier", choices=("classifier", "encoder"),
        help="classifier: those that it sees; encoder: of SCL before its head; default: classifier",
    )  # fmt: skip
    processes.add_flags(parser)
    args = parser.parse_args(argv)
    processes.join(args)
    run = trained.TrainedRun(args.workdir, args.checkpoint)
    original = args.labels == "original"
    if original and not run.config.class_groups:
        raise UserError(
            f"--labels=original: {args.workdir} has no groups of classes (class_groups is empty), "
            "leave it out"
        )
    with processes.exit_if_process_lost():
        embedded = run.embed(with_original_labels(run.config)) if original else run.test
        features = embedded.features if args.features == "encoder" else embedded.projections
        measured = measure(features, embedded.labels, embedded.where, run.on_host)
    found = {"step": run.step, "labels": args.labels, "features": args.features, **measured}
    if processes.is_main():
        write_text(os.path.join(args.workdir, "retrieval.json"), to_json(found, indent=1))
    processes.log_main(format_table(found, os.path.basename(os.path.normpath(args.workdir))))
    return 0
