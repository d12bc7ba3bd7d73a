"""The tables of what a study's runs measure beside accuracy: a row per set and method."""

from hsproto.metrics import METRICS
from hsproto.reporting.claims import claims as claims_lib
from hsproto.reporting.claims.claims import Comparisons
from hsproto.reporting.claims.records import Records, Run
from hsproto.reporting.convergence import stays_from
from hsproto.reporting.table import Table, Value, mean_over_seeds

# Metrics of 0..1 that are printed in percent, with what they mean where METRICS has no title.
PERCENT = {
    "accuracy": "accuracy",
    "accuracy_class_means": "accuracy of class means",
    "train_accuracy": "training accuracy",
    "ece": "calibration error",
    "ece_fitted": "calibration error, temperature fitted",
    "recall@1": "recall@1",
    "map@r": "MAP@R",
    "transfer": "transfer",
    "ood_max_cosine": "OOD, cosine",
    "ood_knn": "OOD, 50th neighbor",
    "accuracy_many": "many-shot",
    "accuracy_medium": "medium-shot",
    "accuracy_few": "few-shot",
    "new_1_shot": "new classes, 1 image",
    "new_10_shot": "new classes, 10",
    "new_all_shots": "new classes, all",
    "old_10_shot": "old classes, after 10",
    "fine_class_means": "100 classes by class means",
    "on_none": "not corrupted",
    "corrupted": "15 corruptions",
}
_OF_OTHER_SETS = ("transfer", "ood_max_cosine", "ood_knn")  # a metric each, and their mean
# What titles do not say.
_MEANINGS = {
    "ece": "Calibration error: mean gap between confidence and accuracy, in bins of confidence",
    "recall@1": "Recall@1: share of test images whose nearest other one is of their class",
    "map@r": "MAP@R: mean precision at the ranks of the R nearest that are of the class, R the "
    "number of others of the class",
    "transfer": "Transfer: accuracy of logistic regression on the embedding, mean over other sets",
    "ood_knn": "OOD: AUROC of telling test images from those of other sets, mean over these",
}
GEOMETRY = (
    "nc1", "test_nc1", "cdnv", "instance_alignment", "weight_alignment", "erank_intra",
    "erank_inter", "erank_weights", "cosine_prototypes_mean", "mir_gap",
)  # fmt: skip
# The measures of each study, a table each.
MEASURED = {
    "accuracy": (
        "accuracy_class_means", "train_accuracy", "ece", "ece_fitted", "recall@1", "map@r",
        "transfer", "ood_max_cosine", "ood_knn",
    ),
    "longtail": ("accuracy_many", "accuracy_medium", "accuracy_few"),
    "longtail_adjusted": ("accuracy_many", "accuracy_medium", "accuracy_few"),
    "longtail_balanced": ("accuracy_many", "accuracy_medium", "accuracy_few"),
    "new_classes": ("new_1_shot", "new_10_shot", "new_all_shots", "old_10_shot"),
    "coarse": ("fine_class_means",),
    "mlp": ("accuracy_class_means", "train_accuracy"),
    "robustness": ("on_none", "corrupted"),
    "scratch": (
        "accuracy_class_means", "train_accuracy", "ece", "ece_fitted", "recall@1", "map@r",
    ),
}  # fmt: skip


def where(place: tuple[str, str]) -> str:
    """Return a (set, variant) in words."""
    return ", ".join(filter(None, place))


def study_title(records: Records, study: str) -> str:
    """Return what a study is about, with a capital letter."""
    title = records.studies[study].title if study in records.studies else study
    return title[:1].upper() + title[1:]


def over_seeds(runs: list[Run], metric: str) -> Value | None:
    """Return the cell of a metric over runs; None if none of those that did not diverge has it."""
    if not runs:
        return None
    percent = metric in PERCENT or _other_set(metric) or metric.startswith("accuracy@")
    scale, digits = (100, 2) if percent else (1, None)
    found = [claims_lib.values(run, metric) for run in runs]
    if all(x is None and run.metrics is not None for x, run in zip(found, runs, strict=True)):
        return None
    return mean_over_seeds([None if x is None else scale * x for x in found], digits=digits)


def measures(
    records: Records,
    comparisons: Comparisons,
    study: str,
    metrics: tuple[str, ...],
    name: str = "measures",
) -> Table:
    """Return further measures of a study's runs, a row per set and method."""
    rows = []
    for place in comparisons.places(study):
        before = len(rows)
        for method, (title, _) in records.methods.items():
            runs = comparisons.runs(study, *place, method)
            cells = tuple(over_seeds(runs, metric) for metric in metrics)
            if any(cell is not None for cell in cells):
                rows.append(((where(place), title), cells))
        if len(rows) == before:
            rows.append(((where(place), "not run"), (None,) * len(metrics)))
    titles = tuple(_title(metric) for metric in metrics)
    note = "Shares in percent; mean ± sample standard deviation over seeds."
    if name == "geometry":
        note = "Of the training set, but for the second column; mean ± sample standard deviation."
    meanings = dict.fromkeys(_meaning(metric) for metric in metrics)
    note = " ".join([note, *(f"{text}." for text in meanings if text)])
    title = f"{study_title(records, study)}: {name}"
    return Table(f"{name}_{study}", title, note, ("set", "method"), titles, rows)


def _meaning(metric):
    """What a column shows, where its title does not say it."""
    known = _other_set(metric) or metric.removeprefix("test_")
    if known in _MEANINGS:
        return _MEANINGS[known]
    if known in METRICS and not _by_epoch(metric) and known not in PERCENT:
        return f"{METRICS[known].title or known.upper()}: {METRICS[known].meaning}"
    return None


def _by_epoch(metric):
    """(name, epoch) of a metric during training; None for another."""
    name, _, epoch = metric.partition("@")
    return (name, int(epoch)) if name in ("accuracy", "nc1") and epoch.isdigit() else None


def _title(metric):
    if at := _by_epoch(metric):
        return f"{_title(at[0])}, epoch {at[1]}"
    if metric in PERCENT:
        return PERCENT[metric]
    if of := _other_set(metric):
        return f"{PERCENT[of]}: {metric.removeprefix(f'{of}_')}"
    test, name = metric.startswith("test_"), metric.removeprefix("test_")
    return f"{METRICS[name].title or name.upper()}{', test' if test else ''}"


def by_other_set(records: Records, comparisons: Comparisons, study: str) -> Table | None:
    """Return what is a mean over the other sets elsewhere, by each of them."""
    measured = {name for run in records.runs if run.study == study for name in run.metrics or ()}
    names = tuple(
        name for of in _OF_OTHER_SETS for name in sorted(measured) if _other_set(name) == of
    )
    if not names:
        return None
    table = measures(records, comparisons, study, names, "by other set")
    return table._replace(name=f"other_sets_{study}")


def _other_set(metric):
    """What a metric of one other set is of those of all; None if it is of none."""
    return next((of for of in _OF_OTHER_SETS if metric.startswith(f"{of}_")), None)


def convergence(records: Records, comparisons: Comparisons, study: str) -> Table | None:
    """Return accuracy and NC1 by epoch, and when they come to stay at the baseline's values."""
    runs = (run for run in records.runs if run.study == study)
    found = {at for run in runs for metric in run.metrics or () if (at := _by_epoch(metric))}
    if not found:
        return None
    curve = tuple(f"{name}@{epoch}" for name, epoch in sorted(found))
    table = measures(records, comparisons, study, curve, "convergence")
    titles = {name: method.title for name, method in records.methods.items()}
    of = {(where(place), titles[method]): (place, method)
          for place in comparisons.places(study) for method in titles}  # fmt: skip
    rows = []
    for labels, cells in table.rows:
        reached: tuple[str | None, ...] = (None,) * 3
        if labels in of:
            place, method = of[labels]
            reached = _reached(comparisons, study, place, method, records.baseline)
        rows.append((labels, (*cells, *reached)))
    baseline = titles[records.baseline]
    columns = (
        "epoch of 95 % of the last accuracy", f"epoch of {baseline}'s accuracy",
        f"epoch of {baseline}'s NC1",
    )  # fmt: skip
    note = (
        "Test accuracy in percent and NC1 of the training set during training; mean ± sample "
        "standard deviation over seeds. Epochs: the first evaluation from which on the value stays "
        f"there, by seed; that of {baseline} is its last one of the same seed."
    )
    return table._replace(columns=(*table.columns, *columns), rows=rows, note=note)


def _reached(comparisons, study, place, method, baseline):
    """When runs come to stay at 95 % of their accuracy, and at the baseline's values, by seed."""
    others = {run.seed: run for run in comparisons.runs(study, *place, baseline)}
    found = []
    for run in comparisons.runs(study, *place, method):
        own, other = _points(run, "accuracy"), _points(others.get(run.seed), "accuracy")
        nc1, other_nc1 = _points(run, "nc1"), _points(others.get(run.seed), "nc1")
        found.append((
            _stays(own, 0.95 * own[-1][1] if own else None, rises=True),
            _stays(own, other[-1][1] if other else None, rises=True),
            _stays(nc1, other_nc1[-1][1] if other_nc1 else None, rises=False),
        ))  # fmt: skip
    return tuple(", ".join(epochs) for epochs in zip(*found, strict=True))


def _points(run, name):
    """(epoch, value) during training."""
    metrics = run.metrics if run and run.metrics else {}
    found = ((_by_epoch(metric), value) for metric, value in metrics.items())
    return sorted((at[1], value) for at, value in found if at and at[0] == name)


def _stays(points, threshold, rises):
    """The epoch from which on values are at the threshold or beyond; "-" if there is none."""
    if threshold is None:
        return "-"
    first = stays_from([value for _, value in points], threshold, rises)
    return "-" if first is None else str(points[first][0])
