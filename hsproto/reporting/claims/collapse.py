"""Does collapse help or hurt? What runs achieve against how far they have collapsed.

Collapse is -log NC1 or -log CDNV of the rows trained on; the two do not order losses alike, as NC1
also falls when class means span more dimensions. The correlation is Spearman's partial one: of
ranks, given the accuracy on the rows trained on, so that collapse does not stand for having learned
more. Trials differ in rate, temperature and weight decay as well as in the loss; `within` ranks
them among the trials of their own loss alone.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hsproto.metrics import METRICS
from hsproto.reporting.claims.claims import values
from hsproto.reporting.claims.records import Records
from hsproto.reporting.table import Table

_SAMPLES = 1000
_LEAST = 8  # points that a correlation is told of
MEASURES = ("nc1", "cdnv")
OUTCOMES = {
    "held_out": "accuracy, held-out rows",
    "accuracy": "accuracy, test set",
    "transfer": "transfer",
    "ood_knn": "detection of other sets",
    "map@r": "MAP@R",
}


class Points(NamedTuple):
    """Trials or runs of a set.

    Attributes:
        methods: Names, N.
        collapse: -log of NC1 or CDNV of the training rows, float [N].
        fitted: The accuracy on the training rows, float [N].
        outcome: What was achieved, float [N].
    """

    methods: list[str]
    collapse: np.ndarray
    fitted: np.ndarray
    outcome: np.ndarray


def points(records: Records, outcome: str, measure: str = "nc1") -> Iterator[tuple[str, Points]]:
    """Yield (set, points) of an outcome: of trials for "held_out", else of runs on whole sets."""
    if outcome == "held_out":
        rows = [
            (_place(trial), trial.method, trial.metrics, trial.held_out)
            for trial in records.trials
            if trial.metrics is not None
        ]
    else:
        rows = [
            (_place(run), run.method, run.metrics, values(run, outcome))
            for run in records.runs
            if run.study in ("accuracy", "mlp", "scratch") and run.metrics is not None
        ]
    rows = [row for row in rows if row[3] is not None and _is_measured(row[2], measure)]
    for dataset in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == dataset]
        yield (
            dataset,
            Points(
                [row[1] for row in own],
                -np.log([row[2][measure] for row in own]),
                np.array([row[2]["train_accuracy"] for row in own]),
                np.array([row[3] for row in own]),
            ),
        )


def _place(row):
    return f"{row.set}, hidden layer" if row.head == "mlp" else row.set


def _is_measured(metrics, measure):
    return (metrics.get(measure) or 0) > 0 and metrics.get("train_accuracy") is not None


def partial(first: np.ndarray, second: np.ndarray, given: np.ndarray) -> float | None:
    """Return Spearman's partial correlation; None where it is undefined or of too few points."""
    found = _partials(np.stack([first, second, given])[:, None])[0]
    return None if np.isnan(found) else float(found)


def _partials(values):
    """Of many samples [3, S, N] at a time, [S]; NaN where it is undefined."""
    _, samples, points = values.shape
    if points < _LEAST:
        return np.full(samples, np.nan)
    ranks = _ranks(values)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b, c = ranks / lengths[..., None]
        ab, ac, bc = ((x * y).sum(axis=-1) for x, y in ((a, b), (a, c), (b, c)))
        rest = (1 - ac**2) * (1 - bc**2)
        found = (ab - ac * bc) / np.sqrt(rest)
    return np.where((lengths == 0).any(axis=0) | ~(rest > 1e-12), np.nan, found)


def _ranks(rows):
    """Ranks from 0 along the last axis, equal values sharing the mean of theirs."""
    from scipy.stats import rankdata  # comes with jax; a second to import

    return rankdata(rows, axis=-1) - 1


def _within(found: Points) -> Points:
    """The same with every number as its rank among those of its own method, of 0..1."""
    arrays = [np.array(rows, float) for rows in found[1:]]
    for method in dict.fromkeys(found.methods):
        own = np.array([name == method for name in found.methods])
        for rows in arrays:
            rows[own] = _ranks(rows[own]) / max(own.sum() - 1, 1)
    return Points(found.methods, *arrays)


def table(records: Records) -> Table:
    """Return the partial correlations of what was achieved with collapse, with 95 % intervals."""
    rows = []
    for outcome, title in OUTCOMES.items():
        for measure in MEASURES:
            for dataset, found in points(records, outcome, measure):
                # Losses are what varies most, and seeds of one setting say the same.
                cells = [_interval(found, _by_method)]
                trials = outcome == "held_out"
                cells.append(_interval(_within(found), _by_row) if trials else None)
                methods = len(set(found.methods))
                n = f"{methods} losses, {len(found.methods)} {'trials' if trials else 'runs'}"
                name = METRICS[measure].title or measure.upper()
                rows.append(((title, dataset, name), (n, *cells)))
    note = (
        "Spearman's partial correlation with collapse (-log of the measure, of the training rows), "
        "given training accuracy; above 0: collapse helps. 95 % intervals: losses drawn anew. "
        "Within losses: each trial ranked among those of its loss, trials drawn anew."
    )
    labels, columns = ("outcome", "set", "collapse by"), ("n", "all losses", "within losses")
    return Table("collapse", "Does collapse help?", note, labels, columns, rows)


def _by_row(found: Points) -> list[np.ndarray]:
    """The parts of which as many are drawn anew: each point."""
    return list(np.arange(len(found.methods))[:, None])


def _by_method(found: Points) -> list[np.ndarray]:
    """The parts of which as many are drawn anew: the points of each method."""
    methods = np.array(found.methods)
    return [np.flatnonzero(methods == name) for name in dict.fromkeys(found.methods)]


def _interval(found: Points, divided: Callable[[Points], list[np.ndarray]]) -> str | None:
    mean = partial(found.collapse, found.outcome, found.fitted)
    if mean is None:
        return None
    random = np.random.default_rng(0)
    by_length: dict[int, list[np.ndarray]] = {}  # losses may have different numbers of points
    parts = divided(found)
    for _ in range(_SAMPLES):
        drawn = random.integers(len(parts), size=len(parts))
        rows = np.concatenate([parts[i] for i in drawn])
        by_length.setdefault(len(rows), []).append(rows)
    values = np.stack([found.collapse, found.outcome, found.fitted])
    samples = np.concatenate([_partials(values[:, np.stack(r)]) for r in by_length.values()])
    samples = samples[~np.isnan(samples)]
    low, high = np.quantile(samples, (0.025, 0.975))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
