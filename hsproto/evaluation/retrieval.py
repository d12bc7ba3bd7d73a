"""Image retrieval: are the test images nearest to a test image of its class?

  hsproto retrieval --workdir=runs/NAME [--checkpoint=STEP] [--features=encoder]
  hsproto retrieval --workdir=runs/coarse --labels=original

Every test image queries all others, by cosine of the features that the classifier sees, for SCL
those of its head; --features=encoder takes those of the encoder. --labels=original: for a run on
groups of classes (`hsproto.data.class_lists`), whether the nearest images are of the same class,
not only of the same group.

recall@k  share of the queries that have an image of their class among their k nearest
map@r     for a query with R other images of its class, the mean over i = 1..R of P(i)·rel(i):
          rel(i) is 1 if the i-th nearest is of its class, else 0, and P(i) the share of such among
          the first i; the mean over queries (Musgrave et al. 2020, "A Metric Learning Reality
          Check")

Both are over the queries with R > 0: the others have nothing to find. Equal cosines, of which a
collapsed run has many, are ranked in a random order, which is drawn with a fixed seed and
independent of the labels.

Prints a table and writes WORKDIR/retrieval.json, which holds the last call.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hsproto.data import load as load_lib
from hsproto.data.source import Source, data_spec
from hsproto.errors import UserError
from hsproto.evaluation import command
from hsproto.evaluation.neighbors import cosine_blocks, nearest
from hsproto.evaluation.trained import TrainedRun
from hsproto.runs import summary as summary_lib

KS = (1, 2, 4, 8)
METRICS = (*(f"recall@{k}" for k in KS), "map@r")

# Cosines of a block of queries with all images: 64 MB of float32; ranking takes a multiple of that.
_BLOCK_ELEMENTS = 2**24


def recall_at_k(relevant: np.ndarray, k: int) -> np.ndarray:
    """Return whether each query has an image of its class among its k nearest: bool [Q].

    Args:
        relevant: bool [Q, M], whether the i-th nearest other image is of the query's class.
        k: may exceed M; then all others count.
    """
    return relevant[:, :k].any(axis=1)


def map_at_r(relevant: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return 1/R Σ_{i=1..R} P(i)·rel(i) of each query, float64 [Q], NaN where R = 0.

    The mean over queries is MAP@R.

    Args:
        relevant: bool [Q, M] as in `recall_at_k`, M at least the largest R.
        others: int [Q], the R of each query: the number of other images of its class.
    """
    place = np.arange(1, relevant.shape[1] + 1)
    counted = relevant & (place <= others[:, None])
    total = (np.cumsum(relevant, axis=1) / place).sum(axis=1, where=counted)
    return np.divide(total, others, out=np.full(len(relevant), np.nan), where=others > 0)


def measure(
    features: Any,
    labels: np.ndarray,
    where: np.ndarray | None = None,
    on_host: Callable[[jax.Array], np.ndarray] = np.asarray,
) -> dict[str, Any]:
    """Return {"images", "queries" and the METRICS}, shares in 0..1, NaN where no query has R > 0.

    Memory grows with N, not with N².

    Args:
        features: [N, D]; may be split over devices.
        labels: int [N].
        where: bool [N], the rows that count.
        on_host: copies what is computed of `features` to the host.
    """
    rows = np.arange(len(labels)) if where is None else np.flatnonzero(where)
    # Rows are often in the order of the classes: without this, ties would be decided by it.
    rows = np.random.Generator(np.random.PCG64(0)).permutation(rows)
    queries, labels = on_host(features)[rows], labels[rows]
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    others = counts[classes] - 1
    depth = min(len(rows) - 1, max(*KS, others.max()))

    blocks = {name: [] for name in METRICS}
    for block, cosines in cosine_blocks(queries, features, _BLOCK_ELEMENTS, on_host):
        cosines = cosines[:, rows]
        own = np.arange(block.start, block.stop)
        cosines[own - block.start, own] = -np.inf  # not among the nearest N - 1
        relevant = labels[nearest(cosines, depth)] == labels[block, None]
        for k in KS:
            blocks[f"recall@{k}"].append(recall_at_k(relevant, k))
        blocks["map@r"].append(map_at_r(relevant, others[block]))
    counted = others > 0
    values = {name: np.concatenate(each)[counted] for name, each in blocks.items()}
    means = {name: float(each.mean()) if len(each) else np.nan for name, each in values.items()}
    return {"images": len(rows), "queries": int(counted.sum()), **means}


def with_original_labels(config: Any) -> Source:
    """Return the test set of a run on groups of classes, labeled by the classes themselves."""
    # The training set, which is read too, is left whole: a small one may lack entire classes.
    spec = dataclasses.replace(
        data_spec(config), class_groups="", num_classes=0, imbalance_factor=1.0
    )
    return load_lib.read_splits(spec).test


def format_table(results: dict[str, Any], name: str) -> str:
    """Return the content of retrieval.json as text; `name` is that of the run."""
    title = f"{name}, step {results['step']}, {results['queries']} queries"
    head = "".join(f"{metric:>9}" for metric in METRICS)
    cells = "".join(summary_lib.format_cell(results[metric]) for metric in METRICS)
    return "\n".join([f"{title}, {results['labels']} labels", head, cells])


def retrieve(run: TrainedRun, args: Any) -> command.Results:
    """Measure retrieval among the test images of a run."""
    if args.labels == "original":
        if not run.config.class_groups:
            raise UserError(
                f"--labels=original: {args.workdir} has no groups of classes (class_groups is "
                "empty), leave it out"
            )
        _ = run.splits  # which checks that the data are the run's
        embedded = run.embed(with_original_labels(run.config))
    else:
        embedded = run.test
    features = embedded.features if args.features == "encoder" else embedded.projections
    content = {"step": run.step, "labels": args.labels, "features": args.features}
    content |= measure(features, embedded.labels, embedded.where, run.on_host)
    return command.Results(content, format_table(content, command.run_name(args.workdir)))


def main(argv: list[str]) -> int:
    parser = command.make_parser(__doc__, "retrieval")
    parser.add_argument(
        "--labels", default="own", choices=("own", "original"),
        help="original: the classes, for a run on groups of them; default: own",
    )  # fmt: skip
    parser.add_argument(
        "--features", default="classifier", choices=("classifier", "encoder"),
        help="classifier: its inputs; encoder: of SCL, before its head; default: classifier",
    )  # fmt: skip
    return command.run("retrieval", parser.parse_args(argv), retrieve)
