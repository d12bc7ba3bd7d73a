"""The tables of a study's records: verdicts, accuracy, what was chosen, further measures."""

from hsproto.reporting.claims import claims as claims_lib
from hsproto.reporting.claims import collapse as collapse_lib
from hsproto.reporting.claims import paired
from hsproto.reporting.claims.claims import Comparisons
from hsproto.reporting.claims.measures import (
    GEOMETRY,
    MEASURED,
    PERCENT,
    by_other_set,
    convergence,
    measures,
    over_seeds,
    study_title,
    where,
)
from hsproto.reporting.claims.records import Records, chosen
from hsproto.reporting.table import Table


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
        if measured := MEASURED.get(study):
            tables.append(measures(records, comparisons, study, measured))
    for study in ("accuracy", "mlp", "scratch"):
        if study in studies:
            tables.append(measures(records, comparisons, study, GEOMETRY, "geometry"))
    further = [
        by_other_set(records, comparisons, "accuracy"),
        convergence(records, comparisons, "scratch"),
    ]
    tables += [table for table in further if table]
    return [*tables, collapse_lib.table(records), choices(records)]


def verdicts(records: Records, comparisons: Comparisons) -> Table:
    """Return the table of claims: verdict, effect with interval per set, corrected p."""
    rows, titles = [], {name: method.title for name, method in records.methods.items()}
    for claim in claims_lib.CLAIMS.get(records.regime, ()):
        if not {claim.first, claim.second} <= set(records.methods):
            continue
        verdict = claims_lib.judge(claim, comparisons)
        effects = (
            f"{where(place)} {_effect(cell, claim.metric)}" for place, cell in verdict.cells.items()
        )
        text = claim.text.format(**titles)
        source = claim.source or "not the paper's"
        word = verdict.word and f"{verdict.word} (n={verdict.sets})"
        rows.append(((text, source), (word, "; ".join(effects) if word else None)))
    note = (
        "Differences of the first method less the second, with 95 % intervals, not corrected, and "
        "p after Holm's correction over the methods that are compared with the second. Accuracy, "
        "of corrupted images too, is paired by seed and test image; other measures by seed alone, "
        "so that their intervals do not tell what another test set would give. (+) confirms the "
        "claim there, (-) contradicts it, (o) leaves it open; n is the number of sets that were "
        "run, a dash what was not."
    )
    return Table("verdicts", "Verdicts", note, ("claim", "paper"), ("verdict", "effect"), rows)


def _effect(cell, metric):
    if cell is None:
        return "-"
    mark = {1: "+", -1: "-", 0: "o"}[cell.outcome]
    return f"{_interval(cell.difference, metric)} (p {_p(cell.corrected)}) ({mark})"


def _interval(gap: paired.Difference, metric: str) -> str:
    percent = metric in PERCENT
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
        name = where(place)
        columns += [name, f"{name}, less {records.methods[records.baseline].title}"]
    best = {place: _best(records, comparisons, study, place) for place in places}
    for method, (title, _) in records.methods.items():
        cells = []
        for place in places:
            runs = comparisons.runs(study, *place, method)
            cell = over_seeds(runs, "accuracy")
            cells.append(cell and cell._replace(best=method == best[place]))
            gap = comparisons.between(study, place, "accuracy", method, records.baseline)
            cells.append(f"{_interval(gap[0], 'accuracy')}, p {_p(gap[1])}" if gap else None)
        if any(cell is not None for cell in cells):
            rows.append(((title,), tuple(cells)))
    note = (
        "Test accuracy in percent, mean ± sample standard deviation over seeds; bold: the highest "
        "mean, whatever its interval. Differences are paired by seed and test image, with 95 % "
        "intervals and p after Holm's correction."
    )
    title = f"{study_title(records, study)}: accuracy"
    return Table(f"accuracy_{study}", title, note, ("method",), tuple(columns), rows)


def _best(records, comparisons, study, place):
    means = {}
    for method in records.methods:
        cell = over_seeds(comparisons.runs(study, *place, method), "accuracy")
        if cell is not None and cell.mean is not None:
            means[method] = cell.mean
    return max(means, key=means.get) if means else None


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
            over_seeds(found, "accuracy"),
            _interval(gap, "accuracy") if gap else None,
            over_seeds(found, "nc1"),
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
