"""The tables of a study's records: verdicts, accuracy, what was chosen, further measures."""

from hsproto.metrics import METRICS
from hsproto.reporting.claims import claims as claims_lib
from hsproto.reporting.claims import collapse as collapse_lib
from hsproto.reporting.claims import paired
from hsproto.reporting.claims.claims import Comparisons
from hsproto.reporting.claims.records import Records, chosen
from hsproto.reporting.table import Table, mean_over_seeds

# Metrics of 0..1 that are printed in percent, with what they mean where METRICS has no title.
_PERCENT = {
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
_GEOMETRY = (
    "nc1", "test_nc1", "cdnv", "instance_alignment", "weight_alignment", "erank_intra",
    "erank_inter", "erank_weights", "cosine_prototypes_mean", "mir_gap",
)  # fmt: skip
# The measures of each study, a table each.
_MEASURED = {
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


def build(records: Records) -> list[Table]:
    """Return all tables of a study, that of verdicts first."""
    comparisons = Comparisons(records)
    tables = [verdicts(records, comparisons)]
    studies = dict.fromkeys(run.study for run in records.runs)
    for study in studies:
        if study == "causes":
            tables += [
                variants(records, comparisons, study, dataset)
                for dataset in dict.fromkeys(dataset for dataset, _ in comparisons.places(study))
            ]
            continue
        if study != "robustness":  # its runs are those of accuracy, trained again
            tables.append(accuracies(records, comparisons, study))
        if measured := _MEASURED.get(study):
            tables.append(measures(records, comparisons, study, measured))
    for study in ("accuracy", "scratch"):
        if study in studies:
            tables.append(measures(records, comparisons, study, _GEOMETRY, "geometry"))
    if curve := _curve(records):
        tables.append(measures(records, comparisons, "scratch", curve, "convergence"))
    return [*tables, collapse_lib.table(records), choices(records)]


def verdicts(records: Records, comparisons: Comparisons) -> Table:
    """Return the table of claims: verdict, effect with interval per set, corrected p."""
    rows, titles = [], {name: method.title for name, method in records.methods.items()}
    for claim in claims_lib.CLAIMS.get(records.regime, ()):
        if not {claim.first, claim.second} <= set(records.methods):
            continue
        verdict = claims_lib.judge(claim, comparisons)
        effects = "; ".join(_effect(cell, claim.metric) for cell in verdict.cells)
        text = claim.text.format(**titles)
        source = claim.source or "not the paper's"
        word = verdict.word and f"{verdict.word} (n={len(verdict.cells)})"
        rows.append(((text, source), (word, effects or None)))
    note = (
        "Differences of the first method less the second, with 95 % intervals, not corrected, and "
        "p after Holm's correction over the methods that are compared with the second. Accuracy is "
        "paired by seed and test image; other measures by seed alone, so that their intervals do "
        "not tell what another test set would give. + confirms the claim there, - contradicts it, "
        "o leaves it open; n of these."
    )
    return Table("verdicts", "Verdicts", note, ("claim", "paper"), ("verdict", "effect"), rows)


def _effect(cell, metric):
    mark = {1: "+", -1: "-", 0: "o"}[cell.outcome]
    return f"{cell.where} {_interval(cell.difference, metric)} (p {_p(cell.corrected)}) {mark}"


def _interval(gap: paired.Difference, metric: str) -> str:
    percent = metric in _PERCENT
    scale, digits = (100, 2) if percent else (1, 3)
    numbers = (f"{scale * x:+.{digits}f}" for x in (gap.mean, gap.low, gap.high))
    return "{} [{}, {}]".format(*numbers)


def _p(value):
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def accuracies(records: Records, comparisons: Comparisons, study: str) -> Table:
    """Return accuracies per method and set, and their differences to the baseline."""
    places = comparisons.places(study)
    columns, rows = [], []
    for place in places:
        name = ", ".join(filter(None, place))
        columns += [name, f"{name}, less {records.methods[records.baseline].title}"]
    best = {place: _best(records, comparisons, study, place) for place in places}
    for method, (title, _) in records.methods.items():
        cells = []
        for place in places:
            runs = comparisons.runs(study, *place, method)
            cell = _mean(runs, "accuracy")
            cells.append(cell and cell._replace(best=method == best[place]))
            gap = comparisons.between(study, place, "accuracy", method, records.baseline)
            cells.append(f"{_interval(gap[0], 'accuracy')}, p {_p(gap[1])}" if gap else None)
        if any(cell is not None for cell in cells):
            rows.append(((title,), tuple(cells)))
    note = (
        "Test accuracy in percent, mean ± sample standard deviation over seeds; differences paired "
        "by seed and test image, 95 % intervals, p after Holm's correction."
    )
    return Table(f"accuracy_{study}", f"Accuracy: {study}", note, ("method",), tuple(columns), rows)


def _best(records, comparisons, study, place):
    means = {}
    for method in records.methods:
        cell = _mean(comparisons.runs(study, *place, method), "accuracy")
        if cell is not None and cell.mean is not None:
            means[method] = cell.mean
    return max(means, key=means.get) if means else None


def _mean(runs, metric):
    """The cell of a metric over runs; None if none of them has it, but for those that diverged."""
    if not runs:
        return None
    percent = metric in _PERCENT or metric.startswith("accuracy@")
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
        for method, (title, _) in records.methods.items():
            runs = comparisons.runs(study, *place, method)
            cells = tuple(_mean(runs, metric) for metric in metrics)
            if any(cell is not None for cell in cells):
                rows.append(((", ".join(filter(None, place)), title), cells))
    titles = tuple(_title(metric) for metric in metrics)
    note = "Shares in percent; mean ± sample standard deviation over seeds."
    if name == "geometry":
        note = "Of the training set, but for the second column; mean ± sample standard deviation."
    elif name == "convergence":
        note = "Test accuracy in percent and NC1 of the training set during training."
    return Table(
        f"{name}_{study}", f"{name.capitalize()}: {study}", note, ("set", "method"), titles, rows
    )


def _curve(records):
    """The metrics by epoch that runs have, in the order of their epochs."""
    found = {name for run in records.runs for name in run.metrics or () if _by_epoch(name)}
    return tuple(sorted(found, key=lambda name: (name.split("@")[0], int(name.split("@")[1]))))


def _by_epoch(metric):
    name, at, epoch = metric.partition("@")
    return bool(at) and name in ("accuracy", "nc1") and epoch.isdigit()


def _title(metric):
    if _by_epoch(metric):
        name, _, epoch = metric.partition("@")
        return f"{_title(name)}, epoch {epoch}"
    if metric in _PERCENT:
        return _PERCENT[metric]
    test, name = metric.startswith("test_"), metric.removeprefix("test_")
    return f"{METRICS[name].title or name.upper()}{', test' if test else ''}"


def variants(records: Records, comparisons: Comparisons, study: str, dataset: str) -> Table:
    """Return what other values in the place of the chosen ones do to accuracy and NC1."""
    names = [variant for place, variant in comparisons.places(study) if place == dataset]
    methods = [
        method
        for method in records.methods
        if any(comparisons.runs(study, dataset, name, method) for name in names)
    ]
    chosen_runs = {method: comparisons.runs("accuracy", dataset, "", method) for method in methods}
    rows = [(("as chosen",), _cells_of_variant(chosen_runs, {}))]
    for name in names:
        runs = {method: comparisons.runs(study, dataset, name, method) for method in methods}
        rows.append(((name,), _cells_of_variant(runs, chosen_runs)))
    columns = [
        f"{records.methods[method].title}{what}"
        for method in methods
        for what in ("", ", less as chosen", ", NC1")
    ]
    note = (
        "Test accuracy in percent and NC1 of the training set, mean ± sample standard deviation "
        "over seeds; differences paired by seed and test image, 95 % intervals, not corrected."
    )
    return Table(
        f"{study}_{dataset}", f"Causes: {dataset}", note, ("in place of what was chosen",),
        tuple(columns), rows,
    )  # fmt: skip


def _cells_of_variant(runs, others):
    cells = []
    for method, found in runs.items():
        gap = claims_lib.difference(found, others.get(method, []), "accuracy")
        cells += [
            _mean(found, "accuracy"),
            _interval(gap, "accuracy") if gap else None,
            _mean(found, "nc1"),
        ]
    return tuple(cells)


def choices(records: Records) -> Table:
    """Return what the trials have chosen, and how many of them diverged."""
    rows = []
    places = dict.fromkeys((trial.head, trial.set, trial.method) for trial in records.trials)
    for head, dataset, method in places:
        found = [t for t in records.trials if (t.head, t.set, t.method) == (head, dataset, method)]
        best = chosen(records, head, dataset, method)
        values = ", ".join(f"{key} {value}" for key, value in best.values.items()) if best else None
        held_out = None if best is None else f"{100 * best.held_out:.2f}"
        diverged = sum(trial.held_out is None for trial in found)
        cells = (values, held_out, str(len(found)), str(diverged))
        rows.append(((head, dataset, records.methods[method].title), cells))
    note = "Accuracy in percent on held-out training rows; of equal trials the first."
    return Table(
        "choices", "Chosen values", note, ("head", "set", "method"),
        ("values", "held out", "trials", "diverged"), rows,
    )  # fmt: skip
