"""Tables of what the commands that measure finished runs leave in their workdirs.

As in `hsproto.reporting.tables.training`: from a list of `run.Run`; accuracies, errors and shares
are in per cent.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hsproto.methods import ENCODER_LOSSES
from hsproto.metrics import defined
from hsproto.reporting import naming, paper_results
from hsproto.reporting.paper_protocol import paper_set
from hsproto.reporting.table import Table
from hsproto.reporting.tables.assemble import (
    Entry,
    Layout,
    assemble,
    drop_empty,
    geometry_entries,
    percent,
)
from hsproto.runs.run import Run, data_set, imbalance_factor

PROBES = {"fp": "fixed prototypes", "lp": "LP", "nlp": "NLP", "cached_lp": "cached LP"}
SCORES = {"max_cosine": "max cosine", "energy": "energy", "knn": "kNN"}


def classifiers(runs: Sequence[Run]) -> list[Table]:
    """Tables 2, 8 and 14: classifiers on frozen encoders, with their cost and geometry."""
    accuracies, costs = [], {}
    for run in _with(runs, "probe"):
        if run.config["loss"] not in ENCODER_LOSSES:
            continue
        step, projection = run.measured["probe"].get("step"), run.config.get("projection", "none")
        for method, result in probes(run).items():
            passes = f"{result['passes']:g}" if defined(result.get("passes")) else "-"
            extra = PROBES.get(method, method), projection, passes
            entry = partial(Entry, run=run, step=step, extra=extra)
            paper = None
            if run.config["loss"] == "scl" and imbalance_factor(run) == 1:
                paper = paper_results.CLASSIFIERS.get((method, projection), {}).get(paper_set(run))
            accuracy = percent(result.get("test", {}).get("accuracy"))
            accuracies.append(entry(column=data_set(run), value=accuracy, paper=paper))
            costs.setdefault(data_set(run), []).extend(
                [
                    entry(column="seconds", value=result.get("seconds"), digits=1),
                    *geometry_entries(run, step, extra, result.get("train", {})),
                ]
            )
    common = dict(labels=("encoder", "classifier", "head", "passes"), omit=("projection",))
    layout = Layout(
        name="classifiers",
        title="Classifiers of an encoder (Tables 2, 8, 14)",
        note="Test accuracy in per cent on one frozen encoder. Passes are those of the training "
        "set through it; fixed prototypes are of what the head gives, the others are trained on "
        "the encoder's features.",
        columns=naming.in_paper_order({entry.column for entry in accuracies}),
        best=max,
        **common,
    )
    tables = [assemble(accuracies, layout)]
    for name, entries in costs.items():
        layout = Layout(
            name=f"classifiers_{name}",
            title=f"Cost and geometry of classifiers: {name}",
            note="Seconds until the classifier is there; geometry of the training set.",
            **common,
        )
        tables.append(assemble(entries, layout))
    return drop_empty(tables)


def transfer(runs: Sequence[Run]) -> list[Table]:
    """Table 4: linear classifiers on frozen encoders, top-1 and per class, by data set and mean."""
    top, per_class = [], []
    for run in _with(runs, "transfer"):
        for name, result in run.measured["transfer"].get("datasets", {}).items():
            entry = partial(
                Entry,
                run=run,
                step=result.get("protocol", {}).get("step"),
                extra=(data_set(run),),
                column=(name, result.get("train_images"), result.get("test_images")),
            )
            accuracy = result.get("accuracy")
            accuracy = result.get("average_precision") if accuracy is None else accuracy
            paper = paper_results.TRANSFER.get(run.config["loss"], {}).get(name)
            top.append(entry(value=percent(accuracy), paper=paper))
            per_class.append(entry(value=percent(result.get("accuracy_per_class"))))
    names = _transfer_columns(top)
    top = [replace(entry, column=names[entry.column]) for entry in top]
    per_class = [replace(e, column=names[e.column]) for e in per_class if e.value is not None]
    columns = naming.in_paper_order(names.values(), paper_results.TRANSFER_SETS)
    several = len(columns) > 1
    common = dict(labels=("loss", "trained on"), best=max)
    layout = Layout(
        name="transfer",
        title="Transfer (Table 4)",
        note="Per cent; top-1, of sets of several labels 11-point mean average precision. The "
        "paper does not tell which set its encoders were trained on. A mean is given where all "
        "sets were measured.",
        columns=[*columns, "mean"] if several else columns,
        **common,
    )
    of_classes = Layout(
        name="transfer_per_class",
        title="Transfer, mean accuracy of the classes",
        note="Per cent.",
        columns=[c for c in columns if any(entry.column == c for entry in per_class)],
        **common,
    )
    top += _transfer_means(top, columns) if several else []
    return drop_empty([assemble(top, layout), assemble(per_class, of_classes)])


def robustness(runs: Sequence[Run]) -> list[Table]:
    """Table 5: errors on clean and on corrupted test images, and mCE where it is defined."""
    entries = []
    for run in _with(runs, "robustness"):
        results = run.measured["robustness"]
        for path, result in results.items():
            images = "generated" if result.get("generated") else "as published"
            counted = str(result.get("counted", "-"))
            extra = (data_set(run), _short(path, results), images, counted)
            paper = {}
            standard = result.get("layout") == "folder" and result.get("mce") is not None
            if standard and paper_set(run) == "imagenet2012" and not result.get("generated"):
                paper = paper_results.ROBUSTNESS.get(run.config["loss"], {})
            entry = partial(Entry, run=run, step=result.get("step"), extra=extra)
            clean, mean = percent(result.get("clean_error")), percent(result.get("mean_error"))
            entries += [
                entry(column="clean error", value=clean, paper=paper.get("clean_error")),
                entry(column="mean corruption error", value=mean),
                entry(column="mCE", value=result.get("mce"), paper=paper.get("mce")),
            ]
    layout = Layout(
        name="robustness",
        title="Robustness (Table 5)",
        labels=("loss", "trained on", "corrupted set", "images", "corruptions"),
        note="Top-1 errors in per cent; mCE relates them to AlexNet's on ImageNet-C.",
        best=min,
    )
    return drop_empty([assemble(entries, layout)])


def ood(runs: Sequence[Run]) -> list[Table]:
    """AUROC and FPR95 by score and by set of other images."""
    entries = []
    for run in _with(runs, "ood"):
        content = run.measured["ood"]
        others = content.get("others", {})
        for other, scores in others.items():
            extra = (data_set(run), _short(other, others), str(content.get("k", "-")))
            entries += [
                Entry(
                    run=run,
                    step=content.get("step"),
                    extra=extra,
                    column=f"{name} {key.upper()}",
                    value=percent(scores.get(score, {}).get(key)),
                )
                for score, name in SCORES.items()
                for key in ("auroc", "fpr95")
            ]
    layout = Layout(
        name="ood",
        title="Out-of-distribution detection",
        labels=("loss", "trained on", "other images", "k of kNN"),
        note="Per cent. AUROC is better the higher, FPR95 the lower.",
    )
    return drop_empty([assemble(entries, layout)])


def calibration(runs: Sequence[Run]) -> list[Table]:
    """ECE and NLL before and after a temperature is fitted."""
    entries = []
    for run in _with(runs, "calibration"):
        content = run.measured["calibration"]
        extra = (data_set(run), str(content.get("bins", "-")), str(content.get("fit_share", "-")))
        entry = partial(Entry, run=run, step=content.get("step"), extra=extra)
        before, after = content.get("before", {}), content.get("after", {})
        entries += [
            entry(column="accuracy", value=percent(content.get("accuracy"))),
            entry(column="ECE", value=percent(before.get("ece"))),
            entry(column="ECE after", value=percent(after.get("ece"))),
            entry(column="NLL", value=before.get("nll"), digits=4),
            entry(column="NLL after", value=after.get("nll"), digits=4),
            entry(column="fitted temperature", value=content.get("fitted_temperature"), digits=4),
        ]
    layout = Layout(
        name="calibration",
        title="Calibration",
        labels=("loss", "trained on", "bins", "share fitted"),
        note="Accuracy and ECE in per cent, NLL in nats, on the test images that were not fitted.",
    )
    return drop_empty([assemble(entries, layout)])


def retrieval(runs: Sequence[Run]) -> list[Table]:
    """Recall and mean average precision of the test images among themselves."""
    entries = []
    for run in _with(runs, "retrieval"):
        content = run.measured["retrieval"]
        values = content.get("test", {}) | content
        settings = (str(values.get(key, "-")) for key in ("labels", "features", "images"))
        entry = partial(Entry, run=run, step=values.get("step"), extra=(data_set(run), *settings))
        for k in (1, 2, 4, 8):
            entries.append(entry(column=f"R@{k}", value=percent(values.get(f"recall@{k}"))))
        entries.append(entry(column="MAP@R", value=percent(values.get("map@r"))))
    layout = Layout(
        name="retrieval",
        title="Retrieval",
        labels=("loss", "trained on", "labels", "features", "images"),
        note="Per cent.",
        best=max,
    )
    return drop_empty([assemble(entries, layout)])


def probes(run: Run) -> dict[str, dict]:
    """Return {method: its results} of a run's probe.json, in the order of PROBES."""
    content = run.measured.get("probe", {})
    return {method: content[method] for method in PROBES if method in content}


def _with(runs, kind):
    return [run for run in runs if kind in run.measured]


def _short(path, others):
    """Return the last part of a path, or all of it if another path ends like it."""
    ends = [os.path.basename(os.path.normpath(other)) for other in others]
    end = os.path.basename(os.path.normpath(path))
    return end if ends.count(end) == 1 else path


def _transfer_columns(entries):
    """{(set, training images, test images): name}, with the images if sets share a name."""
    kinds = dict.fromkeys(entry.column for entry in entries)
    names = [name for name, _, _ in kinds]
    return {
        kind: kind[0] if names.count(kind[0]) == 1 else f"{kind[0]} ({kind[1]} + {kind[2]} images)"
        for kind in kinds
    }


def _transfer_means(entries, columns):
    """Entries of the mean, for each run and step with a value in all columns."""
    by_state = {}
    for entry in entries:
        by_state.setdefault((entry.run.workdir, entry.step), {})[entry.column] = entry
    means = []
    for of_state in by_state.values():
        values = [of_state[c].value for c in columns if c in of_state]
        if len(values) == len(columns) and all(map(defined, values)):
            entry = next(iter(of_state.values()))
            paper = paper_results.TRANSFER.get(entry.run.config["loss"], {}).get("mean")
            same_sets = set(columns) == set(paper_results.TRANSFER_SETS)
            mean = sum(values) / len(values)
            paper = paper if same_sets else None
            means.append(replace(entry, column="mean", value=mean, paper=paper))
    return means
